"""Lists of view angles for the CT operators."""

from typing import Annotated

import torch
from torch import Tensor

from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Range
from invgen.validation.limits import check_size


@checked
def limited_angles(
    count: Count, degrees: Annotated[float, Range(0, 360, above=True)] = 120.0, start: float = 0.0
) -> Tensor:
    """Returns `count` views spread evenly over `degrees` from `start` on, the end excluded: a limited-angle scan, in
    radians.

        ParallelBeamCT(shape, angles=limited_angles(40, 120.0))

    Args:
        count: of views.
        degrees: the range that they cover; 180 is a whole scan with parallel beams.
        start: the first angle, in degrees.
    """
    check_size(8 * count, f"a list of {count} views")
    return torch.deg2rad(start + torch.arange(count, dtype=torch.float64) * (degrees / count))
