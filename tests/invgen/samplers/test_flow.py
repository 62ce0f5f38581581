"""Flow-matching samplers: their rules in the flow's own time, and their laws on Gaussian priors, known exactly."""

import math

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, OptionError, Posterior, noise_levels, samplers
from invgen.diffusion import flow_time, step
from invgen.forward import Operator
from invgen.noise import Noiseless, Poisson
from invgen.numerics.random import Streams
from invgen.operators import Mask
from invgen.priors import GaussianPrior
from tests.invgen.samplers.gaussian_problems import (
    EYE,
    F64,
    ROWS,
    SHAPE,
    SIGMA,
    Map,
    N,
    UnitNoise,
    assert_first_order,
    assert_same_law,
    assert_second_order,
    correlated,
    ddim,
    denoiser,
    distance,
    exact,
    law,
    many,
    matrix,
    normal,
    problem,
    propagate,
    white,
)


def data_map(post: Posterior, var: float, prior: float = 1.0) -> tuple[Tensor, Tensor]:
    """(M, b) with u -> M u + b the data step of the flow samplers, gamma = 1 / (|A|^2 / sigma^2 + prior / var)."""
    A = matrix(post.A)
    gamma = 1 / (torch.linalg.matrix_norm(A, 2) ** 2 / SIGMA**2 + prior / var) / SIGMA**2
    return EYE - gamma * A.T @ A, gamma * A.T @ post.y


def mean_of(sampler: samplers.DampedPnPFlow, post: Posterior) -> Tensor:
    """The mean of an affine sampler's output: its output without noise."""
    silent, one = UnitNoise(), many(post, 1)
    with torch.no_grad():
        *_, x = sampler.run(one, sampler.start(one, silent, 1), silent)
    return x.flatten()


# -- the time of flow matching ------------------------------------------------------------------------------------------


def test_schedule_flow_is_even_in_the_flows_time_in_any_units():
    levels = [s for s, _ in noise_levels(9, 0.01, 40.0, "flow", scale=0.5)]
    t = torch.tensor([flow_time(s, 0.5) for s in levels], dtype=F64)
    assert levels[0] == pytest.approx(40.0) and levels[-1] == pytest.approx(0.01)
    torch.testing.assert_close(t.diff(), t.diff()[:1].expand(8))
    other = [s for s, _ in noise_levels(9, 0.37, 1480.0, "flow", scale=18.5)]
    torch.testing.assert_close(torch.tensor(other), 37 * torch.tensor(levels))
    # a sampler takes the prior's own unit
    prior = white().rescaled(37.0)
    ours = [s for s, _ in samplers.DampedFlowChef(steps=9).levels(prior)]
    theirs = [37 * s for s, _ in samplers.DampedFlowChef(steps=9).levels(white())]
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs))


def test_the_step_is_eulers_on_the_velocity_of_the_flow():
    prior, x, s, s_next = correlated(), normal(4, *SHAPE, seed=3), 0.9, 0.6
    d = prior.data_std
    t, t_next = flow_time(s, d), flow_time(s_next, d)
    D = prior(x, s)
    velocity = (x - D) / s * d - D  # E[d eps - x_0 | x_t]
    x_t = (1 - t) * x
    torch.testing.assert_close(D, x_t - t * velocity)
    euler = x_t + (t_next - t) * velocity
    torch.testing.assert_close((1 - t_next) * step(x, D, s, s_next, 0.0, UnitNoise()), euler)


