"""The network of EDM2 (Karras et al., CVPR 2024; Figure 21), in plain torch, built from the names and shapes of tensors.

Every operation preserves magnitudes in expectation, so that there are no norms and no biases: weights are normalised, sums
and concatenations rescaled (Appendix B of the paper, whose equation numbers stand below).
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.priors.checkpoints.networks.edm import Shapes, Waves, below, part_names


def normalised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Returns x divided by its root mean square over `dims`, plus a small constant."""
    count = math.prod(x.shape[d] for d in dims)
    return x / (1e-4 + torch.linalg.vector_norm(x, dim=dims, keepdim=True) / math.sqrt(count))


def mp_silu(x: Tensor) -> Tensor:
    """Equation 81."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Equation 88."""
    return torch.lerp(a, b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor) -> Tensor:
    """Equation 103, in equal parts."""
    n, m = a.shape[1], b.shape[1]
    return torch.cat([a / math.sqrt(n), b / math.sqrt(m)], dim=1) * math.sqrt((n + m) / 2)


class MPLayer(nn.Module):
    """A linear layer or convolution of normalised weight (equations 47 and 66)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))

    def normalise(self) -> None:
        """Brings the weight to the form in which it is used, once: it does not change outside of training."""
        dims = tuple(range(1, self.weight.ndim))
        self.weight.data = normalised(self.weight.data, dims) / math.sqrt(math.prod(self.weight.shape[1:]))

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.ndim == 2:
            return F.linear(x, self.weight)
        return F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)


class MPBlock(nn.Module):
    """A block of the encoder (which normalises its pixels first) or of the decoder."""

    conv_res0: MPLayer
    emb_linear: MPLayer
    conv_res1: MPLayer
    conv_skip: MPLayer | None
    attn_qkv: MPLayer  # these two in blocks with attention
    attn_proj: MPLayer

    def __init__(self, shapes: Shapes, encoder: bool, resampling: str) -> None:
        super().__init__()
        self.encoder, self.resampling = encoder, resampling
        self.emb_gain = nn.Parameter(torch.empty(()))
        for name in ("conv_res0", "emb_linear", "conv_res1", "conv_skip", "attn_qkv", "attn_proj"):
            shape = shapes.get(f"{name}.weight")
            setattr(self, name, None if shape is None else MPLayer(shape))
        self.heads = shapes["conv_res1.weight"][0] // 64 if self.attn_qkv is not None else 0

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.resampling:  # by the filter [1, 1]
            x = F.avg_pool2d(x, 2) if self.resampling == "down" else F.interpolate(x, scale_factor=2.0, mode="nearest")
        if self.encoder:
            x = normalised(x if self.conv_skip is None else self.conv_skip(x), (1,))
        h = self.conv_res0(mp_silu(x)) * (1 + self.emb_gain * self.emb_linear(embedding))[:, :, None, None]
        h = self.conv_res1(mp_silu(h))
        if not self.encoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, h, 0.3)
        if self.heads:
            # rows of the projection are (head, channel, qkv)
            qkv = self.attn_qkv(x).reshape(len(x), self.heads, -1, 3, x[0, 0].numel())
            q, k, v = normalised(qkv, (2,)).movedim(2, -1).unbind(2)
            h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
            x = mp_sum(x, self.attn_proj(h), 0.3)
        return x.clamp(-256, 256)


class EDM2UNet(nn.Module):
    """net(x, t) or net(x, t, labels) -> (B, C, H, W) for x of that shape and noise labels t, (B,); labels: (B, label_dim).

    Raises:
        KeyError, ValueError: the shapes are not those of such a network.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.out_gain = nn.Parameter(torch.empty(()))
        count = shapes["emb_noise.weight"][1:]
        self.emb_fourier = Waves(freqs=count, phases=count)
        self.emb_noise = MPLayer(shapes["emb_noise.weight"])
        label = shapes.get("emb_label.weight")
        self.emb_label = MPLayer(label) if label else None
        self.label_dim = label[1] if label else 0
        self.enc, self.dec = (nn.ModuleDict(self._part(shapes, part)) for part in ("enc", "dec"))
        self.out_conv = MPLayer(shapes["out_conv.weight"])
        self.in_channels = shapes["out_conv.weight"][0]
        self.resolution = int(next(iter(self.enc)).split("x")[0])
        self.stride = 2 ** sum(name.endswith("_down") for name in self.enc)

    @staticmethod
    def _part(shapes: Shapes, part: str) -> Mapping[str, nn.Module]:
        modules: dict[str, nn.Module] = {}
        for name, kind in part_names(shapes, part):
            inner = below(shapes, f"{part}.{name}")
            resampling = kind if kind in ("up", "down") else ""
            modules[name] = MPLayer(inner["weight"]) if kind == "conv" else MPBlock(inner, part == "enc", resampling)
        return modules

    def normalise(self) -> "EDM2UNet":
        """To be called once, when the weights have been filled in."""
        for module in self.modules():
            if isinstance(module, MPLayer):
                module.normalise()
        return self

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        phase = t[:, None] * self.emb_fourier.freqs.to(t.dtype) + self.emb_fourier.phases.to(t.dtype)
        embedding: Tensor = self.emb_noise((math.sqrt(2) * phase.cos()).to(x.dtype))  # equation 75
        if self.emb_label is not None:
            labels = embedding.new_zeros(len(t), self.label_dim) if labels is None else labels.to(embedding.dtype)
            embedding = mp_sum(embedding, self.emb_label(labels * math.sqrt(self.label_dim)), 0.5)
        embedding = mp_silu(embedding)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for module in self.enc.values():
            x = module(x, embedding) if isinstance(module, MPBlock) else module(x)
            skips.append(x)
        for name, module in self.dec.items():
            x = module(mp_cat(x, skips.pop()) if "block" in name else x, embedding)
        if skips:
            raise IndexError("the decoder has fewer blocks than the encoder")
        return self.out_gain * self.out_conv(x)
