"""The networks of EDM (Karras et al., NeurIPS 2022), in plain torch, built from the names and shapes of their tensors.

Two families share one U-Net: that of Song et al. (ICLR 2021; DDPM++ and NCSN++, where each sum is divided by sqrt(2) and
the noise embedding shifts), and that of Dhariwal & Nichol (2021; ADM, where it scales and shifts, and attention has heads
of 64 channels). Appendix C of the paper describes them; the names are those of the published checkpoints, so that a state
dict loads as it is. It tells everything but the family, which the last layers give away.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.errors import WeightsError

Shapes = Mapping[str, tuple[int, ...]]
# within one resolution, in the order of computation
ORDER = (
    "conv",
    "down",
    "aux_down",
    "aux_skip",
    "aux_residual",
    "in0",
    "in1",
    "up",
    "block",
    "aux_up",
    "aux_norm",
    "aux_conv",
)


class Waves(nn.Module):
    """Tables of an embedding of the noise level, float32 at least: half precision would lose their phases."""

    freqs: Tensor  # those that `shapes` names
    phases: Tensor
    weight: Tensor

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_buffer(name, torch.empty(shape))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Waves":
        for name, table in self.named_buffers(recurse=False):
            moved = fn(table)
            self._buffers[name] = table.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved
        return self


class Convolution(nn.Module):
    """A convolution, a resampling by a filter, or the one behind the other: filter first, or last if `filter_last`."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    resample_filter: Tensor | None

    def __init__(self, shapes: Shapes, resampling: str = "", filter_last: bool = False) -> None:
        super().__init__()
        weight = nn.Parameter(torch.empty(shapes["weight"])) if "weight" in shapes else None
        self.register_parameter("weight", weight)
        self.register_parameter("bias", None if weight is None else nn.Parameter(torch.empty(weight.shape[0])))
        table = torch.empty(shapes["resample_filter"]) if filter_last or "resample_filter" in shapes else None
        self.register_buffer("resample_filter", table)
        self.resampling, self.filter_last = resampling, filter_last

    def forward(self, x: Tensor) -> Tensor:
        f = self.resample_filter
        pad = 0 if f is None else (f.shape[-1] - 1) // 2
        if f is not None and not self.filter_last:
            x = self._resampled(x, f, pad)
        if self.weight is not None:
            x = F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2 + pad * self.filter_last)
        if not self.filter_last:
            return x
        assert f is not None  # __init__ asks for it
        return self._resampled(x, f, 0)

    def _resampled(self, x: Tensor, f: Tensor, pad: int) -> Tensor:
        channels = x.shape[1]
        f = f.to(x.dtype).expand(channels, 1, -1, -1)
        if self.resampling == "up":
            return F.conv_transpose2d(x, 4 * f, groups=channels, stride=2, padding=pad)
        return F.conv2d(x, f, groups=channels, stride=2, padding=pad)


