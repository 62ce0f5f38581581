"""Optimisers as samplers: HybridReg against RED-diff; DMPlug, D-Flow and Flow Priors against what they minimise, in closed
form for Gaussian priors.

All are point estimates of each random start. Their spread stands here as a number beside the posterior's.
"""

import math

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, OptionError, Posterior, UnsupportedError, samplers
from invgen.metrics import sliced_wasserstein
from invgen.numerics.random import Streams
from invgen.operators import Mask, Matrix, from_function
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.pushforward import Flow
from invgen.sampler import Cost
from tests.invgen.samplers.gaussian_problems import (
    EYE,
    F64,
    SHAPE,
    Law,
    N,
    assert_same_law,
    correlated,
    denoiser,
    exact,
    law,
    many,
    matrix,
    normal,
    problem,
)


def spread(x: Tensor) -> float:
    """Total variance of samples (n, *shape)."""
    return x.flatten(1).var(0).sum().item()


def affine(flow: Flow) -> tuple[Tensor, Tensor]:
    """(F, b) with g(z) = F z + b, for the flow of a Gaussian prior."""
    eye = EYE.reshape(N, *SHAPE)
    b = flow(torch.zeros_like(eye[:1])).flatten()
    return (flow(eye).flatten(1) - b).T, b


def starts(count: int, seed: int = 0) -> Tensor:
    """The random starts of samples 0, 1, ... of one measurement, (count, 6)."""
    index = torch.stack([torch.arange(count), torch.zeros(count, dtype=torch.int64)], 1)
    return Streams(seed, index)(torch.empty(count, *SHAPE, dtype=F64)).flatten(1)


# -- HybridReg ------------------------------------------------------------------------------------------------------


def test_hybrid_regularisation_with_fresh_noise_alone_is_reddiff_after_a_first_look():
    post = many(problem(correlated()), 4)
    levels, x = [a for a, _ in samplers.HybridReg(steps=7).levels(post.prior)], torch.zeros(4, *SHAPE, dtype=F64)
    hybrid, red = Streams(0, [0, 1, 2, 3]), Streams(0, [0, 1, 2, 3])
    red(x)  # the noise of the first step
    got = list(samplers.HybridReg(schedule=levels, beta=1.0).run(post, x, hybrid))
    wanted = list(samplers.REDdiff(schedule=levels[1:]).run(post, x, red))
    torch.testing.assert_close(got[1:], wanted, rtol=1e-12, atol=1e-12)


def test_the_points_of_hybrid_regularisation_spread_as_stated():
    i = torch.arange(36, dtype=F64)
    prior = GaussianPrior((1, 36), covariance=torch.exp(-(i[:, None] - i).abs() / 6))
    A = Mask(prior.shape, (i % 3 == 0).double()[None])
    post = Posterior(prior, A, Gaussian(0.3), A(prior.sample(1, seed=3))[0])
    wanted = exact(post)[1].diagonal()
    found = [
        sampler(post, 1000, seed=5).flatten(1).var(0) / wanted for sampler in (samplers.HybridReg(), samplers.REDdiff())
    ]
    # measured values: the same point from every seed; 1000 samples have five per cent of noise in a variance
    assert all(ratio[i % 3 == 0].max() < 0.01 for ratio in found)
    assert found[0][i % 3 > 0].mean() == pytest.approx(0.98, abs=0.08)
    assert found[1][i % 3 > 0].mean() < 0.4


