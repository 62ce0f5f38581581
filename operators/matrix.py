"""An operator given by its matrix."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.forward import SVDOperator
from invgen.messages import announced


class Matrix(SVDOperator):
    """y = M x for a dense matrix M: in_shape -> (m,), with n = prod(in_shape) columns. Every solve is exact.

    Args:
        matrix: (m, n), real, finite.
        in_shape: the shape of one signal, (n,) by default; signals are flattened row by row.

    The SVD is computed once, in double precision. Where the rank r is at most a quarter of n, the null space gets no basis:
    spectral coordinates are r numbers of the range, then the n values of what is left of the signal without it, a tight
    frame in place of a basis (V Vt = I, Vt an isometry), which takes n r numbers in place of n^2, and as much less time.
    """

    matrix: Tensor
    left: Tensor
    right: Tensor

    def __init__(self, matrix: Tensor, in_shape: Sequence[int] | None = None) -> None:
        matrix = torch.as_tensor(matrix)
        if matrix.ndim != 2 or not matrix.is_floating_point():
            raise ShapeError(f"matrix must be real floating point, (m, n), got {matrix.dtype} of {tuple(matrix.shape)}")
        if not torch.isfinite(matrix).all():
            raise OptionError("matrix has entries that are not finite")
        m, n = matrix.shape
        super().__init__((n,) if in_shape is None else tuple(in_shape))
        if math.prod(self.in_shape) != n:
            raise ShapeError(
                f"matrix has {n} columns but in_shape {tuple(self.in_shape)} {math.prod(self.in_shape)} values"
            )
        self.out_shape = (m,)
        with announced(f"decomposing a matrix of {m} x {n}"):
            left, s, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        # a singular value at rounding level would otherwise be divided by
        s = torch.where(s > max(m, n) * torch.finfo(matrix.dtype).eps * s.max(), s, 0)
        rank = int((s > 0).sum())
        self.framed = 4 * rank <= n
        if self.framed:
            left, right, s = left[:, :rank], right[:rank], torch.cat([s[:rank], s.new_zeros(n)])
        elif m < n:
            with announced(f"completing a basis of {n} vectors"):
                right = torch.linalg.svd(matrix.double(), full_matrices=True)[2]
            s = torch.cat([s, s.new_zeros(n - m)])
        self.register_buffer("matrix", matrix)
        self.register_buffer("s", s.to(matrix.dtype), persistent=False)
        self.register_buffer("left", left.contiguous(), persistent=False)
        self.register_buffer("right", right.T.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x.dtype).T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y.dtype)).reshape(-1, *self.in_shape)

    def U(self, z: Tensor) -> Tensor:
        k = self.left.shape[1]
        return (z[:, :k] * (self.s[:k] > 0)) @ self.left.to(z.dtype).T

    def Ut(self, y: Tensor) -> Tensor:
        k = self.left.shape[1]
        z = (y @ self.left.to(y.dtype)) * (self.s[:k] > 0)
        return torch.cat([z, z.new_zeros(len(z), len(self.s) - k)], 1)

    def V(self, z: Tensor) -> Tensor:
        right = self.right.to(z.dtype)
        if not self.framed:
            return (z @ right.T).reshape(-1, *self.in_shape)
        k = right.shape[1]
        rest = z[:, k:]
        return (rest + (z[:, :k] - rest @ right) @ right.T).reshape(-1, *self.in_shape)

    def Vt(self, x: Tensor) -> Tensor:
        x, right = x.flatten(1), self.right.to(x.dtype)
        z = x @ right
        return torch.cat([z, x - z @ right.T], 1) if self.framed else z
