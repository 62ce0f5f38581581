"""Checks of the options of the CT operators: each bad one is one sentence."""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from invgen.errors import OptionError
from invgen.validation.limits import check_size

Angles = Sequence[float] | np.ndarray | Tensor


def choose_angles(num_angles: int | None, angles: Angles | None, period: float) -> np.ndarray:
    """Returns the view angles in radians, (A,) float64, from exactly one of a count (uniform over the period) and a
    list."""
    if (num_angles is None) == (angles is None):
        given = "neither" if angles is None else "both"
        raise OptionError(f"give exactly one of num_angles (a count) and angles (a list in radians), got {given}")
    if num_angles is not None:
        check_size(8 * num_angles, f"num_angles = {num_angles}")
        return np.arange(num_angles) * (period / num_angles)
    try:
        listed = np.asarray(angles.detach().cpu() if isinstance(angles, Tensor) else angles, dtype=np.float64)
    except (TypeError, ValueError):
        raise OptionError(f"angles must be a list of numbers in radians, got {angles!r}") from None
    if listed.ndim != 1 or not len(listed) or not np.isfinite(listed).all():
        shown = (
            "an empty list" if listed.size == 0 else f"shape {listed.shape}" if listed.ndim != 1 else "non-finite values"
        )
        raise OptionError(f"angles must be a list of at least one finite number in radians, got {shown}")
    _refuse_degrees(listed)
    return listed


def _refuse_degrees(angles: np.ndarray) -> None:
    """Refuses views that are degrees by all appearance: radians within one turn cannot be told from them, others can."""
    turn = 2 * math.pi * (1 + 1e-6)
    if np.abs(angles).max() <= turn:
        return
    whole = len(angles) > 1 and bool((angles == np.round(angles)).all())
    gap = np.median(np.diff(np.unique(angles))) if len(np.unique(angles)) > 1 else 0.0
    if whole or gap > 0.5 or np.ptp(angles) > 2 * turn:
        raise OptionError(
            f"angles must be in radians, and {angles.min():g} to {angles.max():g} look like degrees; pass "
            "numpy.deg2rad(angles), or numpy.mod(angles, 2 * numpy.pi) if they are radians of several turns"
        )


def choose_shape(image_shape: Sequence[int], name: str = "image_shape", spatial: str = "H, W") -> tuple[int, ...]:
    """Returns the shape of an image (H, W) or (C, H, W), or of a volume (D, H, W) or (C, D, H, W), as positive integers.

    Args:
        image_shape: what was given.
        name: of the option.
        spatial: the axes of space, in words.
    """
    axes = spatial.count(",") + 1
    try:
        shape = tuple(int(n) for n in image_shape)
    except (TypeError, ValueError):
        shape = ()
    if len(shape) not in (axes, axes + 1) or min(shape) < 1:
        raise OptionError(f"{name} must be ({spatial}) or (C, {spatial}) with positive sizes, got {image_shape!r}")
    return shape
