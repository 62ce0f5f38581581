"""Each operator here breaks the contract in one way; the sentence that names it is the test."""

import time

import pytest
import torch

from invgen import check_operator, operators
from invgen.errors import CheckError
from invgen.forward import LinearOperator, Operator, SVDOperator


class Good(LinearOperator):
    def __init__(self):
        super().__init__((2, 3))

    def forward(self, x):
        return x[:, :, :2] - 0.5 * x[:, :, 1:]


class GoodSVD(SVDOperator):
    """Keeps the first four of six values, doubled."""

    def __init__(self):
        super().__init__((6,))
        self.out_shape = (4,)
        self.register_buffer("s", torch.tensor([2.0, 2, 2, 2, 0, 0]))

    def U(self, z):
        return z[:, :4]

    def Ut(self, y):
        return torch.cat([y, y.new_zeros(len(y), 2)], 1)

    def V(self, z):
        return z.flip(1)

    def Vt(self, x):
        return x.flip(1)


def breach(operator, sentence):
    with pytest.raises(CheckError, match=sentence) as caught:
        check_operator(operator)
    return str(caught.value)


def broken(base, **methods):
    return type("Broken", (base,), methods)()


def test_good_operators_pass_and_the_report_says_what_was_checked():
    report = check_operator(Good())
    assert {"adjoint (matrix)", "linearity", "solve", "prox", "pinv", "norm", "deterministic"} <= report.passed.keys()
    assert "adjoint (matrix)" in str(report) and "checks passed" in str(report)
    assert {"Vt is an isometry", "A = U s V^T"} <= check_operator(GoodSVD()).passed.keys()
    check_operator(Good(), dtype=torch.float32)


def test_global_random_state_is_left_alone():
    state = torch.random.get_rng_state()
    check_operator(Good())
    assert torch.equal(torch.random.get_rng_state(), state)


class Plain(Operator):
    def __init__(self):
        super().__init__((2, 3))


PLAIN = {
    "modifies its input in place": lambda self, x: x.mul_(2),
    "two calls with the same input differ": lambda self, x: x + torch.randn_like(x),
    "turns torch.float64 into torch.float32": lambda self, x: x.float(),
    "values that are not finite": lambda self, x: x.sqrt(),
    "a batch gives other values than its members": lambda self, x: x - x.mean(),
    "no gradient with respect to the input": lambda self, x: x.detach() * 2,
    "the gradient has values that are not finite": lambda self, x: (
        torch.where(x > 0, x, (-x).sqrt() * 0) + 0 * (x * 0).sqrt()
    ),
}


@pytest.mark.parametrize("sentence", PLAIN)
def test_any_operator(sentence):
    breach(broken(Plain, forward=PLAIN[sentence]), sentence)


def test_wrong_out_shape():
    class Broken(Good):
        def __init__(self):
            super().__init__()
            self.out_shape = (2, 3)

    breach(Broken(), r"Broken gives shape \(3, 2, 2\) for a batch of 3, expected \(3, 2, 3\)")


def good_adjoint(self, y):
    pad = torch.nn.functional.pad
    return pad(y, (0, 1)) - 0.5 * pad(y, (1, 0))


def slightly_wrong_adjoint(self, y):
    x = good_adjoint(self, y)
    return torch.cat([x[..., :1] * 1.05, x[..., 1:]], -1)


