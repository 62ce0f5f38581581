"""The projector of a scan without its matrix: memory for the images alone, any size, parallel, fan and curved detectors."""

import math
from collections.abc import Iterator
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from invgen.operators.ct.projectors.lanes import Beam, Scan
from invgen.operators.ct.projectors.product import MatrixLike
from invgen.operators.ct.projectors.threads import parts, share, team

SLAB = 1 << 20  # bytes of an image that are worked on at a time: they stay in the cache of a core


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

        lanes, flat = scan.lanes(images), images.reshape(-1)
        total = np.zeros((len(scan.views), self.beam.det_count, lanes), rays.dtype)
        number = team(len(scan.views) * self.shape[1] * lanes)
        for by_row, jobs in scan.jobs.items():
            steps, across = self._across(by_row)
            split = parts(jobs[:, 2] - jobs[:, 1], number)
            for first, chunk, slab, part in self._slabs(scan, by_row, images, number):
                places = scan.image_places(images, by_row)[first : first + len(slab)]
                share(partial(kernels.spread, flat, places, part, None), parts(len(slab), number))
                call = partial(kernels.forward, slab.ravel(), first, chunk, steps, across, total.ravel(), scan.geometry)
                share(partial(call, jobs, (0,) * lanes), split)
        places = scan.ray_places(*rays.shape)
        seen = total[:, : scan.half, : places.shape[1]]
        share(partial(kernels.store, rays.reshape(-1), places, seen), parts(len(total), number))

    def _adjoint(self, scan: Scan, images: np.ndarray, rays: np.ndarray) -> None:
        from invgen.operators.ct.projectors import kernels

        lanes, flat = scan.lanes(images), images.reshape(-1)
        total = np.zeros((len(scan.views), self.beam.det_count, lanes), rays.dtype)
        number = team(len(scan.views) * self.shape[1] * lanes)
        places = scan.ray_places(*rays.shape)
        seen = total[:, : scan.half, : places.shape[1]]
        share(partial(kernels.spread, rays.reshape(-1), places, seen, scan.scale), parts(len(total), number))
        for by_row, jobs in scan.jobs.items():
            steps, across = self._across(by_row)
            for first, _, slab, part in self._slabs(scan, by_row, images, number):
                call = partial(kernels.adjoint, slab.ravel(), first, steps, across, total.ravel(), scan.geometry)
                share(partial(call, jobs, (0,) * lanes), parts(len(slab), number))
                places = scan.image_places(images, by_row)[first : first + len(slab)]
                call = partial(kernels.gather, flat, places, part, self.size[1])
                share(call, [(k, number) for k in range(number)])

    def _across(self, by_row: bool) -> tuple[int, int]:
        height, width = self.size
        return (height, width) if by_row else (width, height)

    def _slabs(
        self, scan: Scan, by_row: bool, images: np.ndarray, number: int
    ) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Yields parts of the padded images: the first step, steps that a core's cache holds, the room for so many steps
        a thread, and the room within the pads, which are zeros."""
        (steps, across), lanes = self._across(by_row), scan.lanes(images)
        width = across + 1 + scan.geometry.taps
        chunk = max(16, SLAB // (width * lanes * images.itemsize))
        room = np.zeros((min(steps, number * chunk), width, lanes), images.dtype)
        for first in range(0, steps, len(room)):
            slab = room[: steps - first]
            yield first, chunk, slab, slab[:, 1 : 1 + across, : len(scan.turns) or len(images)]
