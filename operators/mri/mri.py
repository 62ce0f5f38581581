"""Cartesian magnetic resonance imaging, in fastMRI's conventions (Zbontar et al., 2018).

The scanner measures samples of k-space, the centred orthonormal Fourier transform of the transverse magnetisation, which is
a complex image. The phase-encode axis, along which lines are left out, is the last one; in a volume (D, H, W), whose
transform has three axes, it may be two of them. `kspace_masks` has the usual masks. Images are in any unit; k-space, the
transform being orthonormal, in the same.
"""

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.forward import LinearOperator, SVDOperator
from invgen.linalg import cg
from invgen.operators.mri.fourier import fftc, ifftc, to_channels, to_complex
from invgen.validation.arguments import mask as as_mask
from invgen.validation.batches import Variance, per_entry, per_sample


class _Cartesian(LinearOperator):
    """Base of single-coil and multi-coil MRI: the layout of the image, the mask and the order of the samples."""

    mask: Tensor
    index: Tensor

    def _set_up(self, mask: Tensor) -> None:
        name, shape, complex_in = type(self).__name__, self.in_shape, self.in_dtype.is_complex
        self.dims = len(shape) - (not complex_in)
        parts = tuple(shape[:1]) in ((1,), (2,))  # with complex=True they are taken for channels, not for slices
        if self.dims not in (2, 3) or (parts and self.dims == 3 if complex_in else not parts):
            wanted = "(H, W) for complex=True" if complex_in else "(2, H, W), real and imaginary part, or (1, H, W), real"
            raise OptionError(f"{name} takes an image_shape of {wanted}, or a volume's with D before H, got {tuple(shape)}")
        mask = as_mask(f"the mask of {name}", mask)
        size = tuple(shape[-self.dims :])
        if not mask.ndim or tuple(mask.shape) != size[-mask.ndim :]:
            raise ShapeError(
                f"the mask of {name} must have shape {size}, or {size[1:]} for whole lines, got {tuple(mask.shape)}"
            )
        mask = mask.expand(size).contiguous()
        if not mask.any():
            raise OptionError(f"the mask of {name} measures nothing; at least one of its values must be True")
        self.register_buffer("mask", mask)
        self.register_buffer("index", mask.flatten().nonzero().flatten(), persistent=False)

    def _image(self, x: Tensor) -> Tensor:
        """Returns a signal as the complex image it stands for, (B, [D,] H, W)."""
        if x.is_complex():
            return x
        return to_complex(x) if self.in_shape[0] == 2 else torch.complex(x[:, 0], torch.zeros_like(x[:, 0]))

    def _signal(self, image: Tensor) -> Tensor:
        """Returns the adjoint of `_image`: (B, [D,] H, W) -> (B, *in_shape)."""
        if self.in_dtype.is_complex:
            return image
        return to_channels(image) if self.in_shape[0] == 2 else image.real[:, None]

    def _pick(self, spectrum: Tensor) -> Tensor:
        """Returns the measured samples: complex (..., [D,] H, W) -> y, (..., count) complex or (..., count, 2)."""
        samples = spectrum.flatten(-self.dims)[..., self.index]
        return samples if self.in_dtype.is_complex else torch.view_as_real(samples)

    def _fill(self, y: Tensor) -> Tensor:
        """Returns the adjoint of `_pick`: zeros where nothing was measured, complex (..., [D,] H, W)."""
        samples = y if y.is_complex() else torch.view_as_complex(y.contiguous())
        filled = samples.new_zeros(*samples.shape[:-1], self.mask.numel()).index_copy(-1, self.index, samples)
        return filled.unflatten(-1, tuple(self.mask.shape))

    def kspace(self, y: Tensor) -> Tensor:
        """Returns the whole of k-space, zero where nothing was measured: y, (*batch, *out_shape) -> complex (*batch,
        ..., [D,] H, W)."""
        k = len(self.out_shape)
        if y.ndim < k or y.shape[y.ndim - k :] != self.out_shape:
            raise ShapeError(
                f"kspace takes a measurement of shape (*batch, {', '.join(map(str, self.out_shape))}), got {tuple(y.shape)}"
            )
        return self._fill(y)

    def measured(self, kspace: Tensor) -> Tensor:
        """Returns the measurement in a complex k-space, such as a scanner's file: (*batch, ..., [D,] H, W) -> y."""
        if not kspace.is_complex() or kspace.shape[-self.dims :] != self.mask.shape:
            raise ShapeError(
                f"measured takes a complex k-space whose last axes are {tuple(self.mask.shape)}, got {kspace.dtype} of "
                f"shape {tuple(kspace.shape)}"
            )
        return self._pick(kspace)


