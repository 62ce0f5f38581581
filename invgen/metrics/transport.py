"""Distances between two sets of samples."""

from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.metrics._signals import check_pair
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Index, Range, Seed


@checked
def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    p: Annotated[float, Range(1)] = 2,
    slices: Count | Tensor = 100,
    seed: Seed = 0,
    reduce: Literal["mean", "max"] = "mean",
    dims: Index = 1,
) -> Tensor:
    """Returns the sliced Wasserstein distance of order p between two sample sets (Rabin et al., 2011; Bonneel et al.,
    2015): (*batch).

        SW_p = (mean over directions u of W_p(<u, x>, <u, y>)^p)^(1/p),

    each one-dimensional distance exactly, by sorting. Differentiable in both sets.

    Args:
        x: (N, *batch, *shape), the samples on the first axis, where `shape` has `dims` axes (1: vectors) and is flattened.
        y: (M, *batch, *shape); M may differ from N, the distance of the two step functions is exact then too.
        p: 1 or 2 (any order of 1 or more).
        slices: the number of directions, uniform on the sphere, drawn on the CPU from `seed` (the same ones on every
            device, so that two calls are paired), or unit vectors of shape (slices, d).
        reduce: "max" takes the largest distance over the directions instead: max-sliced Wasserstein over a random set.

    Raises:
        ShapeError: the signals of the two sets differ in shape, or a set is empty.
        OptionError: p < 1, no slices, or an unknown reduction.
    """
    for samples in (x, y):
        if isinstance(samples, Tensor) and samples.ndim <= dims:
            raise ShapeError(
                f"sliced_wasserstein: a set of samples has shape {tuple(samples.shape)}, expected (N, *batch, *shape) with "
                f"{dims} axes of shape; pass dims="
            )
        if isinstance(samples, Tensor) and len(samples) == 0:
            raise ShapeError("sliced_wasserstein: a set of samples is empty")
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        check_pair("sliced_wasserstein", x[0], y[0], dims, ("first set", "second set"))
    else:
        raise ShapeError(f"sliced_wasserstein takes two torch.Tensors, got {type(x).__name__} and {type(y).__name__}")
    if reduce not in ("mean", "max"):
        raise OptionError(f"sliced_wasserstein: unknown reduction {reduce!r}; there are 'mean' and 'max'")

    if x.dtype != y.dtype:
        raise ShapeError(f"sliced_wasserstein: the first set is {x.dtype}, the second {y.dtype}; convert one of them")
    if dims != 1:
        x, y = (t.flatten(t.ndim - dims) if dims else t.unsqueeze(-1) for t in (x, y))
    directions = _directions(slices, x.shape[-1], seed).to(x)
    x, y = (_sorted(t @ directions.T) for t in (x, y))
    if len(x) == len(y):
        cost = (x - y).abs().pow(p).mean(0)
    else:
        # both quantile functions are constant between consecutive multiples of 1/N and 1/M: integers in units of 1/(N M)
        n, m = len(x), len(y)
        ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
        widths = torch.diff(ends, prepend=ends.new_zeros(1)).to(x) / (n * m)
        i, j = ((ends - 1) // m).to(x.device), ((ends - 1) // n).to(x.device)
        cost = torch.tensordot(widths, (x[i] - y[j]).abs().pow(p), 1)
    worst_or_mean = cost.amax(-1) if reduce == "max" else cost.mean(-1)
    return worst_or_mean.pow(1 / p)


def _sorted(t: Tensor) -> Tensor:
    """Ascending along the first axis."""
    if t.device.type == "cpu" and not t.requires_grad and t.dtype in (torch.float32, torch.float64):
        # numpy sorts values alone with vector instructions, in a third of the time; it knows no gradients
        return torch.from_numpy(np.sort(t.movedim(0, -1).numpy(), axis=-1)).movedim(-1, 0)
    return torch.sort(t, 0).values


def _directions(slices: int | Tensor, d: int, seed: int) -> Tensor:
    if isinstance(slices, Tensor):
        if slices.ndim != 2 or slices.shape[1] != d or len(slices) == 0:
            raise ShapeError(f"sliced_wasserstein: slices must have shape (slices, {d}), got {tuple(slices.shape)}")
        return slices
    if slices < 1:
        raise OptionError(f"sliced_wasserstein needs at least one slice, got slices={slices}")
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(slices, d, dtype=torch.float64, generator=generator)
    return u / torch.linalg.vector_norm(u, dim=1, keepdim=True)
