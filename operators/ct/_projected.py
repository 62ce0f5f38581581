"""The base of all CT operators: products with a projector, and solves by conjugate gradients with a ramp before them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from invgen.errors import ConvergenceWarning, ShapeError, UnsupportedError
from invgen.forward import LinearOperator, Variance, per_entry, per_sample
from invgen.linalg import cg
from invgen.messages import warn
from invgen.operators.ct.projectors.product import MatrixLike


class Projected(LinearOperator):
    """Base of the CT operators. A subclass sets `matrix` and what the preconditioner knows of it.

    Attributes:
        matrix: rays x pixels, of one slice or one volume.
        size: (H, W) of a slice.
        pixel_size: of the image, mm.
    """

    _anchor: Tensor
    matrix: MatrixLike
    size: tuple[int, int]
    pixel_size: float

    def _anchored(self) -> None:
        self.register_buffer("_anchor", torch.empty(0), persistent=False)  # tells on which device the operator lies
        self._norm: float | None = None

    @property
    def density(self) -> float:
        """How densely rays lie: A^T A of many views divides by pi |f| / density, f being the frequency in a slice, 1/mm."""
        raise UnsupportedError(f"{type(self).__name__} must define density")

    def forward(self, x: Tensor) -> Tensor:
        """Returns line integrals (B, *out_shape) of images (B, *in_shape), in the unit of the image times mm."""
        return self._project(x, self.out_shape, turned=False)

    def adjoint(self, y: Tensor) -> Tensor:
        """Returns the exact transpose: (B, *out_shape) -> (B, *in_shape)."""
        return self._project(y, self.in_shape, turned=True)

    def _project(self, t: Tensor, shape: torch.Size, turned: bool) -> Tensor:
        if not t.is_floating_point():
            raise ShapeError(f"{type(self).__name__} takes real floating-point tensors, got {t.dtype}; use x.float()")
        return self.matrix(t.reshape(-1, self.matrix.shape[0 if turned else 1]), turned).reshape(len(t), *shape)

    @property
    def matched(self) -> bool:
        """Whether `adjoint` is exactly the transpose of `forward` on this device; only ASTRA's GPU kernels are not."""
        return self.matrix.matched(self.device)

    def norm(self, iterations: int = 200) -> float:
        """Returns the largest singular value, in mm: about sqrt(0.97 num_angles N) pixel_size.

        By the power method to a relative change of 1e-7, from the constant image: the entries of the matrix are not
        negative, nor are those of its first singular vector.
        """
        if self._norm is None:
            x = torch.ones(1, self.matrix.shape[1], device=self.device)
            square = 0.0
            for _ in range(iterations):
                x = self.matrix.apply(self.matrix.apply(x / torch.linalg.vector_norm(x), False), True)
                before, square = square, torch.linalg.vector_norm(x).item()
                if square - before <= 1e-7 * square:
                    break
            self._norm = math.sqrt(square)
        return self._norm

    def weighted_adjoint(self, r: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        """Returns A^T (var_x A A^T + var_y I)^-1 r; `prox` is made of it.

        Conjugate gradients on (var_x A^T A / var_y + I) p = A^T r / var_y, from zero to a relative residual of
        `tolerance`, preconditioned by the ramp: A^T A of a beam from all sides divides by the frequency; where var_y
        differs between rays, between the roots of what the rays of each pixel weigh. Where var_y = 0 it goes by `solve`.
        """
        var_x, var_y = per_sample(var_x, r), per_sample(var_y, r)
        uneven = per_entry(var_y, r)
        if bool((torch.as_tensor(var_y) <= 0).any()) or bool((torch.as_tensor(var_x) <= 0).any()):
            return super().weighted_adjoint(r, var_x, var_y)
        self._warn_unmatched()
        weight = torch.as_tensor(1 / var_y, dtype=r.dtype, device=r.device)
        level = weight.flatten(1).mean(1).reshape(-1, *[1] * (r.ndim - 1)) if weight.ndim == r.ndim else weight.mean()
        b = self.adjoint(weight * r)
        precondition = self._weighted_ramp(b, weight, 1 / var_x) if uneven else self._ramp(b, level, 1 / var_x)
        d = cg(
            lambda v: self.adjoint(weight * self(v)) + v / var_x,
            b,
            tol=self.tolerance,
            max_iter=self.max_iter,
            precondition=precondition,
        )
        return d / var_x

    def _weighted_ramp(self, like: Tensor, weight: Tensor, ridge: Tensor | float) -> Callable[[Tensor], Tensor]:
        """Returns `_ramp` between the roots of what each pixel's rays weigh: A^T W A = D A^T A D (Fessler & Booth 1999)."""
        seen = self(torch.ones_like(like[:1]))
        mean = self.adjoint(weight * seen) / self.adjoint(seen).clamp(min=1e-6 * self.pixel_size**2)
        level = mean.flatten(1).mean(1).reshape(-1, *[1] * (like.ndim - 1))
        root = (mean / level).clamp(min=1e-3).sqrt()  # a pixel that no ray meets has the ridge alone
        ramp = self._ramp(like, level, ridge)
        return lambda r: ramp(r / root) / root

    def _warn_unmatched(self) -> None:
        if not self.matched:
            warn(
                "conjugate gradients with an adjoint that is not exactly the transpose may stall; use backend='auto'",
                ConvergenceWarning,
            )

    def _ramp(self, like: Tensor, weight: Tensor, ridge: Tensor | float) -> Callable[[Tensor], Tensor]:
        """Returns (weight A^T A + ridge)^-1, A^T A replaced by its symbol for dense views, density / (pi |f|)."""
        height, width = self.size
        f = torch.hypot(
            torch.fft.fftfreq(2 * height, self.pixel_size, dtype=torch.float64)[:, None],
            torch.fft.rfftfreq(2 * width, self.pixel_size, dtype=torch.float64),
        )
        square = self.norm() ** 2
        symbol = self.density / (math.pi * f.clamp(min=1e-12))
        gain = 1 / (weight * symbol.clamp(max=square).to(like) + ridge)

        def precondition(r: Tensor) -> Tensor:
            return torch.fft.irfft2(torch.fft.rfft2(r, s=(2 * height, 2 * width)) * gain)[..., :height, :width]

        return precondition
