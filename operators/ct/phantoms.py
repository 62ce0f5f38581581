"""Phantoms made of ellipses, with their line integrals in closed form: a truth that no projector had a part in."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Index, NonNegative, Positive
from invgen.validation.limits import check_size


class EllipsePhantom:
    """A sum of ellipses of constant value, about the origin of the CT operators (the middle of the image, y up).

    Args:
        radius: mm that one unit of the table stands for: half the width of the field of view, N p / 2 for N pixels of
            p mm.
        ellipses: rows (value, semi-axis a, semi-axis b, centre x, centre y, rotation in degrees) in units of `radius`;
            overlapping ellipses add. By default `SHEPP_LOGAN`, the head of Shepp & Logan (IEEE Trans. Nucl. Sci.
            21(3), 1974) with the contrast of Toft's thesis (1996).

    The line integral of an ellipse is a chord: Kak & Slaney (1988), section 3.1.
    """

    SHEPP_LOGAN: ClassVar[tuple[tuple[float, ...], ...]] = (
        (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
        (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
        (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
        (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
        (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
        (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
        (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
        (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
        (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
        (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
    )

    @checked
    def __init__(self, radius: Positive = 1.0, ellipses: Sequence[Sequence[Any]] | np.ndarray = SHEPP_LOGAN) -> None:
        try:
            table: np.ndarray = np.asarray(ellipses, dtype=np.float64)
        except (TypeError, ValueError):
            table = np.empty(0)
        if table.ndim != 2 or table.shape[1] != 6 or not np.isfinite(table).all() or not (table[:, 1:3] > 0).all():
            raise OptionError(
                "ellipses must be rows of six finite numbers (value, semi-axes a > 0 and b > 0, centre x, centre y, "
                f"degrees), got an array of shape {table.shape}"
            )
        columns = torch.from_numpy(table).T.clone()
        columns[1:5] *= radius
        columns[5] *= math.pi / 180
        self.radius, self.columns = float(radius), columns  # value, a, b, x, y in mm, turn in radians

    @classmethod
    @checked
    def random(cls, radius: Positive = 1.0, count: Index = 8, generator: torch.Generator | None = None) -> "EllipsePhantom":
        """Returns a body of value 1 with `count` random ellipses of values in [-0.5, 0.5] inside it."""
        u = torch.rand(count, 6, dtype=torch.float64, generator=generator)
        away, around = 0.5 * u[:, 3].sqrt(), 2 * math.pi * u[:, 4]
        axes = 0.05 + 0.2 * u[:, 1:3]
        rows = [u[:, 0] - 0.5, axes[:, 0], axes[:, 1], away * around.cos(), away * around.sin(), 180 * u[:, 5]]
        return cls(radius, [(1.0, 0.8, 0.9, 0.0, 0.0, 0.0), *torch.stack(rows, dim=1).tolist()])

    @checked
    def image(self, shape: tuple[Count, Count], pixel_size: Positive = 1.0, supersample: Count = 8) -> Tensor:
        """Returns the phantom averaged over pixels, by supersample^2 points each: (H, W) float32.

        Args:
            pixel_size: mm.
        """
        height, width = shape
        check_size(8 * height * width * supersample**2, f"a phantom of {height} x {width} pixels")
        n, step = supersample, pixel_size / supersample
        x = (torch.arange(width * n, dtype=torch.float64) - (width * n - 1) / 2) * step
        y = ((height * n - 1) / 2 - torch.arange(height * n, dtype=torch.float64)) * step
        total = torch.zeros(height, width, dtype=torch.float64)
        for value, a, b, cx, cy, turn in self.columns.T:
            c, d = turn.cos(), turn.sin()
            dx, dy = x - cx, (y - cy)[:, None]
            xx, yy, xy = (c / a) ** 2 + (d / b) ** 2, (d / a) ** 2 + (c / b) ** 2, 2 * c * d * (1 / a**2 - 1 / b**2)
            inside = (xx * dx**2 + yy * dy**2).addcmul_(xy * dx, dy) <= 1
            total += value * inside.reshape(height, n, width, n).float().mean(dim=(1, 3))
        return total.float()

    @checked
    def sinogram(self, angle: Tensor, s: Tensor, width: NonNegative = 0.0) -> Tensor:
        """Returns exact integrals over the lines x cos(angle) + y sin(angle) = s, in the unit of the values times mm,
        float64.

        Args:
            angle: of the normal of each line, in radians; `s`: its distance from the origin in mm; shapes that
                broadcast. The CT operators return both as `A.rays()`.
            width: mm over which the integral is averaged across the line (the size of a detector pixel); 0 for a thin
                line.
        """
        total = torch.zeros(torch.broadcast_shapes(angle.shape, s.shape), dtype=torch.float64)
        for value, a, b, cx, cy, turn in self.columns.T:
            square = (a * (angle - turn).cos()) ** 2 + (b * (angle - turn).sin()) ** 2  # half the shadow's width, squared
            offset = s - cx * angle.cos() - cy * angle.sin()
            if width:
                chord = (_area(offset + width / 2, square) - _area(offset - width / 2, square)) / width
            else:
                chord = (square - offset**2).clamp(min=0).sqrt()
            total += value * 2 * a * b / square * chord
        return total


def _area(u: Tensor, square: Tensor) -> Tensor:
    """Returns the integral of sqrt(square - t^2) over t from 0 to u, |u| limited to where the root is real."""
    half = square.sqrt()
    u = u.clamp(-half, half)
    return (u * (square - u**2).clamp(min=0).sqrt() + square * (u / half).asin()) / 2
