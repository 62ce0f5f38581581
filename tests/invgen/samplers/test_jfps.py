"""JFPS against the exact conditional mean, which it has where it is given the covariance of a Gaussian prior."""

import pytest
import torch

from invgen import Gaussian, OptionError, Posterior, UnsupportedError, samplers
from invgen.operators import Mask
from invgen.priors import GaussianPrior
from tests.invgen.samplers.gaussian_problems import (
    F64,
    ROWS,
    SHAPE,
    SIGMA,
    assert_second_order,
    conditional_mean,
    correlated,
    exact,
    law,
    many,
    moments,
    normal,
    problem,
    white,
)


def around(n: int = 12) -> torch.Tensor:
    """The covariance of n values on a ring, the same everywhere, (n, n)."""
    i = torch.arange(n, dtype=F64)
    away = (i[:, None] - i).abs()
    return torch.exp(-torch.minimum(away, n - away) / 3) + 0.1 * torch.eye(n, dtype=F64)


def test_with_the_covariance_it_guides_to_the_exact_conditional_mean():
    post, s = problem(correlated()), 0.6
    x = 2 * normal(5, *SHAPE, seed=9)
    wanted = conditional_mean(post, x, s)
    sampler = samplers.JFPS(covariance=post.prior.covariance, iterations=ROWS)
    torch.testing.assert_close(sampler.guide(many(post, 5), x, s), wanted, rtol=1e-8, atol=1e-8)


def test_it_is_mmps_there_and_without_a_covariance_a_proximal_step():
    post, s = many(problem(correlated()), 5), 0.6
    x, d = 2 * normal(5, *SHAPE, seed=9), post.prior.data_std
    mmps = samplers.MMPS(iterations=ROWS).guide(post, x, s)
    jfps = samplers.JFPS(covariance=post.prior.covariance, iterations=ROWS).guide(post, x, s)
    torch.testing.assert_close(jfps, mmps, rtol=1e-8, atol=1e-8)
    prox = post.A.prox(post.prior(x, s), post.y, s**2 * d**2 / (s**2 + d**2), SIGMA**2)
    torch.testing.assert_close(samplers.JFPS(iterations=ROWS).guide(post, x, s), prox, rtol=1e-8, atol=1e-8)


def test_a_spectrum_is_a_covariance_that_is_the_same_everywhere():
    C, v, post = around(), normal(3, 1, 12), problem(white())
    spectrum = torch.fft.fft(C[0]).real[None]
    full, stationary = samplers.JFPS(covariance=C), samplers.JFPS(spectrum=spectrum)
    torch.testing.assert_close(stationary.spread(post, v, 0.7), full.spread(post, v, 0.7), rtol=1e-9, atol=1e-12)
    wanted = v.flatten(1) @ torch.linalg.inv(torch.linalg.inv(C) + torch.eye(12, dtype=F64) / 0.49)
    torch.testing.assert_close(full.spread(post, v, 0.7).flatten(1), wanted, rtol=1e-9, atol=1e-12)
    # from signals: 2000 of them have each of its variances within five standard errors
    signals = normal(2000, 12) @ torch.linalg.cholesky(C).T
    fitted = samplers.JFPS.fitted(signals.reshape(-1, 1, 12), steps=7)
    assert fitted.steps == 7 and (fitted.spectrum / spectrum - 1).abs().max() < 5 * (2 / 2000) ** 0.5


@pytest.mark.slow
def test_with_the_covariance_the_law_of_its_samples_is_of_second_order():
    post = problem(correlated())

    def sampler(n: int) -> samplers.JFPS:
        return samplers.JFPS(steps=n, iterations=ROWS, covariance=post.prior.covariance)

    assert_second_order(*(law(sampler(n), post) for n in (24, 48)), exact(post), 0.005)


@pytest.mark.slow
def test_covariance_at_25_evaluations_without_the_gradient_of_the_network():
    """.09 is the noise of the estimate from 3000 samples; without a covariance the error is 1.25, whatever the steps."""
    i = torch.arange(36, dtype=F64)
    prior = GaussianPrior((1, 36), covariance=torch.exp(-(i[:, None] - i).abs() / 6))
    A = Mask(prior.shape, (i % 3 == 0).double()[None])
    y = A(prior.sample(1, seed=3))[0]
    post = Posterior(prior, A, Gaussian(0.3), y + 0.3 * normal(*y.shape, seed=1))
    wanted = exact(post)[1]
    given = samplers.JFPS(steps=25, covariance=prior.covariance), samplers.JFPS.fitted(prior.sample(100, seed=9), steps=25)
    for sampler, least, most in ((given[0], 0, 0.12), (given[1], 0, 0.18), (samplers.JFPS(steps=25), 1, 1.5)):
        got = moments(sampler(post, 3000, seed=5))[1]
        assert least <= (got - wanted).norm() / wanted.norm() < most, sampler


def test_what_it_cannot_take_is_refused():
    post = problem(correlated())
    with pytest.raises(UnsupportedError, match=r"JFPS needs a spectrum of the prior's shape \(2, 3\), got \(3,\)"):
        samplers.JFPS(spectrum=torch.ones(3))(post, 1)
    with pytest.raises(UnsupportedError, match="needs a covariance of the prior's 6 values, got one of 5"):
        samplers.JFPS(covariance=torch.eye(5))(post, 1)
    with pytest.raises(OptionError, match=r"symmetric \(values, values\) matrix"):
        samplers.JFPS(covariance=torch.ones(3, 2))
    with pytest.raises(OptionError, match="spectrum or covariance, got both"):
        samplers.JFPS(spectrum=torch.ones(6), covariance=torch.eye(6))
    with pytest.raises(OptionError, match="at least two signals"):
        samplers.JFPS.fitted(torch.ones(1, 6))
