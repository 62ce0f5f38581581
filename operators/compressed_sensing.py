"""Few random projections of a signal."""

import math
from typing import Any, Literal, Self

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import LinearOperator, SVDOperator
from invgen.operators._axes import along
from invgen.operators.orthogonal import OrthogonalRows
from invgen.validation.hints import Count, Seed, check
from invgen.validation.limits import check_size

KINDS = ("gaussian", "hadamard", "dct")


class CompressedSensing(SVDOperator):
    """y = A x for m random rows: in_shape -> (m,). Every solve is exact.

    Args:
        in_shape: the shape of one signal, n values in all.
        num_measurements: m, from 1 to n.
        kind: "gaussian": dense, entries N(0, 1/m), so that E |A x|^2 = |x|^2 (Candes & Tao 2006). m n numbers of memory.
            "hadamard", "dct": m random rows of an orthonormal transform after random signs, A A^T = I, so that
            E |A x|^2 = (m / n) |x|^2 (Do, Gan, Nguyen & Tran, "Fast and efficient compressive sensing using structurally
            random matrices", IEEE TSP 2012). n log n operations. Hadamard needs n to be a power of two.
        seed: determines the rows and the signs.

    Raises:
        OptionError: an unknown kind, m outside 1 to n, or a Hadamard transform whose n is not a power of two.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        kind: type = cls
        if cls is CompressedSensing:
            rows = args[2] if len(args) > 2 else kwargs.get("kind", "gaussian")
            rows = check("kind of CompressedSensing", rows, Literal[KINDS])
            kind = GaussianSensing if rows == "gaussian" else FastSensing
        return super().__new__(kind)

    def __init__(
        self, in_shape: tuple[int, ...], num_measurements: Count, kind: str = "gaussian", *, seed: Seed = 0
    ) -> None:
        super().__init__(in_shape)
        self.n = math.prod(self.in_shape)
        if num_measurements > self.n:
            raise OptionError(f"num_measurements must be an integer from 1 to {self.n}, got {num_measurements}")
        self.kind, self.out_shape = kind, (num_measurements,)


class GaussianSensing(CompressedSensing):
    """Dense Gaussian rows. The SVD is computed once, in double precision, when something first asks for it.

    A^T = Q R by Householder reflections, kept as Q = I - Y T Y^T (Schreiber & Van Loan, SIAM J. Sci. Stat. Comput. 10,
    1989), and the SVD of the m x m factor R: V is complete at m n numbers of memory, never n^2.
    """

    matrix: Tensor

    def __init__(
        self, in_shape: tuple[int, ...], num_measurements: Count, kind: str = "gaussian", *, seed: Seed = 0
    ) -> None:
        super().__init__(in_shape, num_measurements, kind)
        check_size(4 * num_measurements * self.n, f"a Gaussian matrix of {num_measurements} x {self.n} numbers")
        g = torch.Generator().manual_seed(seed)
        self.register_buffer("matrix", torch.randn(num_measurements, self.n, generator=g) / num_measurements**0.5)

    def _factor(self, name: str) -> Tensor:
        if "_s" not in self._buffers:
            m = len(self.matrix)
            packed, tau = torch.geqrf(self.matrix.double().T)
            used = tau != 0  # a reflector that has nothing to do is the identity
            Y = (packed.tril(-1) + torch.eye(self.n, m, dtype=tau.dtype, device=tau.device)) * used
            T = torch.linalg.inv((Y.T @ Y).triu(1) + torch.diag(1 / tau.where(used, 1)))
            W, s, Zt = torch.linalg.svd(packed[:m].triu().T)
            for key, value in {"_s": torch.cat([s, s.new_zeros(self.n - m)]), "_Y": Y, "_T": T, "_W": W, "_Zt": Zt}.items():
                self.register_buffer(key, value, persistent=False)
        return getattr(self, name)

    @property
    def s(self) -> Tensor:
        return self._factor("_s")

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x.dtype).T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y.dtype)).reshape(-1, *self.in_shape)

    prox = LinearOperator.prox  # one adjoint of one m x m solve costs less than the basis of the signal

    def U(self, z: Tensor) -> Tensor:
        return z[:, : len(self.matrix)] @ self._factor("_W").to(z.dtype).T

    def Ut(self, y: Tensor) -> Tensor:
        z = y @ self._factor("_W").to(y.dtype)
        return torch.cat([z, z.new_zeros(len(z), self.n - len(self.matrix))], 1)

    def V(self, z: Tensor) -> Tensor:
        m = len(self.matrix)
        z = torch.cat([z[:, :m] @ self._factor("_Zt").to(z.dtype), z[:, m:]], 1)
        Y, T = self._factor("_Y").to(z.dtype), self._factor("_T").to(z.dtype)
        return (z - z @ Y @ T.T @ Y.T).reshape(-1, *self.in_shape)

    def Vt(self, x: Tensor) -> Tensor:
        m, x = len(self.matrix), x.flatten(1)
        Y, T = self._factor("_Y").to(x.dtype), self._factor("_T").to(x.dtype)
        x = x - x @ Y @ T @ Y.T
        return torch.cat([x[:, :m] @ self._factor("_Zt").to(x.dtype).T, x[:, m:]], 1)


class FastSensing(OrthogonalRows, CompressedSensing):
    """Random rows of a Hadamard or cosine transform of the signal with random signs: V = diag(signs) transform^T."""

    signs: Tensor
    rows: Tensor

    def __init__(self, in_shape: tuple[int, ...], num_measurements: Count, kind: str = "dct", *, seed: Seed = 0) -> None:
        super().__init__(in_shape, num_measurements, kind)
        if kind == "hadamard" and self.n & (self.n - 1):
            raise OptionError(f"a Hadamard transform needs 2^k values, in_shape {tuple(in_shape)} has {self.n}; use 'dct'")
        g = torch.Generator().manual_seed(seed)
        signs = 2.0 * torch.randint(0, 2, (self.n,), generator=g) - 1
        rows = torch.randperm(self.n, generator=g)[:num_measurements].sort().values
        self.register_buffer("signs", signs.float())
        self.register_buffer("rows", rows)
        self.register_buffer("s", torch.zeros(self.n).index_fill(0, rows, 1.0), persistent=False)

    def Vt(self, x: Tensor) -> Tensor:
        x = self.signs.to(x.dtype) * x.flatten(1)
        return hadamard(x) if self.kind == "hadamard" else dct(x)

    def V(self, z: Tensor) -> Tensor:
        x = hadamard(z) if self.kind == "hadamard" else idct(z)
        return (self.signs.to(z.dtype) * x).reshape(-1, *self.in_shape)

    def U(self, z: Tensor) -> Tensor:
        return z.index_select(1, self.rows)

    def Ut(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), self.n).index_copy(1, self.rows, y)

    def forward(self, x: Tensor) -> Tensor:
        return self.U(self.Vt(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.V(self.Ut(y))


def hadamard(x: Tensor) -> Tensor:
    """Returns the orthonormal Hadamard transform of the last axis in Sylvester's order (scipy.linalg.hadamard(n) /
    sqrt(n)).

    It is a Kronecker product of small ones, applied as matrix products of at most 64 x 64: faster than butterflies, which
    touch the memory log2 n times.
    """
    bits = x.shape[-1].bit_length() - 1
    parts = [6] * (bits // 6) + ([bits % 6] if bits % 6 else [])
    matrices = []
    for part in parts:
        H = x.new_ones(1, 1)
        for _ in range(part):
            H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)]) / 2**0.5
        matrices.append(H)
    return along(x.reshape(-1, *(2**p for p in parts)), matrices).reshape(x.shape)


def _twiddles(x: Tensor) -> Tensor:
    n = x.shape[-1]
    k = torch.arange(n, dtype=torch.float64, device=x.device)
    scale = torch.full_like(k, (2 / n) ** 0.5)
    scale[0] = (1 / n) ** 0.5
    return torch.polar(scale, -math.pi * k / (2 * n)).to(x.dtype.to_complex())


def dct(x: Tensor) -> Tensor:
    """Returns the orthonormal DCT-II of the last axis, by one FFT (Makhoul, IEEE TASSP 28, 1980)."""
    v = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)
    return (_twiddles(x) * torch.fft.fft(v)).real


def idct(z: Tensor) -> Tensor:
    """Returns the inverse of `dct`, which is its adjoint."""
    n = z.shape[-1]
    v = torch.fft.ifft(_twiddles(z).conj() * z).real * n
    x = torch.empty_like(v)
    x[..., ::2], x[..., 1::2] = v[..., : (n + 1) // 2], v[..., (n + 1) // 2 :].flip(-1)
    return x
