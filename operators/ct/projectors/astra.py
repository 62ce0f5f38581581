"""The ASTRA toolbox (GPLv3, optional) as a projector of parallel beams, behind guards against its silent failures."""

import math
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invgen.errors import DivergedError, MissingExtraError, UnsupportedError
from invgen.operators.ct.phantoms import EllipsePhantom
from invgen.operators.ct.projectors.product import MatrixLike
from invgen.operators.ct.projectors.volume import VolumeProjector


class AstraProjector(MatrixLike):
    """A drop-in for :class:`SparseMatrix` that calls ASTRA's direct_FP and direct_BP (2.5 or later) in single
    precision.

    CPU tensors go slice by slice through ASTRA's CPU kernels: slow, matched, no matrix in memory. CUDA tensors go
    through its GPU kernels in one call, the batch as slices of a parallel3d volume; that adjoint is pixel-driven and
    not exactly the transpose of the ray-driven forward (`matched` is False). ASTRA's GPU calls return zeros when they
    fail and do nothing on a driver that is missing, so the GPU is used only if `astra.use_cuda()`, its geometry is
    checked once against a disk in closed form, and zeros for an input that is not zero are an error. The GPU part
    follows ASTRA's documentation and kernels; it has not been run here.

    Args:
        size: of the image, in pixels.
        angles: of the views, in radians.
        det_count, det_spacing, det_offset: pixels of the detector, their distance and its shift, in mm.
        pixel_size: of the image, in mm.
        projector: ASTRA's name of the kernel, such as "linear".
    """

    def __init__(
        self, size: tuple[int, int], angles: np.ndarray, det_count: int, det_spacing: float, det_offset: float,
        pixel_size: float, projector: str,
    ) -> None:  # fmt: skip
        self.size, self.angles, self.det_count, self.projector = size, angles, det_count, projector
        self.det_spacing, self.det_offset, self.pixel_size = det_spacing, det_offset, pixel_size
        self.shape = (len(angles) * det_count, math.prod(size))
        self._ids: dict[int, int] = {}  # number of slices -> ASTRA's projector, 0 for the one of the CPU
        self._verified = False

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_ids": {}}  # ASTRA's ids mean nothing in another process

    def __del__(self) -> None:
        astra = sys.modules.get("astra") if sys else None  # gone when the interpreter ends, and its memory with it
        for slices, number in getattr(self, "_ids", {}).items():
            if astra is not None:
                (astra.projector3d if slices else astra.projector).delete(number)

    def matched(self, device: torch.device) -> bool:
        """Tells whether the adjoint is exactly the transpose on this device."""
        return device.type == "cpu"

    def apply(self, x: Tensor, turned: bool) -> Tensor:
        astra = _astra()
        source = x.detach().to(torch.float32).contiguous()
        out = torch.zeros(len(x), self.shape[1 if turned else 0], device=x.device)
        if not len(x):
            return out.to(x.dtype)
        views = (len(self.angles), self.det_count)
        shapes = (views, self.size) if turned else (self.size, views)
        if x.device.type == "cpu":
            call = astra.projector.direct_BP if turned else astra.projector.direct_FP
            number = self._id(astra, 0)
            for one, into in zip(source, out, strict=True):
                # ASTRA refuses arrays that are read-only, even as input; a torch tensor never is
                call(number, one.reshape(shapes[0]), out=into.reshape(shapes[1]))
            return out.to(x.dtype)
        if not astra.use_cuda():
            raise UnsupportedError(
                "backend='astra' on CUDA tensors needs an ASTRA build and driver with CUDA; use 'sparse'"
            )
        if not self._verified:
            self._verify(astra, x.device)
        self._run_gpu(astra, source, out, shapes, turned)
        return out.to(x.dtype)

    def _run_gpu(self, astra: Any, source: Tensor, out: Tensor, shapes: tuple, turned: bool) -> None:
        slices = len(source)
        a, b = (t.reshape(slices, *shape) for t, shape in zip((source, out), shapes, strict=True))
        _call_gpu(astra, self._id(astra, slices), a, b, turned)

    def _id(self, astra: Any, slices: int) -> int:
        """Returns ASTRA's projector for a volume of that many slices; 0 is the two-dimensional one of the CPU."""
        if slices not in self._ids:
            (height, width), p, ds = self.size, self.pixel_size, self.det_spacing
            c, s = np.cos(self.angles), np.sin(self.angles)
            window = (-width * p / 2, width * p / 2, -height * p / 2, height * p / 2)
            if slices:
                # in three dimensions row 0 of ASTRA's volume is at the lowest y, in two at the highest: mirror the scan
                zero = np.zeros_like(c)
                rays, centre, step = (
                    (-s, -c, zero),
                    (-self.det_offset * c, self.det_offset * s, zero),
                    (ds * c, -ds * s, zero),
                )
                vectors = np.stack([*rays, *centre, *step, zero, zero, zero + p], axis=1)
                scan = astra.create_proj_geom("parallel3d_vec", slices, self.det_count, vectors)
                volume = astra.create_vol_geom(height, width, slices, *window, -slices * p / 2, slices * p / 2)
                for old in [k for k in self._ids if k]:  # one batch size at a time
                    astra.projector3d.delete(self._ids.pop(old))
                self._ids[slices] = astra.create_projector("cuda3d", scan, volume)
            else:
                offset = self.det_offset
                vectors = np.stack([-s, c, -offset * c, -offset * s, ds * c, ds * s], axis=1)
                scan = astra.create_proj_geom("parallel_vec", self.det_count, vectors)
                self._ids[0] = astra.create_projector(self.projector, scan, astra.create_vol_geom(height, width, *window))
        return self._ids[slices]

    def _verify(self, astra: Any, device: torch.device) -> None:
        """Compares the GPU's projection of an off-centre disk with its chords: a mirrored or scaled scan is an error."""
        radius = min(self.size) * self.pixel_size / 2
        disk = EllipsePhantom(radius, [(1.0, 0.4, 0.4, 0.25, 0.35, 0.0)])
        along = (np.arange(self.det_count) - (self.det_count - 1) / 2) * self.det_spacing - self.det_offset
        want = disk.sinogram(torch.from_numpy(self.angles)[:, None], torch.from_numpy(along)).float().reshape(1, -1)
        image = disk.image(self.size, self.pixel_size).reshape(1, -1).to(device)
        got = torch.zeros(1, self.shape[0], device=device)
        self._run_gpu(astra, image, got, (self.size, (len(self.angles), self.det_count)), turned=False)
        error = ((got.cpu() - want).norm() / want.norm().clamp(min=1e-30)).item()
        if error > 0.2:
            raise UnsupportedError(f"ASTRA's GPU projection of a disk is off by {error:.0%}; use backend='sparse'")
        self._verified = True


