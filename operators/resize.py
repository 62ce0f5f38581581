"""Resampling by separable filters, as Pillow does it, with the exact SVD of the separable operator."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import LinearOperator, SVDOperator, Variance, per_entry, per_sample
from invgen.operators._axes import along, per_axis


def _bicubic(t: Tensor) -> Tensor:
    """Returns Keys' kernel with a = -1/2 (Keys, IEEE TASSP 1981, eq. 4)."""
    t = t.abs()
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0))


FILTERS = {  # name: (kernel, half width)
    "box": (lambda t: ((t > -0.5) & (t <= 0.5)).to(t.dtype), 0.5),
    "bilinear": (lambda t: (1 - t.abs()).clamp(min=0), 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (lambda t: torch.where(t.abs() < 3, torch.sinc(t) * torch.sinc(t / 3), 0), 3.0),
}


def resize_matrix(n: int, m: int, method: str) -> Tensor:
    """Returns the (m, n) matrix that resamples n samples to m, in double precision; each row sums to one.

    Sample i of the result lies at (i + 1/2) n / m. The filter is stretched by n / m where that exceeds one, which is the
    antialiasing, cut off at the edges of the signal and normalised there.
    """
    kernel, support = FILTERS[method]
    scale = n / m
    stretch = max(scale, 1.0)
    centre = (torch.arange(m, dtype=torch.float64)[:, None] + 0.5) * scale
    position = torch.arange(n, dtype=torch.float64) + 0.5
    weights = kernel((position - centre) / stretch)
    # Pillow takes whole samples: from the nearest to centre - support up to the nearest to centre + support
    first, last = (centre - support * stretch + 0.5).floor(), (centre + support * stretch + 0.5).floor()
    weights = torch.where((position > first) & (position < last), weights, 0)
    return weights / weights.sum(1, keepdim=True)


class Resize(SVDOperator):
    """y = x resampled to `size`, up or down, with antialiasing: M_1 x M_2^T for an image.

    Equal to PIL.Image.resize on floating-point images (https://pillow.readthedocs.io, "Concepts: Filters"). The matrices
    M_a = U_a diag(s_a) V_a^T of the axes give the SVD of the whole: s is the outer product of the s_a, and U and V are
    applied axis by axis. The decompositions are computed once, on first use.

    Args:
        in_shape: (*channels, *spatial).
        size: the new sizes of the last axes, or one for all spatial axes.
        method: "box", "bilinear", "bicubic" (Keys, a = -1/2) or "lanczos" (three lobes).

    Raises:
        OptionError: an unknown method, or a size that is not positive integers.
    """

    _s: Tensor

    def __init__(self, in_shape: tuple[int, ...], size: int | Sequence[int], method: str = "bicubic") -> None:
        super().__init__(in_shape)
        self._set(size, method)

    def _set(self, size: int | Sequence[int], method: str) -> None:
        if method not in FILTERS:
            raise OptionError(f"method must be one of {', '.join(FILTERS)}, got {method!r}")
        self.size, self.method = per_axis("size", size, self.in_shape), method
        self.dim = len(self.size)
        self.out_shape = (*self.in_shape[: -self.dim], *self.size)
        for a, (n, m) in enumerate(zip(self.in_shape[-self.dim :], self.size, strict=True)):
            self.register_buffer(f"matrix{a}", resize_matrix(n, m, method), persistent=False)

    def _tables(self, name: str) -> list[Tensor]:
        return [getattr(self, f"{name}{a}") for a in range(self.dim)]

    def _decompose(self) -> None:
        if "_s" in self._buffers:
            return
        s = []
        for a, M in enumerate(self._tables("matrix")):
            U, sa, Vh = torch.linalg.svd(M.double(), full_matrices=True)
            sa = torch.where(sa > 1e-13 * sa[0], sa, 0)
            square = torch.zeros(M.shape, dtype=torch.float64, device=M.device)  # columns where s = 0 stay zero
            square[:, : len(sa)] = U[:, : len(sa)] * (sa > 0)
            self.register_buffer(f"left{a}", square, persistent=False)
            self.register_buffer(f"right{a}", Vh, persistent=False)
            s.append(torch.cat([sa, sa.new_zeros(M.shape[1] - len(sa))]))
        outer = functools.reduce(lambda p, q: p[..., None] * q, s)
        self.register_buffer("_s", outer.expand(self.in_shape).clone(), persistent=False)

    @property
    def s(self) -> Tensor:
        self._decompose()
        return self._s

    def forward(self, x: Tensor) -> Tensor:
        return along(x, self._tables("matrix"))

    def adjoint(self, y: Tensor) -> Tensor:
        return along(y, [M.T for M in self._tables("matrix")])

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        var_x, var_y = per_sample(var_x, b), per_sample(var_y, b)
        if per_entry(var_x, b) or per_entry(var_y, b) or self.rank < math.prod(self.out_shape):
            return super().solve(b, var_x, var_y)
        corner = (..., *(slice(m) for m in self.size))  # coordinates beyond it are zero: work on the small side only
        left = [U[:, :m].T for U, m in zip(self._tables("left"), self.size, strict=True)]
        c = along(b, left) / (var_x * self.s[corner].to(b.dtype) ** 2 + var_y)
        return along(c, [U.T for U in left])

    prox = LinearOperator.prox  # one adjoint of one solve costs less than both bases of the signal

    def norm(self, iterations: int = 0) -> float:
        return math.prod(torch.linalg.matrix_norm(M, 2).item() for M in self._tables("matrix"))

    def U(self, z: Tensor) -> Tensor:
        self._decompose()
        return along(z, self._tables("left"))

    def Ut(self, y: Tensor) -> Tensor:
        self._decompose()
        return along(y, [M.T for M in self._tables("left")])

    def V(self, z: Tensor) -> Tensor:
        self._decompose()
        return along(z, [M.T for M in self._tables("right")])

    def Vt(self, x: Tensor) -> Tensor:
        self._decompose()
        return along(x, self._tables("right"))
