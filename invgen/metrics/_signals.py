"""Checks shared by the metrics: two tensors of signals, checked once, and the mean over one signal."""

import math
from typing import Annotated

import numpy as np
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.validation.hints import Range

DataRange = Annotated[
    float, Range(0, above=True), "the highest minus the lowest possible value, such as 2.0 for images in [-1, 1]"
]  # never guessed from the data, because guesses differ between libraries
ValueRange = Annotated[
    tuple[float, float], "the lowest and the highest possible value, such as (-1.0, 1.0) or prior.value_range"
]


def check_pair(name: str, a: Tensor, b: Tensor, dims: int, names: tuple[str, str] = ("estimate", "truth")) -> None:
    """Checks two tensors: their last `dims` axes are one signal and agree, and their batch axes broadcast.

    Args:
        name: of the metric, for messages.
        a, b: the tensors.
        dims: how many axes a signal has.
        names: of the tensors, for messages.
    """
    for tensor, role in zip((a, b), names, strict=True):
        if not isinstance(tensor, Tensor):
            raise ShapeError(f"{name}: the {role} must be a torch.Tensor, got {type(tensor).__name__}; use torch.as_tensor")
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise ShapeError(f"{name}: the {role} has dtype {tensor.dtype}, expected floating point; convert it first")
        if tensor.ndim < dims:
            raise ShapeError(
                f"{name}: the {role} has shape {tuple(tensor.shape)}, but one signal has dims={dims} axes; pass dims="
            )
    if a.device != b.device:
        raise ShapeError(f"{name}: the {names[0]} is on {a.device} but the {names[1]} on {b.device}; move one with .to()")
    batches = [t.shape[: t.ndim - dims] for t in (a, b)]
    try:
        np.broadcast_shapes(*batches)  # torch.broadcast_shapes imports sympy, for seconds
        fits = a.shape[a.ndim - dims :] == b.shape[b.ndim - dims :]
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(
            f"{name}: the {names[0]} has shape {tuple(a.shape)} but the {names[1]} {tuple(b.shape)}; the last {dims} axes "
            "must be equal and the others must broadcast"
        )


def check_value_range(name: str, value_range: tuple[float, float]) -> tuple[float, float]:
    """Returns (low, high) as floats; refuses what is not a pair of increasing finite numbers."""
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise OptionError(
            f"{name}: value_range must be (lowest, highest) possible value, such as (-1.0, 1.0) or prior.value_range, got "
            f"{value_range!r}"
        )
    return low, high


def mean_over(x: Tensor, dims: int) -> Tensor:
    """Returns the mean over the last `dims` axes, x itself for dims = 0."""
    return x.mean(tuple(range(-dims, 0))) if dims else x


def square(x: Tensor) -> Tensor:
    """Returns |x|^2, real for complex x too."""
    return x.real.square() + x.imag.square() if x.is_complex() else x.square()
