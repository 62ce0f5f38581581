"""Paths through k-space off the grid, and the weights that make up for their uneven density."""

import math

import torch
from torch import Tensor

from invgen.errors import ShapeError
from invgen.operators.nonuniform._finufft import sum_at, sum_back
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Positive
from invgen.validation.limits import check_size

GOLDEN = math.pi * (math.sqrt(5) - 1) / 2  # 111.25 degrees


@checked
def radial_trajectory(spokes: Count, samples: Count, *, golden: bool = True) -> Tensor:
    """Returns spokes through the centre of k-space, (spokes * samples, 2) in cycles per pixel, float64.

    Args:
        spokes: their number.
        samples: of each spoke, from -1/2 on in steps of 1 / samples: zero frequency is at index samples // 2.
        golden: whether a spoke is the golden angle, 111.25 degrees, from the one before (Winkelmann et al., IEEE TMI 26(1),
            2007), so that any number of them covers k-space evenly; else they divide half a turn.
    """
    check_size(16 * spokes * samples, f"a trajectory of {spokes} x {samples} samples")
    angle = torch.arange(spokes, dtype=torch.float64) * (GOLDEN if golden else math.pi / spokes)
    radius = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples
    return (torch.stack([angle.sin(), angle.cos()], 1)[:, None] * radius[:, None]).reshape(-1, 2)


@checked
def spiral_trajectory(interleaves: Count, samples: Count, turns: Positive = 8.0) -> Tensor:
    """Returns Archimedean spirals from the centre to the edge of k-space, (interleaves * samples, 2) in cycles per pixel.

    Samples are even in time under a constant linear velocity: dense nowhere, but at the very centre.

    Args:
        interleaves: turned against each other, over a whole turn.
        samples: of each.
        turns: of each around the centre; interleaves * turns = N / 2 measures an image of N pixels fully.
    """
    check_size(16 * interleaves * samples, f"a trajectory of {interleaves} x {samples} samples")
    radius = torch.linspace(0, 1, samples, dtype=torch.float64).sqrt()
    start = 2 * math.pi * torch.arange(interleaves, dtype=torch.float64) / interleaves
    angle = start[:, None] + 2 * math.pi * turns * radius
    return (torch.stack([angle.sin(), angle.cos()], -1) * (radius / 2)[:, None]).reshape(-1, 2)


@checked
def density_compensation(trajectory: Tensor, shape: tuple[Count, Count], iterations: Count = 20) -> Tensor:
    """Returns the part of k-space that each sample stands for, (M,) float64, in samples of a full grid.

    A^H diag(w) y of `NonCartesianMRI` is then near the image, as the zero-filled image is on a grid. By fixed-point
    iterations (Pipe & Menon, MRM 41(1), 1999), w <- w / (K w), for a kernel K that is the transform of a triangle over
    twice the image.

    Args:
        trajectory: (M, 2), cycles per pixel.
        shape: (H, W) of the image.
        iterations: of the fixed point.
    """
    points = trajectory.double()
    if points.ndim != 2 or points.shape[1] != 2:
        raise ShapeError(f"a trajectory must be (M, 2), in cycles per pixel, got {tuple(trajectory.shape)}")
    # a point spread matters at the differences of two pixels, up to N; the triangle's transform is nowhere negative
    double = tuple(2 * n for n in shape)
    rows, columns = (1 - (torch.arange(2 * n, dtype=torch.float64) - n).abs() / n for n in shape)
    triangle = rows[:, None] * columns
    weights = torch.ones(1, len(points), dtype=torch.complex128)
    for _ in range(iterations):
        spread = sum_at(triangle * sum_back(weights, points, double), points).real
        weights = weights / spread.clamp(min=1e-12)
    return weights[0].real * math.prod(shape)
