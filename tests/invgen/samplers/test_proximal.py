"""Proximal samplers on problems where everything is known: the inner draws, where they stop, and how their biases fall."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invgen import Noiseless, Posterior, samplers
from invgen.numerics.random import Streams
from invgen.operators import Matrix
from invgen.samplers.data_term import local_fit
from invgen.samplers.proximal._fits import draw_near, fit_gaussian, perturbed
from tests.invgen.samplers.gaussian_problems import (
    EYE,
    F64,
    ROWS,
    SHAPE,
    SIGMA,
    N,
    correlated,
    distance,
    many,
    normal,
    problem,
    white,
)

# -- inner draws --------------------------------------------------------------------------------------------------


def test_a_draw_near_a_gaussian_is_exact_for_one_measurement():
    # N(u; m, t^2 I) N(y; a u, sigma^2), perturbed: one step of ascent is exact
    a, std, count = normal(1, N, seed=7), 0.8, 6000
    post = many(problem(white(), A=Matrix(a, SHAPE)), count)
    mean, randn = normal(1, *SHAPE, seed=9).expand(count, *SHAPE), Streams(0, list(range(count)))
    data = perturbed(post, randn)

    def fit(u: Tensor):
        return *local_fit(data, u, 1.0, whole=True), lambda v: v

    x = draw_near(mean, std, fit, 1, randn).flatten(1)
    S = torch.linalg.inv(EYE / std**2 + a.T @ a / SIGMA**2)
    m = S @ (mean[0].flatten() / std**2 + (a * post.y[0]).flatten() / SIGMA**2)
    # five standard errors of means and of covariances
    assert ((x.mean(0) - m).abs() < 5 * (S.diagonal() / count).sqrt()).all()
    assert ((x.T.cov() - S).abs() < 5 * std**2 * (2 / count) ** 0.5).all()


def test_draws_near_a_gaussian_become_exact_with_as_many_steps_as_measurements():
    # conjugate gradients solve three rows in three steps; with fewer the spread stays too wide, and never goes below
    std, count, weight = 0.8, 6000, 0.5
    post = many(problem(white()), count)
    mean, A = normal(1, *SHAPE, seed=9).expand(count, *SHAPE), normal(ROWS, N, seed=3)
    S = torch.linalg.inv(EYE / std**2 + weight * A.T @ A / SIGMA**2)
    m = S @ (mean[0].flatten() / std**2 + weight * A.T @ post.y[0] / SIGMA**2)
    traces = []
    for iterations in (1, 2, 3):
        randn = Streams(0, list(range(count)))
        data = perturbed(post, randn, weight)

        def fit(u: Tensor, data: Posterior = data):
            gradient, curvature = local_fit(data, u, 1.0, whole=True)
            return weight * gradient, lambda d: weight * curvature(d), lambda v: v

        x = draw_near(mean, std, fit, iterations, randn).flatten(1)
        traces.append(x.T.cov().trace())
    assert ((x.mean(0) - m).abs() < 5 * (S.diagonal() / count).sqrt()).all()
    assert ((x.T.cov() - S).abs() < 5 * std**2 * (2 / count) ** 0.5).all()
    assert traces[0] > traces[1] > 0.98 * S.trace(), (traces, S.trace())


def test_adam_fits_the_nearest_gaussian_with_independent_values():
    # to N(u; m, t^2) exp(-(u - c)^2 / (2 v)) coordinate by coordinate: precisions add
    m, std, c, v, rows = normal(1, 4), 0.8, 2.0, 0.3, 200
    mean, spread = fit_gaussian(
        m.expand(rows, 4), std, lambda u: -0.5 * ((u - c) ** 2 / v).sum(1), 300, 0.05, Streams(0, list(range(rows)))
    )
    var = 1 / (1 / std**2 + 1 / v)
    # rows jitter by the constant step of Adam; their averages are within a few per cent
    torch.testing.assert_close(mean.mean(0), (var * (m / std**2 + c / v))[0], rtol=0.03, atol=0.03)
    torch.testing.assert_close(spread.mean(0), torch.full((4,), math.sqrt(var), dtype=F64), rtol=0.08, atol=0)


# -- SITCOM -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sitcom_stops_at_the_noise_and_returns_its_last_step():
    post = problem(correlated(), 0.1)
    x = samplers.SITCOM(steps=15, iterations=60)(post, 50)
    level = post.residual_over_noise(x)
    # stopped by the discrepancy principle: no closer than the noise, but for the last step of Adam
    assert (level < 1.03).all() and level.mean() > 0.5
    exact = replace(post, noise=Noiseless())
    level = samplers.SITCOM(steps=15, iterations=60)(exact, 20)
    assert post.residual(level).abs().max() < 0.2
    # the samples of an optimiser spread less than the posterior: total variance below it
    posterior = post.prior.posterior(post.A, post.noise, post.y)
    assert x.flatten(1).var(0).sum() < 1.1 * posterior.covariance.trace()


# -- DCPS and MGPS: biases that fall -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_mgps_bias_is_that_of_its_approximations():
    # the likelihood at the midpoint leaves out what D does not know there: closer draws do not make up for it
    post = problem(correlated())
    errors = [distance(samplers.ConjugateMGPS(steps=40, iterations=k)(post, 800), post) for k in (1, 2, 4)]
    assert errors == pytest.approx([0.164, 0.220, 0.215], abs=0.01), errors


@pytest.mark.slow  # six runs of DCPS
def test_dcps_bias_falls_with_its_blocks():
    post = problem(correlated())
    by_iterations = [distance(samplers.ConjugateDCPS(steps=40, iterations=k)(post, 800), post) for k in (1, 2, 4)]
    assert by_iterations == pytest.approx([0.203, 0.214, 0.211], abs=0.01), by_iterations
    by_blocks = [distance(samplers.ConjugateDCPS(steps=40, blocks=b)(post, 800), post) for b in (1, 3, 6)]
    assert by_blocks == pytest.approx([0.228, 0.214, 0.187], abs=0.01), by_blocks