class GroupNorm(nn.GroupNorm):
    """Groups of at least four channels, 32 at most."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(min(32, channels // 4), channels, eps)


class Block(nn.Module):
    """A residual block with noise embedding, optional resampling and optional self-attention."""

    def __init__(self, shapes: Shapes, resampling: str, song: bool) -> None:
        super().__init__()
        out, width = shapes["conv0.weight"][:2]
        eps = 1e-6 if song else 1e-5
        self.scale = math.sqrt(0.5) if song else 1.0
        self.norm0 = GroupNorm(width, eps)
        self.conv0 = Convolution(below(shapes, "conv0"), resampling)
        self.affine = dense(shapes, "affine")
        self.norm1 = GroupNorm(out, eps)
        self.conv1 = Convolution(below(shapes, "conv1"))
        skip = below(shapes, "skip")
        self.skip = Convolution(skip, resampling) if skip else None
        self.heads = 0
        if "qkv.weight" in shapes:
            self.heads = 1 if song else out // 64
            self.norm2 = GroupNorm(out, eps)
            self.qkv = Convolution(below(shapes, "qkv"))
            self.proj = Convolution(below(shapes, "proj"))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        given = self.affine(embedding)[:, :, None, None]
        if given.shape[1] == h.shape[1]:
            h = self.norm1(h + given)
        else:
            scale, shift = given.chunk(2, dim=1)
            h = self.norm1(h) * (1 + scale) + shift
        h = self.conv1(F.silu(h))
        x = self.scale * (h + (x if self.skip is None else self.skip(x)))
        if not self.heads:
            return x
        # rows of the projection are (head, channel, qkv)
        q, k, v = self.qkv(self.norm2(x)).reshape(len(x), self.heads, -1, 3, x[0, 0].numel()).movedim(2, -1).unbind(2)
        h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
        return self.scale * (x + self.proj(h))


class EDMUNet(nn.Module):
    """net(x, t) or net(x, t, labels) -> (B, out, H, W) for x of shape (B, in, H, W) and noise labels t, (B,).

    labels: one-hot or real, (B, label_dim); zeros stand for no label. Augmentation labels are taken as zero.

    Raises:
        KeyError, ValueError: the shapes are not those of such a network.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.song = "out_norm.weight" not in shapes
        self.frequencies = shapes["map_layer0.weight"][1] // 2
        if "map_noise.freqs" in shapes:
            self.map_noise = Waves(freqs=shapes["map_noise.freqs"])
        self.map_layer0 = dense(shapes, "map_layer0")
        self.map_layer1 = dense(shapes, "map_layer1")
        label = shapes.get("map_label.weight")
        self.map_label = dense(shapes, "map_label", self.song) if label else None
        self.label_dim = label[1] if label else 0
        self.enc, self.dec = (nn.ModuleDict(self._part(shapes, part)) for part in ("enc", "dec"))
        self.resolution = int(next(iter(self.enc)).split("x")[0])
        self.stride = 2 ** sum(name.endswith("_down") and "aux" not in name for name in self.enc)
        first = f"enc.{next(iter(self.enc))}"
        self.in_channels = shapes[f"{first}.weight"][1]
        if not self.song:
            self.out_norm = GroupNorm(shapes["out_norm.weight"][0], 1e-5)
            self.out_conv = Convolution(below(shapes, "out_conv"))

    def _part(self, shapes: Shapes, part: str) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {}
        for name, kind in part_names(shapes, part):
            inner = below(shapes, f"{part}.{name}")
            resampling = "up" if kind.endswith("up") else "down" if kind.endswith(("down", "residual")) else ""
            if kind == "aux_norm":
                modules[name] = GroupNorm(inner["weight"][0], 1e-6)
            elif kind == "conv" or kind.startswith("aux"):
                modules[name] = Convolution(inner, resampling, filter_last=kind == "aux_residual")
            else:
                modules[name] = Block(inner, resampling, self.song)
        return modules

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = self._embedding(t, labels).to(x.dtype)
        skips: list[Tensor] = []
        image = x  # the image itself, downsampled beside the encoder of NCSN++
        for name, module in self.enc.items():
            if name.endswith("aux_down"):
                image = module(image)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + module(image)
            elif name.endswith("aux_residual"):
                x = skips[-1] = image = math.sqrt(0.5) * (x + module(image))
            else:
                x = module(x, embedding) if isinstance(module, Block) else module(x)
                skips.append(x)
        out: Tensor | None = None
        for name, module in self.dec.items():
            if name.endswith("aux_up"):
                out = module(out)
            elif name.endswith("aux_norm"):
                h = module(x)
            elif name.endswith("aux_conv"):
                h = module(F.silu(h))
                out = h if out is None else out + h
            else:
                x = module(torch.cat([x, skips.pop()], dim=1) if "block" in name else x, embedding)
        if skips:
            raise IndexError("the decoder has fewer blocks than the encoder")
        if not self.song:
            return self.out_conv(F.silu(self.out_norm(x)))
        if out is None:
            raise IndexError("the decoder ends in no image")
        return out

    def _embedding(self, t: Tensor, labels: Tensor | None) -> Tensor:
        n = self.frequencies
        if hasattr(self, "map_noise"):
            waves = 2 * math.pi * self.map_noise.freqs.to(t.dtype)
        else:
            waves = 10000 ** (-torch.arange(n, dtype=t.dtype, device=t.device) / (n - self.song))
        phase = t[:, None] * waves
        order = (phase.sin(), phase.cos()) if self.song else (phase.cos(), phase.sin())
        h = torch.cat(order, dim=1).to(self.map_layer0.weight.dtype)
        given = 0.0
        if self.map_label is not None:
            labels = h.new_zeros(len(t), self.label_dim) if labels is None else labels.to(h.dtype)
            given = self.map_label(labels * math.sqrt(self.label_dim) if self.song else labels)
        if self.song:
            return F.silu(self.map_layer1(F.silu(self.map_layer0(h + given))))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(h))) + given)


def rehearse(net: nn.Module, channels: int, size: int, source: str | Path) -> None:
    """Runs a network once on a small image.

    Args:
        net: the network.
        channels, size: of the image.
        source: the file, for the message.

    Raises:
        WeightsError: its layers do not fit together.
    """
    x = torch.zeros(1, channels, size, size)
    try:
        with torch.no_grad():
            found = tuple(net(x, torch.ones(1)).shape[1:])
    except (RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"the layers of the network in {source} do not fit together: {reason}") from error
    if found not in ((channels, size, size), (2 * channels, size, size)):
        raise WeightsError(f"the network in {source} turns {tuple(x.shape[1:])} into {found}; expected the same shape")


def dense(shapes: Shapes, name: str, bias: bool = True) -> nn.Linear:
    """Returns the linear layer of the weight `name`, (outputs, inputs), not filled in."""
    outputs, inputs = shapes[f"{name}.weight"]
    return nn.Linear(inputs, outputs, bias=bias)


def below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {key.removeprefix(prefix + "."): shape for key, shape in shapes.items() if key.startswith(prefix + ".")}


def part_names(shapes: Shapes, part: str) -> list[tuple[str, str]]:
    """Returns the modules of the encoder or decoder, such as 16x16_block3, with their kind, in the order of computation."""
    found = []
    for name in {key.split(".")[1] for key in shapes if key.startswith(part + ".")}:
        match = re.fullmatch(r"(\d+)x\1_(block(?=\d)|[a-z]+(?:_[a-z]+)?[01]?)(\d*)", name)
        if not match or match[2] not in ORDER:
            raise ValueError(f"'{part}.{name}' is no part of such a network")
        size = int(match[1])  # from the finest level down, or from the coarsest up
        found.append((-size if part == "enc" else size, ORDER.index(match[2]), int(match[3] or 0), name, match[2]))
    return [(name, kind) for *_, name, kind in sorted(found)]
