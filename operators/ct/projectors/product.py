"""The base of all projectors: a linear map and its transpose, applied to batches and differentiable to any order."""

from typing import Any

import torch
from torch import Tensor

from invgen.errors import UnsupportedError


class MatrixLike:
    """An (m, n) matrix, kept or not, that is multiplied with rows of a batch. A subclass sets `shape` and writes `apply`.

    It does not change once it is made, so that copies of an operator share it.
    """

    shape: tuple[int, int]

    def apply(self, x: Tensor, turned: bool) -> Tensor:
        """Returns x M^T, (N, n) -> (N, m), or `turned` x M, (N, m) -> (N, n), in the precision of x, without a graph."""
        raise UnsupportedError(f"{type(self).__name__} must define apply(self, x, turned)")

    def __call__(self, x: Tensor, turned: bool = False) -> Tensor:
        """Returns the same as `apply`, differentiable."""
        return Product.apply(x, self, turned)

    def matched(self, device: torch.device) -> bool:
        """Tells whether the adjoint is exactly the transpose on this device."""
        return True

    def __deepcopy__(self, memo: dict) -> "MatrixLike":
        return self


class Product(torch.autograd.Function):
    """x (N, n) -> x M^T (N, m) or, `turned`, y (N, m) -> y M (N, n): each is the derivative of the other."""

    @staticmethod
    def forward(x: Tensor, matrix: MatrixLike, turned: bool) -> Tensor:
        return matrix.apply(x, turned)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ctx.matrix, ctx.turned = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return Product.apply(grad, ctx.matrix, not ctx.turned), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return Product.apply(tangent, ctx.matrix, ctx.turned)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, matrix: MatrixLike, turned: bool) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)
        y = Product.apply(x.reshape(-1, x.shape[-1]), matrix, turned)
        return y.reshape(*x.shape[:-1], y.shape[-1]), 0
