"""The projector of a volume on the workers of a Dask cluster: views to the left, slabs to the right, the same numbers."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from invgen.operators.ct.projectors.product import MatrixLike
from invgen.operators.ct.projectors.volume import VolumeProjector

if TYPE_CHECKING:
    from distributed import Client


class SpreadVolume(MatrixLike):
    """A drop-in for `VolumeProjector` that shares its work among workers.

    Forward each has some views, in the adjoint some planes of each axis. Every sum is made by one worker, in the order of
    one machine, so that results are the same to the last bit.

    Args:
        free: the projector.
        client: of the cluster.
        parts: into which work is divided; by default one for each worker.
    """

    def __init__(self, free: VolumeProjector, client: "Client", parts: int | None = None) -> None:
        self.free, self.shape = free, free.shape
        self.client: Any = client  # whose methods return values or coroutines, which type checkers cannot tell apart
        self.parts = parts or max(1, len(self.client.nthreads()))
        ends = np.linspace(0, free.out_size[0], min(self.parts, free.out_size[0]) + 1).astype(int)
        views = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        self.some = [VolumeProjector(free.size, free.views.part(part), free.voxel) for part in views]
        self.whole: Any = None  # the projector, where the workers are

    def apply(self, x: Tensor, turned: bool) -> Tensor:
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        source = x.detach().to("cpu", kind).contiguous().numpy()
        views, columns, rows = self.free.out_size
        shape = (rows, views, columns) if turned else self.free.size
        one = self._adjoint if turned else self._forward
        out = [one(part.reshape(shape)).reshape(-1) for part in source]
        empty = np.zeros((0, self.shape[1 if turned else 0]), source.dtype)
        return torch.from_numpy(np.stack(out) if out else empty).to(x.device, x.dtype)

    def _forward(self, volume: np.ndarray) -> np.ndarray:
        there = self.client.scatter(volume, broadcast=True, hash=False)
        futures = [self.client.submit(VolumeProjector.project, part, there, pure=False) for part in self.some]
        return np.concatenate([part.transpose(2, 0, 1) for part in self.client.gather(futures)], axis=1)

    def _adjoint(self, rays: np.ndarray) -> np.ndarray:
        there = self.client.scatter(np.ascontiguousarray(rays.transpose(1, 2, 0)), broadcast=True, hash=False)
        if self.whole is None:
            self.whole = self.client.scatter(self.free, broadcast=True, hash=False)
        work, futures = [], []
        for axis in self.free.jobs:
            ends = np.linspace(0, self.free.size[axis], min(self.parts, self.free.size[axis]) + 1).astype(int)
            work += [(axis, int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        futures = [self.client.submit(slab, self.whole, there, *task, pure=False) for task in work]
        volume = np.zeros(self.free.size, rays.dtype)
        for (axis, first, last), part in zip(work, self.client.gather(futures), strict=True):
            volume.transpose(self.free.axes(axis))[first:last] += part
        return volume


def slab(free: VolumeProjector, rays: np.ndarray, axis: int, first: int, last: int) -> np.ndarray:
    """Returns what rays hand to planes `first` to `last` of an axis, planes first.

    Args:
        free: the projector.
        rays, axis, first, last: as of `VolumeProjector.planes`.
    """
    volume = np.zeros(free.size, rays.dtype)
    free.planes(rays, axis, first, last, volume)
    return np.ascontiguousarray(volume.transpose(free.axes(axis))[first:last])
