"""The transformer of k-diffusion, "image_transformer_v2", in plain torch, built from its tensors.

The hourglass diffusion transformer (Crowson et al., ICML 2024): levels of tokens, merged two by two on the way down, with
attention over all tokens of a level, over windows that every other layer shifts by half, or none; RMS norms scaled by the
noise embedding, attention by cosines, rotations by the position in [-1, 1]^2, gated linear units. Names are those of the
checkpoints. Attention over neighbourhoods, which needs the package natten, is not read; the kernels of flash attention
compute what is computed here.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.errors import OptionError, UnsupportedError
from invgen.priors.checkpoints.networks.edm import Shapes, Waves, below, dense

EPS = 1e-6


def linear(shapes: Shapes, name: str) -> nn.Linear:
    return dense(shapes, name, bias=False)


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """Returns x over the root of its mean square, computed in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return x * (scale.to(wide) * torch.rsqrt(x.to(wide).square().mean(-1, keepdim=True) + EPS)).to(x.dtype)


class RMSNorm(nn.Module):
    """With a learnt scale."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(shapes["scale"]))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.scale)


class AdaptiveNorm(nn.Module):
    """With a scale that the embedding of noise and class gives; x (B, ..., C), embedding (B, width)."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.linear = linear(shapes, "linear")

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return rms_norm(x, self.linear(embedding).reshape(len(x), *[1] * (x.ndim - 2), -1) + 1)


class FeedForward(nn.Module):
    """A gated linear unit behind a norm, adaptive or not, and the way around it."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        norm = below(shapes, "norm")
        self.norm = AdaptiveNorm(norm) if "linear.weight" in norm else RMSNorm(norm)
        self.up_proj, self.down_proj = linear(shapes, "up_proj"), linear(shapes, "down_proj")

    def forward(self, x: Tensor, *embedding: Tensor) -> Tensor:
        value, gate = self.up_proj(self.norm(x, *embedding)).chunk(2, dim=-1)
        return x + self.down_proj(value * F.gelu(gate))


class MappingNetwork(nn.Module):
    """From the sum of embeddings to the one that the norms take."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.in_norm, self.out_norm = RMSNorm(below(shapes, "in_norm")), RMSNorm(below(shapes, "out_norm"))
        self.blocks = module_list(shapes, "blocks", FeedForward)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_norm(x)
        for block in self.blocks:
            x = block(x)
        return self.out_norm(x)


def module_list(shapes: Shapes, prefix: str, make: Any) -> nn.ModuleList:
    """Returns the modules prefix.0, prefix.1 ... of a checkpoint; none of them may be missing."""
    inner = below(shapes, prefix)
    found = sorted({int(name.split(".")[0]) for name in inner})
    if found != list(range(len(found))):
        raise ValueError(f"{prefix} is incomplete")
    return nn.ModuleList(make(below(inner, str(k))) for k in found)


