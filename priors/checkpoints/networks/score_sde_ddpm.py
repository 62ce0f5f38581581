"""The network "ddpm" of score_sde_pytorch in plain torch, built from the names and shapes of its tensors.

The U-Net of Ho et al., "Denoising diffusion probabilistic models" (NeurIPS 2020), with one attention at the end of each
level on the way up, where the original (and diffusers' UNet2DModel) has one behind each block. Its modules are numbered in
one list, whose kinds the tensors tell; the names stay, so that a state dict loads as it is.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.priors.checkpoints.networks.edm import Shapes, below


def is_ddpm(shapes: Shapes) -> bool:
    """Tells whether blocks have shortcuts by matrices: an NCSN++ or DDPM++ has convolutions there."""
    return any(name.endswith("NIN_0.W") and name.replace("NIN_0.W", "Conv_1.weight") in shapes for name in shapes)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class Matrix(nn.Module):
    """A product with a matrix (in, out) over the channels."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.empty(shapes["W"])), nn.Parameter(torch.empty(shapes["b"]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bihw,io->bohw", x, self.W) + self.b[:, None, None]


class Block(nn.Module):
    """Two convolutions behind group norms, the noise embedding added between them."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        out, width = shapes["Conv_0.weight"][:2]
        self.GroupNorm_0, self.GroupNorm_1 = _norm(width), _norm(out)
        self.Conv_0, self.Conv_1 = nn.Conv2d(width, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.Dense_0 = nn.Linear(shapes["Dense_0.weight"][1], out)
        self.NIN_0 = Matrix(below(shapes, "NIN_0")) if "NIN_0.W" in shapes else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.Conv_0(F.silu(self.GroupNorm_0(x))) + self.Dense_0(F.silu(embedding))[:, :, None, None]
        return self.NIN_0(x) + self.Conv_1(F.silu(self.GroupNorm_1(h)))


class Attention(nn.Module):
    """Self-attention over pixels, in one head."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.GroupNorm_0 = _norm(shapes["GroupNorm_0.weight"][0])
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (Matrix(below(shapes, f"NIN_{k}")) for k in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = (nin(h).flatten(2).transpose(1, 2) for nin in (self.NIN_0, self.NIN_1, self.NIN_2))
        return x + self.NIN_3(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class Resample(nn.Module):
    """To half the size, or to twice, and a convolution."""

    def __init__(self, shapes: Shapes, up: bool) -> None:
        super().__init__()
        out, width = shapes["Conv_0.weight"][:2]
        self.Conv_0 = nn.Conv2d(width, out, 3, stride=1 if up else 2, padding=1 if up else 0)
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return self.Conv_0(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.Conv_0(F.pad(x, (0, 1, 0, 1)))


class DDPM(nn.Module):
    """net(x, t), t as in training, (B,) -> (B, C, H, W); KeyError or ValueError if the shapes are of another network."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        count = 1 + max(int(name.split(".")[1]) for name in shapes)
        parts = [below(shapes, f"all_modules.{k}") for k in range(count)]
        resamples = [k for k, part in enumerate(parts) if "Conv_0.weight" in part and "Conv_1.weight" not in part]
        if len(resamples) % 2:
            raise ValueError("as many steps down as up are expected")
        self.all_modules = nn.ModuleList(
            self._module(part, up=k in resamples[len(resamples) // 2 :]) for k, part in enumerate(parts)
        )
        kinds = [type(module) for module in self.all_modules]
        if kinds[:3] != [nn.Linear, nn.Linear, nn.Conv2d]:
            raise ValueError("an embedding of the noise level in two layers is expected")
        self.waves = parts[0]["weight"][1]
        self.levels = 1 + len(resamples) // 2
        self.blocks = (kinds.count(Block) - 2 - self.levels) // (2 * self.levels)
        if kinds.count(Block) != 2 + self.levels * (2 * self.blocks + 1) or self.blocks < 1:
            raise ValueError(f"{kinds.count(Block)} blocks do not fill {self.levels} levels")
        self.in_channels = parts[2]["weight"][1]
        self.stride = 2 ** (self.levels - 1)

    @staticmethod
    def _module(part: Shapes, up: bool) -> nn.Module:
        if "GroupNorm_1.weight" in part:
            return Block(part)
        if "NIN_3.W" in part:
            return Attention(part)
        if "Conv_0.weight" in part:
            return Resample(part, up)
        out, *width = part["weight"]
        if len(width) == 1:
            return nn.Linear(width[0], out)
        return nn.Conv2d(width[0], out, 3, padding=1) if width else _norm(out)

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        rest = iter(self.all_modules)
        first = next(rest)
        embedding = next(rest)(F.silu(first(_waves(t, self.waves).to(x.dtype))))
        kept = [next(rest)(x)]
        module = next(rest)

        def block(h: Tensor, attend: bool = True) -> Tensor:
            nonlocal module
            h, module = module(h, embedding), next(rest)
            return attended(h) if attend else h

        def attended(h: Tensor) -> Tensor:
            nonlocal module
            if isinstance(module, Attention):
                h, module = module(h), next(rest)
            return h

        for level in range(self.levels):
            for _ in range(self.blocks):
                kept.append(block(kept[-1]))
            if level < self.levels - 1:
                kept.append(module(kept[-1]))
                module = next(rest)
        h = block(block(kept[-1]), attend=False)
        for level in reversed(range(self.levels)):
            for _ in range(self.blocks + 1):
                h = block(torch.cat([h, kept.pop()], 1), attend=False)
            h = attended(h)
            if level:
                h, module = module(h), next(rest)
        return next(rest)(F.silu(module(h)))


def _waves(t: Tensor, width: int) -> Tensor:
    """Returns sines, then cosines, of t at `width` // 2 frequencies from 1 down to 1 / 10000."""
    half = width // 2
    phase = t[:, None] * torch.exp(torch.arange(half, device=t.device) * (-math.log(10_000) / (half - 1)))
    return F.pad(torch.cat([phase.sin(), phase.cos()], 1), (0, width % 2))
