import pytest
import torch

from invgen import check_operator
from invgen.errors import CheckError, OptionError
from invgen.forward import LinearOperator
from invgen.operators import from_function


def test_a_nonlinear_function():
    A = from_function(lambda x: x.tanh()[:, ::2], (6,))
    assert not isinstance(A, LinearOperator) and A.out_shape == (3,)
    check_operator(A)


def test_a_linear_function_gets_all_the_rest():
    A = from_function(lambda x: x.roll(1, -1) - 3 * x, (2, 5), linear=True)
    assert isinstance(A, LinearOperator)
    check_operator(A)


def test_a_given_adjoint_is_used_and_checked():
    calls = []

    def adjoint(y):
        calls.append(len(y))
        return torch.cat([y, torch.zeros_like(y)], -1)

    A = from_function(lambda x: x[:, :3], (6,), linear=True, adjoint=adjoint)
    check_operator(A)
    assert calls
    wrong = from_function(lambda x: x[:, :3], (6,), linear=True, adjoint=lambda y: 1.05 * adjoint(y))
    with pytest.raises(CheckError, match="adjoint"):
        check_operator(wrong)


def test_complex_signals():
    check_operator(from_function(lambda x: 1j * x[:, 1:], (4,), linear=True, dtype=torch.complex64))


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: from_function(3, (4,)), "f of from_function must be a function, got 3"),
        (
            lambda: from_function(torch.sin, (4,), linear=True, adjoint=1),
            "adjoint of from_function must be a function or None, got 1",
        ),
        (lambda: from_function(torch.sin, (4,), adjoint=torch.sin), "linear=True"),
        (lambda: from_function(torch.sin, (0,)), "positive sizes"),
    ],
)
def test_bad_options_are_named(make, sentence):
    with pytest.raises(OptionError, match=sentence):
        make()
