"""Which samples of k-space are measured: boolean masks with zero frequency at index n // 2.

Along the phase-encode axis a mask keeps a fully sampled centre and a part of the other lines; fastMRI keeps 8 % of the
lines in the centre at acceleration 4 and 4 % at 8, which is `center_fraction` = 0.32 / acceleration by default.
"""

import math

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Fraction, Index, Seed
from invgen.validation.limits import check_size


@checked
def random_mask(width: Count, acceleration: float = 4, center_fraction: Fraction | None = None, seed: Seed = 0) -> Tensor:
    """Returns random lines and the centre, round(width / acceleration) lines in all: bool (width,).

    fastMRI decides about every line by itself, so that its number of lines varies about this one.

    Args:
        width: the number of lines.
        acceleration: how many times fewer are measured.
        center_fraction: the fraction of all lines that are the centre; by default fastMRI's for this acceleration.
        seed: of the draw.
    """
    mask = _center(width, acceleration, center_fraction)
    more = max(round(width / acceleration) - int(mask.sum()), 0)
    outside = (~mask).nonzero().flatten()
    order = torch.randperm(len(outside), generator=torch.Generator().manual_seed(seed))
    mask[outside[order[:more]]] = True
    return mask


@checked
def equispaced_mask(
    width: Count,
    acceleration: float = 4,
    center_fraction: Fraction | None = None,
    offset: Index = 0,
    keep_total: bool = False,
) -> Tensor:
    """Every `acceleration`-th line from `offset` on, and the centre: bool (width,).

    Args:
        width, acceleration, center_fraction: as in `random_mask`.
        offset: the first line.
        keep_total: the lines are spread wider, so that together with the centre they are width / acceleration, as in
            fastMRI's challenge; the spacing is then rounded to whole lines and not quite even.
    """
    mask = _center(width, acceleration, center_fraction)
    spacing, low = float(acceleration), int(mask.sum())
    if keep_total:
        if low * acceleration >= width:
            raise OptionError(
                f"the centre alone has {low} of {width} lines, more than acceleration {acceleration:g} allows; lower "
                "center_fraction"
            )
        spacing = acceleration * (width - low) / (width - low * acceleration)
    if not 0 <= offset < spacing:
        raise OptionError(f"offset must be at least 0 and below the spacing of {spacing:g} lines, got {offset}")
    lines = torch.arange(math.ceil((width - offset) / spacing), dtype=torch.float64) * spacing + offset
    mask[lines.round().long().clamp(max=width - 1)] = True
    return mask


@checked
def radial_mask(shape: tuple[Count, Count], spokes: Count, golden: bool = False, start: float = 0.0) -> Tensor:
    """Returns the grid points nearest to `spokes` lines through the centre, "radial Cartesian": bool (H, W).

    Args:
        shape: (H, W).
        spokes: the number of lines.
        golden: successive lines are 111.25 degrees apart (Winkelmann et al., IEEE TMI 2007), instead of 180 / spokes.
        start: angle of the first line, in degrees from the last axis.
    """
    height, width = shape
    check_size(16 * spokes * (2 * max(height, width) + 1), f"a mask of {spokes} spokes")
    check_size(height * width, f"a mask of {height} x {width} samples")
    golden_angle = 180 / ((1 + math.sqrt(5)) / 2)
    angle = torch.arange(spokes, dtype=torch.float64) * (golden_angle if golden else 180 / spokes) + start
    angle = (angle * math.pi / 180)[:, None]
    # from edge to edge in steps of at most half a pixel, in each axis' own frequency unit
    radius = torch.linspace(-0.5, 0.5, 2 * max(height, width) + 1, dtype=torch.float64)
    i = (radius * angle.sin() * height + height // 2).round().long()
    j = (radius * angle.cos() * width + width // 2).round().long()
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[i[inside], j[inside]] = True
    return mask


def _center(width: int, acceleration: float, center_fraction: Fraction | None) -> Tensor:
    check_size(8 * width, f"a mask of {width} lines")
    if not 1 <= acceleration <= width:
        raise OptionError(f"the acceleration must be between 1 and the {width} lines, got {acceleration!r}")
    fraction = 0.32 / acceleration if center_fraction is None else center_fraction
    low = round(width * fraction)
    mask = torch.zeros(width, dtype=torch.bool)
    start = (width - low + 1) // 2
    mask[start : start + low] = True
    return mask
