"""The centred orthonormal Fourier transform against numpy.fft."""

import numpy as np
import pytest
import torch

from invgen.errors import OptionError
from invgen.inference.checks import check_operator
from invgen.operators import Fourier


def numpy_fftc(x, axes):
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


CASES = [((6, 5), None), ((3, 6, 5), 2), ((7,), None), ((4, 3, 5), 3)]


@pytest.mark.parametrize(("shape", "dims"), CASES)
def test_contract_and_numpy(shape, dims):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, *shape, dtype=torch.complex128, generator=g)
    axes = tuple(range(-(dims or len(shape)), 0))
    A = Fourier(shape, complex=True, dims=dims)
    check_operator(A)
    assert A.orthogonal
    np.testing.assert_allclose(A(x).numpy(), numpy_fftc(x.numpy(), axes), atol=1e-13)
    B = Fourier((2, *shape), dims=dims)
    check_operator(B)
    assert B.orthogonal
    z = B(torch.stack([x.real, x.imag], 1))
    torch.testing.assert_close(torch.complex(z[:, 0], z[:, 1]), A(x), rtol=1e-12, atol=1e-13)


def test_a_constant_goes_to_the_centre():
    for n in (8, 9):
        z = Fourier((n, n), complex=True)(torch.ones(n, n, dtype=torch.complex64))
        assert z.abs().argmax().item() == (n // 2) * n + n // 2
        assert abs(z[n // 2, n // 2].item() - n) < 1e-5


def test_errors():
    with pytest.raises(OptionError, match="complex=True"):
        Fourier((8, 8))
    with pytest.raises(OptionError, match="1 to 2 axes"):
        Fourier((2, 8, 8), dims=3)
