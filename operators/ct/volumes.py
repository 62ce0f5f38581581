"""X-ray computed tomography in three dimensions: cone beams of any orbit, and stacks of slices with parallel beams.

Lengths are in mm. The origin is the middle of the volume (D, H, W), x points to the right along its rows, y up (row 0 of a
slice is at the highest y, as in two dimensions), z from slice to slice. Measurements are (rows, views, columns) of the
detector, ASTRA's order: `y.movedim(-3, -2)` is the stack of radiographs.
"""

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.forward import LinearOperator
from invgen.operators.ct import _fbp
from invgen.operators.ct._options import Angles, choose_angles, choose_shape
from invgen.operators.ct._projected import Projected
from invgen.operators.ct.geometries import ParallelBeamCT
from invgen.operators.ct.projectors.astra import AstraVolume
from invgen.operators.ct.projectors.spread import SpreadVolume
from invgen.operators.ct.projectors.volume import Views, VolumeProjector
from invgen.validation.hints import Count, NonNegative, Positive
from invgen.validation.limits import check_size

if TYPE_CHECKING:
    from distributed import Client


class ParallelBeamCT3D(ParallelBeamCT):
    """A volume in a parallel beam that turns about z, slice by slice: (D, H, W) -> (D, num_angles, det_count).

    The detector has a row for each slice. A stack of `ParallelBeamCT`: one projector for all slices, the same solvers,
    exact where they are, and the same filtered backprojection.

    Args:
        volume_shape: (D, H, W), or (C, D, H, W) for C volumes that are projected alike.
        num_angles, angles, det_count, det_spacing, det_offset, pixel_size, projector, backend, solver: as for
            `ParallelBeamCT`.
    """

    def __init__(
        self,
        volume_shape: Sequence[int],
        num_angles: Count | None = None,
        *,
        angles: Angles | None = None,
        det_count: Count | None = None,
        det_spacing: Positive | None = None,
        det_offset: float = 0.0,
        pixel_size: Positive = 1.0,
        projector: Literal["linear", "strip"] = "linear",
        backend: Literal["auto", "sparse", "astra"] = "auto",
        solver: Literal["auto", "exact", "cg"] = "auto",
    ) -> None:
        shape = choose_shape(volume_shape, "volume_shape", "D, H, W")
        stack = (math.prod(shape[:-2]), *shape[-2:])
        super().__init__(
            stack, num_angles, angles=angles, det_count=det_count, det_spacing=det_spacing, det_offset=det_offset,
            pixel_size=pixel_size, projector=projector, backend=backend, solver=solver,
        )  # fmt: skip
        self.in_shape, self.out_shape = torch.Size(shape), (*shape[:-2], *self.out_shape[-2:])


