"""Any torch function as an operator."""

from collections.abc import Callable

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import LinearOperator, Operator
from invgen.validation.arguments import checked

Map = Callable[[Tensor], Tensor]


@checked
def from_function(
    f: Map,
    in_shape: tuple[int, ...],
    linear: bool = False,
    adjoint: Map | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    differentiable: bool = True,
) -> Operator:
    """Returns the operator y = f(x); a LinearOperator with linear=True.

    Args:
        f: written for a batch, (B, *in_shape) -> (B, *out_shape), and differentiable by torch.
        in_shape: the shape of one signal.
        linear: whether f is linear; then solve, prox and pinv are derived from it, by conjugate gradients.
        adjoint: f's adjoint, (B, *out_shape) -> (B, *in_shape); by default automatic differentiation of f gives it.
        dtype: torch.complex64 for complex signals.
        differentiable: False for a black box (a simulator, NumPy code); derivative-free samplers take it.

    Raises:
        OptionError: f or adjoint is not a function, or an adjoint is given for a function that is not linear.

    `invgen.check_operator(from_function(...))` says whether f keeps the contract.
    """
    if not callable(f) or not (adjoint is None or callable(adjoint)):
        raise OptionError(f"from_function takes functions, got {type(f).__name__} and {type(adjoint).__name__}")
    if not linear:
        if adjoint is not None:
            raise OptionError("an adjoint belongs to a linear function; pass linear=True with it, or leave it out")
        return FunctionOperator(f, in_shape, dtype=dtype, differentiable=differentiable)
    return LinearFunction(f, in_shape, adjoint, dtype=dtype)


class FunctionOperator(Operator):
    """y = f(x).

    Args:
        f: the function, (B, *in_shape) -> (B, *out_shape).
        in_shape: the shape of one signal.
        dtype: of signals.
        differentiable: whether torch can differentiate f.
    """

    def __init__(
        self, f: Map, in_shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, differentiable: bool = True
    ) -> None:
        super().__init__(in_shape, dtype=dtype)
        self.f, self.differentiable = f, differentiable

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class LinearFunction(LinearOperator):
    """y = f(x) for a linear f.

    Args:
        f: the function, (B, *in_shape) -> (B, *out_shape).
        in_shape: the shape of one signal.
        adjoint: its adjoint, (B, *out_shape) -> (B, *in_shape); by default found by differentiation.
        dtype: of signals.
    """

    def __init__(
        self, f: Map, in_shape: tuple[int, ...], adjoint: Map | None = None, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(in_shape, dtype=dtype)
        self.f, self.f_adjoint = f, adjoint

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return LinearOperator.adjoint(self, y) if self.f_adjoint is None else self.f_adjoint(y)
