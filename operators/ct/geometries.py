"""X-ray computed tomography in two dimensions: parallel and fan beam, in physical units.

Lengths are in mm, images in any unit per mm (attenuation mu in 1/mm makes line integrals that are pure numbers). The
origin is the middle of the image, row 0 is on top, y points up; the ray at angle t and distance s is the line x cos t
+ y sin t = s. These are the conventions of the ASTRA toolbox; skimage.transform.radon returns the transpose and
rotates about pixel N // 2: for an even N its axis lies at det_offset = +0.5 pixels (docs/ct.md).
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.operators.ct import _fbp
from invgen.operators.ct._options import Angles, choose_angles, choose_shape
from invgen.operators.ct.base import Tomography, check_rays
from invgen.operators.ct.projectors.astra import AstraProjector
from invgen.validation.hints import Count, NonNegative, Positive
from invgen.validation.limits import check_size


class ParallelBeamCT(Tomography):
    """Line integrals along parallel rays: y[k, d] = integral of x over the line  X cos t_k + Y sin t_k = s_d.

    s_d = (d - (det_count - 1) / 2) det_spacing - det_offset.

    Args:
        image_shape: (H, W), or (C, H, W) for C slices that are projected alike.
        num_angles: that many views, uniform on [0, pi), the end excluded.
        angles: or the views themselves, in radians, any (sparse view, limited angle, repeated). What looks like degrees
            (whole numbers, steps above half a radian, more than two turns) is refused.
        det_count: detector pixels; by default enough to see the diagonal of the square around the image.
        det_spacing: size of a detector pixel in mm; by default the pixel size.
        det_offset: where the rotation axis projects, in mm from the middle of the detector, towards higher pixel
            numbers. An axis at detector pixel 296 of 640 is det_offset = (296 - 319.5) * det_spacing.
        pixel_size: of the image, in mm.
        projector: "linear" (Joseph 1982: line integrals, linear interpolation) or "strip" (averages over the width of
            a detector pixel, exact areas: conserves mass pixel by pixel; twice the entries).
        solver: of `solve`, `prox` and `pinv`: "exact", "cg" (conjugate gradients), or "auto": exact where the
            geometry's symmetry makes that a matter of seconds. "exact" keeps what it has diagonalised on disk
            ($INVGEN_CACHE, ~/.cache/invgen).
        backend: "auto" (on the CPU kernels that need no matrix, at any size, and an explicit matrix where it is small or
            faster; on CUDA the matrix), "sparse" (the matrix always) or "astra" (the ASTRA toolbox: its CPU projector slice
            by slice, matched but slow, or on CUDA tensors its GPU kernels, whose adjoint is not exactly the transpose:
            `matched` is then False).

    The image is (*batch, *image_shape), the sinogram (*batch, [C,] num_angles, det_count), in the unit of the image
    times mm. A matrix is computed in float64 at first use and kept in the precision of the input (16 bytes an entry
    in single precision, about 1.8 N^2 entries a view); backend="sparse" refuses one above `max_bytes`.

    Raises:
        OptionError: an option has no usable value, or the matrix of backend="sparse" would not fit.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
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
        shape = choose_shape(image_shape)
        views = choose_angles(num_angles, angles, math.pi)
        det_spacing = pixel_size if det_spacing is None else det_spacing
        if det_count is None:
            det_count = math.ceil(math.sqrt(2) * max(shape[-2:]) * pixel_size / det_spacing - 1e-9)
        check_size(8 * det_count, f"det_count = {det_count}")
        super().__init__(shape, views, det_count, det_spacing, det_offset, pixel_size, solver)
        check_rays(self)
        self.projector = projector
        self.spacing = det_spacing
        # entries of a pixel and a view. Joseph: two a step, and the mean of max(|cos|, |sin|) is 0.9. Strip: the mean width
        # of a pixel's shadow is 4 / pi pixels
        per_pixel = (1.8 if projector == "linear" else 1.27) * pixel_size / det_spacing + (projector == "strip")
        if backend == "astra":
            detector = det_count, det_spacing, det_offset
            self.matrix = AstraProjector(self.size, views, *detector, pixel_size, projector)
            return
        lines = self._along(borders=projector == "strip")
        gain = np.full(det_count, 1 / det_spacing)
        self.matrix = self._projector(backend, (0 * lines, lines), gain, 0.0, per_pixel)

    def geometry(self) -> tuple:
        return *super().geometry(), self.projector

    def rays(self) -> tuple[Tensor, Tensor]:
        angle = torch.from_numpy(self.angles)[:, None].expand(-1, self.det_count)
        return angle, torch.from_numpy(self._along()).expand_as(angle)

    def fbp(self, y: Tensor, filter_name: str = "ram-lak") -> Tensor:
        """Returns the filtered backprojection (Kak & Slaney 1988, section 3.3): (B, [C,] A, D) -> (B, [C,] H, W), in the
        image's unit.

        Args:
            filter_name: "ram-lak", "shepp-logan", "cosine", "hamming" or "hann": the window on the ramp, from sharp
                to smooth.

        Each view counts for half the gaps to its neighbours, so that any list of angles is weighted as it should; a
        missing wedge stays missing.
        """
        q = _fbp.ramp_filter(y.reshape(-1, len(self.angles), self.det_count), self.det_spacing, filter_name)
        weight = torch.from_numpy(_fbp.angle_weights(self.angles, math.pi))[:, None]
        if self.det_spacing <= self.pixel_size * (1 + 1e-9):
            # every pixel meets a ray of every view, so that A^T is a backprojector
            q = q * weight.to(q) * (self.det_spacing / self.pixel_size**2)
            return self.adjoint(q.reshape(y.shape))
        x, up = _pixel_centres(self.size, self.pixel_size)

        def place(view: int) -> tuple[Tensor, Tensor]:
            t = self.angles[view]
            along = x * math.cos(t) + up * math.sin(t) + self.det_offset
            return along / self.det_spacing + (self.det_count - 1) / 2, weight[view]

        return _fbp.backproject(q, place).reshape(len(y), *self.in_shape)


