"""Convolution with a known kernel, with four kinds of boundary."""

import math
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from invgen.errors import OptionError
from invgen.forward import LinearOperator, Operator, SVDOperator, Variance, per_entry, per_sample
from invgen.linalg import cg
from invgen.operators._axes import real_table
from invgen.operators._spectral import as_complex, fast_length, half, hartley, multiply, transfer
from invgen.validation.hints import check

BOUNDARIES = ("circular", "reflect", "replicate", "valid")


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

    kernel: Tensor

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        kind: type = cls
        if cls is Blur:
            boundary = args[2] if len(args) > 2 else kwargs.get("boundary", "circular")
            boundary = check("boundary of Blur", boundary, Literal[BOUNDARIES])
            kind = CircularBlur if boundary == "circular" else PaddedBlur
        return super().__new__(kind)

    def __init__(
        self, in_shape: tuple[int, ...], kernel: Tensor, boundary: str = "circular", *, per_channel: bool = False
    ) -> None:
        super().__init__(in_shape)
        kernel = real_table("the kernel", kernel)
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
        if not kernel.any():
            raise OptionError("the kernel is zero everywhere, so that nothing would be measured; give its weights")
        self.spatial = self.in_shape[channels:]
        self._axes = tuple(range(-self.dim, 0))
        self.register_buffer("kernel", kernel)

    def _channels(self, H: Tensor) -> Tensor:
        """Returns a spectrum for each channel, in the rank of a signal; one for all channels unchanged."""
        return H.reshape(len(H), *[1] * (len(self.in_shape) - H.ndim), *H.shape[1:]) if self.per_channel else H


