"""An alarm where x is not the prior's: rare where it is, on exact priors and shipped ones; sure where it can tell."""

import dataclasses
import math

import pytest
import torch

import invgen
from invgen import operators, priors, samplers
from invgen.errors import OptionError
from invgen.inference.fit import ALPHA, fit
from invgen.inference.simulation import simulate
from tests.invgen.inference.test_calibration import NOISE, PRIOR, A, Exact, calibrate

PLACE = torch.arange(64.0)


def smooth() -> priors.GaussianPrior:
    """Smooth signals of 64 values, whose denoiser's error was measured on 64 of them."""
    covariance = torch.exp(-((PLACE[:, None] - PLACE) ** 2) / 50) + 1e-4 * torch.eye(64)
    prior = priors.GaussianPrior((64,), covariance=covariance)
    return prior.measure_mmse(prior.sample(64, seed=1))


def denoised(x: torch.Tensor, prior: priors.GaussianPrior, true_noise: float = 0.2) -> invgen.Result:
    """Exact samples of the posterior given x and white noise, declared as of 0.2."""
    noise, samples = 0.2, 4
    eye = operators.Identity(prior.shape)
    y = invgen.Gaussian(true_noise).sample(x, torch.Generator().manual_seed(2))
    gain = prior.covariance @ torch.linalg.inv(prior.covariance + noise**2 * torch.eye(64))
    root = torch.linalg.cholesky(noise**2 * gain + 1e-7 * torch.eye(64))
    z = torch.randn(samples, *x.shape, generator=torch.Generator().manual_seed(3))
    drawn = y @ gain.T + z @ root.T
    return invgen.Result(drawn, invgen.Posterior(prior, eye, noise, y), samplers.DPS(), 0, 0.0, 0.0)


def test_p_values_of_the_residual_are_valid():
    """P(p <= u) <= u of exact posteriors; twice a mean of uniform values leaves small ones rarer still, but not absent."""
    _, y = simulate(PRIOR, A, NOISE, 1000, 5)
    found = invgen.solve(y, A, PRIOR, NOISE, Exact(), num_samples=4).fit
    for u in (0.05, 0.2, 0.5):
        assert (found.p_residual <= u).double().mean() < u + 3 * math.sqrt(u * (1 - u) / 1000)
    assert (found.p_residual < 0.5).double().mean() > 0.02
    assert found.denoising.isnan().all()  # no table
    assert abs(found.residual.mean() - 1) < 0.1
    one = invgen.solve(y, A, PRIOR, NOISE, Exact()).fit.p_residual / 2  # of a single sample twice a uniform value
    assert abs(one[one < 0.5].numel() / 1000 - 0.5) < 4 * 0.5 / math.sqrt(1000)


def test_noise_that_is_larger_than_declared_is_an_alarm():
    prior = smooth()
    wrong = denoised(prior.sample(60, seed=4), prior, 0.5).fit
    assert wrong._far.double().mean() > 0.95
    assert "measurements (number 0, 1, " in str(wrong) and "the residual is up to" in str(wrong)


@pytest.mark.parametrize("gain", [0.05, 1.0])
def test_photon_counts_have_a_p_value_by_draws_of_their_law(gain):
    """Signals and counts that fit: p-values as of the truth itself, uniform but for the factor 2 of one sample."""
    prior, eye = priors.GaussianPrior((30,), mean=20.0, data_std=2.0), operators.Identity((30,))
    x, y = simulate(prior, eye, invgen.Poisson(gain), 60, 1)
    found = fit(invgen.Posterior(prior, eye, invgen.Poisson(gain), y), x[None])
    assert abs((found.p_residual < 0.5).double().mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 60)
    assert found.elsewhere.sum() <= 2  # of 60, each with a probability of 0.0125
    far = fit(invgen.Posterior(prior, eye, invgen.Poisson(gain), y), 0.5 * x[None])
    assert far.elsewhere.all()