class FanBeamCT(Tomography):
    """Line integrals along the rays from a point source to a flat detector, both turning about the origin.

    At angle t the source is at source_origin * (sin t, -cos t), the middle of the detector at origin_det * (-sin t,
    cos t). Pixel d of a flat detector is u = (d - (det_count - 1) / 2) det_spacing - det_offset along (cos t, sin t)
    (ASTRA's "fanflat"); a curved one lies on the circle about the source, its pixels at equal angles u / (source_origin +
    origin_det) from the central ray.

    Args:
        image_shape: (H, W), or (C, H, W) for C slices that are projected alike.
        num_angles: that many views, uniform on [0, 2 pi), the end excluded.
        angles: or the views themselves, in radians.
        det_count: detector pixels; by default enough to see the circle around the image.
        det_spacing: size of a detector pixel in mm, on the detector; by default the pixel size times the magnification.
        source_origin: distance from the source to the rotation axis, mm; the source must stay outside the image.
        origin_det: distance from the rotation axis to the detector, mm (0: a virtual detector on the axis).
        pixel_size: of the image, in mm.
        det_offset: where the ray through the rotation axis meets the detector, in mm from its middle, towards higher
            pixel numbers.
        detector: "flat" or "curved" (equiangular, as of clinical scanners).
        projector: "linear" (Joseph's method on the ray to the middle of each detector pixel) or "strip" (the average over
            the detector pixel: exact areas of the wedge to the source, the magnification taken on its middle ray).
        backend, solver: as of :class:`ParallelBeamCT`, without "astra".

    Shapes, units and errors as in :class:`ParallelBeamCT`.
    """

    fan: ClassVar[bool] = True

    def __init__(
        self,
        image_shape: Sequence[int],
        num_angles: Count | None = None,
        *,
        source_origin: Positive,
        origin_det: NonNegative,
        angles: Angles | None = None,
        det_count: Count | None = None,
        det_spacing: Positive | None = None,
        pixel_size: Positive = 1.0,
        det_offset: float = 0.0,
        detector: Literal["flat", "curved"] = "flat",
        projector: Literal["linear", "strip"] = "linear",
        backend: Literal["auto", "sparse"] = "auto",
        solver: Literal["auto", "exact", "cg"] = "auto",
    ) -> None:
        shape = choose_shape(image_shape)
        views = choose_angles(num_angles, angles, 2 * math.pi)
        radius = math.hypot(*shape[-2:]) * pixel_size / 2
        if source_origin <= radius:
            raise OptionError(
                f"source_origin must be above {radius:g} mm (half the diagonal of the image), got {source_origin:g}"
            )
        magnification = (source_origin + origin_det) / source_origin
        det_spacing = pixel_size * magnification if det_spacing is None else det_spacing
        if det_count is None:
            opening = math.asin(radius / source_origin)
            shadow = (source_origin + origin_det) * (opening if detector == "curved" else math.tan(opening))
            det_count = math.ceil(2 * shadow / det_spacing)
        check_size(8 * det_count, f"det_count = {det_count}")
        super().__init__(shape, views, det_count, det_spacing, det_offset, pixel_size, solver)
        self.source_origin, self.origin_det, self.spacing = source_origin, origin_det, det_spacing / magnification
        self.detector, self.projector = detector, projector
        check_rays(self)
        lines = self._opening(self._along(borders=projector == "strip"))
        fan = self._opening(self._along())
        gain = (source_origin + origin_det) / det_spacing / (1 if detector == "curved" else np.cos(fan) ** 2)
        lines = lines, source_origin * np.sin(lines)
        gain = np.broadcast_to(gain, fan.shape).copy()
        per_pixel = (1.8 if projector == "linear" else 1.27) * pixel_size / self.spacing + (projector == "strip")
        self.matrix = self._projector(backend, lines, gain, source_origin, per_pixel)

    def geometry(self) -> tuple:
        kind = () if (self.detector, self.projector) == ("flat", "linear") else (self.detector, self.projector)
        return *super().geometry(), self.source_origin, self.origin_det, *kind

    def _opening(self, along: np.ndarray) -> np.ndarray:
        """Returns the angle from the central ray of places on the detector, radians."""
        distance = self.source_origin + self.origin_det
        return along / distance if self.detector == "curved" else np.arctan2(along, distance)

    def rays(self) -> tuple[Tensor, Tensor]:
        gamma = torch.from_numpy(self._opening(self._along()))  # a ray is the central one turned by gamma
        angle = torch.from_numpy(self.angles)[:, None] - gamma
        return angle, (self.source_origin * gamma.sin()).expand_as(angle)

    def fbp(self, y: Tensor, filter_name: str = "ram-lak") -> Tensor:
        """Returns the filtered backprojection of a full turn or a short scan (Kak & Slaney 1988, section 3.4).

        Shapes, units and filters as in :meth:`ParallelBeamCT.fbp`; the weighted rays of a flat detector are
        filtered on its image through the rotation axis and backprojected with 1 / U^2, those of a curved one filtered in
        the angle and backprojected with 1 / distance^2. Views that leave a part of the circle out count
        by Parker's weights (Med. Phys. 9(2), 1982), made as smooth as the range of the views allows.

        Raises:
            UnsupportedError: the views cover less than half a turn and the opening of the fan: use `pinv`, `prox` or a
                sampler.
        """
        weight, fraction = _fbp.fan_weights(self.angles, *self._fan_angles())
        distance, flat = self.source_origin + self.origin_det, self.detector == "flat"
        gamma = torch.from_numpy(self._opening(self._along()))
        cosine = gamma.cos() if flat else self.source_origin * gamma.cos()
        rays = y.reshape(-1, len(self.angles), self.det_count) * (fraction * cosine).to(y)
        turn = 0.0 if flat else self.det_spacing / distance
        q = _fbp.ramp_filter(rays, turn or self.spacing, filter_name, turn)
        x, up = _pixel_centres(self.size, self.pixel_size)

        def place(view: int) -> tuple[Tensor, Tensor]:
            c, s = math.cos(self.angles[view]), math.sin(self.angles[view])
            depth = self.source_origin - x * s + up * c  # from the source, along the central ray
            aside = x * c + up * s
            along = distance * (aside / depth if flat else torch.atan2(aside, depth))
            scale = (self.source_origin / depth) ** 2 if flat else 1 / (aside**2 + depth**2)
            return (along + self.det_offset) / self.det_spacing + (self.det_count - 1) / 2, weight[view] * scale

        return _fbp.backproject(q, place).reshape(len(y), *self.in_shape)

    def _fan_angles(self) -> tuple[np.ndarray, float]:
        """Returns the angle of each detector pixel from the central ray, and the largest of one that meets the image."""
        gamma = self._opening(self._along())
        radius = math.hypot(*self.size) * self.pixel_size / 2
        return gamma, min(np.abs(gamma).max(), math.asin(radius / self.source_origin))


def _pixel_centres(size: tuple[int, int], pixel_size: float) -> tuple[Tensor, Tensor]:
    """Returns x and y of the pixel centres in mm, each (H W,) float64."""
    x = (torch.arange(size[1], dtype=torch.float64) - (size[1] - 1) / 2) * pixel_size
    up = ((size[0] - 1) / 2 - torch.arange(size[0], dtype=torch.float64)) * pixel_size
    return x.repeat(size[0]), up.repeat_interleave(size[1])