class ConeBeamCT(Projected):
    """Line integrals along the rays from a point source to a flat or curved detector, both turning about z.

    At angle t the source is at source_origin * (sin t, -cos t, 0), the middle of the detector at origin_det * (-sin t,
    cos t, 0), as for `FanBeamCT`. Pixel (r, c) of a flat detector lies (c - (columns - 1) / 2) spacing - offset along
    (cos t, sin t, 0), and likewise in r along z; a curved one lies on the cylinder about the axis through the source that
    is parallel to z, its columns at equal angles. Rays are weighed by Joseph's interpolation among the four nearest voxels
    of each plane that they cross. No matrix is made, and the adjoint is exactly the transpose. `prox` and
    `weighted_adjoint` are conjugate gradients with the ramp as their preconditioner.

    Args:
        volume_shape: (D, H, W), or (C, D, H, W) for C volumes that are projected alike.
        num_angles: that many views, uniform on the turns of the orbit, the end excluded.
        angles: or the views themselves, in radians.
        source_origin, origin_det: distances of the source and of the detector from the axis, mm.
        det_count: (rows, columns) of the detector; by default enough to see the whole volume.
        det_spacing: size of a detector pixel in mm, or (of a row, of a column); by default those of the voxels, magnified.
        det_offset: where the axis projects, in mm from the middle of the detector, towards higher columns; or that
            along (rows, columns).
        voxel_size: in mm, or (slice thickness, pixel size).
        detector: "flat" or "curved".
        pitch: how far source and detector move along z in a turn, mm: a helix, whose middle view is at z = 0.
        turns: of the orbit that num_angles views make.
        backend: "auto" (kernels for the CPU, which take tensors of any device and give them back there), or "astra" (on
            CUDA tensors the kernels of the ASTRA toolbox, whose adjoint is not exactly the transpose: `matched` is then
            False).

    The volume is (*batch, *volume_shape), the measurement (*batch, [C,] rows, views, columns), in the unit of the volume
    times mm. Any other orbit: `from_vectors`.

    Raises:
        OptionError: an option has no usable value, or the source is not outside of the volume.
    """

    def __init__(
        self,
        volume_shape: Sequence[int],
        num_angles: Count | None = None,
        *,
        angles: Angles | None = None,
        source_origin: Positive,
        origin_det: NonNegative,
        det_count: tuple[Count, Count] | None = None,
        det_spacing: Positive | tuple[Positive, Positive] | None = None,
        det_offset: float | tuple[float, float] = 0.0,
        voxel_size: Positive | tuple[Positive, Positive] = 1.0,
        detector: Literal["flat", "curved"] = "flat",
        pitch: float = 0.0,
        turns: Positive = 1.0,
        backend: Literal["auto", "astra"] = "auto",
    ) -> None:
        shape = choose_shape(volume_shape, "volume_shape", "D, H, W")
        views_at = choose_angles(num_angles, angles, 2 * math.pi * turns)
        thickness, pixel = _pair(voxel_size)
        radius, distance = math.hypot(*shape[-2:]) * pixel / 2, source_origin + origin_det
        if source_origin <= radius:
            raise OptionError(
                f"source_origin must be above {radius:g} mm (half the diagonal of a slice), got {source_origin:g}"
            )
        magnification = distance / source_origin
        spacing = (thickness * magnification, pixel * magnification) if det_spacing is None else _pair(det_spacing)
        if det_count is None:
            opening = math.asin(radius / source_origin)
            shadow = distance * (opening if detector == "curved" else math.tan(opening))
            height = shape[-3] * thickness / 2 * distance / (source_origin - radius)
            det_count = math.ceil(2 * height / spacing[0] - 1e-9), math.ceil(2 * shadow / spacing[1] - 1e-9)
        check_size(8 * det_count[0] * det_count[1] * len(views_at), f"{len(views_at)} views of det_count = {det_count}")
        offset = det_offset if isinstance(det_offset, tuple) else (0.0, det_offset)
        super().__init__(shape)
        self.angles, self.detector, self.pitch = views_at, detector, float(pitch)
        self.source_origin, self.origin_det = float(source_origin), float(origin_det)
        self.det_spacing, self.det_offset = spacing, offset
        along = (np.arange(det_count[1]) - (det_count[1] - 1) / 2) * spacing[1] - offset[1]
        self.gamma = along / distance if detector == "curved" else np.arctan2(along, distance)
        reach = np.full_like(along, distance) if detector == "curved" else distance / np.cos(self.gamma)
        c, s, zero = np.cos(views_at), np.sin(views_at), np.zeros(len(views_at))
        height = pitch * (views_at - (views_at.min() + views_at.max()) / 2) / (2 * math.pi)
        sources = np.stack([source_origin * s, -source_origin * c, height], -1)
        turned = views_at[:, None] - self.gamma  # a ray's direction is (-sin, cos) of it
        first = height - (det_count[0] - 1) / 2 * spacing[0] - offset[0]
        flat = sources[:, None, :2] + reach[:, None] * np.stack([-np.sin(turned), np.cos(turned)], -1)
        origins = np.concatenate([flat, np.broadcast_to(first[:, None, None], (*flat.shape[:2], 1))], -1)
        steps = np.stack([zero, zero, zero + spacing[0]], -1)
        self._build(Views(sources, origins, steps, det_count[0]), (thickness, pixel), backend)
        self._density = len(views_at) * pixel * thickness * pixel * magnification**2 / math.prod(spacing)

    @classmethod
    def from_vectors(
        cls,
        volume_shape: Sequence[int],
        vectors: Tensor | np.ndarray,
        det_count: tuple[Count, Count],
        *,
        voxel_size: Positive | tuple[Positive, Positive] = 1.0,
        backend: Literal["auto", "astra"] = "auto",
    ) -> Self:
        """Returns the operator of any views with flat detectors, given as ASTRA's "cone_vec".

        A view is (source, middle of the detector, step from column to column, step from row to row), 12 numbers along
        (x, y, z), mm. Volumes are ASTRA's arrays as well, whose row 0 is at the lowest y: those of ASTRA's data3d go in
        and come out as they are.

        Args:
            volume_shape, voxel_size, backend: as for the class.
            vectors: (views, 12).
            det_count: (rows, columns) of the detector.
        """
        shape = choose_shape(volume_shape, "volume_shape", "D, H, W")
        listed = np.asarray(torch.as_tensor(vectors).detach().cpu(), dtype=np.float64)
        if listed.ndim != 2 or listed.shape[1] != 12 or not len(listed) or not np.isfinite(listed).all():
            raise ShapeError(f"vectors must be finite numbers of shape (views, 12), ASTRA's cone_vec, got {listed.shape}")
        check_size(8 * det_count[0] * det_count[1] * len(listed), f"{len(listed)} views of det_count = {det_count}")
        sources, middles, across, steps = listed.reshape(-1, 4, 3).transpose(1, 0, 2) * [1, -1, 1]  # our rows go down
        along = np.arange(det_count[1]) - (det_count[1] - 1) / 2
        origins = (middles - (det_count[0] - 1) / 2 * steps)[:, None] + along[:, None] * across[:, None]
        self = cls.__new__(cls)
        LinearOperator.__init__(self, shape)
        self.angles, self.detector, self.pitch = None, "flat", 0.0
        thickness, pixel = _pair(voxel_size)
        self._build(Views(sources, origins, steps, det_count[0]), (thickness, pixel), backend)
        length = np.linalg.norm(middles - sources, axis=1) / np.linalg.norm(sources, axis=1).clip(1e-9)
        area = np.linalg.norm(np.cross(across, steps), axis=1)
        self._density = float((pixel * thickness * pixel * length**2 / area.clip(1e-30)).sum())
        return self

    def _build(self, views: Views, voxel: tuple[float, float], backend: str) -> None:
        shape = self.in_shape
        thickness, self.pixel_size = voxel
        self.size, self.voxel_size = (shape[-2], shape[-1]), (thickness, self.pixel_size, self.pixel_size)
        self.out_shape = (*shape[:-3], views.rows, *views.origins.shape[:2])
        box = np.array(shape[:-4:-1]) * self.voxel_size[::-1] / 2
        inside = (np.abs(views.sources) <= box).all(-1)
        if inside.any():
            raise OptionError(f"the source of view {inside.argmax()} is not outside of the volume; distances are in mm")
        nearest, radius = math.inf, float(np.linalg.norm(box))
        for row in (0, (views.rows - 1) / 2, views.rows - 1):
            ray = views.origins + views.steps[:, None] * row - views.sources[:, None]
            passing = np.linalg.norm(np.cross(ray, views.sources[:, None]), axis=-1) / np.linalg.norm(ray, axis=-1)
            nearest = min(nearest, float(passing.min()))
        if nearest > radius:
            raise OptionError(
                f"no ray meets the volume: the nearest passes {nearest:g} mm from its middle, half its diagonal is "
                f"{radius:g}; check det_offset (in mm, not pixels), det_spacing and voxel_size"
            )
        free = VolumeProjector((shape[-3], shape[-2], shape[-1]), views, self.voxel_size)
        if backend == "astra" and self.detector != "flat":
            raise OptionError("backend='astra' has flat detectors alone; take backend='auto' for a curved one")
        self.matrix = AstraVolume(free) if backend == "astra" else free
        self._anchored()

    @property
    def density(self) -> float:
        return self._density

    def spread(self, client: "Client", parts: Count | None = None) -> Self:
        """Returns this operator with its work on the workers of a Dask cluster: the same numbers, to the last bit.

        Each worker has some views, and in the adjoint some planes of the volume.

        Args:
            client: of the cluster, a `distributed.Client`.
            parts: into which the work is divided; by default one for each worker.
        """
        if not isinstance(self.matrix, VolumeProjector):
            raise UnsupportedError("ConeBeamCT.spread shares the kernels of the CPU; make the operator with backend='auto'")
        other = copy.copy(self)
        other._buffers = dict(self._buffers)
        other.matrix = SpreadVolume(self.matrix, client, parts)
        return other

    def fbp(self, y: Tensor, filter_name: str = "ram-lak") -> Tensor:
        """Returns the filtered backprojection of a circular orbit (Feldkamp, Davis & Kress, J. Opt. Soc. Am. A 1(6), 1984).

        Shapes and units as in `forward`, filters and short scans as in :meth:`FanBeamCT.fbp`: rays are weighted by the
        cosine of their angle, each row of the detector is filtered, and voxels take what their rays meet, by
        1 / distance^2. Exact in the plane of the orbit, an approximation that worsens with the angle of the cone. It has no
        graph for gradients.

        Raises:
            UnsupportedError: the orbit is no circle, or covers less than half a turn and the opening of the fan: use
                `pinv`, `prox` or a sampler.
        """
        if self.angles is None or self.pitch:
            raise UnsupportedError("ConeBeamCT.fbp needs a circular orbit; use pinv(y), prox(x, y) or a sampler")
        distance, flat = self.source_origin + self.origin_det, self.detector == "flat"
        radius = math.hypot(*self.size) * self.pixel_size / 2
        half_fan = min(np.abs(self.gamma).max(), math.asin(radius / self.source_origin))
        weight, fraction = _fbp.fan_weights(self.angles, self.gamma, half_fan)
        rows, views, columns = self.out_shape[-3:]
        up = (torch.arange(rows, dtype=torch.float64) - (rows - 1) / 2) * self.det_spacing[0] - self.det_offset[0]
        gamma = torch.from_numpy(self.gamma)
        reach = distance / gamma.cos() if flat else torch.full_like(gamma, distance)
        cosine = reach / torch.hypot(reach, up[:, None]) * gamma.cos()  # (rows, columns)
        rays = y.reshape(-1, rows, views, columns)
        rays = rays * (fraction * cosine[:, None] * (1.0 if flat else self.source_origin)).to(rays)
        turn = 0.0 if flat else self.det_spacing[1] / distance
        spacing = self.det_spacing[1] * self.source_origin / distance
        q = _fbp.ramp_filter(rays, turn or spacing, filter_name, turn)
        return _fbp.backproject_volume(q, self, weight).reshape(len(y), *self.in_shape)


def _pair(value: float | tuple[float, float]) -> tuple[float, float]:
    """Returns a number for rows and columns, from one for both or a pair."""
    return (float(value[0]), float(value[1])) if isinstance(value, tuple) else (float(value), float(value))
