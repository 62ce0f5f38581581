"""Which axes of a signal are space, and products with one small matrix for each of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invgen.errors import OptionError

Factor = int | Sequence[int]


def spatial(in_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the spatial sizes of a signal: (n,) and (H, W) have no channels, with three axes or more the first is
    channels."""
    return tuple(in_shape[1:]) if len(in_shape) > 2 else tuple(in_shape)


def per_axis(name: str, value: int | Sequence[int], in_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns one integer for each spatial axis; a sequence says by its length which of the last axes are meant."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * len(spatial(in_shape))
    if not 1 <= len(values) <= len(in_shape) or any(not isinstance(v, int) or v < 1 for v in values):
        raise OptionError(
            f"{name} needs a positive integer, or one for each spatial axis of {tuple(in_shape)}, got {value}"
        )
    return values


def real_table(name: str, value: object) -> Tensor:
    """Returns a table of real numbers on the CPU in double precision, from a tensor, an array or nested lists."""
    try:
        table = torch.as_tensor(value).detach()
        table = table if table.device.type == "meta" else table.cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"{name} must be a tensor of real numbers, got {value!r:.60}") from error
    if table.is_complex() or table.device.type == "meta":
        raise OptionError(f"{name} must be a tensor of real numbers, got {table.dtype} on {table.device}")
    return table.to(torch.float64)


def check_factors(in_shape: tuple[int, ...], factor: Factor) -> tuple[int, ...]:
    """Returns a factor for each of the last axes, each of which divides its size."""
    factors = per_axis("factor", factor, in_shape)
    sizes = tuple(in_shape[-len(factors) :])
    if any(n % f for n, f in zip(sizes, factors, strict=True)):
        raise OptionError(f"the factor {factor} does not divide the sizes {sizes}; crop the signal or use Resize")
    return factors


def grid(factors: tuple[int, ...], offset: tuple[int, ...] | None = None) -> tuple:
    """Returns the index of every f-th sample of the last axes, from `offset` on."""
    offset = offset or (0,) * len(factors)
    return (..., *(slice(o, None, f) for o, f in zip(offset, factors, strict=True)))


def check_offset(offset: Factor, factors: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the first sample of each axis, from 0 to its factor - 1."""
    offsets = (offset,) * len(factors) if isinstance(offset, int) else tuple(offset)
    if len(offsets) != len(factors) or any(not 0 <= o < f for o, f in zip(offsets, factors, strict=True)):
        raise OptionError(f"offset must lie between 0 and factor - 1 = {[f - 1 for f in factors]}, got {offset}")
    return offsets


def along(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Returns each matrix (m, n) applied along its axis of x, the last matrix along the last axis."""
    for axis, matrix in zip(range(-len(matrices), 0), matrices, strict=True):
        M = matrix.to(x.dtype)
        if axis == -1:
            x = x @ M.T
        elif axis == -2:
            x = M @ x
        else:
            axes: Any = ([axis], [1])  # torch declares a number of axes alone
            x = torch.tensordot(x, M, dims=axes).movedim(-1, axis)
    return x
