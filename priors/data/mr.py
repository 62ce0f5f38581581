"""Training data of the prior `mr`: random views of magnitude images of heads."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from invgen.files.scans import ends, mapped
from invgen.priors.data.readable import DataError, readable

HELD_OUT_HEADS = ("brain2",)
SHARE = {"inia19": 0.4}  # a macaque's brain, seen less often than the human heads
THIN = 1.5  # mm between slices up to which a volume is cut along all three axes


def heads(folder: Path | str, split: str = "train") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns volumes by head, {head: (values (slices, rows, columns), spacing in mm)}, from the .npz files under a folder.

    A file holds arrays HEAD and HEAD_spacing_mm, as `invgen data mr` writes them. split: "train" (without the held-out
    heads), "test" (these alone: brain2) or "all".
    """
    if split not in ("train", "test", "all"):
        raise DataError(f"split is '{split}', expected 'train', 'test' or 'all'")
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for path in sorted(Path(folder).rglob("*.npz")):
        with readable(path), np.load(path, allow_pickle=False) as arrays:
            for name in arrays:
                if name.endswith("_spacing_mm") or (split != "all" and (name in HELD_OUT_HEADS) != (split == "test")):
                    continue
                if arrays[name].ndim != 3 or f"{name}_spacing_mm" not in arrays:
                    raise DataError(f"'{name}' of {path} is not a volume (slices, rows, columns) with {name}_spacing_mm")
                row, column, between = (float(v) for v in arrays[f"{name}_spacing_mm"])
                found[name] = arrays[name].astype(np.float32), np.array([between, row, column])
    if not found:
        raise DataError(f"no volumes (.npz) for split '{split}' under {folder}: `invgen data mr` fetches some")
    return found


def normalised(volume: np.ndarray) -> np.ndarray:
    """Returns a magnitude volume divided by its 99.5th percentile over what is not zero, clipped to [0, 1]."""
    return mapped(volume, "magnitude", *ends([volume], "magnitude"))


class MRViews:
    """Random views of slices of heads: pixels of 0.8 to 1.7 mm, turned, mirrored, bent; other contrasts; Rician noise.

    A volume of thin slices is cut along all three axes, one of thick slices along its own alone. Slices that are nearly
    empty are left out. Half of the views keep their T1 contrast; the others get a random tone curve through 0, which makes
    fluid bright and fat dark now and then, and a smooth random shading as receive coils leave it. Half get a little noise,
    |x + e| with complex e of at most 2 % of the range, because the averages of many scans have none.
    """

    def __init__(self, volumes: Mapping[str, tuple[np.ndarray, np.ndarray]], size: int = 128) -> None:
        self.size = size
        self.planes: list[tuple[Tensor, float, float]] = []
        weights = []
        for head, (volume, spacing) in volumes.items():
            values, planes = normalised(volume), []
            for axis in range(3 if max(spacing) <= THIN else 1):
                others = [s for k, s in enumerate(spacing) if k != axis]
                planes += [
                    (torch.from_numpy(np.ascontiguousarray(plane)).half(), *map(float, others))
                    for plane in np.moveaxis(values, axis, 0)
                    if (plane > 0.1).mean() > 0.08
                ]
            # Slices of one head resemble each other: its share grows as the cube root of their number.
            self.planes += planes
            weights += [SHARE.get(head, 1.0) * len(planes) ** (1 / 3) / len(planes)] * len(planes)
        self.weights = torch.tensor(weights, dtype=torch.float64)

    def batch(self, count: int, generator: Generator) -> Tensor:
        """Returns (count, 1, size, size) float32 in [0, 1]."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator).tolist()
        uniform, normal = torch.rand(count, 9, generator=generator), torch.randn(count, 4, generator=generator)
        displacement = torch.randn(count, 2, 4, 4, generator=generator) * 0.015
        tones, shade = torch.rand(count, 5, generator=generator), torch.randn(count, 1, 3, 3, generator=generator)
        views = torch.cat([self._view(k, uniform[i], normal[i], displacement[i]) for i, k in enumerate(chosen)]).clamp(0, 1)
        curved = uniform[:, 6] < 0.5
        for i in curved.nonzero().ravel().tolist():
            views[i] = _curve(views[i], tones[i])
        gain = F.interpolate(shade * 0.2, size=views.shape[2:], mode="bicubic", align_corners=True).exp()
        views = torch.where((uniform[:, 7] < 0.5).view(-1, 1, 1, 1), views * gain, views)
        level = (0.02 * (2 * uniform[:, 8] - 1).clamp(0)).view(-1, 1, 1, 1)
        noise = torch.randn(2, *views.shape, generator=generator) * level
        return torch.hypot(views + noise[0], noise[1]).clamp(0, 1)

    def _view(self, index: int, uniform: Tensor, normal: Tensor, displacement: Tensor) -> Tensor:
        plane, row, column = self.planes[index]
        a, b, zoom, mirror, upside, quarter = uniform[:6].tolist()
        height, width = plane.shape[0] * row, plane.shape[1] * column  # mm
        field = self.size * 0.8 * math.exp(zoom * 0.75) * (0.5 if max(height, width) < 120 else 1.0)  # mm
        turn, shear, stretch = normal[0] * math.radians(8), normal[1] * 0.03, normal[2] * 0.05
        turn = turn + (math.pi / 2 if quarter < 0.2 else 0.0)
        matrix = torch.stack([torch.stack([turn.cos(), -turn.sin() + shear]), torch.stack([turn.sin(), turn.cos()])])
        extent = torch.tensor([[field / width], [field / height]], dtype=matrix.dtype)
        matrix = matrix * torch.stack([stretch.exp(), (-stretch).exp()]) * extent
        free = [max(side - field, 0.0) / side + 0.08 for side in (width, height)]
        shift = torch.tensor([(2 * u - 1) * f for u, f in zip((a, b), free, strict=True)])
        # Twice as fine as the view, then averaged, so that a coarser view does not alias.
        shape = [1, 1, 2 * self.size, 2 * self.size]
        grid = F.affine_grid(torch.cat([matrix, shift[:, None]], 1)[None], shape, align_corners=False)
        grid = grid + F.interpolate(displacement[None], size=shape[2:], mode="bicubic", align_corners=True).permute(
            0, 2, 3, 1
        )
        view = F.avg_pool2d(F.grid_sample(plane.float()[None, None], grid, mode="bicubic", align_corners=False), 2)
        view = view.flip(3) if mirror < 0.5 else view
        return view.flip(2) if upside < 0.2 else view


def _curve(view: Tensor, tones: Tensor) -> Tensor:
    """Returns a tone curve: linear from 0 at 0 through random levels at 0.2, 0.4, ... 1."""
    knots = torch.cat([torch.zeros(1), 0.1 + 0.9 * tones])
    at = (view * 5).clamp(0, 4.9999)
    low = at.floor().long()
    return knots[low] + (at - low) * (knots[low + 1] - knots[low])