class Embedding(nn.Module):
    """The input layers of both versions: the noise level, augmentations (zero when one samples) and a class."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.time_emb, self.aug_emb = (Waves(weight=shapes[f"{k}_emb.weight"]) for k in ("time", "aug"))
        self.time_in_proj, self.aug_in_proj = linear(shapes, "time_in_proj"), linear(shapes, "aug_in_proj")
        self.mapping = MappingNetwork(below(shapes, "mapping"))
        self.class_emb = None
        if "class_emb.weight" in shapes:
            count, width = shapes["class_emb.weight"]
            self.class_emb = nn.Embedding(count, width)

    def embed(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        phase = 2 * math.pi * t[:, None] * self.time_emb.weight.to(t.dtype).t()
        total = self.time_in_proj(torch.cat([phase.cos(), phase.sin()], dim=1).to(x.dtype))
        half = len(self.aug_emb.weight)
        still = torch.cat([x.new_ones(half), x.new_zeros(half)])  # cosines and sines of no augmentation
        return self.mapping(total + self.aug_in_proj(still) + self._class(x, condition))

    def _class(self, x: Tensor, condition: Any) -> Tensor | float:
        if self.class_emb is None:
            if condition is not None:
                raise UnsupportedError("the network knows no classes: use the prior without a condition")
            return 0.0
        null = self.class_emb.num_embeddings - 1  # the label of samples whose class training left out
        label = torch.as_tensor(null if condition is None else condition, device=x.device)
        if label.is_floating_point() or label.ndim > 1 or (label < 0).any() or (label > null).any():
            raise OptionError(f"the network knows the classes 0 to {null - 1}, got {condition!r}")
        return self.class_emb(label.long().expand(len(x)))


def centres(height: int, width: int, aspect: float = 1.0) -> Tensor:
    """Returns the places of the tokens, (height, width, 2), in the largest box of their shape within [-1, 1]^2."""
    ratio = width / (height * aspect)
    y, x = min(1.0, 1 / ratio), min(1.0, ratio)
    edges = [torch.linspace(-side, side, count + 1) for side, count in ((y, height), (x, width))]
    return torch.stack(torch.meshgrid(*((e[:-1] + e[1:]) / 2 for e in edges), indexing="ij"), -1)


class Attention2(nn.Module):
    """Version 2: over all tokens, or over windows of a side, shifted by some tokens; x (B, H, W, C)."""

    def __init__(self, shapes: Shapes, window: int = 0, shift: int = 0) -> None:
        super().__init__()
        self.norm = AdaptiveNorm(below(shapes, "norm"))
        self.qkv_proj, self.out_proj = linear(shapes, "qkv_proj"), linear(shapes, "out_proj")
        self.scale = nn.Parameter(torch.empty(shapes["scale"]))
        self.pos_emb = Waves(freqs=shapes["pos_emb.freqs"])
        self.window, self.shift = window, shift

    def forward(self, x: Tensor, place: Tensor, embedding: Tensor) -> Tensor:
        qkv = self.qkv_proj(self.norm(x, embedding)).unflatten(-1, (3, len(self.scale), -1))
        q, k, v = qkv.movedim(-3, 0).movedim(-2, 2)  # each (B, heads, H, W, channels)
        freqs = self.pos_emb.freqs[:, None, None]
        angle = torch.cat([place[..., :1] * freqs, place[..., 1:] * freqs], -1)
        q, k = (_turned(self._unit(part), angle) for part in (q, k))
        if self.window:
            q, k, v = (_windows(part, self.window, self.shift) for part in (q, k, v))
            mask = _window_mask(*q.shape[2:4], self.window, self.shift).to(x.device)
            h = F.scaled_dot_product_attention(q, k, v, mask, scale=1.0)
            h = _whole(h, self.window, self.shift)
        else:
            q, k, v = (part.flatten(2, 3) for part in (q, k, v))
            h = F.scaled_dot_product_attention(q, k, v, scale=1.0)
            h = h.unflatten(2, x.shape[1:3])
        return x + self.out_proj(h.movedim(1, -2).flatten(-2))

    def _unit(self, x: Tensor) -> Tensor:
        """Returns unit vectors, times the root of the head's scale."""
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.rsqrt(x.to(wide).square().sum(-1, keepdim=True) + EPS)
        return x * (self.scale.to(wide).sqrt()[:, None, None, None] * length).to(x.dtype)


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """Returns the first values of each head, and as many after them, turned as pairs by the angles; the rest stays."""
    n, wide = angle.shape[-1], torch.promote_types(x.dtype, torch.float32)
    a, b, rest = x[..., :n].to(wide), x[..., n : 2 * n].to(wide), x[..., 2 * n :]
    cos, sin = angle.to(wide).cos(), angle.to(wide).sin()
    return torch.cat([(a * cos - b * sin).to(x.dtype), (b * cos + a * sin).to(x.dtype), rest], -1)


def _windows(x: Tensor, side: int, shift: int) -> Tensor:
    """Returns (B, heads, H, W, C), rolled by the shift, as (B, heads, rows, columns, side * side, C)."""
    x = x.roll((shift, shift), (2, 3)).unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return x.transpose(3, 4).flatten(4, 5)


