"""Base of operators with orthogonal rows of one length, and the reflection that completes such rows to a basis."""

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
