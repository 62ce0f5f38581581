"""Operators with orthogonal rows of one length: their base, the reflection that completes them to a basis, the identity."""

import torch
from torch import Tensor

from invgen.forward import LinearOperator, SVDOperator, Variance, per_sample


class OrthogonalRows(SVDOperator):
    """A with A A^T = gain * I, for a number `gain`: every solve is a division, at any noise.

    A subclass sets `gain`, the buffer `s` (sqrt(gain) or 0) and writes forward, adjoint and the four spectral maps.
    """

    gain: float = 1.0

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        return b / (self.gain * per_sample(var_x, b) + per_sample(var_y, b))

    # one adjoint of one solve: no basis is needed, and a variance for every measured value is exact too
    prox = LinearOperator.prox

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / self.gain

    def norm(self, iterations: int = 0) -> float:
        return self.gain**0.5


def householder(v: Tensor) -> tuple[Tensor, float]:
    """Returns w and a sign such that I - w w^T is orthogonal and maps e_0 to sign * v, for a unit vector v.

    Golub & Van Loan, Matrix Computations, section 5.1: the sign is the one that adds, so that nothing cancels.
    """
    sign = -1.0 if v[0] >= 0 else 1.0
    w = v.clone()
    w[0] -= sign
    return w / torch.sqrt(1 + v[0].abs()), sign


class Identity(OrthogonalRows):
    """y = x: with noise, the denoising problem.

    Args:
        in_shape: the shape of one signal.
        dtype: torch.complex64 for complex signals.
    """

    any_field = True

    def __init__(self, in_shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(in_shape, dtype=dtype)
        self.out_shape = self.in_shape
        self.register_buffer("s", torch.ones(self.in_shape), persistent=False)

    def fused(self, inner: torch.nn.Module) -> torch.nn.Module:
        return inner

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()  # a copy, so that noise added in place to a measurement leaves the signal as it was

    def adjoint(self, y: Tensor) -> Tensor:
        return y.clone()

    def U(self, z: Tensor) -> Tensor:
        return z.clone()

    def Ut(self, y: Tensor) -> Tensor:
        return y.clone()

    def V(self, z: Tensor) -> Tensor:
        return z.clone()

    def Vt(self, x: Tensor) -> Tensor:
        return x.clone()