class CircularBlur(Blur, SVDOperator):
    """Convolution on a periodic grid: A = F^H diag(H) F, with exact solves in two FFTs.

    Its SVD has real coordinates: V is the Hartley transform, s = |H|, and U = V followed by the all-pass filter H / |H|.
    """

    H: Tensor

    def __init__(
        self, in_shape: tuple[int, ...], kernel: Tensor, boundary: str = "circular", *, per_channel: bool = False
    ) -> None:
        super().__init__(in_shape, kernel, boundary, per_channel=per_channel)
        self.out_shape = self.in_shape
        H = self._channels(transfer(self.kernel, self.spatial))
        # a zero of the spectrum comes out as rounding error; below this it is one
        H = torch.where(H.abs() > 1e-14 * H.abs().max(), H, 0)
        self.register_buffer("H", half(H), persistent=False)
        self.register_buffer("s", H.abs().expand(self.in_shape).clone(), persistent=False)
        self._cast: tuple[Tensor, dict[torch.dtype, tuple[Tensor, Tensor, Tensor]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cast": None}

    def _spectrum(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns H, |H|^2 and the conjugate of H in the precision of real or complex values.

        They are kept as long as the buffer is the same."""
        dtype = like.dtype.to_complex()
        if self._cast is None or self._cast[0] is not self.H:
            self._cast = self.H, {}
        kept = self._cast[1]
        if dtype not in kept:
            with torch.inference_mode(False):  # what is kept may be differentiated later
                H = as_complex(self.H, dtype)
                found = H, H.real**2 + H.imag**2, H.conj().resolve_conj()
            if type(H) is not Tensor:  # of a mode that ends
                return found
            kept[dtype] = found
        return kept[dtype]

    def fused(self, inner: Operator) -> "Blur | None":
        """Returns two circular blurs of the same axes are one."""
        if not isinstance(inner, CircularBlur) or inner.dim != self.dim or self.per_channel or inner.per_channel:
            return None
        H = as_complex(self.H, torch.complex128) * as_complex(inner.H, torch.complex128)
        kernel = torch.fft.irfftn(H, s=self.spatial, dim=self._axes)
        return Blur(self.in_shape, kernel.roll([n // 2 for n in self.spatial], self._axes)).to(self.device)

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self._spectrum(x)[0], self.dim)

    def adjoint(self, y: Tensor) -> Tensor:
        return multiply(y, self._spectrum(y)[2], self.dim)

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

    def _inverse_gram(self, power: Tensor, var_x: Variance, var_y: Variance) -> Tensor:
        """Returns 1 / (var_x |H|^2 + var_y) of power = |H|^2; where that is 0 any number will do, or 0 if var_y is."""
        if not isinstance(var_y, Tensor) and var_y > 0:
            return (var_x * power + var_y).reciprocal_()
        return torch.where(power > 0, 1 / (var_x * power + var_y).where(power > 0, 1), 0)

    def prox(self, x: Tensor, y: Tensor, var_x: Variance = 1.0, var_y: Variance = 1.0) -> Tensor:
        var_x, var_y = per_sample(var_x, x), per_sample(var_y, y)
        if per_entry(var_x, x) or per_entry(var_y, y):
            return super().prox(x, y, var_x, var_y)  # a variance for each value is not diagonal in the Fourier domain
        X, Y = torch.fft.rfftn(x, dim=self._axes), torch.fft.rfftn(y, dim=self._axes)
        H, power, conjugate = self._spectrum(X)
        X = X + conjugate * (var_x * self._inverse_gram(power, var_x, var_y)) * (Y - H * X)
        return torch.fft.irfftn(X, s=self.spatial, dim=self._axes)

    def weighted_adjoint(self, r: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        var_x, var_y = per_sample(var_x, r), per_sample(var_y, r)
        if per_entry(var_x, r) or per_entry(var_y, r):
            return super().weighted_adjoint(r, var_x, var_y)
        R = torch.fft.rfftn(r, dim=self._axes)
        _, power, conjugate = self._spectrum(R)
        R = R.mul_(conjugate * self._inverse_gram(power, var_x, var_y))
        return torch.fft.irfftn(R, s=self.spatial, dim=self._axes)

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        var_x, var_y = per_sample(var_x, b), per_sample(var_y, b)
        if per_entry(var_x, b) or per_entry(var_y, b) or self.rank < self.s.numel():
            return super().solve(b, var_x, var_y)
        B = torch.fft.rfftn(b, dim=self._axes)
        gain = self._inverse_gram(self._spectrum(B)[1], var_x, var_y)
        return torch.fft.irfftn(gain * B, s=self.spatial, dim=self._axes)


class PaddedBlur(Blur):
    """Convolution with the signal continued beyond its edges ("reflect", "replicate"), or only where the kernel fits.

    The continuation is torch's padding, or one gather along each axis, its adjoint one scatter; the convolution inside is
    two FFTs, as fast on a processor as a direct convolution with the smallest kernels. `solve` runs CG, preconditioned by
    the circular blur with the same kernel, which differs from A A^T only near the edges.
    """

    H: Tensor
    power: Tensor

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
        self.kept = tuple(n - k + 1 for n, k in zip(self.padded, sizes, strict=True))
        self.out_shape = (*self.in_shape[: -self.dim], *self.kept)
        for axis, (n, (before, after)) in enumerate(zip(self.spatial, pads, strict=True)):
            i = torch.arange(-before, n + after)
            i = i.clamp(0, n - 1) if boundary == "replicate" else (n - 1) - ((n - 1) - i.abs()).abs()
            self.register_buffer(f"source{axis}", i, persistent=False)
        self.grid = tuple(fast_length(n) for n in self.padded)
        self.register_buffer("H", half(self._channels(transfer(self.kernel, self.grid))), persistent=False)
        power = transfer(self.kernel, self.kept).abs() ** 2
        self.register_buffer("power", self._channels(power)[..., : self.kept[-1] // 2 + 1], persistent=False)
        # with the centre of the kernel at the origin, what is valid starts this far from the edge
        self.margin = tuple(k - 1 - k // 2 for k in sizes)
        # torch's padding is ten times as fast as a gather, but reflects once at most
        short = all(max(pad) < n for n, pad in zip(self.spatial, pads, strict=True))
        self.pads = [p for pad in reversed(pads) for p in pad] if short and boundary != "valid" else None

    def _pad(self, x: Tensor) -> Tensor:
        if self.pads is not None and not x.is_complex():
            padded = F.pad(x.reshape(-1, *self.spatial), self.pads, mode=self.boundary)
            return padded.reshape(*x.shape[: -self.dim], *self.padded)
        for a, (n, m) in enumerate(zip(self.spatial, self.padded, strict=True)):
            if m > n:
                x = x.index_select(a - self.dim, getattr(self, f"source{a}"))
        return x

    def _pad_adjoint(self, x: Tensor) -> Tensor:
        for a, (n, m) in enumerate(zip(self.spatial, self.padded, strict=True)):
            if m > n:
                axis = x.ndim + a - self.dim
                zeros = x.new_zeros(*x.shape[:axis], n, *x.shape[axis + 1 :])
                x = zeros.index_add(axis, getattr(self, f"source{a}"), x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        X = torch.fft.rfftn(self._pad(x), s=self.grid, dim=self._axes)
        y = torch.fft.irfftn(X.mul_(as_complex(self.H, X.dtype)), s=self.grid, dim=self._axes)
        return y[(..., *(slice(a, a + n) for a, n in zip(self.margin, self.kept, strict=True)))]

    def adjoint(self, y: Tensor) -> Tensor:
        margins = [(a, m - n - a) for a, n, m in zip(self.margin, self.kept, self.padded, strict=True)]
        y = F.pad(y, [p for pair in reversed(margins) for p in pair])
        Y = torch.fft.rfftn(y, s=self.grid, dim=self._axes)
        x = torch.fft.irfftn(Y.mul_(as_complex(self.H, Y.dtype).conj()), s=self.grid, dim=self._axes)
        return self._pad_adjoint(x[(..., *(slice(0, n) for n in self.padded))])

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        var_x, var_y = per_sample(var_x, b), per_sample(var_y, b)
        level = var_y
        if isinstance(var_y, Tensor) and per_entry(var_y, b):
            level = var_y.expand_as(b).flatten(1).mean(1).reshape(-1, *[1] * (b.ndim - 1))
        # the zeros of the circular blur are not those of this one: a floor under them (found by counting iterations)
        power = self.power.to(b.dtype)
        gain = 1 / (var_x * power.clamp(min=(1e-3 if self.boundary == "valid" else 1e-2) * power.max()) + level)

        def precondition(r: Tensor) -> Tensor:
            return torch.fft.irfftn(torch.fft.rfftn(r, dim=self._axes) * gain, s=self.kept, dim=self._axes)

        def gram(v: Tensor) -> Tensor:
            return var_x * self(self.adjoint(v)) + var_y * v

        return cg(gram, b, tol=self.tolerance, max_iter=self.max_iter, precondition=precondition)
