"""Every map of the image operators, those that write in place too, has the gradients that finite differences find."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from invgen.forward import SVDOperator
from invgen.operators import Blur, CompressedSensing, Decimate, Downsample, Grey, Identity, Mask, Resize, gaussian_kernel

OPERATORS = {
    "identity": lambda: Identity((2, 3)),
    "mask": lambda: Mask.random((4, 4), keep=0.5),
    "circular blur": lambda: Blur((1, 3, 4), gaussian_kernel(0.5)),
    "reflecting blur": lambda: Blur((1, 3, 3), gaussian_kernel(0.3), "reflect"),
    "block average": lambda: Downsample((4, 4), 2),
    "bicubic": lambda: Downsample((4, 4), 2, "bicubic"),
    "filter": lambda: Downsample((4, 4), 2, gaussian_kernel(0.6)),
    "decimation": lambda: Decimate((6,), 2, 1),
    "enlargement": lambda: Resize((3, 3), (4, 5)),
    "grey": lambda: Grey((3, 2, 2)),
    "gaussian": lambda: CompressedSensing((4, 3), 5),
    "hadamard": lambda: CompressedSensing((4, 4), 5, "hadamard"),
    "dct": lambda: CompressedSensing((4, 3), 5, "dct"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_gradients(name):
    A = OPERATORS[name]()
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, *s, generator=g, dtype=torch.float64).requires_grad_() for s in (A.in_shape, A.out_shape))
    assert gradcheck(A, x) and gradgradcheck(A, x) and gradcheck(A.adjoint, y)
    assert gradcheck(lambda x, y: A.prox(x, y, 1.0, 0.5), (x, y))
    if isinstance(A, SVDOperator):
        assert gradcheck(A.Vt, x) and gradcheck(lambda y: A.V(A.Ut(y)), y) and gradcheck(lambda x: A.U(A.Vt(x)), x)
