"""Lists of view angles for the CT operators."""

import math

import torch
from torch import Tensor

from invgen.errors import OptionError


def limited_angles(count: int, degrees: float = 120.0, start: float = 0.0) -> Tensor:
    """`count` views spread evenly over `degrees` from `start` on, the end excluded: a limited-angle scan, in radians.

        ParallelBeamCT(shape, angles=limited_angles(40, 120.0))

    Args:
        count: of views.
        degrees: the range that they cover; 180 is a whole scan with parallel beams.
        start: the first angle, in degrees.
    """
    if not isinstance(count, int) or count < 1 or not math.isfinite(start) or not 0 < degrees <= 360:
        raise OptionError(
            f"limited_angles needs a count of 1 or more and a range of up to 360 degrees, got {count!r} and {degrees!r}"
        )
    return torch.deg2rad(start + torch.arange(count, dtype=torch.float64) * (degrees / count))
