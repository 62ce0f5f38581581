"""Super-resolution: a filter and then every f-th sample."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invgen.errors import OptionError
from invgen.forward import Operator, SVDOperator, Variance, per_sample
from invgen.operators._axes import per_axis, per_entry
from invgen.operators._rows import OrthogonalRows
from invgen.operators._spectral import as_complex, half, hartley, hermitian, multiply, reverse, transfer
from invgen.operators.blur import Blur, CircularBlur
from invgen.operators.resize import FILTERS, Resize

Factor = int | Sequence[int]


class Downsample(SVDOperator):
    """A signal with fewer samples: (*channels, *spatial) -> (*channels, *spatial / factor). Every solve is exact.

    Args:
        in_shape: (*channels, *spatial); the factor must divide the spatial sizes (for other sizes see Resize).
        factor: one integer for all spatial axes, or one for each of the last axes.
        filter: "average": the mean of each block (skimage.transform.downscale_local_mean).
            "bilinear", "bicubic", "lanczos": antialiased, equal to PIL.Image.resize.
            a tensor: the convolution with that kernel on a periodic grid, then every f-th sample from `offset` on,
            y[i] = (k * x)[f i + offset], with one axis for each factor.
        offset: first sample kept, for a kernel only; 0 to factor - 1.

    Raises:
        OptionError: an unknown filter, or a factor that does not divide the sizes.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "Downsample":
        if cls is Downsample:
            name = args[2] if len(args) > 2 else kwargs.get("filter", "average")
            if isinstance(name, str) and name != "average" and name not in FILTERS:
                raise OptionError(f"filter must be 'average', {', '.join(map(repr, FILTERS))} or a kernel, got {name!r}")
            cls = BlockAverage if name == "average" else Resample if isinstance(name, str) else FilterDecimate
        return super().__new__(cls)


def _factors(in_shape: tuple[int, ...], factor: Factor) -> tuple[int, ...]:
    factors = per_axis("factor", factor, in_shape)
    sizes = tuple(in_shape[-len(factors) :])
    if any(n % f for n, f in zip(sizes, factors, strict=True)):
        raise OptionError(f"the factor {factor} does not divide the sizes {sizes}; crop the signal or use Resize")
    return factors


def _at(factors: tuple[int, ...], offset: tuple[int, ...] | None = None) -> tuple:
    offset = offset or (0,) * len(factors)
    return (..., *(slice(o, None, f) for o, f in zip(offset, factors, strict=True)))


