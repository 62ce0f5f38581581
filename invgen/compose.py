"""Operators made of operators: chains, sums, multiples, stacks, transposes. Structure is kept where mathematics allows."""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from invgen.errors import OptionError, ShapeError
from invgen.forward import LinearOperator, Operator, SVDOperator, Variance, per_sample
from invgen.validation.arguments import checked
from invgen.validation.hints import check, shown

if TYPE_CHECKING:

    class Operators(nn.ModuleList):
        """A list of operators; torch types the entries of a ModuleList as modules."""

        def __init__(self, operators: "Iterable[Operator] | Operators") -> None: ...
        def __iter__(self) -> Iterator[Operator]: ...
        def __getitem__(self, index: int) -> Operator: ...
else:
    Operators = nn.ModuleList


def compose(outer: Operator, inner: Operator) -> Operator:
    """Returns outer(inner(x)) in the most structured form known."""
    if not isinstance(inner, Operator):
        raise OptionError(f"A @ B composes two operators, got {shown(inner)}; to measure a signal write A(x)")
    if outer.in_shape != inner.out_shape:
        raise ShapeError(
            f"{type(outer).__name__} takes {tuple(outer.in_shape)} but {type(inner).__name__} gives "
            f"{tuple(inner.out_shape)}"
        )
    if not outer.any_field and outer.in_dtype.is_complex != inner.out_dtype.is_complex:
        raise ShapeError(
            f"{type(outer).__name__} takes {_field(outer.in_dtype)} signals but {type(inner).__name__} gives "
            f"{_field(inner.out_dtype)} ones; make both of one kind (complex=True, or two real channels)"
        )
    fused = outer.fused(inner)
    if fused is not None:
        return fused
    if isinstance(outer, SVDOperator) and isinstance(inner, SVDOperator):
        if inner.orthogonal:
            return RotatedInput(outer, inner)
        if outer.orthogonal:
            return RotatedOutput(outer, inner)
    if isinstance(outer, LinearOperator) and isinstance(inner, LinearOperator):
        return LinearChain(outer, inner)
    return Chain(outer, inner)


def add(a: Operator, b: Operator) -> Operator:
    """Returns a(x) + b(x)."""
    if not isinstance(b, Operator):
        raise OptionError(f"A + B adds two operators, got {shown(b)}")
    if a.in_shape != b.in_shape or a.out_shape != b.out_shape:
        raise ShapeError(f"A + B needs equal shapes, got {a.extra_repr()} and {b.extra_repr()}")
    _one_field("A + B", [a, b])
    if isinstance(a, LinearOperator) and isinstance(b, LinearOperator):
        return LinearSum(a, b)
    return Sum(a, b)


def scale(a: Operator, factor: float) -> Operator:
    """Returns factor * a(x)."""
    if isinstance(factor, Operator):
        raise OptionError(f"c * A needs a number c, got {shown(factor)}; to compose operators write A @ B")
    factor = check("c of c * A", factor, float)
    if factor == 0 and isinstance(a, LinearOperator):
        return Zero(a)
    if isinstance(a, SVDOperator):
        return ScaledSVD(a, factor)
    return LinearScaled(a, factor) if isinstance(a, LinearOperator) else Scaled(a, factor)


@checked
def stack(operators: Sequence[Operator] | Operators) -> Operator:
    """Returns all the measurements of one signal, each flattened, in one vector of shape (sum of sizes,)."""
    if not len(operators):
        raise OptionError("stack needs at least one operator, got an empty list")
    if len({a.in_shape for a in operators}) > 1:
        raise ShapeError(f"stack needs one in_shape, got {sorted({tuple(a.in_shape) for a in operators})}")
    _one_field("stack", operators)
    linear = all(isinstance(a, LinearOperator) for a in operators)
    return (LinearStack if linear else Stack)(operators)


def _field(dtype: torch.dtype) -> str:
    return "complex" if dtype.is_complex else "real"


def _one_field(what: str, operators: Iterable[Operator] | Operators) -> None:
    """All operators between real, or all between complex signals and measurements: an adjoint of both is no sum."""
    kinds = list(dict.fromkeys(f"{_field(a.in_dtype)} to {_field(a.out_dtype)}" for a in operators))
    if len(kinds) > 1:
        raise ShapeError(
            f"{what} needs operators of one kind, got {' and '.join(kinds)}; make them all real or all complex"
        )


def _chain_dtype(outer: Operator, inner: Operator) -> torch.dtype:
    """Returns the dtype of outer(inner(x)): an operator that takes both kinds passes on what it gets."""
    return inner.out_dtype if outer.any_field else outer.out_dtype


