"""Forward operators: what a measurement does to a signal.

A subclass of `Operator` or `LinearOperator` writes `forward` for tensors with exactly one batch axis. Users may call every
method with any number of batch axes, none too: `__init_subclass__` wraps the methods once, checks the shapes there, and so
no operator has to. Signals are (*batch, *in_shape), measurements (*batch, *out_shape).
"""

import functools
import inspect
import itertools
import math
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

import torch
from torch import Tensor, nn

from invgen.errors import OptionError, UnsupportedError
from invgen.linalg import cg
from invgen.numerics.gradients import differentiating
from invgen.numerics.random import Streams
from invgen.validation.arguments import checked, checked_class
from invgen.validation.batches import BATCHED, Variance, any_batch, per_entry, per_sample
from invgen.validation.hints import check, shown
from invgen.validation.limits import check_size


class Operator(nn.Module):
    """A map from signals to measurements, any that torch can evaluate on a batch.

    Args:
        in_shape: the shape of one signal, without batch axes.
        dtype: torch.float32 (any real precision) or torch.complex64 (any complex one): what signals are made of.

    A subclass writes `forward(x)` with x of shape (B, *in_shape). It may set `self.out_shape`; otherwise the shape is
    found by one evaluation on zeros. Tables (kernels, masks) belong in buffers, so that `.to(device)` moves them. One that
    torch cannot differentiate (a simulator, a lookup) sets `differentiable = False`; derivative-free samplers take it.
    """

    differentiable: bool = True
    any_field: bool = False  # whether an operator for real signals takes complex ones as well
    __array_ufunc__ = None  # so that NumPy leaves `array * A` to A

    @checked
    def __init__(self, in_shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if any(n < 1 for n in in_shape):
            raise OptionError(f"in_shape must be positive sizes without a batch axis, got {in_shape}")
        check_size(4 * math.prod(in_shape), f"a signal of shape {shown(in_shape)}")
        if not (dtype.is_floating_point or dtype.is_complex):
            raise OptionError(f"dtype of {type(self).__name__} must be torch.float32 or torch.complex64, got {dtype!r}")
        self.in_shape = torch.Size(in_shape)
        self.in_dtype = dtype
        self._out_shape: torch.Size | None = None
        self._out_dtype: torch.dtype | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        checked_class(cls)
        for name in BATCHED:
            method = cls.__dict__.get(name)
            if inspect.isfunction(method) and not hasattr(method, "_any_batch"):
                setattr(cls, name, any_batch(method, name))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the measurement of x without noise: (*batch, *in_shape) -> (*batch, *out_shape)."""
        raise UnsupportedError(f"{type(self).__name__} must define forward(self, x)")

    if TYPE_CHECKING:  # torch types the call of a module as Any

        def __call__(self, x: Tensor) -> Tensor: ...

    @property
    def device(self) -> torch.device:
        """The device of the tables of the operator, the CPU for one without tables."""
        table = next(itertools.chain(self.buffers(), self.parameters()), None)
        return torch.device("cpu") if table is None else table.device

    @property
    def takes_complex(self) -> bool:
        """Whether complex signals or measurements may be given to it."""
        return self.any_field or self.in_dtype.is_complex or self.out_dtype.is_complex

    @property
    def out_shape(self) -> torch.Size:
        """The shape of one measurement, without batch axes."""
        return self._probe()[0] if self._out_shape is None else self._out_shape

    @out_shape.setter
    def out_shape(self, shape: tuple[int, ...]) -> None:
        shape = check(f"out_shape of {type(self).__name__}", shape, tuple[int, ...])
        check_size(4 * math.prod(shape), f"a measurement of shape {shown(shape)}")
        self._out_shape = torch.Size(shape)

    @property
    def out_dtype(self) -> torch.dtype:
        """The dtype of measurements, real or complex: found by one evaluation on zeros, unless it was set."""
        return self._probe()[1] if self._out_dtype is None else self._out_dtype

    @out_dtype.setter
    def out_dtype(self, dtype: torch.dtype) -> None:
        self._out_dtype = dtype

    def _probe(self) -> tuple[torch.Size, torch.dtype]:
        """Finds shape and dtype of a measurement by one evaluation on zeros."""
        with torch.no_grad():
            y = self(torch.zeros(1, *self.in_shape, dtype=self.in_dtype, device=self.device))
        self._out_shape, self._out_dtype = y.shape[1:], y.dtype
        return self._out_shape, self._out_dtype

    def extra_repr(self) -> str:
        return f"{tuple(self.in_shape)} -> {tuple(self.out_shape)}"

    # -- composition ---------------------------------------------------------------------------------------------

    def fused(self, inner: "Operator") -> "Operator | None":
        """Returns `self @ inner` as one operator that keeps more structure than a chain, or None where none is known."""
        return None

    def __matmul__(self, inner: "Operator") -> "Operator":
        """Returns `(A @ B)(x) = A(B(x))`, linear where both are, with an exact SVD where the mathematics gives one."""
        from invgen.compose import compose

        return compose(self, inner)

    def __add__(self, other: "Operator") -> "Operator":
        from invgen.compose import add

        return add(self, other)

    def __mul__(self, factor: float) -> "Operator":
        from invgen.compose import scale

        return scale(self, factor)

    __rmul__ = __mul__

    def __neg__(self) -> "Operator":
        return self * -1.0

    def __sub__(self, other: "Operator") -> "Operator":
        return self + (-other)


class LinearOperator(Operator):
    """A linear map. A subclass writes only `forward`; the rest is derived, and overridden where something is faster.

    The one linear system of posterior sampling is `solve`; `weighted_adjoint`, `prox` and exact Gaussian draws use it.
    """

    tolerance: ClassVar[float | None] = None  # relative residual of iterative solves; None: what the precision allows
    max_iter: ClassVar[int] = 500

    def adjoint(self, y: Tensor) -> Tensor:
        """Returns A^T y (A^H for complex signals): (*batch, *out_shape) -> (*batch, *in_shape), here as the vjp of
        forward."""
        complex_in = self.in_dtype.is_complex
        dtype = y.dtype if y.is_complex() == complex_in else y.to(torch.complex64).dtype if complex_in else y.real.dtype
        differentiable = torch.is_grad_enabled() and y.requires_grad
        with differentiating():
            x = torch.zeros(len(y), *self.in_shape, dtype=dtype, device=y.device, requires_grad=True)
            (grad,) = torch.autograd.grad(self(x), x, y, create_graph=differentiable)
        return grad

    @property
    def T(self) -> "LinearOperator":
        """The adjoint as an operator of its own."""
        from invgen.compose import Transpose

        return Transpose(self)

    @property
    def own_solve(self) -> bool:
        """Whether `solve` is this operator's own. The conjugate gradients below may take a hundred iterations."""
        return type(self).solve is not LinearOperator.solve

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        """Returns (var_x A A^T + var_y I)^-1 b, here by conjugate gradients to a relative residual of `self.tolerance`.

        Args:
            b: (*batch, *out_shape).
            var_x: variance of the signal: a number, or one per sample, (B,) or (B, 1, ..., 1).
            var_y: variance of the noise, likewise, or one per measured value, broadcastable to b.
        """
        var_x, var_y = per_sample(var_x, b), per_sample(var_y, b)
        return cg(lambda v: var_x * self(self.adjoint(v)) + var_y * v, b, tol=self.tolerance, max_iter=self.max_iter)

    def weighted_adjoint(self, r: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        """Returns A^T (var_x A A^T + var_y I)^-1 r: the score of N(r; 0, var_x A A^T + var_y I) with respect to the signal.

        Times var_x it is the Kalman gain applied to a residual. `prox` and the guidance of samplers need no more of
        `solve`. An operator that knows a faster way, among signals instead of measurements, overrides it.

        Args:
            r: (*batch, *out_shape).
            var_x, var_y: as of `solve`.

        Returns:
            (*batch, *in_shape).
        """
        return self.adjoint(self.solve(r, var_x, var_y))

    def prox(self, x: Tensor, y: Tensor, var_x: Variance = 1.0, var_y: Variance = 1.0) -> Tensor:
        """Returns argmin_u |y - A u|^2 / var_y + |u - x|^2 / var_x: the mean of N(u; x, var_x I) N(y; A u, var_y I).

        With var_y = 0 it projects x on the solutions of A u = y. Shapes: x (*batch, *in_shape), y (*batch, *out_shape).
        """
        return x + per_sample(var_x, x) * self.weighted_adjoint(y - self(x), var_x, var_y)

    def pinv(self, y: Tensor) -> Tensor:
        """Returns A^+ y, the least-squares solution of least norm, here by conjugate gradients on A^T A from zero."""
        b = self.adjoint(y)
        return cg(lambda x: self.adjoint(self(x)), b, tol=self.tolerance, max_iter=self.max_iter)

    def norm(self, iterations: int = 100) -> float:
        """Returns the largest singular value, here by the power method from a fixed start (a lower bound that
        converges)."""
        x = torch.zeros(1, *self.in_shape, dtype=self.in_dtype, device=self.device)
        x = Streams(0, [0])(x)
        with torch.no_grad():
            for _ in range(iterations):
                size = torch.linalg.vector_norm(x)
                x = self.adjoint(self(x / size.where(size > 0, 1)))  # a map to zero stays there
        return math.sqrt(torch.linalg.vector_norm(x).item())


class SVDOperator(LinearOperator):
    """A = U diag(s) V^T with fast U and V, so that every solve is exact.

    A subclass sets `s` (a real buffer >= 0 in the shape of the spectral coordinates) and writes the four maps:
        Vt(x): (B, *in_shape) -> (B, *s.shape), an isometry, and V(z), its inverse on the range of Vt;
        U(z): (B, *s.shape) -> (B, *out_shape), an isometry on the coordinates where s > 0 that ignores the others, and
        Ut(y), its adjoint.
    Coordinates may be complex where the signal is real (a Fourier basis): V then returns the real part.
    """

    s: Tensor

    @property
    def spectral_shape(self) -> torch.Size:
        return self.s.shape

    @functools.cached_property
    def rank(self) -> int:
        """The number of singular values above zero."""
        return int((self.s > 0).sum())

    @property
    def orthogonal(self) -> bool:
        """Whether A^T A = A A^T = I, so that composing with A costs no structure."""
        return self.rank == self.s.numel() == math.prod(self.out_shape) and bool((self.s - 1).abs().max() < 1e-6)

    def U(self, z: Tensor) -> Tensor:
        raise UnsupportedError(f"{type(self).__name__} must define U(self, z)")

    def Ut(self, y: Tensor) -> Tensor:
        raise UnsupportedError(f"{type(self).__name__} must define Ut(self, y)")

    def V(self, z: Tensor) -> Tensor:
        raise UnsupportedError(f"{type(self).__name__} must define V(self, z)")

    def Vt(self, x: Tensor) -> Tensor:
        raise UnsupportedError(f"{type(self).__name__} must define Vt(self, x)")

    def _singular_values(self, like: Tensor) -> Tensor:
        return self.s.to(like.real.dtype if like.is_complex() else like.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.U(self._singular_values(x) * self.Vt(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.V(self._singular_values(y) * self.Ut(y))

    def _gain(self, s: Tensor, var_x: Variance, var_y: Variance) -> Tensor:
        """Returns 1 / (var_x s^2 + var_y) where s > 0, else zero."""
        return torch.where(s > 0, 1 / (var_x * s**2 + var_y).where(s > 0, 1), 0)

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        """Returns (var_x A A^T + var_y I)^-1 b, exactly; for var_y = 0 the pseudo-inverse of var_x A A^T."""
        if per_entry(var_y, b):
            return super().solve(b, var_x, var_y)
        c = self.Ut(b)
        u = self.U(self._gain(self._singular_values(b), per_sample(var_x, c), per_sample(var_y, c)) * c)
        if self.rank < math.prod(self.out_shape) and (isinstance(var_y, Tensor) or var_y > 0):
            # the part of b that A cannot reach sees only the noise
            var_y = per_sample(torch.as_tensor(var_y, dtype=u.real.dtype, device=u.device), b)
            u = u + torch.where(var_y > 0, (b - self.U(c)) / var_y.where(var_y > 0, 1), 0)
        return u

    def prox(self, x: Tensor, y: Tensor, var_x: Variance = 1.0, var_y: Variance = 1.0) -> Tensor:
        if per_entry(var_y, y):
            return super().prox(x, y, var_x, var_y)
        s, v = self._singular_values(x), self.Vt(x)
        var_x, var_y = per_sample(var_x, v), per_sample(var_y, v)
        return x + self.V(var_x * s * self._gain(s, var_x, var_y) * (self.Ut(y) - s * v))

    def pinv(self, y: Tensor, rtol: float | None = None) -> Tensor:
        """Returns A^+ y, where singular values below rtol times the largest count as zero (rtol: 10 machine epsilons)."""
        s = self._singular_values(y)
        rtol = 10 * torch.finfo(s.dtype).eps if rtol is None else rtol
        keep = s > rtol * s.max()
        return self.V(torch.where(keep, 1 / s.where(keep, 1), 0) * self.Ut(y))

    def norm(self, iterations: int = 0) -> float:
        return self.s.max().item()


def has_svd(A: Operator) -> TypeGuard[LinearOperator]:
    """Tells whether an operator is an SVDOperator, or can give one that equals it by a method `svd()`."""
    return isinstance(A, SVDOperator) or hasattr(A, "svd")


def as_svd(A: Operator) -> SVDOperator:
    """Returns an operator with its singular value decomposition: itself, or what its method `svd()` gives.

    Raises:
        UnsupportedError: it has none, see `has_svd`.
    """
    if isinstance(A, SVDOperator):
        return A
    svd = getattr(A, "svd", None)
    if svd is None:
        raise UnsupportedError(
            f"{type(A).__name__} has no singular value decomposition; take an SVDOperator, or write its method svd()"
        )
    return svd()


def has_gradient(A: Operator) -> bool:
    """Tells whether torch can differentiate an operator, with everything that it is composed of."""
    return all(m.differentiable for m in A.modules() if isinstance(m, Operator))