class BlockAverage(OrthogonalRows, Downsample):
    """The mean of each block; A A^T = I / N for blocks of N samples. V is one Householder reflection of each block, whose
    first sample holds the coordinate that is measured."""

    def __init__(self, in_shape: tuple[int, ...], factor: Factor, filter: str = "average") -> None:
        super().__init__(in_shape)
        self.factors = _factors(self.in_shape, factor)
        dim = len(self.factors)
        if dim > 3:
            raise OptionError(f"Downsample works on one, two or three spatial axes, got {dim}")
        self.block = math.prod(self.factors)
        self.gain = 1 / self.block
        lead, sizes = self.in_shape[:-dim], self.in_shape[-dim:]
        self.out_shape = (*lead, *(n // f for n, f in zip(sizes, self.factors, strict=True)))
        s = torch.zeros(self.in_shape, dtype=torch.float64)
        s[_at(self.factors)] = self.block**-0.5
        self.register_buffer("s", s, persistent=False)

    def fused(self, inner: Operator) -> "Downsample | None":
        """On a periodic grid a block mean is a box filter and a decimation, so that after a blur it stays exact."""
        if not isinstance(inner, CircularBlur) or inner.per_channel or inner.dim != len(self.factors):
            return None
        box = Blur(self.in_shape, torch.full(self.factors, 1 / self.block, dtype=torch.float64)).to(inner.device)
        return Decimate(self.in_shape, self.factors, [f - 1 - f // 2 for f in self.factors]) @ (box @ inner)

    def forward(self, x: Tensor) -> Tensor:
        dim = len(self.factors)
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dim - 1]
        return pool(x.reshape(-1, 1, *x.shape[-dim:]), self.factors).reshape(-1, *self.out_shape)

    def _spread(self, y: Tensor) -> Tensor:
        """Each value of y over its whole block."""
        for axis, f in zip(range(-len(self.factors), 0), self.factors, strict=True):
            y = y.repeat_interleave(f, axis)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        return self._spread(y / self.block)

    def V(self, z: Tensor) -> Tensor:
        # I - w w^T with w = (e_0 + 1 / root) / c, c^2 = 1 + 1 / root, root = sqrt(N): it takes e_0 to -1 / root
        root = self.block**0.5
        t = (root * self(z) + z[_at(self.factors)]) / (1 + 1 / root)
        x = z - self._spread(t / root)
        x[_at(self.factors)] -= t
        return x

    def Vt(self, x: Tensor) -> Tensor:
        return self.V(x)

    def U(self, z: Tensor) -> Tensor:
        return -z[_at(self.factors)]

    def Ut(self, y: Tensor) -> Tensor:
        z = y.new_zeros(len(y), *self.in_shape)
        z[_at(self.factors)] = -y
        return z


class Resample(Resize, Downsample):
    """Downsample by one of Pillow's filters."""

    def __init__(self, in_shape: tuple[int, ...], factor: Factor, filter: str = "bicubic") -> None:
        factors = _factors(tuple(in_shape), factor)
        sizes = [n // f for n, f in zip(in_shape[-len(factors) :], factors, strict=True)]
        super().__init__(in_shape, sizes, filter)


class Decimate(OrthogonalRows):
    """y[i] = x[factor i + offset] on the last axes, without a filter. `Decimate @ Blur(...)` on a periodic grid is a
    Downsample with that kernel, and as exact."""

    def __init__(self, in_shape: tuple[int, ...], factor: Factor, offset: Factor = 0) -> None:
        super().__init__(in_shape)
        self.factors = _factors(self.in_shape, factor)
        self.offset = _offset(offset, self.factors)
        self.out_shape = torch.empty(self.in_shape, device="meta")[_at(self.factors, self.offset)].shape
        self.register_buffer("s", self.adjoint(torch.ones(1, *self.out_shape))[0], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x[_at(self.factors, self.offset)]

    def adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(len(y), *self.in_shape)
        x[_at(self.factors, self.offset)] = y
        return x

    U, Ut = forward, adjoint

    def V(self, z: Tensor) -> Tensor:
        return z

    def Vt(self, x: Tensor) -> Tensor:
        return x

    def fused(self, inner: Operator) -> "Downsample | None":
        if not isinstance(inner, CircularBlur) or inner.per_channel or inner.dim != len(self.factors):
            return None
        return Downsample(self.in_shape, self.factors, inner.kernel.cpu(), offset=self.offset).to(inner.device)


def _offset(offset: Factor, factors: tuple[int, ...]) -> tuple[int, ...]:
    offsets = (offset,) * len(factors) if isinstance(offset, int) else tuple(offset)
    if len(offsets) != len(factors) or any(not 0 <= o < f for o, f in zip(offsets, factors, strict=True)):
        raise OptionError(f"offset must lie between 0 and factor - 1 = {[f - 1 for f in factors]}, got {offset}")
    return offsets


class FilterDecimate(Downsample):
    """D B: a circular filter B, then decimation D. A A^T is a filter on the coarse grid, with the spectrum

        lam(k) = mean over the aliases f of k of |H(f)|^2,        so that every solve is two coarse FFTs.

    The SVD has real coordinates. With C the coarse Hartley transform, U = C and the right singular vectors are P C, where
    P = A^T (A A^T)^(-1/2). They are completed to a basis by a block reflection (Schreiber & Parlett, SIAM J. Numer. Anal.
    25, 1988): with E = D^T Phi, Phi the all-pass filter that makes E^T P symmetric and positive, and W = P + E,
    R = I - 2 W (W^T W)^-1 W^T is orthogonal and takes E to -P. W is a filter and a decimation itself, so R costs four FFTs.
    """

    def __init__(self, in_shape: tuple[int, ...], factor: Factor, filter: Tensor, *, offset: Factor = 0) -> None:
        super().__init__(in_shape)
        kernel = torch.as_tensor(filter).detach().to(torch.float64)
        self.factors = _factors(self.in_shape, kernel.ndim * (factor,) if isinstance(factor, int) else factor)
        self.dim = dim = len(self.factors)
        self._axes = tuple(range(-dim, 0))
        if kernel.ndim != dim or not kernel.numel() or not torch.isfinite(kernel).all():
            raise OptionError(
                f"the filter must be a kernel of finite values with {dim} axes, one for each factor, got shape "
                f"{tuple(kernel.shape)}"
            )
        self.offset = _offset(offset, self.factors)
        sizes = self.in_shape[-dim:]
        coarse = tuple(n // f for n, f in zip(sizes, self.factors, strict=True))
        self.out_shape = (*self.in_shape[:-dim], *coarse)
        self.block = math.prod(self.factors)
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
        full[_at(self.factors)] = s
        self.register_buffer("H", half(H), persistent=False)
        self.register_buffer("W", half(W), persistent=False)
        self.register_buffer("phase", half(phase), persistent=False)
        self.register_buffer("power", ((power + reverse(power, dim)) / 2)[..., : coarse[-1] // 2 + 1], persistent=False)
        self.register_buffer("s", full, persistent=False)

    def _fold(self, X: Tensor) -> Tensor:
        """The mean over the aliases of each coarse frequency."""
        for axis, f in zip(self._axes, self.factors, strict=True):
            X = X.unflatten(axis, (f, -1)).mean(axis - 1)
        return X

    def _tile(self, X: Tensor) -> Tensor:
        return X.repeat(self.factors)

    def _down(self, x: Tensor, H: Tensor) -> Tensor:
        """Filter and decimate: aliases are added before the inverse FFT, except along the last axis, halved by rfftn."""
        X = torch.fft.rfftn(x, dim=self._axes)
        X = X * as_complex(H, X.dtype)
        for axis, f in zip(self._axes[:-1], self.factors[:-1], strict=True):
            X = X.unflatten(axis, (f, -1)).mean(axis - 1)
        sizes = (*self.out_shape[-self.dim : -1], self.in_shape[-1])
        return torch.fft.irfftn(X, s=sizes, dim=self._axes)[..., :: self.factors[-1]]

    def _up(self, y: Tensor, H: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[:-1], self.in_shape[-1])
        x[..., :: self.factors[-1]] = y
        X = torch.fft.rfftn(x, dim=self._axes).repeat(*[1] * (y.ndim - self.dim), *self.factors[:-1], 1)
        return torch.fft.irfftn(X * as_complex(H, X.dtype).conj(), s=self.in_shape[-self.dim :], dim=self._axes)

    def forward(self, x: Tensor) -> Tensor:
        return self._down(x, self.H)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._up(y, self.H)

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        var_x, var_y = per_sample(var_x, b), per_sample(var_y, b)
        if per_entry(var_x, var_y) or self.rank < b[0].numel():
            return super().solve(b, var_x, var_y)
        B = torch.fft.rfftn(b, dim=self._axes) / (var_x * self.power.to(b.dtype) + var_y)
        return torch.fft.irfftn(B, s=b.shape[-self.dim :], dim=self._axes)

    def prox(self, x: Tensor, y: Tensor, var_x: Variance = 1.0, var_y: Variance = 1.0) -> Tensor:
        return x + per_sample(var_x, x) * self.adjoint(self.solve(y - self(x), var_x, var_y))

    def _reflect(self, x: Tensor) -> Tensor:
        return x - self._up(self._down(x, self.W), self.W)

    def V(self, z: Tensor) -> Tensor:
        x = z.clone()
        x[_at(self.factors)] = -multiply(hartley(z[_at(self.factors)], self.dim), self.phase, self.dim, adjoint=True)
        return self._reflect(x)

    def Vt(self, x: Tensor) -> Tensor:
        z = self._reflect(x)
        z[_at(self.factors)] = -hartley(multiply(z[_at(self.factors)], self.phase, self.dim), self.dim)
        return z

    def _passed(self, z: Tensor) -> Tensor:
        return torch.where(self.s[_at(self.factors)] > 0, z, 0)

    def U(self, z: Tensor) -> Tensor:
        return hartley(self._passed(z[_at(self.factors)]), self.dim)

    def Ut(self, y: Tensor) -> Tensor:
        z = y.new_zeros(len(y), *self.in_shape)
        z[_at(self.factors)] = self._passed(hartley(y, self.dim))
        return z
