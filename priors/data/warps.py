"""Random crops and warps of images, cheap beside a network step."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def crop(image: Tensor, size: int, a: float, b: float, wiggle: int) -> Tensor:
    """Returns a (1, 1, size, size) crop of an image at (a, b) in [0, 1], up to `wiggle` pixels into the air (-1)."""
    padded = F.pad(image, (wiggle,) * 4, value=-1.0)
    top, left = (int(u * (n - size + 1)) for u, n in zip((a, b), padded.shape[2:], strict=True))
    return padded[..., top : top + size, left : left + size]


def warp(image: Tensor, size: int, a: float, b: float, zoom: float, normal: list[float], displacement: Tensor) -> Tensor:
    """Returns a (1, 1, size, size) view through a random affine map and a smooth displacement; air (-1) outside the slice.

    Args:
        image: the slice, (1, 1, H, W).
        size: of the view, in pixels.
        a, b, zoom: uniform random numbers in [0, 1] for the place and the scale.
        normal: standard normal numbers for rotation, shear and stretch.
        displacement: (2, h, w), on a coarse grid, as a fraction of the width.
    """
    height, width = image.shape[2:]
    scale = math.exp((zoom - 0.4) * 0.5)  # pixels of the slice per pixel of the view: 0.82 to 1.35
    turn, shear, stretch = normal[0] * math.radians(8), normal[1] * 0.04, normal[2] * 0.05
    cos, sin = math.cos(turn), math.sin(turn)
    matrix = torch.tensor([[cos, -sin], [sin, cos]]) @ torch.tensor([[math.exp(stretch), shear], [0.0, math.exp(-stretch)]])
    matrix = matrix * scale * torch.tensor([size / width, size / height])[:, None]
    # The view's centre may lie anywhere as long as the view stays on the slice, plus a little.
    free = [max(n - size, 0) / n + 0.1 for n in (width, height)]
    shift = torch.tensor([(2 * u - 1) * f for u, f in zip((a, b), free, strict=True)])
    grid = F.affine_grid(torch.cat([matrix, shift[:, None]], dim=1)[None], [1, 1, size, size], align_corners=False)
    field = F.interpolate(displacement[None] * size / width, size=(size, size), mode="bicubic", align_corners=True)
    return F.grid_sample(image + 1, grid + field.permute(0, 2, 3, 1), mode="bicubic", align_corners=False) - 1
