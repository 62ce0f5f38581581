import torch

from invgen import check_operator
from invgen.operators import Grey, Identity


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