class MRI(_Cartesian, SVDOperator):
    """Single-coil MRI: y = M F x, F the centred orthonormal Fourier transform, M the selection of the measured samples.

    Args:
        image_shape: (2, H, W), real and imaginary part of a complex image; (1, H, W), a real image; or (H, W) with
            complex=True. Of a volume (2, D, H, W), (1, D, H, W) or (D, H, W), with a transform along all three axes.
        mask: what is measured, (W,) for whole lines along H or (H, W), True, 1 or 255 where a sample is taken, zero
            frequency at index n // 2. Of a volume (D, H, W), (H, W) for whole lines along D, or (W,).
        complex: whether signals and measurements are complex tensors.

    y holds the measured samples alone, in the order of k-space's rows: (count, 2), real and imaginary part, or complex
    (count,). `kspace(y)` puts zeros between them, `adjoint(y)` is the zero-filled image. Singular values are 0 and 1. For a
    real image a sample without its mirror image at -k has 1/sqrt(2): of the pair of waves only half the energy is measured.

    Raises:
        OptionError: another image_shape, or a mask that measures nothing.  ShapeError: a mask of another size.
    """

    def __init__(self, image_shape: tuple[int, ...], mask: Tensor, *, complex: bool = False) -> None:
        super().__init__(image_shape, dtype=torch.complex64 if complex else torch.float32)
        self._set_up(mask)
        count, real = len(self.index), self.in_shape[0] == 1 and not complex
        self.out_shape = (count,) if complex else (count, 2)
        s = self.mask.float()
        if real:
            s = ((s + _mirror(s, self.dims)).double() / 2).sqrt()  # double: 1/sqrt(2) must be exact in either precision
        self.register_buffer("s", s if complex or real else s.expand(self.in_shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._pick(fftc(self._image(x), self.dims))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._signal(ifftc(self._fill(y), self.dims))

    # The coordinates are k-space: two channels, complex, or for real images complex with z(-k) = conj z(k).

    def Vt(self, x: Tensor) -> Tensor:
        z = fftc(self._image(x), self.dims)
        return to_channels(z) if self.s.ndim > self.dims else z

    def V(self, z: Tensor) -> Tensor:
        return self._signal(ifftc(z if z.is_complex() else to_complex(z), self.dims))

    def U(self, z: Tensor) -> Tensor:
        return self._pick(self._unscale(z) if z.is_complex() else to_complex(z))

    def Ut(self, y: Tensor) -> Tensor:
        z = self._fill(y)
        if self.s.ndim > self.dims:
            return to_channels(z)
        return z if self.in_dtype.is_complex else self._unscale((z + _mirror(z, self.dims).conj()) / 2)

    def _unscale(self, z: Tensor) -> Tensor:
        s = self.s.to(z.real.dtype)
        return torch.where(s > 0, z / s.where(s > 0, 1), 0)


def _mirror(z: Tensor, dims: int) -> Tensor:
    """Returns k-space at -k over the last `dims` axes: with zero frequency at n // 2 the axis is reversed, and for even n
    moved on by one."""
    axes = tuple(range(-dims, 0))
    return z.flip(axes).roll(tuple(1 - z.shape[a] % 2 for a in axes), axes)


# Coils at once: their images stay in the cache, and memory is for these alone. Over the two-dimensional transforms of 16
# coils of 320 x 320, the transforms of every fourth line take .98, the product with the maps .43 (into a buffer .38), the
# choice of lines .32; in the adjoint the product and sum .63 (coil by coil .51): all of them reads and writes of memory.
TOGETHER = 4


class MultiCoilMRI(_Cartesian, LinearOperator):
    """Multi-coil MRI: y_c = M F (S_c x) for every coil c, the SENSE model (Pruessmann et al., MRM 1999).

    Args:
        image_shape: (2, H, W), (1, H, W) or, with complex=True, (H, W), or a volume's, as for `MRI`.
        mask: as for `MRI`, the same for all coils.
        maps: coil sensitivities, complex (coils, [D,] H, W).
        complex: whether signals and measurements are complex tensors.

    y is (coils, count, 2) or complex (coils, count). `solve` and `prox` are conjugate gradients (CG-SENSE: Pruessmann et
    al., MRM 2001), of `prox` among images and preconditioned. Where the maps are normalised, sum_c |S_c|^2 = 1 at every
    pixel (`operators.normalise_maps`), the norm is at most 1 and a fully measured k-space gives A^H A = I; other maps are
    used as they are; `normalised` says which.

    Raises:
        OptionError, ShapeError: as `MRI`, and for maps of another size or dtype.
    """

    maps: Tensor
    _inside: Tensor
    _where: Tensor
    _samples: Tensor
    _columns: Tensor | None
    _near: Tensor

    def __init__(self, image_shape: tuple[int, ...], mask: Tensor, maps: Tensor, *, complex: bool = False) -> None:
        super().__init__(image_shape, dtype=torch.complex64 if complex else torch.float32)
        self._set_up(mask)
        maps = torch.as_tensor(maps)
        if not maps.is_complex() or maps.shape[1:] != self.mask.shape:
            got = f"{maps.dtype} of shape {tuple(maps.shape)}"
            raise ShapeError(
                f"maps must be a complex tensor of shape (coils, {', '.join(map(str, self.mask.shape))}), got {got}"
            )
        if not torch.isfinite(torch.view_as_real(maps.resolve_conj())).all() or not maps.any():
            raise OptionError("the maps of MultiCoilMRI must be finite and not zero everywhere")
        # real pairs, because Module.to(torch.float64) drops the imaginary part of a complex buffer
        maps = maps.detach().resolve_conj().clone()
        self.register_buffer("maps", torch.view_as_real(maps))
        axes, columns = self._axes, self.mask.shape[-1]
        lines = self.mask.reshape(-1, columns)
        whole = bool((lines == lines[0]).all())
        inside = torch.fft.ifftshift(maps, axes)
        for axis in axes[:-1] if whole else ():  # turns k-space by half of its length: x e^(2 pi i s r / n) has X[k - s]
            n = self.mask.shape[axis]
            turn = 2 * torch.pi / n * (n // 2) * torch.arange(n, dtype=torch.float64)
            turn = torch.polar(torch.ones_like(turn), turn).reshape(-1, *[1] * (-1 - axis))
            inside = (inside * turn).to(maps.dtype)
        self.register_buffer("_inside", torch.view_as_real(inside), persistent=False)
        where = torch.fft.ifftshift(self.mask)
        self.register_buffer("_where", where.float(), persistent=False)
        places = torch.fft.fftshift(torch.arange(self.mask.numel()).reshape(self.mask.shape))
        self.register_buffer("_samples", places.flatten()[self.index], persistent=False)
        kept = torch.fft.fftshift(torch.arange(columns))[lines[0]] if whole else None
        self.register_buffer("_columns", kept, persistent=False)
        power = torch.fft.fftn(maps.to(torch.complex128), dim=axes).abs().square().sum(0)
        near = torch.fft.ifftn(torch.fft.fftn(where.double()) * torch.fft.fftn(power).conj()).real
        self.register_buffer("_near", (near / self.mask.numel() ** 2).clamp(min=0), persistent=False)
        count = len(self.index)
        self.out_shape = (len(maps), count) if complex else (len(maps), count, 2)

    @property
    def normalised(self) -> bool:
        """Whether sum_c |S_c|^2 = 1 at every pixel, to 1e-4."""
        return bool((self.maps.square().sum((0, -1)) - 1).abs().max() < 1e-4)

    def _tables(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the maps as they are used inside, complex, and the power of their spectrum around the mask."""
        dtype = like.real.dtype if like.is_complex() else like.dtype
        return torch.view_as_complex(self._inside.to(dtype)), self._near.to(dtype)

    # Inside, images and k-space have their origin at the first index: shifts of all coils would take longer than their
    # transforms. Where whole lines are measured, the transform along them is of these alone; it comes out in the order of y
    # by a phase of the maps. A^H is the conjugate of A^T, for which only y, not the coils, has to be conjugated.

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.dims, 0))

    def forward(self, x: Tensor) -> Tensor:
        image = torch.fft.ifftshift(self._image(x), self._axes)[:, None]
        parts = []
        for maps in self._tables(x)[0].split(TOGETHER):
            if self._columns is None:
                spectrum = torch.fft.fftn(maps * image, dim=self._axes, norm="ortho")
                parts.append(spectrum.flatten(-self.dims)[..., self._samples])
            else:
                lines = torch.fft.fft(maps * image, norm="ortho")[..., self._columns]
                parts.append(torch.fft.fftn(lines, dim=self._axes[:-1], norm="ortho").flatten(-self.dims))
        samples = torch.cat(parts, 1)
        return samples if self.in_dtype.is_complex else torch.view_as_real(samples)

    def adjoint(self, y: Tensor) -> Tensor:
        samples, shape = y.conj_physical() if y.is_complex() else torch.complex(y[..., 0], -y[..., 1]), self.mask.shape
        total = samples.new_zeros(len(samples), *shape)
        for maps, part in zip(self._tables(samples)[0].split(TOGETHER), samples.split(TOGETHER, 1), strict=True):
            if self._columns is None:
                filled = part.new_zeros(*part.shape[:-1], self.mask.numel())
                filled[..., self._samples] = part
                coils = torch.fft.fftn(filled.unflatten(-1, tuple(shape)), dim=self._axes, norm="ortho")
            else:
                filled = part.new_zeros(*part.shape[:-1], *shape)
                lines = part.unflatten(-1, (*shape[:-1], -1))
                filled[..., self._columns] = torch.fft.fftn(lines, dim=self._axes[:-1], norm="ortho")
                coils = torch.fft.fft(filled, norm="ortho")
            total = total + (maps * coils).sum(1)
        return self._shifted(total.conj())

    def _shifted(self, image: Tensor) -> Tensor:
        """Returns the signal of an image whose origin is at the first index."""
        return self._signal(torch.fft.fftshift(image, self._axes))

    def _gram(self, x: Tensor) -> Tensor:
        """Returns A^H A x; along lines that are measured whole the transform and its inverse cancel."""
        image = torch.fft.ifftshift(self._image(x), self._axes)[:, None]
        axes, where, total = self._axes, self._where, torch.zeros_like(image[:, 0])
        if self._columns is not None:
            axes, where = axes[-1:], where.reshape(-1, where.shape[-1])[0]
        for maps in self._tables(x)[0].split(TOGETHER):
            spectrum = torch.fft.fftn(maps * image, dim=axes, norm="ortho").mul(where)
            total = total + (maps * torch.fft.fftn(spectrum.conj_physical(), dim=axes, norm="ortho")).sum(1)
        return self._shifted(total.conj())

    def weighted_adjoint(self, r: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        """Returns A^H (var_x A A^H + var_y I)^-1 r = (var_x A^H A + var_y I)^-1 A^H r, by conjugate gradients among images.

        Preconditioned by the circulant that is nearest to A^H A (T. Chan, SIAM J. Sci. Stat. Comput. 1988), one product in
        k-space: there the mask, smoothed by the power spectrum of the maps.
        """
        var_x, var_y = per_sample(var_x, r), per_sample(var_y, r)
        if per_entry(var_y, r) or (not isinstance(var_y, Tensor) and var_y == 0):  # then it is singular among images
            return super().weighted_adjoint(r, var_x, var_y)
        b = self.adjoint(r)
        var_x, var_y = (v.reshape(-1, *[1] * (b.ndim - 1)) if isinstance(v, Tensor) else v for v in (var_x, var_y))
        gain = 1 / (var_x * self._tables(b)[1] + var_y).clamp(min=1e-30)

        def near(v: Tensor) -> Tensor:
            image = torch.fft.fftn(self._image(v), dim=self._axes) * gain.reshape(-1, *self.mask.shape)
            return self._signal(torch.fft.ifftn(image, dim=self._axes))

        return cg(
            lambda v: var_x * self._gram(v) + var_y * v, b, tol=self.tolerance, max_iter=self.max_iter, precondition=near
        )