# -- FLOWER -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0, 1])
def test_flower_follows_the_papers_recursion(gamma):
    post = problem(correlated())
    prior, A, d = post.prior, matrix(post.A), post.prior.data_std

    def recursion(s: float, s_next: float) -> Map:
        t = 1 - flow_time(s, d)
        E, c = denoiser(prior, s)
        width = d**2 * (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
        S = torch.linalg.inv(EYE / width + A.T @ A / SIGMA**2)
        return S @ E / width, S @ (c / width + A.T @ post.y / SIGMA**2), gamma * S + s_next**2 * EYE

    sampler = samplers.Flower(steps=9, gamma=gamma)
    assert_same_law(law(sampler, post), propagate(sampler, post, recursion))


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_flower_with_its_noise_is_exact_on_a_white_prior_at_any_number_of_steps(steps):
    post = problem(white())
    # what is left is the last level, 1e-3 deviations
    assert distance(law(samplers.Flower(steps=steps, gamma=1), post), post) < 2e-3
    # and without it the variance is less than half
    mean, S = law(samplers.Flower(steps=steps), post)
    assert (mean - exact(post)[0]).norm() < 2e-3 and S.trace() < 0.5 * exact(post)[1].trace()


def test_flower_is_slow_where_values_tell_of_others():
    post = problem(correlated())
    errors = [distance(law(samplers.Flower(steps=n, gamma=1), post), post) for n in (25, 50, 200)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.4 * errors[0], errors


# -- OT-ODE -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.2, 0.0])
@pytest.mark.parametrize("cls", [samplers.OTODE, samplers.AdaptiveOTODE])
def test_otode_is_exact_on_a_white_prior_from_both_starts(start, cls):
    # starting at t = 0.2 from a draw under the white prior, which this prior is, loses nothing
    post = problem(white())
    laws = [law(cls(steps=n, begin=start, carry="draw"), post) for n in (24, 48)]
    if cls is samplers.OTODE:
        assert_first_order(*laws, exact(post))
    else:
        assert_second_order(*laws, exact(post), 0.02)


@pytest.mark.parametrize("weight", ["constant", "sqrt"])
def test_otode_follows_the_papers_recursion(weight):
    post = problem(correlated())
    prior, A, d = post.prior, matrix(post.A), post.prior.data_std
    sampler = samplers.OTODE(steps=12, begin=0.2, weight=weight, carry="draw")
    (s0, _), *_ = sampler.levels(prior)
    assert flow_time(s0, d) == pytest.approx(0.8)
    # the start: the posterior under N(data_mean, d^2 I), and noise of level s0
    gain = d**2 * A.T @ torch.linalg.inv(d**2 * A @ A.T + SIGMA**2 * torch.eye(ROWS, dtype=F64))
    flat = torch.full((N,), prior.data_mean, dtype=F64)
    start = flat + gain @ (post.y - A @ flat), d**2 * (EYE - gain @ A) + s0**2 * EYE

    def recursion(s: float, s_next: float) -> Map:
        # the paper's time: 1 at data, alpha = t, sigma = 1 - t, in units of d
        t, t_next = 1 - flow_time(s, d), 1 - flow_time(s_next, d)
        E, c = denoiser(prior, s)
        r2 = d**2 * (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
        S = A.T @ torch.linalg.inv(r2 * A @ A.T + SIGMA**2 * torch.eye(ROWS, dtype=F64))
        gamma = 1.0 if weight == "constant" else math.sqrt(t**2 / (t**2 + (1 - t) ** 2))
        # velocity of x_t = t x: (D - x_t) / (1 - t) + d^2 (1 - t) / t * gamma * grad_{x_t} log p(y | x_t)
        grad_M, grad_b = -E.T @ S @ A @ E / t**2, E.T @ S @ (post.y - A @ c) / t
        V = (E / t - EYE) / (1 - t) + gamma * d**2 * (1 - t) / t * grad_M
        b = c / (1 - t) + gamma * d**2 * (1 - t) / t * grad_b
        return (EYE + (t_next - t) * V) * t / t_next, (t_next - t) * b / t_next, 0 * EYE

    assert_same_law(law(sampler, post), propagate(sampler, post, recursion, start))


def test_otode_biased_where_the_prior_is_not_white():
    post = problem(correlated())
    # the width r^2 = s^2 d^2 / (s^2 + d^2) is not the covariance of D: the error stays as steps grow
    errors = [distance(law(samplers.OTODE(steps=n, begin=0.2, carry="draw"), post), post) for n in (50, 100)]
    assert 0.05 < errors[1] < 0.35 and abs(errors[1] - errors[0]) < 0.05, errors


# -- FlowDPS and FlowChef -------------------------------------------------------------------------------------------------


def test_flowdps_follows_the_papers_recursion_and_its_bias_is_known():
    post = problem(correlated())
    prior, sampler = post.prior, samplers.DampedFlowDPS(steps=10, shift=2.0)
    d = prior.data_std

    def recursion(s: float, s_next: float) -> Map:
        E, c = denoiser(prior, s)
        M, b = data_map(post, prior.variance(s))
        U, u = E, c
        for _ in range(3):
            U, u = M @ U, M @ u + b
        t, t_next = flow_time(s, d), flow_time(s_next, d)
        k = s_next * math.sqrt(t_next) / s
        F, f = (1 - t) * E + t * U, (1 - t) * c + t * u
        return F + k * (EYE - E), f - k * c, s_next**2 * (1 - t_next) * EYE

    assert_same_law(law(sampler, post), propagate(sampler, post, recursion))
    # its last steps belong to the prior: less biased with more steps, never unbiased
    sampler = samplers.DampedFlowDPS(steps=60)
    error = distance(propagate(sampler, post, recursion), post)
    assert 0.15 < error < 0.45, error


def test_flowchef_follows_its_recursion():
    post = problem(correlated())
    sampler = samplers.DampedFlowChef(steps=10, order=1)

    def recursion(s: float, s_next: float) -> Map:
        E, c = denoiser(post.prior, s)
        M, b = data_map(post, post.prior.variance(s))
        return ddim(M @ E, M @ c + b, s, s_next, 0.0)

    assert_same_law(law(sampler, post), propagate(sampler, post, recursion))
    sampler = samplers.DampedFlowChef(steps=100, order=1)
    error = distance(propagate(sampler, post, recursion), post)
    # one gradient step of the size that the largest singular value allows leaves the small ones behind
    assert 0.15 < error < 0.45, error


def test_flowchef_is_exact_on_a_white_prior_behind_a_mask():
    A = Mask(SHAPE, torch.tensor([[1.0, 0, 1], [1, 1, 0]], dtype=F64))
    post = Posterior(white(), A, Gaussian(SIGMA), A(normal(1, *SHAPE, seed=8))[0])
    assert_first_order(*(law(samplers.DampedFlowChef(steps=n, order=1), post) for n in (24, 48)), exact(post))
    assert_second_order(*(law(samplers.DampedFlowChef(steps=n), post) for n in (24, 48)), exact(post), 0.02)


def test_papers_flowchef_in_the_flows_own_time():
    post = problem(correlated())
    prior, sampler = post.prior, samplers.FlowChef(scale=0.3, steps=15)
    d, rows = prior.data_std, many(post, 3)
    x = sampler.start(rows, Streams(0, [0, 1, 2]), 3)
    *_, got = sampler.run(rows, x, Streams(1, [0, 1, 2]))
    levels = sampler.levels(prior)
    z = (1 - flow_time(levels[0][0], d)) * x
    for k, (s, s_next) in enumerate(levels):
        t, t_next = flow_time(s, d), flow_time(s_next, d)
        clean = prior(z / (1 - t), s)
        velocity = (z - clean) / t
        if k < len(levels) - 1:
            z = z - 0.3 * (2 / ROWS) * post.A.adjoint(post.A(clean) - post.y)
        z = z + (t_next - t) * velocity
    torch.testing.assert_close(got, z)


def test_papers_flowdps_in_the_flows_own_time():
    post = problem(correlated())
    prior, sampler = post.prior, samplers.FlowDPS(step_size=0.05)
    assert (sampler.steps, sampler.shift, sampler.inner) == (28, 4.0, 3)
    d, rows = prior.data_std, many(post, 2)
    x = sampler.start(rows, Streams(0, [0, 1]), 2)
    *_, got = sampler.run(rows, x, Streams(1, [0, 1]))
    noise, levels = Streams(1, [0, 1]), sampler.levels(prior)
    # a shift of 4: the levels are four times those of an even grid
    even = noise_levels(28, prior.sigma_min / 4, prior.sigma_max / 4, "flow", d)
    torch.testing.assert_close(torch.tensor([s for s, _ in levels]), 4 * torch.tensor([s for s, _ in even]))
    z = (1 - flow_time(levels[0][0], d)) * x
    for s, s_next in levels:
        t, t_next = flow_time(s, d), flow_time(s_next, d)
        z0 = prior(z / (1 - t), s)
        z1 = (z - (1 - t) * z0) / t
        zy = z0
        for _ in range(3):
            r = post.y - post.A(zy)
            zy = zy + 0.05 * post.A.adjoint(r) / r.norm(dim=1)[:, None, None]
        z0y = (1 - t) * z0 + t * zy
        fresh = d * noise(z1) if s_next > 0 else 0.0 * z1
        z = (1 - t_next) * z0y + t_next * (math.sqrt(t_next) * z1 + math.sqrt(1 - t_next) * fresh)
    torch.testing.assert_close(got, z)


# -- PnP-Flow -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "alpha"), [(samplers.DampedPnPFlow, None), (samplers.PnPFlow, 0.5), (samplers.PnPFlow, 1.0)]
)
def test_pnpflow_fixed_point_at_a_level(cls, alpha):
    post = problem(correlated())
    s, n = 0.3, 2000
    grid = tuple(s * (1 + 1e-9 * (n - k)) for k in range(n))
    options = {} if alpha is None else {"alpha": alpha}
    sampler = cls(steps=n, schedule=grid, average=1, **options)
    spare = s**2 * torch.linalg.matrix_norm(matrix(post.A), 2).item() ** 2
    var_y = SIGMA**2 + spare if alpha is None else spare / flow_time(s, post.prior.data_std) ** alpha
    wanted, _ = exact(Posterior(post.prior, post.A, Gaussian(math.sqrt(var_y)), post.y))
    torch.testing.assert_close(mean_of(sampler, post), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.slow  # 3000 steps twice
def test_pnpflow_ends_at_the_mode_as_steps_grow():
    post = problem(correlated())
    mode, scale = exact(post)[0], exact(post)[1].trace().sqrt()
    errors = [
        ((mean_of(samplers.DampedPnPFlow(steps=n, average=1), post) - mode).norm() / scale).item() for n in (30, 300, 3000)
    ]
    assert errors[1] < 0.75 * errors[0] and errors[2] < 0.5 * errors[1] and errors[2] < 0.06, errors
    # the paper's step knows no noise level: it ends beyond the mode, nearer to the least-squares fit
    paper = mean_of(samplers.PnPFlow(steps=3000, average=1, alpha=0.01), post)
    residual = [(post.residual(x.reshape(1, *SHAPE)).norm() / SIGMA).item() for x in (paper, mode)]
    assert residual[0] < 0.2 * residual[1], residual


@pytest.mark.slow
def test_pnpflow_is_a_point_estimate():
    post = problem(correlated())
    x = samplers.DampedPnPFlow()(post, 100).flatten(1)
    spread = x.var(0).sum().sqrt() / exact(post)[1].trace().sqrt()
    # the mean of five denoisings at each of 100 steps: a fraction of the posterior's spread
    assert 0.05 < spread < 0.4, spread


def test_published_settings():
    assert samplers.Flower.paper("denoising").steps == 100 and samplers.Flower.paper().steps == 500
    assert samplers.PnPFlow.paper("deblurring") == samplers.PnPFlow(alpha=0.01)
    with pytest.raises(OptionError, match="'colouring'"):
        samplers.PnPFlow.paper("colouring")
    for make in (
        lambda: samplers.DampedPnPFlow(average=0),
        lambda: samplers.AdaptiveOTODE(begin=1.0),
        lambda: samplers.DampedFlowDPS(shift=0.0),
        lambda: samplers.FlowChef(scale=0.0),
    ):
        with pytest.raises(OptionError, match="got|unknown"):
            make()


# -- other problems -------------------------------------------------------------------------------------------------------


class Exponential(Operator):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp().flatten(1)


each = pytest.mark.parametrize(
    "cls", [samplers.DampedPnPFlow, samplers.DampedFlowDPS, samplers.DampedFlowChef], ids=lambda c: c.__name__
)


@pytest.mark.slow
@each
@pytest.mark.parametrize("noise", [Gaussian(0.1), Poisson(0.05)], ids=["Gaussian", "Poisson"])
def test_nonlinear_operators(cls, noise):
    prior = GaussianPrior(SHAPE, torch.zeros(SHAPE, dtype=F64), 1.0)
    A = Exponential(SHAPE)
    y = noise.sample(A(prior.sample(1, seed=2)), torch.Generator().manual_seed(3))[0]
    post = Posterior(prior, A, noise, y)
    x = cls(steps=100)(post, 20)
    before, after = (post.residual_over_noise(u).median().item() for u in (prior.sample(200, seed=4), x))
    # each value is measured: the posterior's residual is below 1, but FlowDPS ends with steps of the prior alone
    assert after < 0.25 * before and after < (3.5 if cls is samplers.DampedFlowDPS else 2.0), (before, after)


@pytest.mark.slow
@each
def test_exact_measurements_are_met(cls):
    A = Mask(SHAPE, torch.tensor([[1.0, 0, 1], [1, 1, 0]], dtype=F64))
    y = A(normal(1, *SHAPE, seed=8))[0]
    post = Posterior(correlated(), A, Noiseless(), y)
    left = post.residual(cls(steps=100)(post, 4)).abs().max() / y.abs().max()
    # FlowDPS ends with steps of the prior alone, which lead away from the data again
    assert left < (0.8 if cls is samplers.DampedFlowDPS else 0.15)