class Chain(Operator):
    """outer(inner(x))."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        super().__init__(inner.in_shape, dtype=inner.in_dtype)
        self.outer, self.inner = outer, inner
        self.out_shape, self.out_dtype = outer.out_shape, _chain_dtype(outer, inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))


class LinearChain(LinearOperator):
    """outer(inner(x)) of linear operators."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        super().__init__(inner.in_shape, dtype=inner.in_dtype)
        self.outer, self.inner = outer, inner
        self.out_shape, self.out_dtype = outer.out_shape, _chain_dtype(outer, inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    @property
    def own_solve(self) -> bool:
        return isinstance(self.inner, SVDOperator) and self.inner.orthogonal and self.outer.own_solve

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        if isinstance(self.inner, SVDOperator) and self.inner.orthogonal:
            return self.outer.solve(b, var_x, var_y)  # B B^T = I, so that A B B^T A^T = A A^T
        return super().solve(b, var_x, var_y)

    def weighted_adjoint(self, r: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        if isinstance(self.inner, SVDOperator) and self.inner.orthogonal:
            return self.inner.adjoint(self.outer.weighted_adjoint(r, var_x, var_y))
        return super().weighted_adjoint(r, var_x, var_y)


class RotatedInput(SVDOperator):
    """A Q for an orthogonal Q: A's spectrum in the rotated basis Q^T V."""

    def __init__(self, A: SVDOperator, Q: SVDOperator) -> None:
        super().__init__(Q.in_shape, dtype=Q.in_dtype)
        self.A, self.Q = A, Q
        self.out_shape, self.out_dtype = A.out_shape, _chain_dtype(A, Q)

    @property
    def s(self) -> Tensor:
        return self.A.s

    def forward(self, x: Tensor) -> Tensor:
        return self.A(self.Q(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.Q.adjoint(self.A.adjoint(y))

    def U(self, z: Tensor) -> Tensor:
        return self.A.U(z)

    def Ut(self, y: Tensor) -> Tensor:
        return self.A.Ut(y)

    def V(self, z: Tensor) -> Tensor:
        return self.Q.adjoint(self.A.V(z))

    def Vt(self, x: Tensor) -> Tensor:
        return self.A.Vt(self.Q(x))


class RotatedOutput(SVDOperator):
    """Q A for an orthogonal Q: A's spectrum with U replaced by Q U."""

    def __init__(self, Q: SVDOperator, A: SVDOperator) -> None:
        super().__init__(A.in_shape, dtype=A.in_dtype)
        self.A, self.Q = A, Q
        self.out_shape, self.out_dtype = Q.out_shape, _chain_dtype(Q, A)

    @property
    def s(self) -> Tensor:
        return self.A.s

    def U(self, z: Tensor) -> Tensor:
        return self.Q(self.A.U(z))

    def Ut(self, y: Tensor) -> Tensor:
        return self.A.Ut(self.Q.adjoint(y))

    def V(self, z: Tensor) -> Tensor:
        return self.A.V(z)

    def Vt(self, x: Tensor) -> Tensor:
        return self.A.Vt(x)


class Scaled(Operator):
    """factor * A(x)."""

    def __init__(self, A: Operator, factor: float) -> None:
        super().__init__(A.in_shape, dtype=A.in_dtype)
        self.A, self.factor = A, factor
        self.out_shape, self.out_dtype = A.out_shape, A.out_dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.A(x)


class LinearScaled(LinearOperator):
    """factor * A(x) of a linear operator."""

    def __init__(self, A: LinearOperator, factor: float) -> None:
        super().__init__(A.in_shape, dtype=A.in_dtype)
        self.A, self.factor = A, factor
        self.out_shape, self.out_dtype = A.out_shape, A.out_dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.A(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.factor * self.A.adjoint(y)

    @property
    def own_solve(self) -> bool:
        return self.A.own_solve

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        return self.A.solve(b, self.factor**2 * var_x, var_y)

    def weighted_adjoint(self, r: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        return self.factor * self.A.weighted_adjoint(r, self.factor**2 * var_x, var_y)

    def norm(self, iterations: int = 100) -> float:
        return abs(self.factor) * self.A.norm(iterations)


class ScaledSVD(SVDOperator):
    """factor * A: the singular values times |factor|, its sign in U."""

    def __init__(self, A: SVDOperator, factor: float) -> None:
        super().__init__(A.in_shape, dtype=A.in_dtype)
        self.A, self.factor = A, factor
        self.out_shape, self.out_dtype = A.out_shape, A.out_dtype

    @property
    def s(self) -> Tensor:
        return abs(self.factor) * self.A.s

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.A(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.factor * self.A.adjoint(y)

    def U(self, z: Tensor) -> Tensor:
        return math.copysign(1.0, self.factor) * self.A.U(z)

    def Ut(self, y: Tensor) -> Tensor:
        return math.copysign(1.0, self.factor) * self.A.Ut(y)

    def V(self, z: Tensor) -> Tensor:
        return self.A.V(z)

    def Vt(self, x: Tensor) -> Tensor:
        return self.A.Vt(x)


class Zero(SVDOperator):
    """0 * A: the map to zero. A measurement holds the noise alone."""

    def __init__(self, A: LinearOperator) -> None:
        super().__init__(A.in_shape, dtype=A.in_dtype)
        self.out_shape, self.out_dtype = A.out_shape, A.out_dtype
        self.register_buffer("s", torch.zeros(self.in_shape, device=A.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._nothing(x, self.out_shape, self.out_dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._nothing(y, self.in_shape, self.in_dtype)

    @staticmethod
    def _nothing(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Returns zeros for each row of x, real or complex as dtype is, on which x's gradient is zero."""
        row = 0 * x.real.flatten(1).sum(1) if x.is_complex() else 0 * x.flatten(1).sum(1)
        row = row.to(row.dtype.to_complex()) if dtype.is_complex else row
        return row.reshape(-1, *[1] * len(shape)).expand(-1, *shape).clone()

    def U(self, z: Tensor) -> Tensor:
        return self.forward(z)

    def Ut(self, y: Tensor) -> Tensor:
        return self.adjoint(y)

    def V(self, z: Tensor) -> Tensor:
        return z

    def Vt(self, x: Tensor) -> Tensor:
        return x

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        var_y = torch.as_tensor(per_sample(var_y, b), dtype=b.real.dtype, device=b.device)
        return torch.where(var_y > 0, b / var_y.where(var_y > 0, 1), 0)

    def prox(self, x: Tensor, y: Tensor, var_x: Variance = 1.0, var_y: Variance = 1.0) -> Tensor:
        return x.clone()

    def pinv(self, y: Tensor, rtol: float | None = None) -> Tensor:
        return self.adjoint(y)


class Sum(Operator):
    """a(x) + b(x)."""

    def __init__(self, a: Operator, b: Operator) -> None:
        super().__init__(a.in_shape, dtype=a.in_dtype)
        self.a, self.b = a, b
        self.out_shape, self.out_dtype = a.out_shape, a.out_dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


class LinearSum(LinearOperator):
    """a(x) + b(x) of linear operators."""

    def __init__(self, a: LinearOperator, b: LinearOperator) -> None:
        super().__init__(a.in_shape, dtype=a.in_dtype)
        self.a, self.b = a, b
        self.out_shape, self.out_dtype = a.out_shape, a.out_dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.a.adjoint(y) + self.b.adjoint(y)


class Stack(Operator):
    """Several measurements of one signal, flattened into one vector; `split(y)` gives them back in their shapes."""

    def __init__(self, operators: Sequence[Operator] | Operators) -> None:
        super().__init__(operators[0].in_shape, dtype=operators[0].in_dtype)
        self.operators = Operators(operators)
        self.out_shape, self.out_dtype = (sum(math.prod(a.out_shape) for a in operators),), operators[0].out_dtype

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([a(x).flatten(1) for a in self.operators], 1)

    def split(self, y: Tensor) -> list[Tensor]:
        """Returns the parts of y, (*batch, *A.out_shape) for each operator A."""
        parts = y.split([math.prod(a.out_shape) for a in self.operators], -1)
        return [p.reshape(*y.shape[:-1], *a.out_shape) for p, a in zip(parts, self.operators, strict=True)]


class LinearStack(Stack, LinearOperator):
    """Several linear measurements of one signal."""

    def forward(self, x: Tensor) -> Tensor:
        return Stack.forward(self, x)

    def adjoint(self, y: Tensor) -> Tensor:
        linear = cast("Iterable[LinearOperator]", self.operators)  # `stack` looks
        return functools.reduce(torch.add, (a.adjoint(part) for a, part in zip(linear, self.split(y), strict=True)))


class Transpose(LinearOperator):
    """The adjoint of A as an operator: y -> A^T y."""

    def __init__(self, A: LinearOperator) -> None:
        shape = A.out_shape  # before out_dtype, which may be found with it
        super().__init__(shape, dtype=A.out_dtype)
        self.A = A
        self.out_shape, self.out_dtype = A.in_shape, A.in_dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.A.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)

    @property
    def T(self) -> LinearOperator:
        return self.A

    def norm(self, iterations: int = 100) -> float:
        return self.A.norm(iterations)
