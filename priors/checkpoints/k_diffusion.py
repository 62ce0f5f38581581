"""Checkpoints of k-diffusion: its U-Net (model type "image_v1") in plain torch, its transformers in k_transformers.py.

Crowson's library for Karras et al. (2022): a U-Net of adaptive group norms, GELU and self-attention under EDM's
preconditioning. Configurations lie in the checkpoint, in the metadata of its safetensors form, or in a JSON file beside it.
The original leaves the dropout of attention on when it samples (it passes the rate to the attention function whatever the
mode); here it is off.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.errors import InvgenError, OptionError, UnsupportedError, WeightsError
from invgen.files import pickles
from invgen.priors.checkpoints import entries
from invgen.priors.checkpoints.networks.edm import Shapes, Waves, below, dense, rehearse
from invgen.priors.checkpoints.networks.k_transformer_v1 import TransformerV1
from invgen.priors.checkpoints.networks.k_transformer_v2 import TransformerV2
from invgen.priors.wrappers.from_network import NetworkDenoiser, takes_data
from invgen.priors.wrappers.schedules import Schedule
from invgen.validation.arguments import checked

# how the names begin in its U-Net, and in its two transformers
MARKS = (("u_net.", "proj_in."), ("blocks.", "in_proj.", "out_norm."), ("patch_in.", "mid_level."))


@takes_data
@checked
def from_k_diffusion(
    path: str | Path,
    shape: Sequence[int] | None = None,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    key: str | None = None,
    ema: bool = True,
    **facts: Any,
) -> NetworkDenoiser:
    """Returns the prior in a checkpoint of k-diffusion, a .pth of training (its "model_ema") or the slim .safetensors.

    Args:
        path: the checkpoint.
        shape: (C, H, W), by default what the configuration says.
        config: the configuration, or a path to its JSON, if the checkpoint does not hold it.
        key, ema: see `from_guided_diffusion`; "model_ema" and "model" are the entries of k-diffusion's own training.
        facts: value_range, data_mean, data_std; sigma_min and sigma_max, by default the configuration's.
        data: clean signals, which check it and set what the facts leave open, the range of sigma first; see `from_network`.

    Raises:
        WeightsError: a file is damaged, not safe to open, or not such a network.
        OptionError: there is no configuration.
        UnsupportedError: a transformer with attention over neighbourhoods, or a network with other conditions than the
            noise level and a class (`prior.condition(label)`; without one the prior is unconditional).
    """
    checkpoint = pickles.read(path)
    found = entries.network(checkpoint, path, MARKS, key, ema)
    options = _config(path, checkpoint, config)
    tensors = {name.removeprefix("inner_model."): tensor for name, tensor in found.items()}
    # the condition on augmentations is zero outside of training, and has no bias
    tensors = {name: tensor for name, tensor in tensors.items() if name != "mapping_cond.weight"}
    try:
        sigma_data = float(options.get("sigma_data", 1.0))
        if shape is None:
            shape = (int(options["input_channels"]), *map(int, options["input_size"]))
        with torch.device("meta"):
            net = _network({name: tuple(tensor.shape) for name, tensor in tensors.items()}, options, path)
    except (KeyError, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        if isinstance(error, InvgenError):
            raise
        raise WeightsError(f"{path} and its configuration do not describe a network of k-diffusion ({error!r})") from error
    net = pickles.fill(net, tensors, path)
    if len(shape) != 3 or int(shape[0]) != net.in_channels:
        raise WeightsError(
            f"the network in {path} takes images of {net.in_channels} channels, got the shape {tuple(shape)}"
        )
    rehearse(net, int(shape[0]), 2 * net.stride, path)
    levels = {name: float(options[name]) for name in ("sigma_min", "sigma_max") if name in options}
    facts = {"data_std": sigma_data, **levels, **facts}
    return found.of(NetworkDenoiser(net, shape, "edm", Schedule.edm(), sigma_data=sigma_data, stride=net.stride, **facts))


def _network(shapes: Shapes, options: Mapping[str, Any], path: str | Path) -> "ImageUNet | TransformerV1 | TransformerV2":
    """Returns the network of a configuration, empty; KeyError or ValueError where the tensors are of another."""
    kind, patch = options.get("type", "image_v1"), options.get("patch_size", 1)
    unknown = [k for k in ("skip_stages", "unet_cond_dim", "cross_cond_dim") if options.get(k)]
    unknown += [k for k in ("mapping_cond_dim",) if options.get(k) and kind == "image_transformer_v2"]
    if kind not in ("image_v1", "image_transformer_v1", "image_transformer_v2") or unknown:
        raise UnsupportedError(
            f"invgen reads k-diffusion's image_v1, image_transformer_v1 and image_transformer_v2 without skipped stages "
            f"or other conditions than classes, {path} is a {kind!r} with {json.dumps(dict(options))[:200]}"
        )
    if kind == "image_v1":
        return ImageUNet(shapes, int(patch))
    sides = [int(side) for side in patch] if isinstance(patch, Sequence) else [int(patch)] * 2
    if kind == "image_transformer_v1":
        net = TransformerV1(shapes, sides)
        found, stated = [len(net.blocks)], [options["depth"]]
    else:
        depths = list(options["depths"])
        # k-diffusion's default, all but the last level over neighbourhoods
        attention = options.get("self_attns") or [{"type": "neighborhood"}] * (len(depths) - 1) + [{"type": "global"}]
        net = TransformerV2(shapes, sides, attention)
        levels = (*net.down_levels, net.mid_level, *net.up_levels)
        found, stated = [len(list(level.children())) for level in levels], [*depths, *depths[:-1]]
    if (found, len(net.mapping.blocks)) != (stated, options.get("mapping_depth", 2)):
        raise ValueError(f"there are {found} layers, and {len(net.mapping.blocks)} that map the noise level")
    return net


def _config(path: str | Path, checkpoint: Any, config: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the part "model" of the configuration."""
    if config is None:
        config = checkpoint.get("config")
    if config is None and not any(isinstance(value, Mapping) for value in checkpoint.values()):
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get("config")
        except (SafetensorError, OSError):
            text = None
    elif isinstance(config, str | Path):
        if not Path(config).is_file():
            raise WeightsError(f"there is no configuration file {config}")
        text = Path(config).read_text()
    else:
        text = None if config is None else json.dumps(config)
    if text is None:
        raise OptionError(f"{path} holds no configuration: pass config=, the JSON file that it was trained with")
    try:
        options = json.loads(text)["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"the configuration of {path} is not k-diffusion's ({error!r})") from error
    if not isinstance(options, dict):
        raise WeightsError(f"the configuration of {path} is not k-diffusion's: its 'model' is no table")
    return options


class AdaptiveNorm(nn.Module):
    """Group norm, scaled and shifted by the noise embedding; groups of 32 channels."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        out, width = shapes["mapper.weight"]
        self.mapper = nn.Linear(width, out)
        self.groups = max(1, out // 2 // 32)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.mapper(embedding)[:, :, None, None].chunk(2, dim=1)
        return F.group_norm(x, self.groups) * (1 + scale) + shift


def _convolution(shapes: Shapes, bias: bool = True) -> nn.Conv2d:
    out, width, size, _ = shapes["weight"]
    return nn.Conv2d(width, out, size, padding=size // 2, bias=bias)


class Residual(nn.Module):
    """Two convolutions behind adaptive norms; the names are those of the original's list `main`."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.main = nn.ModuleDict({k: AdaptiveNorm(below(shapes, f"main.{k}")) for k in "04"})
        self.main.update({k: _convolution(below(shapes, f"main.{k}")) for k in "26"})
        self.skip = _convolution(below(shapes, "skip"), bias=False) if "skip.weight" in shapes else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.main["2"](F.gelu(self.main["0"](x, embedding)))
        return self.skip(x) + self.main["6"](F.gelu(self.main["4"](h, embedding)))


class Attention(nn.Module):
    """Self-attention over pixels, in heads of 64 channels."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.norm_in = AdaptiveNorm(below(shapes, "norm_in"))
        self.qkv_proj = _convolution(below(shapes, "qkv_proj"))
        self.out_proj = _convolution(below(shapes, "out_proj"))
        self.heads = max(1, shapes["out_proj.weight"][0] // 64)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        qkv = self.qkv_proj(self.norm_in(x, embedding)).flatten(2)  # rows (qkv, head, channel)
        q, k, v = qkv.unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
        return x + self.out_proj(h)


class Resample(nn.Module):
    """Down by two, or up, by a smoothing kernel with reflection at the borders."""

    kernel: Tensor

    def __init__(self, shapes: Shapes, up: bool) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.empty(shapes["kernel"]))
        self.up, self.pad = up, shapes["kernel"][0] // 2 - 1

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        x = F.pad(x, ((self.pad + 1) // 2 if self.up else self.pad,) * 4, "reflect")
        if self.up:
            return F.conv_transpose2d(x, kernel, stride=2, padding=2 * self.pad + 1, groups=channels)
        return F.conv2d(x, kernel, stride=2, groups=channels)


class ImageUNet(nn.Module):
    """net(x, t), t = ln(sigma) / 4, (B,) -> (B, C, H, W); KeyError or ValueError if the shapes are of another network."""

    def __init__(self, shapes: Shapes, patch: int = 1) -> None:
        super().__init__()
        self.timestep_embed = Waves(weight=shapes["timestep_embed.weight"])
        self.mapping = nn.ModuleDict({k: dense(shapes, f"mapping.{k}") for k in "02"})
        self.proj_in, self.proj_out = (_convolution(below(shapes, name)) for name in ("proj_in", "proj_out"))
        self.u_net = nn.ModuleDict({part: self._part(shapes, part) for part in ("d_blocks", "u_blocks")})
        self.patch, self.in_channels = patch, self.proj_in.in_channels // patch**2
        downs = sum(
            isinstance(layer, Resample) for block in self.u_net["d_blocks"].children() for layer in block.children()
        )
        self.stride = patch * 2**downs

    @staticmethod
    def _part(shapes: Shapes, part: str) -> nn.ModuleList:
        blocks: dict[int, dict[int, nn.Module]] = {}
        inner = below(shapes, f"u_net.{part}")
        for i, j in sorted({tuple(map(int, name.split(".")[:2])) for name in inner}):
            layer = below(inner, f"{i}.{j}")
            if "kernel" in layer:
                module: nn.Module = Resample(layer, up=part == "u_blocks")
            elif "qkv_proj.weight" in layer:
                module = Attention(layer)
            else:
                module = Residual(layer)
            blocks.setdefault(i, {})[j] = module
        if sorted(blocks) != list(range(len(blocks))) or not blocks:
            raise ValueError(f"u_net.{part} is incomplete")
        return nn.ModuleList(nn.ModuleDict({str(j): m for j, m in blocks[i].items()}) for i in range(len(blocks)))

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        if condition is not None:
            raise UnsupportedError("the network knows no classes: use the prior without a condition")
        phase = 2 * math.pi * t[:, None] * self.timestep_embed.weight.to(t.dtype).t()
        embedding = torch.cat([phase.cos(), phase.sin()], dim=1).to(x.dtype)
        for layer in self.mapping.values():
            embedding = F.gelu(layer(embedding))
        x = self.proj_in(F.pixel_unshuffle(x, self.patch))
        skips: list[Tensor] = []
        for block in self.u_net["d_blocks"].children():
            for layer in block.children():
                x = layer(x, embedding)
            skips.append(x)
        for k, block in enumerate(self.u_net["u_blocks"].children()):
            skip = skips.pop()
            x = x if k == 0 else torch.cat([x, skip], dim=1)
            for layer in block.children():
                x = layer(x, embedding)
        if skips:
            raise IndexError("there are fewer u_blocks than d_blocks")
        x = self.proj_out(x)[:, : self.proj_in.in_channels]  # without the channel of a learned variance
        return F.pixel_shuffle(x, self.patch)
