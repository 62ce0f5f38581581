"""The projector of a scan without its matrix: memory for the images alone, any size, parallel, fan and curved detectors."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from invgen.operators.ct import _symmetry as symmetry
from invgen.operators.ct._sparse import Product

SLAB = 1 << 20  # bytes of an image that are worked on at a time: they stay in the cache of a core
LEAST = 1 << 19  # values that are worth a thread: some 0.2 ms


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


class MatrixFree:
    """A drop-in for `SparseMatrix` that computes weights when they are used, on the CPU.

    Values that see the same weights lie side by side, in 8 lanes: the images that mirrors and a swap of the axes make
    of one image, where the views of the scan map onto each other, else the images of a batch, else one image alone.

    Args:
        size: of the image, in pixels.
        beam: its lines.
    """

    def __init__(self, size: tuple[int, int], beam: Beam) -> None:
        self.size, self.beam = size, beam
        self.shape = (len(beam.angles) * beam.det_count, math.prod(size))

    def __getstate__(self) -> dict:
        return {"size": self.size, "beam": self.beam, "shape": self.shape}

    def __deepcopy__(self, memo: dict) -> "MatrixFree":
        return self  # immutable: copies of an operator share it

    def __call__(self, x: Tensor, turned: bool = False) -> Tensor:
        """Returns the differentiable product: x (N, n) -> (N, m), or (N, m) -> (N, n) with the transpose."""
        return Product.apply(x, self, turned)

    def matched(self, device: torch.device) -> bool:
        """Tells whether the adjoint is exactly the transpose on this device: always."""
        return True

    def apply(self, x: Tensor, turned: bool) -> Tensor:
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        source = x.detach().to(kind).contiguous().numpy()
        views = (len(self.beam.angles), self.beam.det_count)
        out = np.zeros((len(source), self.shape[1 if turned else 0]), source.dtype)
        images, rays = (out, source) if turned else (source, out)
        images, rays = images.reshape(-1, *self.size), rays.reshape(-1, *views)
        first = 0
        while first < len(source):
            # measured at 256 pixels and 60 views: mirrors of one image take a fifth of the time of a batch of 8
            mirrored = bool(self.mirrored.turns) and len(source) - first < 5
            group = slice(first, first + (1 if mirrored else 8))
            scan = self.mirrored if mirrored else self.plain
            (self._adjoint if turned else self._forward)(scan, images[group], rays[group])
            first = group.stop
        return torch.from_numpy(out).to(x.dtype)

    @cached_property
    def mirrored(self) -> "Scan":
        """The scan of an image and its mirror images, if its views map onto each other."""
        return Scan(self.size, self.beam, mirrors=True)

    @cached_property
    def plain(self) -> "Scan":
        """The scan of the images of a batch."""
        return Scan(self.size, self.beam, mirrors=False)

    def _forward(self, scan: "Scan", images: np.ndarray, rays: np.ndarray) -> None:
        from invgen.operators.ct import _kernels

        total = np.zeros((len(scan.views), self.beam.det_count, scan.lanes(images)), rays.dtype)
        for by_row, jobs in scan.jobs.items():
            for first, slab, part, places in self._slabs(scan, by_row, images):
                _kernels.spread(images.reshape(-1), places, part)
                call = partial(
                    _kernels.forward, slab.ravel(), first, *self._across(by_row), total.ravel(), scan.geometry, jobs
                )
                lanes = (0,) * slab.shape[-1]
                _share(len(jobs), slab.size, lambda lo, hi, call=call, lanes=lanes: call(lo, hi, lanes))
        scan.store(total, rays)

    def _adjoint(self, scan: "Scan", images: np.ndarray, rays: np.ndarray) -> None:
        from invgen.operators.ct import _kernels

        total = scan.load(rays, scan.lanes(images))
        for by_row, jobs in scan.jobs.items():
            for first, slab, part, places in self._slabs(scan, by_row, images):
                call = partial(
                    _kernels.adjoint, slab.ravel(), first, *self._across(by_row), total.ravel(), scan.geometry, jobs
                )
                lanes = (0,) * slab.shape[-1]
                _share(
                    len(slab),
                    total.size,
                    lambda lo, hi, call=call, lanes=lanes, first=first: call(first + lo, first + hi, lanes),
                )
                _kernels.gather(images.reshape(-1), places, part)

    def _across(self, by_row: bool) -> tuple[int, int]:
        height, width = self.size
        return (height, width) if by_row else (width, height)

    def _slabs(
        self, scan: "Scan", by_row: bool, images: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Yields parts of the padded images, zeros: the first step, its room, the room within the pads, and where the
        rows of its lanes lie in the images."""
        (steps, across), lanes = self._across(by_row), scan.lanes(images)
        width = across + 1 + scan.geometry.taps
        rows = min(steps, max(16, SLAB // (width * lanes * images.itemsize)))
        room, sides = np.zeros((rows, width, lanes), images.dtype), scan.sides(images)
        for first in range(0, steps, rows):
            slab = room[: min(rows, steps - first)]
            slab.fill(0)
            yield first, slab, slab[:, 1 : 1 + across, : len(sides)], _places(images, sides, by_row, first)


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
            self.turns, maps = _mirrors(found, 2 * len(views))
        if self.turns:
            first = maps.reshape(len(maps), len(views), 2)[:, :, 0]
            views = np.flatnonzero((first // 2).min(axis=0) == views)  # the first of those that map onto it
            # of each lane the views that it stands for, and whether their detectors are turned round
            self.targets, self.turned = first[:, views] // 2, first[:, views] % 2 == 1
            both = ((self.targets == views) & self.turned).any(axis=0).all()
            half = (count + 1) // 2 if both else count
            share = np.zeros((len(beam.angles), count), np.float32)
            for k in range(len(self.turns)):
                for rays, _ in self._parts(share, k, half):
                    rays += 1  # how many stand for a ray
            self.share = np.reciprocal(share, out=share)
        self.half = half
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

    def sides(self, images: np.ndarray) -> list[np.ndarray]:
        """Returns the images of the lanes for images (n, H, W), as views of their memory."""
        return [turn(images[0]) for turn in self.turns] if self.turns else list(images)

    def lanes(self, images: np.ndarray) -> int:
        """Returns the number of lanes for images (n, H, W): those without an image count nothing."""
        return 8 if len(self.turns) or len(images) > 1 else 1

    def _parts(self, rays: np.ndarray, lane: int, half: int) -> Iterator[tuple[np.ndarray, int]]:
        """Yields of each view of a lane the rays (half,) of a sinogram (A, D) that it stands for, and its number."""
        for view, (target, turned) in enumerate(zip(self.targets[lane], self.turned[lane], strict=True)):
            yield rays[target, ::-1][:half] if turned else rays[target, :half], view

    def store(self, total: np.ndarray, rays: np.ndarray) -> None:
        """Writes values of the lanes (V, D, lanes) to sinograms (n, A, D)."""
        if not self.turns:
            rays[:] = np.moveaxis(total, -1, 0)[: len(rays)]
            return
        for k in range(len(self.turns)):
            for part, view in self._parts(rays[0], k, self.half):
                part[:] = total[view, : self.half, k]

    def load(self, rays: np.ndarray, lanes: int) -> np.ndarray:
        """Returns values of the lanes (V, D, lanes) of sinograms (n, A, D); where several stand for a ray, its parts."""
        total = np.zeros((len(self.views), rays.shape[-1], lanes), rays.dtype)
        if not self.turns:
            total[..., : len(rays)] = np.moveaxis(rays, 0, -1)
            return total
        shared = rays[0] * self.share
        for k in range(len(self.turns)):
            for part, view in self._parts(shared, k, self.half):
                total[view, : self.half, k] = part
        return total


def _mirrors(found: dict[str, np.ndarray], rays: int) -> tuple[list[Callable], np.ndarray]:
    """Returns the turns of an image that permute the rays, 8, 4 or none, and the ray that each ray becomes, (lanes, rays).

    The projection of turn(x) at a ray is that of x at the ray that it becomes.
    """
    generators: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "x": lambda image: image[:, ::-1],
        "y": lambda image: image[::-1],
        "half": lambda image: image[::-1, ::-1],
        "swap": lambda image: image[::-1, ::-1].T,
    }
    groups = (("x", "y", "swap"), ("x", "y"), ("half", "swap"))
    names = next((names for names in groups if all(name in found for name in names)), ())
    turns: list[Callable] = [lambda image: image]
    maps = [np.arange(rays)]
    for name in names:
        turns += [lambda image, old=old, new=generators[name]: old(new(image)) for old in turns]
        maps += [found[name][old] for old in maps]
    return (turns, np.stack(maps)) if names else ([], np.empty((0, rays), int))


def _places(images: np.ndarray, sides: list[np.ndarray], by_row: bool, first: int) -> np.ndarray:
    """Returns where row `first` of each side, or column, begins in the memory of the images, and its strides, in values."""
    start, size = images.__array_interface__["data"][0], images.itemsize
    sides = [(side if by_row else side.T)[first:] for side in sides]
    return np.array([(side.__array_interface__["data"][0] - start, *side.strides) for side in sides]) // size


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


def _share(count: int, values: int, work: Callable[[int, int], object]) -> None:
    """Calls work(lo, hi) for parts of range(count), on as many threads as torch has, if each has `LEAST` values to read."""
    number = max(1, min(torch.get_num_threads(), count, count * values // LEAST))
    ends = [count * k // number for k in range(number + 1)]
    with ThreadPoolExecutor(number) as pool:  # made anew: threads do not survive a fork; one that fails raises here
        rest = [pool.submit(work, *pair) for pair in zip(ends[1:-1], ends[2:], strict=True)]
        work(0, ends[1])
        for part in rest:
            part.result()