class AstraVolume(MatrixLike):
    """A drop-in for `VolumeProjector` whose CUDA tensors go to ASTRA's cone kernels, in single precision, one by one.

    The same guards as for `AstraProjector`; the geometry is checked once against the kernels of the CPU, which take
    tensors of the CPU. Follows ASTRA's documentation; it has not been run on a GPU here.

    Args:
        free: the projector of the CPU, whose views have flat detectors.
    """

    def __init__(self, free: VolumeProjector) -> None:
        self.free, self.shape = free, free.shape
        self._number = 0

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_number": 0}  # ASTRA's ids mean nothing in another process

    def __del__(self) -> None:
        astra = sys.modules.get("astra") if sys else None  # gone when the interpreter ends, and its memory with it
        if astra is not None and getattr(self, "_number", 0):
            astra.projector3d.delete(self._number)

    def matched(self, device: torch.device) -> bool:
        return device.type == "cpu"

    def vectors(self) -> np.ndarray:
        """Returns the views as ASTRA's "cone_vec", (V, 12), for volumes whose first row is the highest."""
        views, columns = self.free.views, self.free.out_size[1]
        across = (views.origins[:, -1] - views.origins[:, 0]) / max(columns - 1, 1)
        middles = views.origins.mean(1) + views.steps * ((views.rows - 1) / 2)
        return np.concatenate([t * [1, -1, 1] for t in (views.sources, middles, across, views.steps)], axis=1)

    def apply(self, x: Tensor, turned: bool) -> Tensor:
        astra = _astra()
        if x.device.type == "cpu":
            return self.free.apply(x, turned)
        if not astra.use_cuda():
            raise UnsupportedError("backend='astra' on CUDA tensors needs an ASTRA build and driver with CUDA; use 'auto'")
        if not self._number:
            self._start(astra, x.device)
        return self._run(astra, x, turned)

    def _run(self, astra: Any, x: Tensor, turned: bool) -> Tensor:
        views, columns, rows = self.free.out_size
        shapes = (self.free.size, (rows, views, columns))
        source = x.detach().to(torch.float32).contiguous()
        out = torch.zeros(len(x), self.shape[1 if turned else 0], device=x.device)
        for one, into in zip(source, out, strict=True):
            _call_gpu(astra, self._number, one.reshape(shapes[turned]), into.reshape(shapes[not turned]), turned)
        return out.to(x.dtype)

    def _start(self, astra: Any, device: torch.device) -> None:
        """Makes ASTRA's projector, and compares the projection of a blob with that of the CPU's kernels."""
        (depth, height, width), (dz, dy, dx) = self.free.size, self.free.voxel
        window = (-width * dx / 2, width * dx / 2, -height * dy / 2, height * dy / 2, -depth * dz / 2, depth * dz / 2)
        scan = astra.create_proj_geom("cone_vec", self.free.views.rows, self.free.out_size[1], self.vectors())
        self._number = astra.create_projector("cuda3d", scan, astra.create_vol_geom(height, width, depth, *window))
        axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (depth, height, width)), indexing="ij")
        places = zip(axes, (0.2, -0.3, 0.4), strict=True)
        blob = torch.exp(-4 * sum(((a - m) ** 2 for a, m in places), torch.zeros(()))).reshape(1, -1)
        want, got = self.free.apply(blob, False), self._run(astra, blob.to(device), False).cpu()
        error = ((got - want).norm() / want.norm().clamp(min=1e-30)).item()
        if error > 0.05:
            raise UnsupportedError(f"ASTRA's GPU projection of a blob is off by {error:.0%}; use backend='auto'")


def _call_gpu(astra: Any, number: int, source: Tensor, out: Tensor, turned: bool) -> None:
    """Calls ASTRA's kernel in place, and raises where it fails in silence."""
    torch.cuda.current_stream(source.device).synchronize()  # ASTRA runs on a stream of its own
    (astra.projector3d.direct_BP if turned else astra.projector3d.direct_FP)(number, source, out=out)
    if not bool(out.any()) and bool(source.any()):
        raise DivergedError("ASTRA returned only zeros, which is how its GPU code reports a failure; use another backend")


def _astra() -> Any:
    try:
        import astra
    except ImportError as error:
        raise MissingExtraError("backend='astra' needs the ASTRA toolbox: pip install astra-toolbox") from error
    if not hasattr(astra.projector, "direct_FP"):
        raise MissingExtraError("backend='astra' needs astra-toolbox 2.5 or later: pip install -U astra-toolbox")
    return astra