LINEAR = {
    "forward is not linear": {"forward": lambda self, x: Good.forward(self, x) + 1},
    "forward is not linear; subclass Operator": {"forward": lambda self, x: Good.forward(self, x).tanh()},
    "adjoint is not the transpose of forward .relative error 5.0e-02": {
        "adjoint": lambda self, y: 1.05 * good_adjoint(self, y)
    },
    "adjoint is not the transpose": {"adjoint": slightly_wrong_adjoint},
    "<A x, y> and <x, A\\^T y> differ": {"adjoint": slightly_wrong_adjoint},
    r"solve\(b\) does not solve": {"solve": lambda self, b, var_x=1.0, var_y=0.0: b / 2},
    "solve fails with var_x of shape": {
        "solve": lambda self, b, var_x=1.0, var_y=0.0: LinearOperator.solve(
            self, b, var_x.mean() if isinstance(var_x, torch.Tensor) else var_x, var_y
        )
    },
    "prox is not the minimiser": {"prox": lambda self, x, y, var_x=1.0, var_y=1.0: x + self.adjoint(y - self(x))},
    r"A\(pinv\(y\)\) is not y": {"pinv": lambda self, y: self.adjoint(y)},
    r"norm\(\) is 1, the largest singular value is": {"norm": lambda self, iterations=0: 1.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("sentence", LINEAR)
def test_linear_operators(sentence):
    check_operator(broken(Good, adjoint=good_adjoint))
    breach(broken(Good, **LINEAR[sentence]), sentence)


def negative(self):
    GoodSVD.__init__(self)
    self.s = -self.s


def test_exceptions_are_named_with_the_method_and_the_place():
    class Broken(Plain):
        def forward(self, x):
            return x @ torch.zeros(5, 5)

    breach(Broken(), "forward fails at .*test_checks.py:[0-9]+ with RuntimeError: ")

    class Scalar(Good):
        def solve(self, b, var_x=1.0, var_y=0.0):
            return super().solve(b, 1.0, var_y / var_x) / float(var_x)

    breach(Scalar(), "solve fails at .* with (RuntimeError|ValueError)")


SVD = {
    "a singular value is negative": {"__init__": negative},
    r"V\(Vt\(x\)\) is not x": {"V": lambda self, z: z.flip(1) * 0.9},
    "Vt changes the norm of signals": {"Vt": lambda self, x: 2 * x.flip(1), "V": lambda self, z: z.flip(1) / 2},
    "U changes the norm": {"U": lambda self, z: 1.1 * z[:, :4]},
    "Ut gives values where s = 0": {"Ut": lambda self, y: torch.cat([y, y[:, :2]], 1)},
    r"Ut\(U\(z\)\) is not z": {"U": lambda self, z: z[:, :4].flip(1)},
    r"forward is not U diag\(s\) V\^T": {
        "forward": lambda self, x: 3 * x.flip(1)[:, :4],
        "adjoint": lambda self, y: 3 * GoodSVD.Ut(self, y).flip(1),
    },
}


@pytest.mark.parametrize("sentence", SVD)
def test_svd_operators(sentence):
    breach(broken(GoodSVD, **SVD[sentence]), sentence)


def test_all_breaches_are_listed_at_once():
    text = breach(broken(Good, prox=lambda self, x, y, var_x=1.0, var_y=1.0: x, norm=lambda self: 9.0), "prox")
    assert "norm() is 9" in text and text.startswith("Broken((2, 3) -> (2, 2)) breaks its contract")


def test_a_black_box_passes_and_the_report_says_that_no_gradient_was_asked_for():
    def simulator(x):  # README's
        return torch.from_numpy(x.detach().double().numpy().clip(-1, 1) ** 3).to(x)

    report = check_operator(operators.from_function(simulator, (8,), differentiable=False))
    assert "differentiable" not in report.passed and "differentiable = False" in str(report)
    with pytest.raises(CheckError, match="no gradient"):  # without that word it is a breach
        check_operator(operators.from_function(simulator, (8,)))


class Ramp(LinearOperator):
    """A large operator of the user's: differences along the rows."""

    wrong = 0.0

    def forward(self, x):
        return x[..., 1:] - x[..., :-1]

    def adjoint(self, y):
        y = (1 + self.wrong) * y
        return torch.nn.functional.pad(y, (1, 0)) - torch.nn.functional.pad(y, (0, 1))


@pytest.mark.slow
def test_a_large_operator_is_compared_in_some_columns():
    report = check_operator(Ramp((1, 64, 64)))
    assert report.passed["adjoint (columns)"] < 1e-9 and "256 of 4096 columns" in str(report)
    assert report.seconds < 20
    A = Ramp((1, 64, 64))
    A.wrong = 1e-3
    with pytest.raises(CheckError, match="adjoint"):
        check_operator(A)


@pytest.mark.slow
def test_a_slow_operator_is_checked_in_the_time_that_is_given():
    class Slow(LinearOperator):
        def forward(self, x):
            time.sleep(0.005 * len(x))
            return x.cumsum(-1)

    report = check_operator(Slow((64,)), seconds=1.0)
    assert report.seconds < 3 and "left out" in str(report) and "of 64 columns" in str(report)


def test_complex_operators_are_compared_in_columns_too():
    class Wide(LinearOperator):
        def forward(self, x):
            return torch.fft.fft(x)[..., :700]

    report = check_operator(Wide((1100,), dtype=torch.complex64))
    assert report.passed["adjoint (columns)"] < 1e-9
