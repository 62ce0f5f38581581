"""Every f-th sample of a signal, alone or after a filter on a periodic grid."""

import math

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import Operator, Variance, per_entry, per_sample
from invgen.operators._axes import Factor, check_factors, check_offset, grid, real_table
from invgen.operators._spectral import as_complex, half, hartley, hermitian, multiply, reverse, transfer
from invgen.operators.blur import CircularBlur
from invgen.operators.downsample import Downsample
from invgen.operators.orthogonal import OrthogonalRows


class Decimate(OrthogonalRows):
    """y[i] = x[factor i + offset] on the last axes, without a filter. `Decimate @ Blur(...)` on a periodic grid is a
    Downsample with that kernel, and as exact."""

    any_field = True

    def __init__(self, in_shape: tuple[int, ...], factor: Factor, offset: Factor = 0) -> None:
        super().__init__(in_shape)
        self.factors = check_factors(self.in_shape, factor)
        self.offset = check_offset(offset, self.factors)
        self.out_shape = torch.empty(self.in_shape, device="meta")[grid(self.factors, self.offset)].shape
        self.register_buffer("s", self.adjoint(torch.ones(1, *self.out_shape))[0], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x[grid(self.factors, self.offset)].clone()  # not a view: noise may be added to it in place

    def adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(len(y), *self.in_shape)
        x[grid(self.factors, self.offset)] = y
        return x

    def U(self, z: Tensor) -> Tensor:
        return z[grid(self.factors, self.offset)].clone()

    def Ut(self, y: Tensor) -> Tensor:
        z = y.new_zeros(len(y), *self.in_shape)
        z[grid(self.factors, self.offset)] = y
        return z

    def V(self, z: Tensor) -> Tensor:
        return z

    def Vt(self, x: Tensor) -> Tensor:
        return x

    def fused(self, inner: Operator) -> Downsample | None:
        if not isinstance(inner, CircularBlur) or inner.per_channel or inner.dim != len(self.factors):
            return None
        return FilterDecimate(self.in_shape, self.factors, inner.kernel, offset=self.offset).to(inner.device)


class FilterDecimate(Downsample):
    """D B: a circular filter B, then decimation D. A A^T is a filter on the coarse grid, with the spectrum

        lam(k) = mean over the aliases f of k of |H(f)|^2,        so that every solve is two coarse FFTs.

    The SVD has real coordinates. With C the coarse Hartley transform, U = C and the right singular vectors are P C, where
    P = A^T (A A^T)^(-1/2). They are completed to a basis by a block reflection (Schreiber & Parlett, SIAM J. Numer. Anal.
    25, 1988): with E = D^T Phi, Phi the all-pass filter that makes E^T P symmetric and positive, and W = P + E,
    R = I - 2 W (W^T W)^-1 W^T is orthogonal and takes E to -P. W is a filter and a decimation itself, so R costs four FFTs.
    """

    H: Tensor
    W: Tensor
    phase: Tensor
    power: Tensor
    s: Tensor

    def __init__(self, in_shape: tuple[int, ...], factor: Factor, filter: Tensor, *, offset: Factor = 0) -> None:
        kernel = real_table("the filter", filter)
        # a kernel says by its axes which axes of the signal one factor means
        super().__init__(in_shape, kernel.ndim * (factor,) if isinstance(factor, int) else factor, filter)
        self.dim = dim = len(self.factors)
        self._axes = tuple(range(-dim, 0))
        if kernel.ndim != dim or not kernel.numel() or not torch.isfinite(kernel).all():
            raise OptionError(
                f"the filter must be a kernel of finite values with {dim} axes, one for each factor, got shape "
                f"{tuple(kernel.shape)}"
            )
        if not kernel.any():
            raise OptionError("the filter is zero everywhere, so that nothing would be measured; give its weights")
        self.offset = check_offset(offset, self.factors)
        sizes, coarse = self.in_shape[-dim:], self.out_shape[-dim:]
        H = transfer(kernel, sizes)
        for axis, (n, o) in enumerate(zip(sizes, self.offset, strict=True)):
            # keep sample f i + offset of the filtered signal: shift it there
            turns = (torch.arange(n) * o % n).to(torch.float64) / n
            H = H * torch.polar(torch.ones_like(turns), 2 * math.pi * turns).reshape(-1, *[1] * (dim - 1 - axis))
        H = hermitian(H, dim) if any(self.offset) else H
        H = torch.where(H.abs() > 1e-14 * H.abs().max(), H, 0)
        power = self._fold(H.abs() ** 2)
        s = power.sqrt()
        # the filter of P^T, of unit power in every fold; where nothing passes, any unit filter will do
        unit = torch.where(self._tile(s) > 0, H / self._tile(s).where(self._tile(s) > 0, 1), 1)
        cross = hermitian(self._fold(unit), dim)
        phase = torch.where(cross.abs() > 0, cross / cross.abs().where(cross.abs() > 0, 1), 1)
        W = (unit + self._tile(phase)) / self._tile(torch.sqrt(1 + cross.abs()))
        full = torch.zeros(self.in_shape, dtype=torch.float64)
        full[grid(self.factors)] = s
        self.register_buffer("H", half(H), persistent=False)
        self.register_buffer("W", half(W), persistent=False)
        self.register_buffer("phase", half(phase), persistent=False)
        self.register_buffer("power", ((power + reverse(power, dim)) / 2)[..., : coarse[-1] // 2 + 1], persistent=False)
        self.register_buffer("s", full, persistent=False)

    def _fold(self, X: Tensor) -> Tensor:
        """Returns the mean over the aliases of each coarse frequency."""
        for axis, f in zip(self._axes, self.factors, strict=True):
            X = X.unflatten(axis, (f, -1)).mean(axis - 1)
        return X

    def _tile(self, X: Tensor) -> Tensor:
        return X.repeat(self.factors)

    def _down(self, x: Tensor, H: Tensor) -> Tensor:
        """Filter and decimate: aliases are added before the inverse FFT, except along the last axis, halved by rfftn."""
        X = torch.fft.rfftn(x, dim=self._axes)
        X = X.mul_(as_complex(H, X.dtype))
        for axis, f in zip(self._axes[:-1], self.factors[:-1], strict=True):
            X = X.unflatten(axis, (f, -1)).mean(axis - 1)
        sizes = (*self.out_shape[-self.dim : -1], self.in_shape[-1])
        return torch.fft.irfftn(X, s=sizes, dim=self._axes)[..., :: self.factors[-1]]

    def _up(self, y: Tensor, H: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[:-1], self.in_shape[-1])
        x[..., :: self.factors[-1]] = y
        X = torch.fft.rfftn(x, dim=self._axes).repeat(*[1] * (y.ndim - self.dim), *self.factors[:-1], 1)
        return torch.fft.irfftn(X.mul_(as_complex(H, X.dtype).conj()), s=self.in_shape[-self.dim :], dim=self._axes)

    def forward(self, x: Tensor) -> Tensor:
        return self._down(x, self.H)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._up(y, self.H)

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        var_x, var_y = per_sample(var_x, b), per_sample(var_y, b)
        if per_entry(var_x, b) or per_entry(var_y, b) or self.rank < b[0].numel():
            return super().solve(b, var_x, var_y)
        B = torch.fft.rfftn(b, dim=self._axes) / (var_x * self.power.to(b.dtype) + var_y)
        return torch.fft.irfftn(B, s=b.shape[-self.dim :], dim=self._axes)

    def prox(self, x: Tensor, y: Tensor, var_x: Variance = 1.0, var_y: Variance = 1.0) -> Tensor:
        return x + per_sample(var_x, x) * self.adjoint(self.solve(y - self(x), var_x, var_y))

    def _reflect(self, x: Tensor) -> Tensor:
        return x - self._up(self._down(x, self.W), self.W)

    def V(self, z: Tensor) -> Tensor:
        x = z.clone()
        x[grid(self.factors)] = -multiply(hartley(z[grid(self.factors)], self.dim), self.phase, self.dim, adjoint=True)
        return self._reflect(x)

    def Vt(self, x: Tensor) -> Tensor:
        z = self._reflect(x)
        coarse = z[grid(self.factors)].clone()  # autograd needs what is overwritten
        z[grid(self.factors)] = -hartley(multiply(coarse, self.phase, self.dim), self.dim)
        return z

    def _passed(self, z: Tensor) -> Tensor:
        return torch.where(self.s[grid(self.factors)] > 0, z, 0)

    def U(self, z: Tensor) -> Tensor:
        return hartley(self._passed(z[grid(self.factors)]), self.dim)

    def Ut(self, y: Tensor) -> Tensor:
        z = y.new_zeros(len(y), *self.in_shape)
        z[grid(self.factors)] = self._passed(hartley(y, self.dim))
        return z
