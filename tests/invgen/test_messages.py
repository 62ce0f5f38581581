"""Messages: a line where something made once takes long, and warnings that name the line of the user that led to them."""

import time
import warnings

import pytest
import torch

import invgen
from invgen import messages, operators, priors, samplers


def test_nothing_is_said_of_what_is_fast(capsys):
    with messages.announced("building a matrix"):
        pass
    assert capsys.readouterr().err == ""


def test_what_takes_long_is_announced_and_timed_even_if_it_fails(capsys, monkeypatch):
    monkeypatch.setattr(messages, "PATIENCE", 0.01)
    with pytest.raises(ZeroDivisionError), messages.announced("building a matrix"):
        while not capsys.readouterr().err.startswith("invgen: building a matrix, once ..."):
            time.sleep(0.01)
        1 / 0  # noqa: B018
    assert capsys.readouterr().err == "invgen: building a matrix took 0 s\n"


def test_a_warning_points_to_the_line_that_called_invgen():
    prior = priors.GaussianPrior((1, 8, 8))
    A = operators.Mask.random(prior.shape, keep=0.5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        invgen.solve(torch.zeros(A.out_shape), A, prior, 0.1, samplers.PnPADMM(steps=2), num_samples=2)
    assert said and {w.filename for w in said} == {__file__}
