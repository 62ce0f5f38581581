"""Coins and shapes: renderers of both, the coins of scikit-image, the Hough transform, and pictures of what was found."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

AT = torch.arange(32) * 2 + 0.5  # the pixels of a crop of 64 x 64, averaged two by two
YY, XX = torch.meshgrid(AT, AT, indexing="ij")


def column(*values: Tensor) -> list[Tensor]:
    return [v[:, None, None, None] for v in values]


def coin(width: int, **p: Tensor) -> Tensor:
    """Returns pictures of a nearly round coin on a ground with a slope, the left `width` columns of pixels."""
    x, y, r, a, b, light, ground, w = column(
        *(p[k] for k in ("x", "y", "radius", "stretch", "skew", "light", "ground", "edge"))
    )
    u, v = XX[:, :width] - x, YY[:, :width] - y
    d = ((u * (1 - a) - b * v) ** 2 + (v * (1 + a) - b * u) ** 2 + 1e-6).sqrt() / (1 - a * a - b * b).clamp(min=0.2).sqrt()
    back = ground + sum(s * (at[:, :width] - 32) / 32 for s, at in zip(column(*p["slope"].T), (XX, YY), strict=True))
    return back + (light - back) * torch.sigmoid((r - d) / w)


def shape(**p: Tensor) -> Tensor:
    """Returns pictures of a disc, a square or a triangle."""
    x, y, r, light, kind = column(*(p[k] for k in ("x", "y", "radius", "light", "kind")))
    u, v = XX - x, YY - y
    triangle = torch.maximum(v, u.abs() * 3**0.5 / 2 - v / 2) * 1.6  # of about the area of the disc
    d = torch.where(
        kind == 0, (u * u + v * v).sqrt(), torch.where(kind == 1, torch.maximum(u.abs(), v.abs()) * 1.13, triangle)
    )
    return 0.2 + (light - 0.2) * torch.sigmoid(r - d)


def crops(turns: int = 1, every: int = 1) -> tuple[Tensor, Tensor]:
    """Returns crops of 64 x 64 around each coin, averaged to 32 x 32, and x, y, radius of the coin in pixels of the crop.

    The truth is the segmentation of the whole coin: its centre, and the radius of a disc of its area.

    Args:
        turns: quarter turns of each crop, one after the other.
        every: take each so many coins.
    """
    from scipy.ndimage import binary_fill_holes
    from skimage import data, filters, measure, morphology, segmentation

    photo = data.coins()
    marks = np.where(photo < 30, 1, np.where(photo > 150, 2, 0))
    filled = binary_fill_holes(segmentation.watershed(filters.sobel(photo), marks) - 1)
    regions = measure.regionprops(measure.label(morphology.opening(filled, morphology.disk(3))))
    wide, rng, found, truth = np.pad(photo / 255.0, 40, mode="edge"), np.random.default_rng(0), [], []
    for p in [p for p in regions if p.area > 900][::every]:
        row, column = np.round(p.centroid).astype(int) - 32 + rng.integers(-5, 6, 2)
        found.append(wide[row + 40 : row + 104, column + 40 : column + 104])
        truth.append((p.centroid[1] - column, p.centroid[0] - row, np.sqrt(p.area / np.pi)))
    x, at = torch.as_tensor(np.array(found), dtype=torch.float32)[:, None], torch.tensor(truth, dtype=torch.float32)
    pictures, places = [], []
    for _ in range(turns):
        pictures.append(torch.nn.functional.avg_pool2d(x, 2))
        places.append(at)
        x, at = x.rot90(1, (2, 3)), torch.stack([at[:, 1], 63 - at[:, 0], at[:, 2]], 1)
    return torch.cat(pictures), torch.cat(places)


def covered(found: dict[str, Any], truth: Tensor) -> Tensor:
    """Returns for each coin the share of x, y and radius that lie within their 90 % intervals, (B,)."""
    ends = torch.stack([torch.stack(found[k].interval(0.9)) for k in ("x", "y", "radius")], 2)
    return ((ends[0] < truth) & (truth < ends[1])).float().mean(1)


def hough(x: Tensor) -> Tensor:
    """Returns x, y and radius of the best circle through the edges of the left half, (B, 3): the classical way."""
    from skimage import feature, transform

    found, radii = [], np.arange(14, 34)
    for picture in x:
        left = np.kron(picture[0].numpy(), np.ones((2, 2)))[:, :32]
        edges = np.pad(feature.canny(left, 2.0), ((0, 0), (0, 32)))
        _, at_x, at_y, radius = transform.hough_circle_peaks(transform.hough_circle(edges, radii), radii, total_num_peaks=1)
        found.append((at_x[0], at_y[0], radius[0]))
    return torch.tensor(found, dtype=torch.float32)


def draw(x: Tensor, found: dict[str, Any], truth: Tensor, shapes: Tensor, named: dict[str, Any], path: Path) -> None:
    """Draws coins with samples of their outline and the true one, and noisy shapes with the kind that was found.

    Args:
        x: the coins, (B, 1, 32, 32).
        found: their parameters, by name.
        truth: x, y and radius, (B, 3).
        shapes: the noisy pictures, (B, 1, 32, 32).
        named: their parameters, by name.
        path: of the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    axes = figure.subplots(2, 6, squeeze=False)
    for k, ax in enumerate(axes[0]):
        ax.imshow(x[k, 0].numpy(), cmap="gray", extent=(-0.5, 63.5, 63.5, -0.5), vmin=0, vmax=1)
        ax.axvspan(31.5, 63.5, color="white", alpha=0.35)
        for s in range(0, len(found["x"].samples), 10):
            at = (float(found["x"].samples[s, k]), float(found["y"].samples[s, k]))
            ax.add_patch(
                Circle(at, float(found["radius"].samples[s, k]), fill=False, color="tab:orange", lw=0.5, alpha=0.6)
            )
        ax.add_patch(
            Circle((float(truth[k, 0]), float(truth[k, 1])), float(truth[k, 2]), fill=False, color="tab:blue", lw=1.2)
        )
        ax.set_title("pale half hidden; samples, truth (blue)" if k == 0 else "", fontsize=8, loc="left")
        ax.set(xlim=(-0.5, 63.5), ylim=(63.5, -0.5))
    for k, ax in enumerate(axes[1]):
        ax.imshow(shapes[k, 0].numpy(), cmap="gray", vmin=-0.2, vmax=1)
        p = named["kind"].probabilities[k]
        ax.set_title(f"{('disc', 'square', 'triangle')[int(p.argmax())]} {float(p.max()):.2f}", fontsize=8)
    for ax in axes.flat:
        ax.set_axis_off()
    figure.savefig(path, dpi=90)
