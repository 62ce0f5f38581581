"""The measurement that changes nothing: denoising."""

import torch
from torch import Tensor

from invgen.operators._rows import OrthogonalRows


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
