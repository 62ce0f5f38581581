"""Operators with orthogonal rows of one length: their base, the reflection that completes them to a basis, the identity,
Haar's wavelets."""

import math

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import LinearOperator, SVDOperator, Variance, per_sample
from invgen.validation.arguments import mask as as_mask
from invgen.validation.hints import Count


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


class Haar(OrthogonalRows):
    """y = coefficients of x in Haar's wavelets, orthonormal: a single-pixel camera whose patterns are Haar wavelets.

    Args:
        in_shape: (*channels, H, W), of which H and W are multiples of 2^levels.
        levels: of the transform; all that H and W allow by default.
        mask: (H, W), true, 1 or 255 where a coefficient is measured; all by default.

    y is (*channels, count), in the order of the rows of the square of coefficients: the average of the coarsest level in
    its upper left, then level by level the differences along rows, (:, right), columns, (below, :), and both. `Ut(y)`
    puts them in their places. In the units of x; a pattern of values +-1 in place of +-2^-level measures 2^level as much.

    Raises:
        OptionError: sizes that cannot be halved that often, or a mask of another size or that measures nothing.
    """

    index: Tensor

    def __init__(self, in_shape: tuple[int, ...], levels: Count | None = None, mask: Tensor | None = None) -> None:
        super().__init__(in_shape)
        if len(self.in_shape) < 2:
            raise OptionError(f"Haar takes pictures, in_shape (*channels, H, W), got {tuple(self.in_shape)}")
        size = tuple(self.in_shape[-2:])
        most = min((n & -n).bit_length() - 1 for n in size)
        self.levels = most if levels is None else levels
        if self.levels > most or not most:
            raise OptionError(f"{size} pixels can be halved {most} times, not {levels or 1}; crop the picture")
        kept = torch.ones(size, dtype=torch.bool) if mask is None else as_mask("the mask of Haar", mask)
        if tuple(kept.shape) != size or not kept.any():
            raise OptionError(f"the mask of Haar must be {size}, true somewhere, got {tuple(kept.shape)}")
        self.register_buffer("index", kept.flatten().nonzero().flatten())
        self.register_buffer("s", kept.to(torch.float32).expand(self.in_shape).clone(), persistent=False)
        self.out_shape = (*self.in_shape[:-2], len(self.index))

    def Vt(self, x: Tensor) -> Tensor:
        z = x.clone()
        for level in range(self.levels):
            h, w = (n >> level for n in x.shape[-2:])
            part = z[..., :h, :w]
            for axis in (-1, -2):
                a, b = part.unflatten(axis, (-1, 2)).unbind(axis)
                part = torch.cat([a + b, a - b], axis) * 0.5**0.5
            z[..., :h, :w] = part
        return z

    def V(self, z: Tensor) -> Tensor:
        x = z.clone()
        for level in reversed(range(self.levels)):
            h, w = (n >> level for n in x.shape[-2:])
            part = x[..., :h, :w]
            for axis in (-2, -1):
                a, b = part.chunk(2, axis)
                part = torch.stack([a + b, a - b], axis).flatten(axis - 1, axis) * 0.5**0.5
            x[..., :h, :w] = part
        return x

    def U(self, z: Tensor) -> Tensor:
        return z.flatten(-2).index_select(-1, self.index)

    def Ut(self, y: Tensor) -> Tensor:
        z = y.new_zeros(*y.shape[:-1], math.prod(self.in_shape[-2:])).index_copy(-1, self.index, y)
        return z.unflatten(-1, tuple(self.in_shape[-2:]))

    def forward(self, x: Tensor) -> Tensor:
        return self.U(self.Vt(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.V(self.Ut(y))
