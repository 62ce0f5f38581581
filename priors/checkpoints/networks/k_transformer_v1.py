"""The first transformer of k-diffusion, "image_transformer_v1", in plain torch, built from its tensors.

One level of tokens, attention by cosines with learnt scales and learnt frequencies of rotation; else as version 2.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.priors.checkpoints.networks.edm import Shapes, below
from invgen.priors.checkpoints.networks.k_transformer_v2 import (
    AdaptiveNorm,
    Embedding,
    FeedForward,
    RMSNorm,
    centres,
    linear,
    module_list,
    rms_norm,
)


class Attention1(nn.Module):
    """Version 1: over all tokens, (B, L, C)."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.norm = AdaptiveNorm(below(shapes, "norm"))
        self.qkv_proj, self.out_proj = linear(shapes, "qkv_proj"), linear(shapes, "out_proj")
        self.qk_norm = RMSNorm(below(shapes, "qk_norm"))  # its scale is the logarithm of one for each head
        self.pos_emb = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(shapes[f"pos_emb.{name}"])) for name in ("freqs_h", "freqs_w")}
        )

    def forward(self, x: Tensor, place: Tensor, embedding: Tensor) -> Tensor:
        heads = len(self.qk_norm.scale)
        qkv = self.qkv_proj(self.norm(x, embedding)).unflatten(-1, (3, heads, -1))
        q, k, v = qkv.movedim(-3, 0).transpose(-2, -3)  # each (B, heads, L, channels)
        log_scale = 0.5 * self.qk_norm.scale.clamp(max=math.log(100)) - 0.25 * math.log(q.shape[-1])
        freqs_h, freqs_w = (self.pos_emb[name].exp()[:, None] for name in ("freqs_h", "freqs_w"))
        angle = torch.cat([place[:, :1] * freqs_h, place[:, 1:] * freqs_w], -1)  # (heads, L, half of the channels)
        q, k = (_turned_pairs(rms_norm(part, log_scale.exp()[:, None, None]), angle) for part in (q, k))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out_proj(h.transpose(1, 2).flatten(2))


def _turned_pairs(x: Tensor, angle: Tensor) -> Tensor:
    """Returns neighbouring values as pairs, turned by the angles."""
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


class Block1(nn.Module):
    """Attention and a gated unit."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.self_attn, self.ff = Attention1(below(shapes, "self_attn")), FeedForward(below(shapes, "ff"))

    def forward(self, x: Tensor, place: Tensor, embedding: Tensor) -> Tensor:
        return self.ff(self.self_attn(x, place, embedding), embedding)


class TransformerV1(Embedding):
    """net(x, t, class or None), t = ln(sigma) / 4; KeyError or ValueError if the shapes are of another network."""

    def __init__(self, shapes: Shapes, patch: Sequence[int]) -> None:
        super().__init__(shapes)
        self.in_proj, self.out_proj = linear(shapes, "in_proj"), linear(shapes, "out_proj")
        self.blocks, self.out_norm = module_list(shapes, "blocks", Block1), RMSNorm(below(shapes, "out_norm"))
        self.patch = tuple(patch)
        self.in_channels, self.stride = self.in_proj.in_features // math.prod(patch), math.lcm(*patch)

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        embedding, (h, w) = self.embed(x, t, condition), self.patch
        x = x.unflatten(3, (-1, w)).unflatten(2, (-1, h))  # (B, C, rows, h, columns, w)
        rows, columns = x.shape[2], x.shape[4]
        x = self.in_proj(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        place = centres(rows, columns, h / w).flatten(0, 1).to(x)
        for block in self.blocks:
            x = block(x, place, embedding)
        x = self.out_proj(self.out_norm(x)).unflatten(2, (-1, h, w)).unflatten(1, (rows, columns))
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
