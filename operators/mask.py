"""Inpainting: some values are measured, the others are not."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.operators._axes import spatial
from invgen.operators.orthogonal import OrthogonalRows
from invgen.validation.arguments import mask as as_mask
from invgen.validation.hints import Count, Index, Range, Seed


class Mask(OrthogonalRows):
    """y = the values of x where the mask is true, in the order of the array: in_shape -> (count,).

    A measurement holds nothing that was not measured; `image(y)` puts it back in an image. V = I, s is the mask itself.

    Args:
        in_shape: the shape of one signal, usually (C, *spatial).
        mask: true, 1 or 255 where a value is kept, false or 0 where not; broadcast to in_shape, so that (H, W) masks every
            channel alike.

    Raises:
        OptionError: the mask has other values, does not broadcast to in_shape, or keeps nothing.
    """

    mask: Tensor
    index: Tensor
    any_field = True

    def __init__(self, in_shape: tuple[int, ...], mask: Tensor) -> None:
        super().__init__(in_shape)
        mask = as_mask("the mask of Mask", mask)
        try:
            mask = mask.expand(self.in_shape).clone()
        except RuntimeError:
            raise OptionError(
                f"a mask of shape {tuple(mask.shape)} does not broadcast to in_shape {tuple(self.in_shape)}"
            ) from None
        index = mask.flatten().nonzero().flatten()
        if not len(index):
            raise OptionError("the mask keeps no value of the signal; at least one must be true")
        self.out_shape = (len(index),)
        self.register_buffer("mask", mask)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("s", mask.to(torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).index_select(1, self.index)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), self.s.numel()).index_copy(1, self.index, y).reshape(-1, *self.in_shape)

    def U(self, z: Tensor) -> Tensor:
        return z.flatten(1).index_select(1, self.index)

    def Ut(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), self.s.numel()).index_copy(1, self.index, y).reshape(-1, *self.in_shape)

    def V(self, z: Tensor) -> Tensor:
        return z

    def Vt(self, x: Tensor) -> Tensor:
        return x

    def fused(self, inner: torch.nn.Module) -> "Mask | None":
        if not isinstance(inner, Mask):
            return None
        kept = torch.zeros(inner.s.numel(), dtype=torch.bool, device=inner.index.device)
        kept[inner.index[self.index]] = True
        return Mask(inner.in_shape, kept.reshape(inner.in_shape))

    def image(self, y: Tensor, fill: float = 0.0) -> Tensor:
        """Returns the measured values at their places and `fill` elsewhere: (*batch, count) -> (*batch, *in_shape)."""
        if y.shape[-1:] != self.out_shape:
            raise ShapeError(f"Mask.image takes shape (*batch, {self.out_shape[0]}), got {tuple(y.shape)}")
        return self.adjoint(y) + fill * (~self.mask).to(y.dtype)

    # -- usual masks ---------------------------------------------------------------------------------------------

    @classmethod
    def random(
        cls,
        in_shape: tuple[Count, ...],
        keep: Annotated[float, Range(0, 1, above=True)] = 0.3,
        seed: Seed = 0,
        *,
        per_channel: bool = False,
    ) -> "Mask":
        """Keeps round(keep * pixels) pixels drawn without replacement.

        Args:
            in_shape: (C, H, W) or (H, W).
            keep: the fraction of the pixels to keep.
            seed: of the draw.
            per_channel: draw in each channel on its own.
        """
        shape = in_shape if per_channel else spatial(in_shape)
        rows = shape[0] if per_channel and len(shape) > 1 else 1
        pixels = math.prod(shape) // rows
        count = round(keep * pixels)
        if not count:
            raise OptionError(f"keep={keep} of {pixels} pixels rounds to none; raise keep")
        generator = torch.Generator().manual_seed(seed)
        mask = torch.zeros(rows, pixels, dtype=torch.bool)
        for row in mask:
            row[torch.randperm(pixels, generator=generator)[:count]] = True
        return cls(in_shape, mask.reshape(shape))

    @classmethod
    def box(
        cls,
        in_shape: tuple[Count, ...],
        size: Count | tuple[Count, ...],
        position: str | tuple[int, ...] = "centre",
    ) -> "Mask":
        """Removes a box of `size` pixels (one number, or one for each spatial axis).

        `position` is its first corner, (row, col) for an image, or "centre".
        """
        shape = spatial(in_shape)
        size = tuple(size) if isinstance(size, Sequence) else (size,) * len(shape)
        if len(size) != len(shape) or any(not 1 <= k <= n for k, n in zip(size, shape, strict=True)):
            raise OptionError(f"a box in {shape} pixels needs {len(shape)} sizes from 1 to those, got {size}")
        if isinstance(position, str) and position not in ("centre", "center"):
            raise OptionError(f"position must be 'centre' or {len(shape)} indices, got {position!r}")
        corner = (
            tuple((n - k) // 2 for n, k in zip(shape, size, strict=True)) if isinstance(position, str) else tuple(position)
        )
        if len(corner) != len(shape) or any(not 0 <= p <= n - k for p, n, k in zip(corner, shape, size, strict=True)):
            raise OptionError(f"a box of {size} at {corner} does not lie inside {shape} pixels")
        mask = torch.ones(shape, dtype=torch.bool)
        mask[tuple(slice(p, p + k) for p, k in zip(corner, size, strict=True))] = False
        return cls(in_shape, mask)

    @classmethod
    def lines(cls, in_shape: tuple[Count, ...], step: Count = 2, offset: Index = 0, axis: int = -2) -> "Mask":
        """Keeps every `step`-th line, from `offset` on: rows by default (axis=-2), columns with axis=-1."""
        ndim = len(in_shape)
        axis = -1 if ndim == 1 and axis == -2 else axis
        if not -ndim <= axis < ndim:
            raise OptionError(f"axis must lie in [{-ndim}, {ndim}), got {axis}")
        n = in_shape[axis]
        if not 0 <= offset < n:
            raise OptionError(f"offset of Mask.lines must be below the {n} lines, got {offset}")
        line = torch.zeros(n, dtype=torch.bool)
        line[offset::step] = True
        return cls(in_shape, line.reshape(-1, *[1] * (ndim - 1 - axis % ndim)))

    @classmethod
    def gaps(cls, in_shape: tuple[Count, ...], length: Count = 160, period: Count = 1024) -> "Mask":
        """Removes `length` samples of every `period` along the last axis, from the middle of each period: a recording whose
        packets were lost."""
        n = in_shape[-1]
        if not 0 < length < period <= n:
            raise OptionError(f"gaps needs 0 < length < period <= {n} samples, got {length!r} and {period!r}")
        at = torch.arange(n) % period - (period - length) // 2
        return cls(in_shape, (at < 0) | (at >= length))

    @classmethod
    def brush(
        cls,
        in_shape: tuple[Count, ...],
        coverage: Annotated[float, Range(0, 1, above=True, below=True)] = 0.25,
        seed: Seed = 0,
        *,
        width: Annotated[float, Range(0, 1, above=True)] = 0.06,
    ) -> "Mask":
        """Removes irregular brush strokes until at least `coverage` of the pixels are gone; the same in every channel.

        Free-form holes as in image inpainting since partial convolutions (Liu et al., ECCV 2018) and gated ones (Yu et
        al., ICCV 2019): each stroke is a chain of round-ended segments that keeps turning to one side, then the other.

        Args:
            in_shape: (C, H, W) or (H, W); of a volume (C, D, H, W), whose slices have the same holes.
            coverage: fraction of the pixels to remove, in (0, 1); the last segment may overshoot by its own area.
            seed: of the strokes.
            width: mean width of a stroke as a fraction of the shorter side of the image.
        """
        shape = in_shape[-2:]
        if len(shape) != 2:
            raise OptionError(f"brush masks are for images, in_shape (C, H, W) or (H, W), got {tuple(in_shape)}")
        g = torch.Generator().manual_seed(seed)
        side, hole = min(shape), torch.zeros(shape, dtype=torch.bool)
        while True:
            start, angle, radius, vertices = (
                torch.rand(2, generator=g, dtype=torch.float64) * torch.tensor(shape),
                2 * math.pi * torch.rand((), generator=g).item(),
                max(0.5, side * width * (0.25 + 0.5 * torch.rand((), generator=g).item())),
                int(torch.randint(4, 13, (), generator=g)),
            )
            for vertex in range(vertices):
                turn, length = torch.rand(2, generator=g).tolist()
                angle += (1 if vertex % 2 else -1) * math.pi * (0.2 + 0.4 * turn)
                stroke = side * (0.05 + 0.15 * length) * torch.tensor([math.sin(angle), math.cos(angle)]).double()
                _paint(hole, start, start + stroke, radius)
                start = (start + stroke).clamp(min=0).minimum(torch.tensor(shape) - 1)
                if hole.sum() >= coverage * hole.numel():
                    return cls(in_shape, ~hole)


def _paint(hole: Tensor, a: Tensor, b: Tensor, radius: float) -> None:
    """Marks, in place, the pixels of hole (H, W) within `radius` of the segment from a to b."""
    first = (torch.minimum(a, b) - radius).floor().long().clamp(min=0)
    last = (torch.maximum(a, b) + radius).ceil().long() + 1
    box = tuple(slice(p, max(p, q)) for p, q in zip(first.tolist(), last.tolist(), strict=True))
    axes = (torch.arange(n, dtype=torch.float64)[part] for n, part in zip(hole.shape, box, strict=True))
    pixel = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    along = b - a
    t = ((pixel - a) @ along / (along @ along).clamp(min=1e-12)).clamp(0, 1)
    hole[box] |= (pixel - a - t[..., None] * along).norm(dim=-1) <= radius
