"""A warning names the line of the user that led to it."""

import warnings

import torch

import invgen
from invgen import operators, priors, samplers


def test_a_warning_points_to_the_line_that_called_invgen():
    prior = priors.GaussianPrior((1, 8, 8))
    A = operators.Mask.random(prior.shape, keep=0.5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        invgen.solve(torch.zeros(A.out_shape), A, prior, 0.1, samplers.PnPADMM(steps=2), num_samples=2)
    assert said and {w.filename for w in said} == {__file__}