# -- DMPlug ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "steps", "tol"),
    [pytest.param(None, 40, 1e-6, id="L-BFGS"), pytest.param(0.1, 800, 5e-3, id="Adam", marks=pytest.mark.slow)],
)
def test_dmplug_without_a_stop_ends_on_the_codes_that_explain_the_data(lr, steps, tol):
    post = problem(correlated())
    flow = Flow(post.prior, 3, "flow")
    F, b = affine(flow)
    J = post.A(F.T.reshape(N, *SHAPE)).T
    z = starts(20)
    gap = post.y - post.A((z @ F.T + b).reshape(-1, *SHAPE))
    # L-BFGS stays in the span of its gradients and so ends at the nearest point; Adam scales each number by its own
    nearest = z + gap @ torch.linalg.pinv(J).T
    x = samplers.DMPlug(steps=steps, lr=lr, stop=0.0)(post, 20)
    torch.testing.assert_close(post.A(x), post.y.expand(20, -1), rtol=tol, atol=tol)
    if lr is None:
        torch.testing.assert_close(x.flatten(1), nearest @ F.T + b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_dmplug_stops_at_the_noise_level():
    post = problem(correlated())
    x = samplers.DMPlug()(post, 200)
    level = post.residual_over_noise(x)
    assert (level <= 1.0001).all() and 0.5 < level.mean() < 0.95  # the step that passes the level may go well below it
    assert (post.residual_over_noise(samplers.DMPlug(stop=0.5)(post, 50)) <= 0.5001).all()


@pytest.mark.slow
def test_the_spread_of_dmplug_is_that_of_its_map_not_of_the_posterior():
    # three DDIM steps of a Gaussian lose half of its width; what the data leave open then spreads too little
    post = problem(correlated())
    ratios = []
    for k in (3, 10):
        x = samplers.DMPlug(ode_steps=k)(post, 2000)
        ratios.append(spread(x) / exact(post)[1].trace().item())
    assert 0.2 < ratios[0] < 0.3 and 0.65 < ratios[1] < 0.77, ratios


def test_dmplug_paper_form_and_cost():
    assert samplers.DMPlug.paper() == samplers.DMPlug(steps=5000, schedule=(9.26, 1.44, 0.01), lr=0.01, stop=0.0)
    assert samplers.DMPlug.paper("nonlinear").steps == 10_000
    post, cost = problem(correlated()), Cost()
    samplers.DMPlug(steps=7)(post, 2, cost=cost)
    assert cost.nfe == 3 * 8


# -- D-Flow ---------------------------------------------------------------------------------------------------------


def dflow_objective(post: Posterior, F: Tensor, b: Tensor, lam: float, z: Tensor) -> Tensor:
    square = z.square().sum(1)
    misfit = 0.5 * ((post.y - post.A((z @ F.T + b).reshape(-1, *SHAPE))) / post.noise.sigma).square().sum(1)
    return misfit + lam * (0.5 * square - 0.5 * (N - 1) * square.log())


@pytest.mark.slow
def test_dflow_ends_where_its_objective_is_stationary_and_lowest():
    post = problem(correlated())
    F, b = affine(Flow(post.prior, 6, "flow", "midpoint"))
    x = samplers.DFlow(steps=80)(post, 30)
    z = ((x.flatten(1) - b) @ torch.linalg.inv(F).T).requires_grad_()
    value = dflow_objective(post, F, b, 1.0, z)
    (grad,) = torch.autograd.grad(value.sum(), z)
    assert grad.abs().max() < 1e-4, grad.abs().max()
    # the lowest of 200 random starts by another optimiser: every sample is that low
    best = starts(200, seed=1)
    for _ in range(3000):
        u = best.requires_grad_()
        (g,) = torch.autograd.grad(dflow_objective(post, F, b, 1.0, u).sum(), u)
        best = (u - 0.02 * g).detach()
    lowest = dflow_objective(post, F, b, 1.0, best).min()
    assert (value < lowest + 2.0).all() and (value.min() - lowest).abs() < 1e-4, (value, lowest)


@pytest.mark.slow
def test_dflow_keeps_the_norm_of_its_source_likely():
    # with much weight, |z| = sqrt(n - 1), where the density of the norm is highest
    post = problem(correlated())
    F, b = affine(Flow(post.prior, 6, "flow", "midpoint"))
    z = (samplers.DFlow(steps=80, lam=1e3)(post, 20).flatten(1) - b) @ torch.linalg.inv(F).T
    torch.testing.assert_close(z.norm(dim=1), torch.full((20,), math.sqrt(N - 1), dtype=F64), rtol=0.02, atol=0)


@pytest.mark.slow
@pytest.mark.slow
def test_the_spread_of_dflow_hangs_on_the_measurement():
    """A Gaussian posterior has the same covariance for every measurement; the points of D-Flow do not.

    Where the descent ends well they are one point, where it gets stuck they are as far apart as its starts.
    """
    posts = [problem(correlated(), signal=s) for s in range(4, 10)]
    ratios = [spread(samplers.DFlow(steps=60)(post, 300)) / exact(post)[1].trace().item() for post in posts]
    assert min(ratios) < 0.01 and 0.8 < max(ratios) < 1.2, ratios


def test_dflow_options_and_cost():
    with pytest.raises(OptionError, match="blend of DFlow must be a number from 0 to 1, 1 excluded"):
        samplers.DFlow(blend=1.0)
    post, cost = problem(correlated()), Cost()
    samplers.DFlow(steps=4, blend=0.0)(post, 2, cost=cost)
    assert cost.nfe == 5 * 12


# -- Flow Priors ----------------------------------------------------------------------------------------------------


def flow_priors_law(post: Posterior, sampler: samplers.DampedFlowPriors) -> Law:
    """The recursion of Algorithm 1 in dense matrices: u = P u_0 + q with u_0 standard normal."""
    prior, A, std = post.prior, matrix(post.A), post.prior.data_std
    m = torch.full((N,), prior.data_mean, dtype=F64)
    goal, var = (post.y - A @ m) / std, post.noise.sigma**2 / std**2
    P, q = EYE, torch.zeros(N, dtype=F64)
    first = 1 / (1 + prior.sigma_max / std)
    dt = (1 - first) / sampler.steps
    for k in range(sampler.steps):
        t = first + k * dt
        ahead = t + dt
        E, c = denoiser(prior, std * (1 - t) / t)
        V, w = (E / t - EYE) / (1 - t), (E @ m + c - m) / (std * (1 - t))
        for _ in range(sampler.iterations):
            S = EYE + dt * V
            L = t / ahead * A.T / (ahead**2 * var)
            H = L @ A @ S
            # gradient of the data and of -log p(u_t), each as (matrix on u, matrix on u_0, vector)
            data = H, -(1 - ahead) * L @ A, dt * L @ A @ w - ahead * L @ goal
            density = (EYE - t * V) / (1 - t), -t * w / (1 - t)
            share = 1 - math.exp(-sampler.rate * dt / sampler.iterations)
            inverse = torch.linalg.inv(A.T @ A / (ahead**2 * var) + EYE / (1 - t) ** 2)
            P, q = (
                P - inverse @ ((data[0] + share * density[0]) @ P + data[1]),
                q - inverse @ ((data[0] + share * density[0]) @ q + data[2] + share * density[1]),
            )
        P, q = P + dt * V @ P, q + dt * (V @ q + w)
    return m + std * q, std**2 * P @ P.T


@pytest.mark.parametrize("options", [{}, {"iterations": 3}, {"rate": 2.0}])
def test_flow_priors_is_its_recursion(options):
    post, sampler = problem(correlated()), samplers.DampedFlowPriors(steps=15, **options)
    assert_same_law(law(sampler, post), flow_priors_law(post, sampler), tol=1e-6)


def test_flow_priors_finds_the_map_of_a_gaussian_and_spreads_too_little():
    post = problem(correlated())
    mean, covariance = exact(post)
    width = covariance.trace().sqrt()
    gaps, ratios = [], []
    for rate in (1.0, 10.0, 100.0):
        m, S = flow_priors_law(post, samplers.DampedFlowPriors(rate=rate))
        gaps.append(((m - mean).norm() / width).item())
        ratios.append((S.trace() / covariance.trace()).item())
    # the default's distance from the mode, in widths of the posterior, and its share of the variance
    assert gaps[1] < 0.25 and ratios[0] > ratios[1] > ratios[2] and 0.04 < ratios[1] < 0.08, (gaps, ratios)


def test_flow_priors_does_not_depend_on_the_number_of_steps():
    post = problem(correlated())
    a, b = (flow_priors_law(post, samplers.DampedFlowPriors(steps=n)) for n in (100, 400))
    width = exact(post)[1].trace().sqrt()
    assert (a[0] - b[0]).norm() < 0.1 * width and (a[1].trace().sqrt() - b[1].trace().sqrt()).abs() < 0.1 * width


@pytest.mark.slow
def test_flow_priors_paper_form_moves_by_its_rate_against_the_sign():
    assert samplers.FlowPriors() == samplers.FlowPriors(steps=100, lr=0.01)
    ratios = []
    for post in (problem(correlated(), signal=s) for s in range(4, 10)):
        slow, fast = (samplers.FlowPriors(steps=100, lr=lr)(post, 20) for lr in (0.01, 0.1))
        ratios.append(post.residual_over_noise(slow).mean() / post.residual_over_noise(fast).mean())
    # a hundred steps of 0.01 data_std reach less far than the data ask for; ten times as much overshoots by its own size
    assert sum(ratios) / 6 > 1.2 and min(ratios) > 1, ratios
    with pytest.raises(UnsupportedError, match="FlowPriors needs a LinearOperator"):
        A = from_function(lambda x: x.flatten(1) ** 2, SHAPE)
        samplers.DampedFlowPriors()(Posterior(post.prior, A, Gaussian(0.1), torch.ones(N, dtype=F64)))


def test_flow_priors_follows_the_trace_of_a_prior_that_is_not_gaussian():
    """The first move of 4000 rows from one start, without data and with a whole step of the prior, against its average."""
    prior = GaussianMixture(normal(3, 2, seed=11), [0.2, 0.3, 0.5], var=0.3, sigma_max=0.8)
    post = Posterior(prior, Matrix(torch.eye(2, dtype=F64)), Gaussian(1e9), torch.zeros(2, dtype=F64))
    sampler = samplers.DampedFlowPriors(steps=20, rate=1e9)
    std, mean = prior.data_std, prior.data_mean
    t = std / (std + 0.8)
    dt = (1 - t) / 20
    rows = 4000
    u = normal(1, 2, seed=12)
    with torch.no_grad():
        got = next(sampler.run(many(post, rows), u.expand(rows, 2), Streams(0, torch.arange(rows)))).mean(0)

    def velocity(u: Tensor) -> Tensor:
        return ((prior(mean + std * u / t, 0.8) - mean) / std - u) / (1 - t)

    def expected(trace: float) -> Tensor:
        v = u.clone().requires_grad_()
        J = torch.autograd.functional.jacobian(lambda w: velocity(w).sum(0), v, create_graph=True)[:, 0]
        (grad,) = torch.autograd.grad(J.trace(), v)
        moved = u - (1 - t) ** 2 * ((u - t * velocity(u)) / (1 - t) + trace * dt * grad)
        return (mean + std * (moved + dt * velocity(moved)) / (t + dt))[0]

    apart = (expected(1.0) - expected(0.0)).norm()
    # probes of signs: exact on the diagonal of the Jacobian, off it an error of 1 / sqrt(4000)
    assert (got - expected(1.0)).norm() < 0.1 * apart, (got, expected(1.0), expected(0.0))


# -- multimodal -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_searches_on_a_mixture_reach_its_modes_and_not_its_law():
    prior = GaussianMixture(torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=F64), [0.3, 0.3, 0.4], var=0.2)
    post = Posterior(prior, Matrix(torch.tensor([[0.0, 1.0]], dtype=F64)), Gaussian(0.2), torch.zeros(1, dtype=F64))
    law = prior.posterior(post.A, post.noise, post.y)
    wanted, other = law.sample(1000, seed=1), law.sample(1000, seed=2)
    floor = sliced_wasserstein(wanted, other, p=1, slices=200).item()
    for sampler in (samplers.DMPlug(), samplers.DFlow(), samplers.DampedFlowPriors()):
        x = sampler(post, 1000)
        right = (x[:, 0] > 0).double().mean().item()
        distance = sliced_wasserstein(x, wanted, p=1, slices=200).item()
        assert 0.4 < right < 0.6, (sampler, right)  # random starts reach both modes alike
        assert 2 * floor < distance < 0.4, (sampler, distance, floor)
