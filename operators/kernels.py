"""Blur kernels. Each sums to one and is returned in double precision; sizes are odd, so that they have a centre."""

import math

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Positive, Seed
from invgen.validation.limits import check_size


@checked
def gaussian_kernel(
    std: Positive | tuple[Positive, ...], size: Count | tuple[Count, ...] | None = None, dim: Count = 2
) -> Tensor:
    """Returns exp(-|r|^2 / 2 std^2), sampled at the pixels.

    Args:
        std: standard deviation in pixels, one number or one for each axis.
        size: pixels, one number or one for each axis; by default 4 standard deviations to each side, as scipy.ndimage.
        dim: number of axes.
    """
    stds = std if isinstance(std, tuple) else (std,) * dim
    _check(len(stds) == dim, f"std must be one positive number or {dim} of them, got {std}")
    sizes = size if isinstance(size, tuple) else (size,) * dim
    _check(len(sizes) == dim, f"size must be a positive integer or {dim} of them, got {size}")
    sizes = tuple(2 * int(4 * s + 0.5) + 1 if n is None else n for s, n in zip(stds, sizes, strict=True))
    check_size(8 * math.prod(sizes), f"a Gaussian kernel of std {std} pixels")
    kernel = torch.ones((), dtype=torch.float64)
    for s, n in zip(stds, sizes, strict=True):
        r = torch.arange(n, dtype=torch.float64) - n // 2
        kernel = kernel[..., None] * torch.exp(-0.5 * (r / s) ** 2)
    return kernel / kernel.sum()


@checked
def disk_kernel(radius: Positive) -> Tensor:
    """Returns a uniform disk, the blur of a lens out of focus: the part of each pixel inside it, by 16 x 16 points a
    pixel."""
    half, fine = math.ceil(radius - 0.5), 16
    check_size(8 * ((2 * half + 1) * fine) ** 2, f"a disk of radius {radius} pixels")
    r = (torch.arange((2 * half + 1) * fine, dtype=torch.float64) + 0.5) / fine - half - 0.5
    inside = (r[:, None] ** 2 + r**2 <= radius**2).double()
    kernel = inside.reshape(2 * half + 1, fine, 2 * half + 1, fine).mean((1, 3))
    return kernel / kernel.sum()


@checked
def motion_kernel(length: Positive, angle: float | None = None, seed: Seed = 0, size: Count | None = None) -> Tensor:
    """Returns the trace of a camera that moves during the exposure, at constant speed.

    A straight line at `angle` degrees, counter-clockwise from the positive column axis; or, with angle=None, a random
    smooth trajectory: its direction turns at a rate that is itself a mean-reverting random walk (in the spirit of
    Boracchi & Foi, "Modeling the performance of image restoration from motion blur", IEEE TIP 2012).

    Args:
        length: length of the path in pixels.
        angle: degrees, or None for a random trajectory.
        seed: determines the trajectory.
        size: pixels to a side, odd; by default what holds the path. The middle of its bounding box is the centre.
    """
    check_size(int(8 * max(length, size or 0) ** 2), f"the kernel of a path of {length} pixels")
    _check(size is None or size % 2 == 1, f"size must be an odd number of pixels, got {size}")
    count = max(64, math.ceil(16 * length))
    if angle is not None:
        heading = torch.full((count,), math.radians(angle), dtype=torch.float64)
    else:
        g = torch.Generator().manual_seed(seed)
        start, kicks = 2 * math.pi * torch.rand((), generator=g).item(), torch.randn(count, generator=g).tolist()
        memory, rate, turns = 1 - 8 / count, 0.0, []  # the rate forgets itself over an eighth of the path
        for kick in kicks:
            rate = memory * rate + math.sqrt(1 - memory**2) * kick
            turns.append(6 * rate / count)  # radians a step: some two to three turns of direction over the path
        heading = start + torch.tensor(turns, dtype=torch.float64).cumsum(0)
    step = length / count
    path = torch.stack([-torch.sin(heading), torch.cos(heading)], 1).mul(step).cumsum(0)
    path = path - (path.amax(0) + path.amin(0)) / 2
    half = math.ceil(path.abs().max().item() - 1e-9)
    size = size or 2 * half + 1
    _check(size >= 2 * half + 1, f"a path of {length} pixels needs a size of at least {2 * half + 1}, got {size}")
    # each point is shared among its four neighbours by bilinear weights; a border of one pixel takes what falls beyond
    point = path + size // 2 + 1
    corner = point.floor()
    part = point - corner
    kernel = torch.zeros(size + 2, size + 2, dtype=torch.float64)
    for row in (0, 1):
        for col in (0, 1):
            weight = (part[:, 0] if row else 1 - part[:, 0]) * (part[:, 1] if col else 1 - part[:, 1])
            at = corner.long() + torch.tensor([row, col])
            kernel.index_put_((at[:, 0], at[:, 1]), weight, accumulate=True)
    kernel = kernel[1:-1, 1:-1]
    return kernel / kernel.sum()


def _check(ok: bool, sentence: str) -> None:
    if not ok:
        raise OptionError(sentence)
