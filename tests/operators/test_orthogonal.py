import numpy as np
import pytest
import torch

from invgen import check_operator
from invgen.errors import OptionError
from invgen.operators import Grey, Haar, Identity


def test_keeps_the_contract_for_real_and_complex_signals():
    check_operator(Identity((2, 3, 4)))
    check_operator(Identity((5,), dtype=torch.complex64))


def test_a_measurement_can_be_changed_without_changing_the_signal():
    A, x = Identity((3,)), torch.zeros(2, 3)
    A(x).add_(1)
    A.adjoint(x).add_(1)
    assert not x.any()


def test_it_disappears_from_a_composition():
    A = Grey((3, 2, 2))
    assert Identity((1, 2, 2)) @ A is A


def haar_patterns(n, levels):
    """The wavelets as pictures, one after the other, from their definition: averages and differences of squares."""
    patterns = np.zeros((n, n, n, n))
    for level in range(1, levels + 1):
        side, many = 2**level, n >> level
        for r, c in np.ndindex(many, many):
            rows, columns = slice(r * side, (r + 1) * side), slice(c * side, (c + 1) * side)
            half = np.where(np.arange(side) < side // 2, 1, -1)
            for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
                picture = np.outer(half if down else half**2, half if across else half**2) / side
                if down or across or level == levels:
                    patterns[r + down * many, c + across * many, rows, columns] = picture
    return patterns.reshape(n * n, n, n)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_haar_is_its_patterns(levels):
    x = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = np.einsum("kij,cij->ck", haar_patterns(8, levels), x.numpy())
    np.testing.assert_allclose(Haar((3, 8, 8), levels)(x).numpy(), want, atol=1e-14)


def test_haar_keeps_the_contract_and_measures_what_it_is_told():
    mask = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    for A in (Haar((8, 4)), Haar((2, 8, 4), 1, mask)):
        check_operator(A)
    assert Haar((2, 8, 4), 1, mask).out_shape == (2, int(mask.sum()))
    for call in (lambda: Haar((6, 6), 2), lambda: Haar((8,)), lambda: Haar((8, 8), 1, mask)):
        with pytest.raises(OptionError) as caught:
            call()
        assert "\n" not in str(caught.value)
