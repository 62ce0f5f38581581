"""Non-uniform Fourier sums by finufft, differentiable, and their Gram matrix on a grid of twice the size."""

import math
from typing import Any

import torch
from torch import Tensor

from invgen.errors import MissingExtraError


def _finufft() -> Any:
    try:
        import finufft
    except ImportError as error:
        raise MissingExtraError(
            "non-uniform Fourier transforms need the package finufft: pip install 'invgen-solvers[nonuniform]'"
        ) from error
    return finufft


def _coordinates(points: Tensor, real: torch.dtype) -> list[Any]:
    """Returns the axes of points, (M, dim) in cycles per pixel, as arrays in radians per pixel."""
    turns = points.double() - points.double().round()  # a whole cycle per pixel changes nothing
    return [axis.to(real).contiguous().cpu().numpy() for axis in (2 * math.pi * turns).T]


def sum_at(x: Tensor, points: Tensor) -> Tensor:
    """Returns sum_n x_n exp(-2 pi i p_k (n - N // 2)) over the last axes, complex (B, *sizes) -> (B, M)."""
    return _Forward.apply(x, points)


def sum_back(y: Tensor, points: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Returns the adjoint of `sum_at`, sum_k y_k exp(+2 pi i p_k (n - N // 2)), complex (B, M) -> (B, *sizes)."""
    return _Backward.apply(y, points, sizes)


def _precision(dtype: torch.dtype) -> dict[str, Any]:
    # one thread: with several the order of the sums, and with it the last digits, changes from run to run
    return {"eps": 1e-13 if dtype == torch.complex128 else 1e-6, "nthreads": 1}


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, points: Tensor) -> Tensor:
        ctx.save_for_backward(points)
        ctx.sizes = tuple(x.shape[1:])
        transform = getattr(_finufft(), f"nufft{x.ndim - 1}d2")
        values = x.detach().resolve_conj().contiguous().cpu().numpy()
        axes = _coordinates(points, x.real.dtype)
        return torch.from_numpy(transform(*axes, values, isign=-1, **_precision(x.dtype))).to(x.device)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return sum_back(grad[0], ctx.saved_tensors[0], ctx.sizes), None


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, points: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(points)
        transform = getattr(_finufft(), f"nufft{len(sizes)}d1")
        values = y.detach().resolve_conj().contiguous().cpu().numpy()
        axes = _coordinates(points, y.real.dtype)
        return torch.from_numpy(transform(*axes, values, sizes, isign=1, **_precision(y.dtype))).to(y.device)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        return sum_at(grad[0], ctx.saved_tensors[0]), None, None


def gram_spectra(points: Tensor, power: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Returns the spectrum of the Gram matrix A^H diag(power) A on a grid of twice the size, and its circulant neighbour's.

    The matrix is Toeplitz, T_mn = q(m - n) with q(d) = sum_k power_k exp(2 pi i p_k d): a convolution that fits into a
    periodic grid of 2 N (Wajer & Pruessmann, ISMRM 2001; Fessler et al., IEEE TSP 53(9), 2005). The circulant matrix
    nearest to it (T. Chan, SIAM J. Sci. Stat. Comput. 9, 1988) preconditions its solves.

    Args:
        points: (M, dim), cycles per pixel.
        power: (M,), positive.
        sizes: N of each axis.

    Returns:
        real (*2 sizes) and real (*sizes), not negative, in double precision.
    """
    double = tuple(2 * n for n in sizes)
    q = sum_back(power.to(torch.complex128)[None], points, double)[0]  # q(d) at index d + N
    q = torch.fft.ifftshift(q)
    near = q.clone()
    for axis, n in enumerate(sizes):
        d = torch.fft.fftfreq(2 * n, 1 / (2 * n), dtype=torch.float64, device=q.device).abs()
        near = near * (1 - d / n).reshape(-1, *[1] * (len(sizes) - 1 - axis))
        near = near.unflatten(axis, (2, n)).sum(axis)  # d and d - N fall together
    return torch.fft.fftn(q).real, torch.fft.fftn(near).real.clamp(min=0)


def filtered(x: Tensor, spectrum: Tensor) -> Tensor:
    """Returns a periodic convolution, complex (B, *sizes), on the grid of its spectrum, cropped to the sizes of x."""
    axes = tuple(range(-spectrum.ndim, 0))
    sizes = x.shape[-spectrum.ndim :]
    z = torch.fft.fftn(x, s=spectrum.shape, dim=axes) * spectrum.to(x.real.dtype)
    return torch.fft.ifftn(z, dim=axes)[(..., *(slice(n) for n in sizes))]
