"""The projector of a volume without its matrix: cone beams of any views, memory for the volumes alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from invgen.operators.ct.projectors.product import MatrixLike
from invgen.operators.ct.projectors.threads import parts, share, team

SLAB = 1 << 21  # bytes of a volume that are worked on at a time: they stay in the cache of a core


@dataclass(frozen=True)
class Views:
    """Where the rays of each view of a volume run, in mm along (x, y, z) from the middle of the volume.

    Attributes:
        sources: of the views, (V, 3).
        origins: the middles of the first detector row's pixels, (V, U, 3).
        steps: from each detector row to the next, (V, 3).
        rows: of the detector.
    """

    sources: np.ndarray
    origins: np.ndarray
    steps: np.ndarray
    rows: int

    def part(self, views: slice) -> "Views":
        """Returns some of the views."""
        return replace(self, sources=self.sources[views], origins=self.origins[views], steps=self.steps[views])


class VolumeProjector(MatrixLike):
    """The line integrals of volumes along the rays of some views, weighed by Joseph's interpolation, on the CPU.

    Args:
        size: of the volume, voxels along (z, y, x); row 0 of a slice is at the highest y.
        views: the rays.
        voxel: sizes along (z, y, x), mm.
    """

    def __init__(self, size: tuple[int, int, int], views: Views, voxel: tuple[float, float, float]) -> None:
        self.size, self.views, self.voxel = size, views, voxel
        self.out_size = (*views.origins.shape[:2], views.rows)  # views, detector columns and rows, as kernels take them
        self.shape = (math.prod(self.out_size), math.prod(size))

    @cached_property
    def scan(self) -> tuple:
        """The geometry as the kernels take it, in voxels along (z, y, x)."""
        turned = np.array([1, -1, 1]) / self.voxel  # rows are counted downwards
        sources, origins, steps = (
            np.ascontiguousarray(t[..., ::-1] * turned) for t in (self.views.sources, self.views.origins, self.views.steps)
        )
        return sources, origins, steps, np.array(self.voxel)

    @cached_property
    def jobs(self) -> dict[int, np.ndarray]:
        """Views and detector columns, (J, 2), by the axis along which the rays in the middle of the column cross most
        planes."""
        sources, origins, steps = self.scan[:3]
        middle = origins + steps[:, None] * ((self.views.rows - 1) / 2)
        axis = 2 - np.abs((middle - sources[:, None])[..., ::-1]).argmax(-1)  # of equal ones the last axis
        found = {k: np.argwhere(axis == k) for k in range(3)}
        return {k: jobs for k, jobs in found.items() if len(jobs)}

    def apply(self, x: Tensor, turned: bool) -> Tensor:
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        source = x.detach().to("cpu", kind).contiguous().numpy()
        out = np.zeros((len(source), self.shape[1 if turned else 0]), source.dtype)
        volumes, rays = (out, source) if turned else (source, out)
        count, columns, rows = self.out_size
        for volume, ray in zip(volumes.reshape(-1, *self.size), rays.reshape(-1, rows, count, columns), strict=True):
            if turned:
                total = np.empty(self.out_size, ray.dtype)
                copy(ray.transpose(1, 2, 0), total)
                for axis in self.jobs:
                    self.planes(total, axis, 0, self.size[axis], volume)
            else:
                copy(self.project(volume).transpose(2, 0, 1), ray)
        return torch.from_numpy(out).to(x.device, x.dtype)

    def project(self, volume: np.ndarray) -> np.ndarray:
        """Returns line integrals (views, detector columns, detector rows) of a volume (z, y, x)."""
        from invgen.operators.ct.projectors import volume_kernels

        rays = np.zeros(self.out_size, volume.dtype)
        for axis, jobs in self.jobs.items():
            number = team(len(jobs) * volume.size)
            for lo, hi, slab in self._slabs(axis, 0, self.size[axis], volume.dtype):
                copy(volume.transpose(self.axes(axis))[lo:hi], slab[:, 1:-1, 1:-1])
                call = partial(volume_kernels.forward, slab, lo, rays, self.scan, *self._frame(axis), jobs)
                share(call, parts(len(jobs), number))
        return rays

    def planes(self, rays: np.ndarray, axis: int, first: int, last: int, volume: np.ndarray) -> None:
        """Adds to planes `first` to `last` of a volume what the rays that cross those of this axis hand to them.

        Every voxel's sum is the same whichever planes are asked for, so that machines may share them.

        Args:
            rays: (views, detector columns, detector rows).
            axis: of the planes, a key of `jobs`.
            first, last: a range of planes.
            volume: (z, y, x), of which these planes are changed.
        """
        from invgen.operators.ct.projectors import volume_kernels

        jobs = self.jobs[axis]
        for lo, hi, slab in self._slabs(axis, first, last, volume.dtype):
            call = partial(volume_kernels.adjoint, slab, lo, rays, self.scan, *self._frame(axis), jobs)
            share(call, parts(len(slab), team(len(jobs) * slab.size)))
            copy(slab[:, 1:-1, 1:-1], volume.transpose(self.axes(axis))[lo:hi], add=True)

    def axes(self, axis: int) -> tuple[int, int, int]:
        """Returns the axis of planes, and those of their rows and columns: columns lie along z, the usual detector's."""
        return (0, 1, 2) if axis == 0 else (axis, 3 - axis, 0)

    def _frame(self, axis: int) -> tuple[tuple[int, int, int], np.ndarray]:
        axes = self.axes(axis)
        return axes, np.array([(self.size[k] - 1) / 2 for k in axes]) + [0, 1, 1]

    def _slabs(self, axis: int, first: int, last: int, dtype: np.dtype) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yields ranges of planes and room for them, with a border of one voxel, which is zero."""
        _, a, b = self.axes(axis)
        shape = (self.size[a] + 2, self.size[b] + 2)
        count = max(8, SLAB // (math.prod(shape) * dtype.itemsize))
        room = np.zeros((min(count, last - first), *shape), dtype)
        for lo in range(first, last, count):
            hi = min(lo + count, last)
            yield lo, hi, room[: hi - lo]


def copy(source: np.ndarray, target: np.ndarray, add: bool = False) -> None:
    """Writes values to an array of the same shape, or adds them, as many threads as they are worth."""

    def part(lo: int, hi: int) -> None:
        if add:
            target[lo:hi] += source[lo:hi]
        else:
            target[lo:hi] = source[lo:hi]

    share(part, parts(len(target), team(target.size)))
