"""Lines of a scan as the kernels take them, and which values that see the same weights lie side by side."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from invgen.operators.ct import _symmetry as symmetry


@dataclass(frozen=True)
class Beam:
    """The lines of each view and what they stand for.

    Attributes:
        angles: of the views, (A,), radians.
        fan, distance: of each line at view 0: angle from the central ray and signed distance from the origin, (D,) radians
            and pixels; with a strip the D + 1 borders of the detector pixels.
        gain: with a strip what its area counts, (D,): over its width in pixels of the image, for a fan at distance 1 from
            the source.
        source: distance of the source from the origin in pixels, 0 for a parallel beam.
        strip: whether rays are strips.
        pixel: size of the image's pixels, mm.
        centred: whether the detector is centred on the axis.
    """

    angles: np.ndarray
    fan: np.ndarray
    distance: np.ndarray
    gain: np.ndarray
    source: float
    strip: bool
    pixel: float
    centred: bool

    @property
    def det_count(self) -> int:
        return len(self.distance) - self.strip


class Geometry(NamedTuple):
    """The geometry of a scan as the kernels take it.

    Attributes:
        views: cosine and sine of the angles, (V, 2).
        rays: cosine and sine of the fan angles, and distances in pixels, of the lines, (3, D), with a strip (3, D + 1).
        gain: of each ray with a strip, (D,).
        source: its distance in pixels, 0 for a parallel beam.
        strip: whether rays are strips.
        taps: pixels that a ray meets in a step at most, an even number.
        pixel: size in mm.
    """

    views: np.ndarray
    rays: np.ndarray
    gain: np.ndarray
    source: float
    strip: bool
    taps: int
    pixel: float


class Scan:
    """The views and rays of a scan that the kernels go through, and what lies in their lanes.

    Args:
        size: of the image, in pixels.
        beam: its lines.
        mirrors: whether the lanes are mirror images of one image, else the images of a batch.
    """

    def __init__(self, size: tuple[int, int], beam: Beam, mirrors: bool) -> None:
        count, views = beam.det_count, np.arange(len(beam.angles))
        half = count
        self.turns: list[Callable] = []
        if mirrors:
            # of a detector of two pixels: what tells views and whether their detectors are turned round
            found = symmetry.ray_symmetries(beam.angles, 2, beam.centred, size, beam.source > 0)
            self.turns, maps = symmetry.mirrors(found, 2 * len(views), least=4)
        if self.turns:
            first = maps.reshape(len(maps), len(views), 2)[:, :, 0]
            views = np.flatnonzero((first // 2).min(axis=0) == views)  # the first of those that map onto it
            # of each lane the views that it stands for, and whether their detectors are turned round
            self.targets, self.turned = first[:, views] // 2, first[:, views] % 2 == 1
            both = ((self.targets == views) & self.turned).any(axis=0).all()
            half = (count + 1) // 2 if both else count
        self.half = half
        self._places: dict[tuple[bool, int], np.ndarray] = {}
        self.scale: np.ndarray | None = None
        if self.turns:
            # a ray that several lanes stand for hands a part to each: as many as stand for the ray of the first lane
            places = self.ray_places(1, len(beam.angles), count)
            met = places[..., :1] + places[..., 1:] * np.arange(half)
            times = np.bincount(met.ravel(), minlength=len(beam.angles) * count).reshape(-1, count)
            self.scale = np.reciprocal(times[views, :half], dtype=np.float32)
        angles = beam.angles[views]
        self.views = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        rays = np.stack([np.cos(beam.fan), np.sin(beam.fan), beam.distance])
        middle = (beam.fan[1:] + beam.fan[:-1]) / 2 if beam.strip else beam.fan
        normal = angles[:, None] - middle[:half]
        steep = np.abs(np.cos(normal)) > np.abs(np.sin(normal)) - 1e-9
        jobs = []
        for view, rows in enumerate(steep):
            ends = np.concatenate([[0], np.flatnonzero(np.diff(rows)) + 1, [half]])
            jobs += [(view, lo, hi, rows[lo]) for lo, hi in zip(ends[:-1], ends[1:], strict=True)]
        listed = np.array(jobs, dtype=np.int64)
        self.jobs = {bool(r): listed[listed[:, 3] == r] for r in (1, 0) if (listed[:, 3] == r).any()}
        taps = 2 * math.ceil(math.ceil(_reach(self.views, rays, self.jobs, size) - 1e-9) / 2) if beam.strip else 2
        self.geometry = Geometry(self.views, rays, beam.gain, beam.source, beam.strip, taps, beam.pixel)

    def lanes(self, images: np.ndarray) -> int:
        """Returns the number of lanes for images (n, H, W): those without an image count nothing."""
        return 8 if len(self.turns) or len(images) > 1 else 1

    def image_places(self, images: np.ndarray, by_row: bool) -> np.ndarray:
        """Returns where steps of the lanes lie in contiguous images (n, H, W): place and stride, (steps, lanes, 2)."""
        key = by_row, 1 if self.turns else len(images)
        if key not in self._places:
            sides = [turn(images[0]) for turn in self.turns] if self.turns else list(images)
            start, size = images.__array_interface__["data"][0], images.itemsize
            found = []
            for side in sides if by_row else [side.T for side in sides]:
                first = side.__array_interface__["data"][0] - start + np.arange(len(side)) * side.strides[0]
                found.append(np.stack([first, np.full_like(first, side.strides[1])], axis=1) // size)
            self._places[key] = np.stack(found, axis=1)
        return self._places[key]

    def ray_places(self, number: int, angles: int, count: int) -> np.ndarray:
        """Returns where the lanes lie in sinograms (number, angles, count): first place and stride, (V, lanes, 2)."""
        if self.turns:
            return np.stack([self.targets * count + self.turned * (count - 1), 1 - 2 * self.turned], axis=-1).swapaxes(0, 1)
        first = np.arange(angles)[:, None] * count + np.arange(number) * (angles * count)
        return np.stack([first, np.ones_like(first)], axis=-1)


def _reach(views: np.ndarray, rays: np.ndarray, listed: dict[bool, np.ndarray], size: tuple[int, int]) -> float:
    """Returns the most pixels that a strip meets in one step."""
    most = 0.0
    for by_row, jobs in listed.items():
        steps = size[0] if by_row else size[1]
        for view, lo, hi, _ in jobs:
            c, s = views[view]
            x, y = (c * rays[0] + s * rays[1])[lo : hi + 1], (s * rays[0] - c * rays[1])[lo : hi + 1]
            a, b = (x, -y) if by_row else (-y, x)
            for t in (-(steps - 1) / 2, (steps - 1) / 2):
                apart = np.abs(np.diff((rays[2, lo : hi + 1] - b * t) / a))
                most = max(most, (apart + 1 + np.maximum(np.abs(b / a)[1:], np.abs(b / a)[:-1])).max())
    return min(most, max(size))
