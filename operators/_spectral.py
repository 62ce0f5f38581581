"""Filters on real signals: products in the Fourier domain over the last axes, and the Hartley basis."""

from typing import Any

import torch
from torch import Tensor


def transfer(kernel: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Returns the discrete Fourier transform of a kernel laid on a periodic grid, its centre, index k // 2, at the origin.

    Args:
        kernel: real, (..., *kernel_sizes); a kernel longer than the grid wraps around it.
        sizes: n for each of the last axes.

    Returns:
        complex, (..., *sizes), Hermitian to the last bit: what is derived from it stays real in the signal domain.
    """
    for axis, n in zip(range(-len(sizes), 0), sizes, strict=True):
        k = kernel.shape[axis]
        shape = list(kernel.shape)
        shape[axis] = n
        index = (torch.arange(k) - k // 2) % n
        kernel = kernel.new_zeros(shape).index_add(axis % kernel.ndim, index, kernel)
    return hermitian(torch.fft.fftn(kernel, dim=_axes(len(sizes))), len(sizes))


def hermitian(H: Tensor, dim: int) -> Tensor:
    """Returns (H(k) + conj H(-k)) / 2 over the last `dim` axes: rounding breaks this symmetry, and phases of zeros
    amplify it."""
    return (H + reverse(H, dim).conj()) / 2


def reverse(x: Tensor, dim: int) -> Tensor:
    """Returns x(-k) on a periodic grid over the last `dim` axes."""
    axes = _axes(dim)
    return x.flip(axes).roll([1] * dim, axes)


def half(H: Tensor) -> Tensor:
    """Returns the part of a Hermitian spectrum that rfftn gives, as real pairs (..., 2): `Module.to(dtype)` would make a
    complex
    buffer real."""
    return torch.view_as_real(H[..., : H.shape[-1] // 2 + 1].contiguous())


def multiply(x: Tensor, H: Tensor, dim: int, adjoint: bool = False) -> Tensor:
    """Applies a circular filter of half spectrum H, or its adjoint, to `dim` last axes of x.

    Args:
        x: real signals.
        H: real pairs of any precision, or complex in that of x.
        dim: how many axes are filtered.
        adjoint: whether by the conjugate.
    """
    axes = _axes(dim)
    X = torch.fft.rfftn(x, dim=axes)
    H = H if H.is_complex() else as_complex(H, X.dtype)
    return torch.fft.irfftn(X.mul_(H.conj() if adjoint else H), s=x.shape[-dim:], dim=axes)


def as_complex(pairs: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.view_as_complex(pairs).to(dtype)


def hartley(x: Tensor, dim: int) -> Tensor:
    """Returns the orthonormal Hartley transform of the last `dim` axes, Re F x - Im F x: real, symmetric, its own inverse.

    Bracewell, "Discrete Hartley transform", J. Opt. Soc. Am. 73 (1983). Every real filter with an even, real spectrum is
    diagonal in it, so that it serves as the basis V of a circular blur with real coordinates: white noise stays white.
    """
    axes = _axes(dim)
    if x.is_complex():
        X = torch.fft.fftn(x, dim=axes, norm="ortho")
        return X.real - X.imag
    X = torch.fft.rfftn(x, dim=axes, norm="ortho")
    first = X.real - X.imag
    # the other half of the spectrum of a real signal is X(-k) = conj X(k)
    X = X[..., 1 : x.shape[-1] - X.shape[-1] + 1]
    rest = (X.real + X.imag).flip(axes)
    del X  # the largest of what is held
    rest = rest.roll([1] * (dim - 1), axes[:-1]) if dim > 1 else rest
    return torch.cat([first, rest], -1)


def fast_length(n: int) -> int:
    """Returns the least length from n on at which the FFT of a real signal is fast."""
    from scipy.fft import next_fast_len

    length: Any = next_fast_len(n, real=True)  # which scipy declares to return nothing
    return length


def _axes(dim: int) -> tuple[int, ...]:
    return tuple(range(-dim, 0))
