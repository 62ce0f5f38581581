"""Operators made of operators: chains, sums, multiples, stacks, transposes. Structure is kept where mathematics allows."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from invgen.errors import OptionError, ShapeError
from invgen.forward import LinearOperator, Operator, SVDOperator, Variance


def compose(outer: Operator, inner: Operator) -> Operator:
    """outer(inner(x)) in the most structured form known."""
    if not isinstance(inner, Operator):
        raise OptionError(f"A @ B composes two operators, got {type(inner).__name__}; to measure a signal write A(x)")
    if outer.in_shape != inner.out_shape:
        raise ShapeError(
            f"{type(outer).__name__} takes {tuple(outer.in_shape)} but {type(inner).__name__} gives "
            f"{tuple(inner.out_shape)}"
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
    """a(x) + b(x)."""
    if not isinstance(b, Operator):
        raise OptionError(f"A + B adds two operators, got {type(b).__name__}")
    if a.in_shape != b.in_shape or a.out_shape != b.out_shape:
        raise ShapeError(f"A + B needs equal shapes, got {a.extra_repr()} and {b.extra_repr()}")
    both_linear = isinstance(a, LinearOperator) and isinstance(b, LinearOperator)
    return (LinearSum if both_linear else Sum)(a, b)


def scale(a: Operator, factor: float) -> Operator:
    """factor * a(x)."""
    if isinstance(factor, Operator) or not isinstance(factor, int | float):
        raise OptionError(f"c * A needs a number c, got {type(factor).__name__}; to compose operators write A @ B")
    kind = ScaledSVD if isinstance(a, SVDOperator) else LinearScaled if isinstance(a, LinearOperator) else Scaled
    return kind(a, float(factor))


def stack(operators: Sequence[Operator]) -> Operator:
    """All the measurements of one signal, each flattened, in one vector of shape (sum of sizes,)."""
    operators = list(operators)
    if not operators:
        raise OptionError("stack needs at least one operator, got an empty list")
    if len({a.in_shape for a in operators}) > 1:
        raise ShapeError(f"stack needs one in_shape, got {sorted({tuple(a.in_shape) for a in operators})}")
    linear = all(isinstance(a, LinearOperator) for a in operators)
    return (LinearStack if linear else Stack)(operators)


class Chain(Operator):
    """outer(inner(x))."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        super().__init__(inner.in_shape, dtype=inner.in_dtype)
        self.outer, self.inner = outer, inner
        self.out_shape = outer.out_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))


class LinearChain(LinearOperator):
    """outer(inner(x)) of linear operators."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        super().__init__(inner.in_shape, dtype=inner.in_dtype)
        self.outer, self.inner = outer, inner
        self.out_shape = outer.out_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        if isinstance(self.inner, SVDOperator) and self.inner.orthogonal:
            return self.outer.solve(b, var_x, var_y)  # B B^T = I, so that A B B^T A^T = A A^T
        return super().solve(b, var_x, var_y)


class RotatedInput(SVDOperator):
    """A Q for an orthogonal Q: A's spectrum in the rotated basis Q^T V."""

    def __init__(self, A: SVDOperator, Q: SVDOperator) -> None:
        super().__init__(Q.in_shape, dtype=Q.in_dtype)
        self.A, self.Q = A, Q
        self.out_shape = A.out_shape

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
        self.out_shape = Q.out_shape

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
        self.out_shape = A.out_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.A(x)


class LinearScaled(LinearOperator):
    """factor * A(x) of a linear operator."""

    def __init__(self, A: LinearOperator, factor: float) -> None:
        super().__init__(A.in_shape, dtype=A.in_dtype)
        self.A, self.factor = A, factor
        self.out_shape = A.out_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.A(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.factor * self.A.adjoint(y)

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        return self.A.solve(b, self.factor**2 * var_x, var_y)

    def norm(self, iterations: int = 100) -> float:
        return abs(self.factor) * self.A.norm(iterations)


class ScaledSVD(SVDOperator):
    """factor * A: the singular values times |factor|, its sign in U."""

    def __init__(self, A: SVDOperator, factor: float) -> None:
        super().__init__(A.in_shape, dtype=A.in_dtype)
        self.A, self.factor = A, factor
        self.out_shape = A.out_shape

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


class Sum(Operator):
    """a(x) + b(x)."""

    def __init__(self, a: Operator, b: Operator) -> None:
        super().__init__(a.in_shape, dtype=a.in_dtype)
        self.a, self.b = a, b
        self.out_shape = a.out_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


class LinearSum(LinearOperator):
    """a(x) + b(x) of linear operators."""

    def __init__(self, a: LinearOperator, b: LinearOperator) -> None:
        super().__init__(a.in_shape, dtype=a.in_dtype)
        self.a, self.b = a, b
        self.out_shape = a.out_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.a.adjoint(y) + self.b.adjoint(y)


class Stack(Operator):
    """Several measurements of one signal, flattened into one vector; `split(y)` gives them back in their shapes."""

    def __init__(self, operators: Sequence[Operator]) -> None:
        super().__init__(operators[0].in_shape, dtype=operators[0].in_dtype)
        self.operators = nn.ModuleList(operators)
        self.out_shape = (sum(math.prod(a.out_shape) for a in operators),)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([a(x).flatten(1) for a in self.operators], 1)

    def split(self, y: Tensor) -> list[Tensor]:
        """The parts of y, (*batch, *A.out_shape) for each operator A."""
        parts = y.split([math.prod(a.out_shape) for a in self.operators], -1)
        return [p.reshape(*y.shape[:-1], *a.out_shape) for p, a in zip(parts, self.operators, strict=True)]


class LinearStack(Stack, LinearOperator):
    """Several linear measurements of one signal."""

    def forward(self, x: Tensor) -> Tensor:
        return Stack.forward(self, x)

    def adjoint(self, y: Tensor) -> Tensor:
        return sum(a.adjoint(part) for a, part in zip(self.operators, self.split(y), strict=True))


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
