"""The projector of a scan without its matrix: memory for the images alone, any size, parallel, fan and curved detectors."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from invgen.operators.ct.projectors.lanes import Beam, Scan
from invgen.operators.ct.projectors.product import MatrixLike

SLAB = 1 << 20  # bytes of an image that are worked on at a time: they stay in the cache of a core
LEAST = 1 << 19  # values that are worth a thread: some 0.2 ms


class MatrixFree(MatrixLike):
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
    def mirrored(self) -> Scan:
        """The scan of an image and its mirror images, if its views map onto each other."""
        return Scan(self.size, self.beam, mirrors=True)

    @cached_property
    def plain(self) -> Scan:
        """The scan of the images of a batch."""
        return Scan(self.size, self.beam, mirrors=False)

    def _forward(self, scan: Scan, images: np.ndarray, rays: np.ndarray) -> None:
        from invgen.operators.ct.projectors import kernels

        total = np.zeros((len(scan.views), self.beam.det_count, scan.lanes(images)), rays.dtype)
        for by_row, jobs in scan.jobs.items():
            for first, slab, part, places in self._slabs(scan, by_row, images):
                kernels.spread(images.reshape(-1), places, part)
                call = partial(
                    kernels.forward, slab.ravel(), first, *self._across(by_row), total.ravel(), scan.geometry, jobs
                )
                lanes = (0,) * slab.shape[-1]
                share(len(jobs), slab.size, lambda lo, hi, call=call, lanes=lanes: call(lo, hi, lanes), LEAST)
        scan.store(total, rays)

    def _adjoint(self, scan: Scan, images: np.ndarray, rays: np.ndarray) -> None:
        from invgen.operators.ct.projectors import kernels

        total = scan.load(rays, scan.lanes(images))
        for by_row, jobs in scan.jobs.items():
            for first, slab, part, places in self._slabs(scan, by_row, images):
                call = partial(
                    kernels.adjoint, slab.ravel(), first, *self._across(by_row), total.ravel(), scan.geometry, jobs
                )
                lanes = (0,) * slab.shape[-1]
                share(
                    len(slab),
                    total.size,
                    lambda lo, hi, call=call, lanes=lanes, first=first: call(first + lo, first + hi, lanes),
                    LEAST,
                )
                kernels.gather(images.reshape(-1), places, part)

    def _across(self, by_row: bool) -> tuple[int, int]:
        height, width = self.size
        return (height, width) if by_row else (width, height)

    def _slabs(
        self, scan: Scan, by_row: bool, images: np.ndarray
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


def _places(images: np.ndarray, sides: list[np.ndarray], by_row: bool, first: int) -> np.ndarray:
    """Returns where row `first` of each side, or column, begins in the memory of the images, and its strides, in values."""
    start, size = images.__array_interface__["data"][0], images.itemsize
    sides = [(side if by_row else side.T)[first:] for side in sides]
    return np.array([(side.__array_interface__["data"][0] - start, *side.strides) for side in sides]) // size


def share(count: int, values: int, work: Callable[[int, int], object], least: int = 1) -> None:
    """Calls work(lo, hi) for parts of range(count), on as many threads as torch has.

    Args:
        count: of what can be shared.
        values: that one of them reads.
        work: of one part.
        least: values that are worth a thread.
    """
    number = max(1, min(torch.get_num_threads(), count, count * values // least))
    ends = [count * k // number for k in range(number + 1)]
    with ThreadPoolExecutor(number) as pool:  # made anew: threads do not survive a fork; one that fails raises here
        rest = [pool.submit(work, *pair) for pair in zip(ends[1:-1], ends[2:], strict=True)]
        work(0, ends[1])
        for part in rest:
            part.result()
