"""Convolution with a known kernel, with four kinds of boundary."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invgen.errors import OptionError
from invgen.forward import LinearOperator, Operator, SVDOperator, Variance, per_sample
from invgen.linalg import cg
from invgen.operators._spectral import as_complex, half, hartley, multiply, transfer

BOUNDARIES = ("circular", "reflect", "replicate", "valid")
_DIRECT = 400  # taps up to which a direct convolution beats the FFT on a CPU core (measured at 3 x 256 x 256)


class Blur(LinearOperator):
    """y = k * x, the convolution (k flipped, not the correlation) of the last axes of x with a kernel.

        y[i] = sum_j k[j] x[i + k//2 - j]          equal to scipy.ndimage.convolve(x, k, mode)

    The kernel acts on as many of the last axes as it has itself (1, 2 or 3); every axis before those is a channel.
    `Blur(...)` gives a CircularBlur, an SVDOperator, for boundary="circular" and a PaddedBlur otherwise.

    Args:
        in_shape: (*channels, *spatial).
        kernel: real, one axis for each spatial axis; with per_channel=True it has the channels (in_shape[0]) first.
        boundary: what lies beyond the edge.
            "circular": the other side (scipy "wrap"); every solve is exact.
            "reflect": the mirror image about the last sample (scipy "mirror", torch "reflect").
            "replicate": the last sample (scipy "nearest").
            "valid": nothing; the output shrinks to where the kernel fits, n - k + 1 (scipy.signal.convolve "valid").
        per_channel: whether the kernel's first axis runs over in_shape[0].

    Raises:
        OptionError: an unknown boundary, a kernel that is empty, not finite, or does not fit the signal.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "Blur":
        if cls is Blur:
            boundary = args[2] if len(args) > 2 else kwargs.get("boundary", "circular")
            if boundary not in BOUNDARIES:
                raise OptionError(f"boundary must be one of {', '.join(BOUNDARIES)}, got {boundary!r}")
            cls = CircularBlur if boundary == "circular" else PaddedBlur
        return super().__new__(cls)

    def __init__(
        self, in_shape: tuple[int, ...], kernel: Tensor, boundary: str = "circular", *, per_channel: bool = False
    ) -> None:
        super().__init__(in_shape)
        kernel = torch.as_tensor(kernel).detach().to(torch.float64)
        self.boundary, self.per_channel, self.dim = boundary, per_channel, kernel.ndim - per_channel
        channels = len(self.in_shape) - self.dim
        if not 1 <= self.dim <= 3 or channels < per_channel:
            raise OptionError(
                f"a kernel of shape {tuple(kernel.shape)} does not fit a signal of shape {tuple(self.in_shape)}: it needs "
                f"one, two or three spatial axes, as many as the signal at most{', after the channels' * per_channel}"
            )
        if per_channel and len(kernel) != self.in_shape[0]:
            raise OptionError(f"per_channel needs {self.in_shape[0]} kernels, got {len(kernel)}")
        if not kernel.numel() or not torch.isfinite(kernel).all():
            raise OptionError("the kernel must have at least one value, and only finite ones")
        self.spatial = self.in_shape[channels:]
        self.register_buffer("kernel", kernel)


class CircularBlur(Blur, SVDOperator):
    """Convolution on a periodic grid: A = F^H diag(H) F, with exact solves in two FFTs.

    Its SVD has real coordinates: V is the Hartley transform, s = |H|, and U = V followed by the all-pass filter H / |H|.
    """

    def __init__(
        self, in_shape: tuple[int, ...], kernel: Tensor, boundary: str = "circular", *, per_channel: bool = False
    ) -> None:
        super().__init__(in_shape, kernel, boundary, per_channel=per_channel)
        self.out_shape = self.in_shape
        H = transfer(self.kernel, self.spatial)
        if per_channel:
            H = H.reshape(len(H), *[1] * (len(self.in_shape) - self.dim - 1), *self.spatial)
        # a zero of the spectrum comes out as rounding error; below this it is one
        H = torch.where(H.abs() > 1e-14 * H.abs().max(), H, 0)
        self.register_buffer("H", half(H), persistent=False)
        self.register_buffer("s", H.abs().expand(self.in_shape).clone(), persistent=False)

    def fused(self, inner: Operator) -> "Blur | None":
        """Two circular blurs of the same axes are one."""
        if not isinstance(inner, CircularBlur) or inner.dim != self.dim or self.per_channel or inner.per_channel:
            return None
        H = as_complex(self.H, torch.complex128) * as_complex(inner.H, torch.complex128)
        axes = tuple(range(-self.dim, 0))
        kernel = torch.fft.irfftn(H, s=self.spatial, dim=axes)
        return Blur(self.in_shape, kernel.roll([n // 2 for n in self.spatial], axes)).to(self.device)

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self.H, self.dim)

    def adjoint(self, y: Tensor) -> Tensor:
        return multiply(y, self.H, self.dim, adjoint=True)

    def V(self, z: Tensor) -> Tensor:
        return hartley(z, self.dim)

    def Vt(self, x: Tensor) -> Tensor:
        return hartley(x, self.dim)

    def _all_pass(self) -> Tensor:
        size = torch.linalg.vector_norm(self.H, dim=-1, keepdim=True)
        return torch.where(size > 0, self.H / size.where(size > 0, 1), 0)

    def U(self, z: Tensor) -> Tensor:
        return multiply(hartley(z, self.dim), self._all_pass(), self.dim)

    def Ut(self, y: Tensor) -> Tensor:
        return hartley(multiply(y, self._all_pass(), self.dim, adjoint=True), self.dim)

    def _inverse_gram(self, H: Tensor, var_x: Variance, var_y: Variance) -> Tensor:
        """1 / (var_x |H|^2 + var_y) where |H| > 0, else 0."""
        power = H.real**2 + H.imag**2
        return torch.where(power > 0, 1 / (var_x * power + var_y).where(power > 0, 1), 0)

    def prox(self, x: Tensor, y: Tensor, var_x: Variance = 1.0, var_y: Variance = 1.0) -> Tensor:
        var_x, var_y = per_sample(var_x, x), per_sample(var_y, y)
        if any(isinstance(v, Tensor) and max([1, *v.shape[1:]]) > 1 for v in (var_x, var_y)):
            return super().prox(x, y, var_x, var_y)  # a variance for each value is not diagonal in the Fourier domain
        axes = tuple(range(-self.dim, 0))
        X, Y = torch.fft.rfftn(x, dim=axes), torch.fft.rfftn(y, dim=axes)
        H = as_complex(self.H, X.dtype)
        X = X + var_x * H.conj() * self._inverse_gram(H, var_x, var_y) * (Y - H * X)
        return torch.fft.irfftn(X, s=self.spatial, dim=axes)

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        var_x, var_y = per_sample(var_x, b), per_sample(var_y, b)
        values = [v for v in (var_x, var_y) if isinstance(v, Tensor)]
        if any(max([1, *v.shape[1:]]) > 1 for v in values) or (self.rank < self.s.numel()):
            return super().solve(b, var_x, var_y)
        axes = tuple(range(-self.dim, 0))
        B = torch.fft.rfftn(b, dim=axes)
        gain = self._inverse_gram(as_complex(self.H, B.dtype), var_x, var_y)
        return torch.fft.irfftn(gain * B, s=self.spatial, dim=axes)


class PaddedBlur(Blur):
    """Convolution with the signal continued beyond its edges ("reflect", "replicate"), or only where the kernel fits.

    The continuation is one gather along each axis, its adjoint one scatter; the convolution inside is direct for small
    kernels and by FFT for large ones, with its exact adjoint either way. `solve` runs CG, preconditioned by the circular
    blur with the same kernel, which differs from A A^T only near the edges.
    """

    def __init__(
        self, in_shape: tuple[int, ...], kernel: Tensor, boundary: str = "reflect", *, per_channel: bool = False
    ) -> None:
        super().__init__(in_shape, kernel, boundary, per_channel=per_channel)
        sizes = self.kernel.shape[int(per_channel) :]
        for n, k in zip(self.spatial, sizes, strict=True):
            limit = n if boundary == "valid" else 2 * n - 1 if boundary == "reflect" else math.inf
            if k > limit:
                raise OptionError(
                    f"a kernel of {k} samples is too long for an axis of {n} with boundary={boundary!r} "
                    f"(at most {limit}); use a smaller kernel or boundary='replicate'"
                )
        pads = [(0, 0) if boundary == "valid" else (k - 1 - k // 2, k // 2) for k in sizes]
        self.padded = tuple(n + a + b for n, (a, b) in zip(self.spatial, pads, strict=True))
        self.direct = math.prod(sizes) <= _DIRECT
        kept = tuple(n - k + 1 for n, k in zip(self.padded, sizes, strict=True))
        self.out_shape = (*self.in_shape[: -self.dim], *kept)
        self._sources = []
        for axis, (n, (before, after)) in enumerate(zip(self.spatial, pads, strict=True)):
            if before + after:
                i = torch.arange(-before, n + after)
                i = i.clamp(0, n - 1) if boundary == "replicate" else (n - 1) - ((n - 1) - i.abs()).abs()
                self._sources.append(f"source{axis}")
                self.register_buffer(f"source{axis}", i, persistent=False)
        if not self.direct:
            from scipy.fft import next_fast_len

            self.grid = tuple(next_fast_len(n, real=True) for n in self.padded)
            shift = [-(k // 2) for k in sizes]  # the corner of the kernel, not its centre, at the origin
            self.register_buffer("H", half(_shifted(transfer(self.kernel, self.grid), shift)), persistent=False)
        P = transfer(self.kernel, kept)
        P = P.reshape(-1, *[1] * (len(self.in_shape) - self.dim - 1), *kept) if per_channel else P
        self.register_buffer("power", (P.abs() ** 2)[..., : kept[-1] // 2 + 1], persistent=False)

    def _pad(self, x: Tensor) -> Tensor:
        for name in self._sources:
            x = x.index_select(int(name[-1]) - self.dim, getattr(self, name))
        return x

    def _pad_adjoint(self, x: Tensor) -> Tensor:
        for name in reversed(self._sources):
            axis = int(name[-1]) - self.dim
            shape = list(x.shape)
            shape[axis] = self.spatial[axis]
            x = x.new_zeros(shape).index_add(x.ndim + axis, getattr(self, name), x)
        return x

    def _as_image(self, x: Tensor) -> Tensor:
        channels = self.in_shape[0] if self.per_channel else 1
        rest = x.shape[1 : x.ndim - self.dim]
        if self.per_channel and len(rest) > 1:  # further channel axes join the batch, the first stays the channel
            x = x.movedim(1, x.ndim - self.dim - 1)
        return x.reshape(-1, channels, *x.shape[-self.dim :])

    def _as_signal(self, x: Tensor, batch: int) -> Tensor:
        lead = self.in_shape[: -self.dim]
        if self.per_channel and len(lead) > 1:
            x = x.reshape(batch, *lead[1:], lead[0], *x.shape[-self.dim :])
            return x.movedim(x.ndim - self.dim - 1, 1)
        return x.reshape(batch, *lead, *x.shape[-self.dim :])

    def _weight(self, like: Tensor) -> Tensor:
        kernel = self.kernel if self.per_channel else self.kernel[None]
        return kernel.flip(tuple(range(-self.dim, 0)))[:, None].to(like.dtype)

    def _convolve(self, x: Tensor) -> Tensor:
        """The valid part of the convolution: (..., *padded) -> (..., *out)."""
        if self.direct:
            conv = (F.conv1d, F.conv2d, F.conv3d)[self.dim - 1]
            image, weight = self._as_image(x), self._weight(x)
            return self._as_signal(conv(image, weight, groups=len(weight)), len(x))
        axes = tuple(range(-self.dim, 0))
        X = torch.fft.rfftn(x, s=self.grid, dim=axes) * self._spectrum(x)
        y = torch.fft.irfftn(X, s=self.grid, dim=axes)
        return y[(..., *(slice(n - m, n) for n, m in zip(self.padded, self.out_shape[-self.dim :], strict=True)))]

    def _convolve_adjoint(self, y: Tensor) -> Tensor:
        if self.direct:
            conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.dim - 1]
            image, weight = self._as_image(y), self._weight(y)
            return self._as_signal(conv(image, weight, groups=len(weight)), len(y))
        axes = tuple(range(-self.dim, 0))
        margins = [(n - m, 0) for n, m in zip(self.padded, self.out_shape[-self.dim :], strict=True)]
        y = F.pad(y, [p for pair in reversed(margins) for p in pair])
        Y = torch.fft.rfftn(y, s=self.grid, dim=axes) * self._spectrum(y).conj()
        x = torch.fft.irfftn(Y, s=self.grid, dim=axes)
        return x[(..., *(slice(0, n) for n in self.padded))]

    def _spectrum(self, like: Tensor) -> Tensor:
        H = as_complex(self.H, like.dtype.to_complex())
        return H.reshape(-1, *[1] * (like.ndim - self.dim - 2), *H.shape[-self.dim :]) if self.per_channel else H

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(self._pad(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._pad_adjoint(self._convolve_adjoint(y))

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        var_x, var_y = per_sample(var_x, b), per_sample(var_y, b)
        axes, sizes = tuple(range(-self.dim, 0)), b.shape[-self.dim :]
        level = var_y
        if isinstance(var_y, Tensor) and max([1, *var_y.shape[1:]]) > 1:
            level = var_y.flatten(1).mean(1).reshape(-1, *[1] * (b.ndim - 1))
        # never below a thousandth of the largest value: the zeros of the circular blur are not those of this one
        power = self.power.to(b.dtype)
        gain = 1 / (var_x * power.clamp(min=1e-3 * power.max().item()) + level)

        def precondition(r: Tensor) -> Tensor:
            return torch.fft.irfftn(torch.fft.rfftn(r, dim=axes) * gain, s=sizes, dim=axes)

        def gram(v: Tensor) -> Tensor:
            return var_x * self(self.adjoint(v)) + var_y * v

        return cg(gram, b, tol=self.tolerance, max_iter=self.max_iter, precondition=precondition)


def _shifted(H: Tensor, shift: list[int]) -> Tensor:
    """The spectrum of h[i + shift]."""
    for axis, (n, s) in enumerate(zip(H.shape[-len(shift) :], shift, strict=True)):
        turns = ((torch.arange(n) * s) % n).to(torch.float64) / n
        phase = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
        H = H * phase.reshape(-1, *[1] * (len(shift) - 1 - axis))
    return H
