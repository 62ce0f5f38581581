"""Scores against closed forms of Gaussian priors, the black picture, a detector that learns the sign, purification."""

import math

import pytest
import torch

import invgen
from invgen import OptionError, ShapeError, UnsupportedError, priors
from invgen.autoregressive import Autoregressive

F64 = torch.float64


def gaussian(n: int = 64, std: float = 0.5) -> priors.GaussianPrior:
    return priors.GaussianPrior((n,), torch.zeros(n, dtype=F64), std**2)


@pytest.mark.slow
def test_the_density_is_the_priors_and_its_p_values_are_uniform_on_its_own_samples():
    prior = gaussian()
    x = prior.sample(400, seed=1)
    scores = invgen.score(x, prior, num_samples=400, steps=2)
    torch.testing.assert_close(scores.values["surprise"], -prior.log_prob(x) / 64, rtol=1e-9, atol=1e-9)
    for p in (*scores.p_values.values(), scores.p_value):
        assert (p <= 0.1).double().mean().item() == pytest.approx(0.1, abs=0.06)  # four standard errors of 400
        assert p.min() >= 1 / 401
    # D = x / (1 + level^2) for a white prior: the slope is known
    level = 0.2
    wanted = (x.square().mean(1) * (level**2 / (1 + level**2)) ** 2).log()
    torch.testing.assert_close(scores.values["slope 0.2"], wanted, rtol=1e-6, atol=1e-6)


def test_a_black_picture_is_the_likeliest_of_all_and_is_caught_on_both_sides():
    prior = gaussian()
    scores = invgen.score(torch.zeros(30, 64, dtype=F64), prior, prior.sample(100, seed=2), steps=2)
    areas = scores.auroc()
    assert areas["surprise"].value == 0 and areas["surprise, two-sided"].value == 1
    assert (scores.p_value == 1 / 101).all()
    assert "30 of 30 signals have p < 0.05 among 100 reference signals" in str(scores)


@pytest.mark.slow
def test_a_detector_learns_the_sign_from_examples():
    prior = gaussian()
    real = invgen.score(prior.sample(200, seed=3), prior, prior.sample(200, seed=4), steps=2)
    for scale in (0.7, 1.4):  # made signals that fit better than any, and worse
        made, others = (invgen.score(scale * prior.sample(200, seed=s), prior, num_samples=2, steps=2) for s in (5, 6))
        tells = invgen.detector(real.reference, made.values)
        assert invgen.metrics.auroc(tells(real.values), tells(others.values)).value > 0.95
    with pytest.raises(ShapeError, match="score both alike"):
        invgen.detector(real.values, {})


@pytest.mark.slow
def test_decoders_and_wrong_signals():
    prior = priors.load("digits-vae")
    scores = invgen.score(prior.sample(4, seed=0), prior, num_samples=4)
    assert list(scores.values) == ["reconstruction"]
    with pytest.raises(UnsupportedError, match="no density, no denoiser and no encoder"):
        invgen.score(torch.zeros(1, 1, 32, 32), priors.load("digits-gan"))
    with pytest.raises(ShapeError, match="signals of shape"):
        invgen.score(torch.zeros(1, 5), gaussian())
    with pytest.raises(OptionError, match="^x must hold finite values"):
        invgen.score(torch.full((1, *gaussian().shape), torch.nan), gaussian())


@pytest.mark.slow
def test_purification_of_a_white_gaussian_shrinks_as_the_posterior_does():
    prior = gaussian(4, 0.5)
    x = torch.full((1, 4), 2.0, dtype=F64)
    u = invgen.purify(x, prior, level=0.5, steps=200, num_samples=4000)[:, 0]
    # x + 0.5 eps is taken for a noisy signal at level 0.5: mean x / 2; its variance is 1 / 8, and 1 / 16 of the added noise
    assert u.mean().item() == pytest.approx(1.0, abs=0.03)
    assert u.var().item() == pytest.approx(0.1875, rel=0.1)
    assert torch.equal(invgen.purify(x, prior, level=0.5, num_samples=3), invgen.purify(x, prior, level=0.5, num_samples=3))
    v = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(invgen.purify(v, prior, level=0.5, steps=200, differentiable=True).sum(), v)
    torch.testing.assert_close(slope, torch.full_like(slope, 0.5), rtol=0.05, atol=0)
    with pytest.raises(OptionError, match="level must lie between"):
        invgen.purify(x, prior, level=1e6)
    with pytest.raises(OptionError, match="^purify takes signals of finite values"):
        invgen.purify(x / 0, prior, level=0.5)


class Same(Autoregressive):
    """Each value is that before it, nine times in ten."""

    def next_logits(self, prefix: torch.Tensor) -> torch.Tensor:
        out = torch.full((len(prefix), len(self.levels)), math.log(0.1))
        if prefix.shape[1]:
            out.scatter_(1, prefix[:, -1:], math.log(0.9))
        return out


def test_an_autoregressive_prior_purifies_within_the_ball():
    prior = Same((5,), [0.0, 0.5, 1.0])
    x = torch.tensor([[0.1, 0.45, 0.9, 0.1, 0.4]])
    # from 0 on: 0.5 is not within 0.3 of 0.9 nor 0 within 0.3 of 0.45, so that it follows where it may
    assert invgen.purify(x, prior, level=0.3)[0, 0].tolist() == [0.0, 0.5, 1.0, 0.0, 0.5]
    assert invgen.purify(x, prior, level=0.5)[0, 0].tolist() == [0.0, 0.0, 0.5, 0.5, 0.5]