def _whole(x: Tensor, side: int, shift: int) -> Tensor:
    x = x.unflatten(4, (side, side)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return x.roll((-shift, -shift), (2, 3))


def _window_mask(rows: int, columns: int, side: int, shift: int) -> Tensor:
    """Who sees whom, (rows, columns, side^2, side^2): where the roll put both ends into one window, each end its own."""
    inside = torch.arange(side) < shift
    top = (inside[:, None] == inside).expand(rows, side, side).clone()
    left = (inside[:, None] == inside).expand(columns, side, side).clone()
    top[1:], left[1:] = True, True
    return (top[:, None, :, None, :, None] & left[None, :, None, :, None, :]).flatten(4, 5).flatten(2, 3)


class Layer2(nn.Module):
    """Attention, if there is any, and a gated unit."""

    def __init__(self, shapes: Shapes, window: int = 0, shift: int = 0) -> None:
        super().__init__()
        attention = below(shapes, "self_attn")
        self.self_attn = Attention2(attention, window, shift) if attention else None
        self.ff = FeedForward(below(shapes, "ff"))

    def forward(self, x: Tensor, place: Tensor, embedding: Tensor) -> Tensor:
        x = x if self.self_attn is None else self.self_attn(x, place, embedding)
        return self.ff(x, embedding)


class Tokens(nn.Module):
    """Joins patches (h, w) of tokens to one token, or with `split` splits one to a patch.

    Args:
        shapes: of the tensors, by name.
        patch: (h, w).
        split: the direction.
        blend: mix the result with the tokens before, by a learned fraction.
    """

    def __init__(self, shapes: Shapes, patch: Sequence[int], split: bool = False, blend: bool = False) -> None:
        super().__init__()
        self.proj, self.patch, self.split = linear(shapes, "proj"), tuple(patch), split
        self.fac = nn.Parameter(torch.empty(shapes["fac"])) if blend else None

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        h, w = self.patch
        if not self.split:
            x = x.unflatten(2, (-1, w)).unflatten(1, (-1, h)).transpose(2, 3)
            return self.proj(x.flatten(3))
        x = self.proj(x).unflatten(-1, (h, w, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return x if before is None or self.fac is None else torch.lerp(before, x, self.fac.to(x.dtype))


class TransformerV2(Embedding):
    """net(x, t, class or None), t = ln(sigma) / 4; KeyError or ValueError if the shapes are of another network.

    attention: of each level, {"type": "global", "shifted-window" (with "window_size") or "none"}.
    """

    def __init__(self, shapes: Shapes, patch: Sequence[int], attention: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(shapes)
        windows = [_window(a) for a in attention]
        self.patch_in = Tokens(below(shapes, "patch_in"), patch)
        self.patch_out = Tokens(below(shapes, "patch_out"), patch, split=True)
        self.down_levels = _levels(below(shapes, "down_levels"), windows)
        done = [len(list(level.children())) for level in self.down_levels]
        self.up_levels = _levels(below(shapes, "up_levels"), windows, done)
        self.mid_level = _layers(below(shapes, "mid_level"), windows[-1])
        self.merges = module_list(shapes, "merges", lambda part: Tokens(part, (2, 2)))
        self.splits = module_list(shapes, "splits", lambda part: Tokens(part, (2, 2), split=True, blend=True))
        self.out_norm = RMSNorm(below(shapes, "out_norm"))
        counts = [len(part) for part in (self.down_levels, self.up_levels, self.merges, self.splits)]
        if counts != [len(windows) - 1] * 4:
            raise ValueError(f"{counts} levels where the configuration has {len(windows)}")
        self.in_channels = shapes["patch_in.proj.weight"][1] // math.prod(patch)
        sides = [math.lcm(*patch) * 2**k * max(side, 1) for k, side in enumerate(windows)]
        self.stride = math.lcm(*sides)

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        embedding = self.embed(x, t, condition)
        x = self.patch_in(x.movedim(1, -1))
        place = centres(*x.shape[1:3]).to(x)
        skips = []
        for level, merge in zip(self.down_levels, self.merges, strict=True):
            for layer in level.children():
                x = layer(x, place, embedding)
            skips.append((x, place))
            x = merge(x)
            place = place.unflatten(1, (-1, 2)).unflatten(0, (-1, 2)).mean((1, 3))
        for layer in self.mid_level:
            x = layer(x, place, embedding)
        for level, split, (before, place) in reversed(list(zip(self.up_levels, self.splits, skips, strict=True))):
            x = split(x, before)
            for layer in level.children():
                x = layer(x, place, embedding)
        return self.patch_out(self.out_norm(x)).movedim(-1, 1)


def _levels(shapes: Shapes, windows: Sequence[int], done: Sequence[int] = ()) -> nn.ModuleList:
    """Returns levels 0, 1 ...; done: how many layers of each have gone before, since every other one shifts its windows."""
    count = len({name.split(".")[0] for name in shapes})
    parts = enumerate(windows[:count])
    return nn.ModuleList(_layers(below(shapes, str(k)), side, done[k] if done else 0) for k, side in parts)


def _layers(shapes: Shapes, side: int, done: int = 0) -> nn.ModuleList:
    count = len({name.split(".")[0] for name in shapes})
    parts = ((below(shapes, str(k)), side // 2 * ((done + k) % 2)) for k in range(count))
    return nn.ModuleList(Layer2(part, side, shift) for part, shift in parts)


def _window(attention: Mapping[str, Any]) -> int:
    kind = attention["type"]
    if kind == "neighborhood":
        raise UnsupportedError("attention over neighbourhoods (k-diffusion's default), which needs natten, is not read")
    if kind not in ("global", "shifted-window", "none"):
        raise ValueError(f"attention of type {kind!r}")
    return int(attention["window_size"]) if kind == "shifted-window" else 0
