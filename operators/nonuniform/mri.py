"""Magnetic resonance imaging along spokes, spirals and other paths through k-space."""

import math

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.forward import LinearOperator, Variance, per_entry
from invgen.linalg import cg
from invgen.operators.mri.fourier import to_channels, to_complex
from invgen.operators.nonuniform._finufft import filtered, gram_spectra, sum_at, sum_back
from invgen.operators.nonuniform.fourier import solve_gram
from invgen.operators.nonuniform.trajectories import density_compensation


class NonCartesianMRI(LinearOperator):
    """MRI along any path: y_ck = (H W)^-1/2 sum_n S_c(n) x_n exp(-2 pi i p_k (n - N // 2)), for each coil c.

    Args:
        image_shape: (2, H, W), real and imaginary part of a complex image; (1, H, W), a real image; or (H, W) with
            complex=True, as for `MRI`.
        trajectory: (M, 2) in cycles per pixel, rows first (`radial_trajectory`, `spiral_trajectory`): a scanner's k in 1/m
            times the size of a pixel in m.
        maps: coil sensitivities, complex (coils, H, W); one coil that sees all alike by default.
        complex: whether signals and measurements are complex tensors.

    y is (coils, M, 2) or complex (coils, M), without maps (M, 2) or (M,). On the samples of a full grid it is `MRI`.
    `gram`, A^H A, is two FFTs of twice the size for each coil, by Toeplitz embedding; `weighted_adjoint`, `prox` and `pinv`
    are conjugate gradients on it, with a circulant preconditioner. `gridded` is the density-compensated image. Needs the
    extra `nonuniform`.

    Raises:
        OptionError, ShapeError: another image_shape, trajectory or maps.  MissingExtraError: finufft is not installed.
    """

    trajectory: Tensor
    maps: Tensor
    spectrum: Tensor
    circulant: Tensor
    density: Tensor

    def __init__(
        self, image_shape: tuple[int, ...], trajectory: Tensor, maps: Tensor | None = None, *, complex: bool = False
    ) -> None:
        super().__init__(image_shape, dtype=torch.complex64 if complex else torch.float32)
        shape = tuple(self.in_shape)
        if not (len(shape) == 2 if complex else len(shape) == 3 and shape[0] in (1, 2)):
            wanted = "(H, W) for complex=True" if complex else "(2, H, W), real and imaginary part, or (1, H, W), real"
            raise OptionError(f"NonCartesianMRI takes an image_shape of {wanted}, got {shape}")
        points = torch.as_tensor(trajectory).detach().double()
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            raise ShapeError(f"a trajectory must be (M, 2), in cycles per pixel, got {tuple(points.shape)}")
        if not bool((points.abs() <= 0.5 + 1e-6).all()):
            raise OptionError(
                f"a trajectory must lie between -1/2 and 1/2 cycles per pixel, got values up to {points.abs().max():.3g}; "
                "divide k by the number of pixels, or multiply k in 1/m by the size of a pixel in m"
            )
        size = shape[-2], shape[-1]
        maps = torch.ones(1, *size, dtype=torch.complex64) if maps is None else torch.as_tensor(maps)
        if (
            not maps.is_complex()
            or maps.ndim != 3
            or maps.shape[1:] != size
            or not torch.view_as_real(maps).isfinite().all()
        ):
            got = f"{maps.dtype} of shape {tuple(maps.shape)}"
            raise ShapeError(f"maps must be a finite complex tensor of shape (coils, {size[0]}, {size[1]}), got {got}")
        count = len(points)
        self.coils = None if len(maps) == 1 and maps.eq(1).all() else len(maps)
        self.out_shape = (*([] if self.coils is None else [self.coils]), count, *([] if complex else [2]))
        self.scale = 1 / math.sqrt(math.prod(size))
        self.register_buffer("trajectory", points)
        self.register_buffer("maps", torch.view_as_real(maps.detach().resolve_conj().clone()))  # as in MultiCoilMRI
        spectrum, circulant = gram_spectra(points, torch.full((count,), self.scale**2, dtype=torch.float64), size)
        self.register_buffer("spectrum", spectrum, persistent=False)
        self.register_buffer("circulant", circulant, persistent=False)
        self.register_buffer("density", density_compensation(points, size), persistent=False)

    def _coil_images(self, x: Tensor) -> Tensor:
        """Returns what each coil sees of a signal, complex (B, coils, H, W)."""
        if not x.is_complex():
            x = to_complex(x) if self.in_shape[0] == 2 else torch.complex(x[:, 0], torch.zeros_like(x[:, 0]))
        return torch.view_as_complex(self.maps.to(x.real.dtype)) * x[:, None]

    def _combined(self, images: Tensor) -> Tensor:
        """Returns the adjoint of `_coil_images`: complex (B, coils, H, W) -> (B, *in_shape)."""
        x = (torch.view_as_complex(self.maps.to(images.real.dtype)).conj() * images).sum(1)
        if self.in_dtype.is_complex:
            return x
        return to_channels(x) if self.in_shape[0] == 2 else x.real[:, None]

    def forward(self, x: Tensor) -> Tensor:
        images = self._coil_images(x)
        y = self.scale * sum_at(images.flatten(0, 1), self.trajectory)
        y = y.reshape(len(images), *([] if self.coils is None else [self.coils]), -1)
        return y if self.in_dtype.is_complex else torch.view_as_real(y)

    def adjoint(self, y: Tensor) -> Tensor:
        z = y if y.is_complex() else torch.view_as_complex(y.contiguous())
        images = sum_back(z.reshape(-1, z.shape[-1]), self.trajectory, tuple(self.maps.shape[1:3]))
        return self._combined(self.scale * images.reshape(len(y), -1, *images.shape[1:]))

    def gram(self, x: Tensor) -> Tensor:
        """Returns A^H A x, (B, *in_shape), by two FFTs of twice the size for each coil."""
        return self._combined(filtered(self._coil_images(x), self.spectrum))

    def gridded(self, y: Tensor) -> Tensor:
        """Returns the density-compensated image of k-space, A^H diag(density) y: (*batch, *out_shape) -> (*batch,
        *in_shape)."""
        weights = self.density.to(y.real.dtype)
        return self.adjoint(y * (weights if self.in_dtype.is_complex else weights[:, None]))

    @property
    def own_solve(self) -> bool:
        """Whether a solve costs few iterations: of one coil, for which the circulant preconditioner is made."""
        return self.coils is None

    def weighted_adjoint(self, r: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        if per_entry(var_y, r) or per_entry(var_x, r):
            return super().weighted_adjoint(r, var_x, var_y)
        return solve_gram(self.gram, self.circulant, self.adjoint(r), var_x, var_y, self)

    def pinv(self, y: Tensor) -> Tensor:
        return cg(self.gram, self.adjoint(y), tol=self.tolerance, max_iter=self.max_iter)