def test_rough_signals_under_a_prior_of_smooth_ones():
    prior = smooth()
    known = denoised(prior.sample(60, seed=4), prior)
    rough = denoised(torch.randn(60, 64, generator=torch.Generator().manual_seed(5)), prior)
    assert known.fit.elsewhere.double().mean() <= 0.05
    assert rough.fit.elsewhere.double().mean() > 0.95
    assert abs(known.fit.denoising.mean() - 1) < 0.1 and known.fit.sigma == pytest.approx(0.1 * prior.data_std)
    assert str(rough.fit).startswith("x of 60 of 60 measurements (number 0, 1, 2, 3, 4, 5, 6, 7, ...) seems to come from")


def test_one_measurement_is_one_sentence():
    prior = smooth()
    x = prior.sample(1, seed=4)[0]
    known = denoised(x, prior)
    text = str(known.fit)
    assert text.startswith("nothing says that x comes from elsewhere than the prior: the residual is ")
    assert "at sigma = 0.1 the denoiser errs " in text and "\n" not in text
    assert known.fit.elsewhere.shape == ()
    alone = denoised(prior.sample(3, seed=4), prior).fit
    # the same noise for every measurement: a figure does not depend on the batch
    first = denoised(prior.sample(3, seed=4), prior)
    one = fit(first.posterior.rows(torch.tensor([2])), first.samples[:, 2:])
    assert torch.allclose(one.denoising, alone.denoising[2:]) and torch.allclose(one.residual, alone.residual[2:])


@pytest.mark.slow  # loads Matplotlib
def test_a_card_shows_the_sentence_where_it_was_asked_for():
    result = denoised(smooth().sample(1, seed=4)[0], smooth())
    assert "nothing says" not in result._repr_html_()
    assert str(result.fit)[:40] in result._repr_html_()


def test_samples_that_follow_the_noise_say_nothing_of_the_prior():
    prior = smooth()
    post = denoised(prior.sample(60, seed=4), prior).posterior
    found = fit(post, (post.y - 0.1)[None])  # the measurement itself, half a deviation off
    assert found.denoising.min() > 1.75 and found.overfitted.all() and not found.elsewhere.any()
    assert str(found).startswith(
        "the samples follow the noise, take more steps or another sampler: the residual is up to 0.5"
    )


def test_where_there_is_nothing_to_ask():
    prior, eye = priors.GaussianPrior((4,)), operators.Identity((4,))
    for noise in (invgen.Noiseless(), invgen.Energy(lambda clean, y: (clean - y).square().sum(1))):
        found = fit(invgen.Posterior(prior, eye, noise, torch.zeros(2, 4)), torch.zeros(3, 2, 4))
        assert "neither a law of the noise nor a table" in str(found) and not found.elsewhere.any()
    empty = fit(invgen.Posterior(prior, eye, 0.1, torch.zeros(0, 4)), torch.zeros(3, 0, 4))
    assert empty.elsewhere.shape == (0,) and str(empty)


def test_ranks_among_calibrated_pairs_allow_for_the_sampler():
    """A sampler that is off by its own fault alarms on everything; by ranks, on 5 % of the prior's signals at most."""
    sampler = Exact(shift=0.4)
    report = calibrate(sampler, num_simulations=199, num_samples=4)
    _, y = simulate(PRIOR, A, NOISE, 300, 8)
    with pytest.warns(UserWarning, match="do not explain the measurement"):
        result = invgen.solve(y, A, PRIOR, NOISE, sampler, num_samples=4)
    fitted = report.fit(result)
    assert result.fit.elsewhere.double().mean() > 0.9
    assert fitted.elsewhere.double().mean() < ALPHA / 2 + 3 * math.sqrt(ALPHA / 2 * (1 / 300 + 1 / 199))
    assert fitted.pairs == 199
    far = dataclasses.replace(result, samples=result.samples + 3)
    assert report.fit(far).elsewhere.double().mean() > 0.9
    least = calibrate(sampler, num_simulations=39, num_samples=4)
    assert least.fit(far).p_residual.min() == 1 / 40 and least.fit(far).elsewhere.double().mean() > 0.9
    with pytest.raises(OptionError, match="has 199 simulations of 4 samples; to judge a result of 5 samples takes"):
        report.fit(invgen.solve(y[:1], A, PRIOR, NOISE, Exact(shift=0.4), num_samples=5))
