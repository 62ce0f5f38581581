"""DPnP and MGDM, which alternate draws given y with draws of the prior: each draw against its law, then the chain."""

import math

import pytest
import torch

from invgen import Gaussian, OptionError, Posterior, samplers
from invgen.numerics.random import Streams
from invgen.operators import Mask
from invgen.priors import GaussianPrior
from invgen.samplers.mcmc.dpnp import dds_ddim, dds_ddpm
from invgen.samplers.mcmc.mgdm import bridge_kernel
from tests.invgen.samplers.gaussian_problems import (
    EYE,
    F64,
    SHAPE,
    Law,
    UnitNoise,
    bures,
    correlated,
    distance,
    exact,
    law,
    moments,
    normal,
    problem,
)

# -- DPnP --------------------------------------------------------------------------------------------------------------


def law_of(draw, prior: GaussianPrior, v: torch.Tensor, eta: float, steps: int) -> Law:
    """Mean and covariance of a draw that is affine in its noise."""
    count = UnitNoise()
    draw(prior, v[None], eta, steps, count)
    x = draw(prior, v.expand(1 + count.used, *SHAPE), eta, steps, UnitNoise(1 + count.used)).flatten(1)
    return x[0], (x[1:] - x[0]).T @ (x[1:] - x[0])


@pytest.mark.parametrize("draw", [dds_ddim, dds_ddpm])
def test_the_denoising_samplers_converge_to_the_law_of_the_signal_given_its_noisy_version(draw):
    prior, v, eta = correlated(), 2 * normal(*SHAPE, seed=9), 0.7
    E = prior.covariance @ torch.linalg.inv(prior.covariance + eta**2 * EYE)
    wanted = prior.mean.flatten() + E @ (v - prior.mean).flatten(), prior.covariance - E @ prior.covariance
    errors = [bures(law_of(draw, prior, v, eta, steps), wanted) for steps in (20, 40, 80)]
    # of first order: halved as the steps double
    assert errors[2] < 0.6 * errors[1] < 0.4 * errors[0] and errors[0] < 0.2 * wanted[1].trace().sqrt(), errors


def test_dds_ddim_starts_from_the_law_at_infinity_exactly():
    # one step: eps = (v - D(v, eta)) / eta throughout, x = v + eta q - eta (pi / 2) eps
    prior, v = correlated(), 2 * normal(*SHAPE, seed=9)
    mean, S = law_of(dds_ddim, prior, v, 0.7, 1)
    torch.testing.assert_close(mean, (v - math.pi / 2 * (v - prior(v[None], 0.7)[0])).flatten())
    torch.testing.assert_close(S, 0.49 * EYE)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_dpnp_at_one_eta_has_the_law_with_inflated_noise(sampler):
    post, eta = problem(correlated()), 0.5
    units = eta / post.prior.data_std
    chain = samplers.DPnP(steps=12, eta_max=units, eta_min=units, sampler=sampler, denoise_steps=40)
    wanted = exact(post, rho=eta)
    # the bias of its 40 steps, well below that of eta
    assert distance(law(chain, post), wanted) < 0.2 * distance(wanted, exact(post))


def test_eta_stays_then_falls_by_a_constant_factor():
    prior = correlated()
    eta = [a / prior.data_std for a, _ in samplers.DPnP(steps=8, first=3, eta_max=0.8, eta_min=0.1).levels(prior)]
    assert eta[:4] == pytest.approx([0.8] * 4) and eta[-1] == pytest.approx(0.1)
    assert [b / a for a, b in zip(eta[3:-1], eta[4:], strict=True)] == pytest.approx(4 * [0.125**0.25])
    with pytest.raises(OptionError, match="DPnP needs eta_min <= eta_max"):
        samplers.DPnP(eta_min=1.0)


# -- MGDM --------------------------------------------------------------------------------------------------------------


def test_the_bridge_is_the_conditional_of_a_noise_that_adds_up():
    # x_low, x_t and x_s are sums of independent noise of variances low^2, t^2 - low^2 and s^2 - t^2
    low, t, s = torch.tensor([[0.0, 0.4], [0.7, 1.1], [1.9, 1.9]], dtype=F64)  # a row of each, with levels of its own
    x, z = normal(2, *SHAPE), normal(2, *SHAPE, seed=1)
    mean, std = bridge_kernel(x, z, s, low, t)
    for k in range(2):
        part = (t[k] ** 2 - low[k] ** 2) / (s[k] ** 2 - low[k] ** 2)
        torch.testing.assert_close(mean[k], z[k] + part * (x[k] - z[k]))
        torch.testing.assert_close(std[k].flatten(), ((1 - part) * (t[k] ** 2 - low[k] ** 2)).sqrt()[None])


def test_the_guided_level_is_random_for_each_row_then_the_next():
    sampler, prior = samplers.MGDM(denoise_steps=4), correlated()
    top = sampler.levels(prior)[30][0]
    ladder = torch.stack(sampler.ladder(prior, torch.zeros(500, *SHAPE, dtype=F64), top, Streams(0, list(range(500)))), 1)
    assert ladder.shape == (500, 4) and (ladder.diff(dim=1) <= 0).all()
    assert (ladder[:, 0] <= top).all() and len(ladder[:, 0].unique()) > 200
    assert ladder[:, -1].unique().tolist() == pytest.approx([sampler.levels(prior)[-1][0]])
    fixed = torch.stack(sampler.ladder(prior, torch.zeros(2, *SHAPE, dtype=F64), top, None), 1)
    assert fixed[:, 0].tolist() == pytest.approx([top, top], rel=0.02)  # the nearest of 1000 levels


@pytest.mark.slow
def test_mgdm_as_published_is_biased_by_the_stated_share():
    """The mixture and a fit of few steps: more Gibbs sweeps and longer fits do not remove what the mixture leaves."""
    i = torch.arange(12, dtype=F64)
    prior = GaussianPrior((1, 12), covariance=torch.exp(-(i[:, None] - i).abs() / 6))
    A = Mask(prior.shape, (i % 3 == 0).double()[None])
    y = A(prior.sample(1, seed=3))[0]
    post = Posterior(prior, A, Gaussian(0.3), y + 0.3 * normal(*y.shape, seed=1))
    got, wanted = moments(samplers.MGDM(steps=50)(post, 300, seed=5)), exact(post)
    assert (got[0] - wanted[0]).norm() < 0.15 * wanted[0].norm()
    assert 0.75 < got[1].trace() / wanted[1].trace() < 1.25
