"""Samplers on pushforward priors x = g(z), against posteriors over z that are known.

A decoder g(z) = W z + b with orthonormal columns and a mixture over z has its posterior in closed form. A curved decoder of
two numbers has it on a grid.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, OptionError, Posterior, priors, samplers
from invgen.diffusion import Denoiser
from invgen.metrics import sliced_wasserstein
from invgen.operators import Downsample, Matrix
from invgen.priors import GaussianMixture
from invgen.pushforward import Generator, StandardNormal
from invgen.sampler import Cost
from tests.invgen.samplers.gaussian_problems import (
    F64,
    SHAPE,
    Law,
    Linear,
    Map,
    N,
    assert_same_law,
    ddim,
    law,
    matrix,
    normal,
    propagate,
    through,
)

CODES = 3


def mixture() -> GaussianMixture:
    return GaussianMixture(2 * normal(4, CODES, seed=3), [0.1, 0.2, 0.3, 0.4], var=0.3)


def problem(latent: Denoiser | None = None, rows: int = 2, sigma: float = 0.3) -> Posterior:
    """A decoder with orthonormal columns."""
    decoder = Linear(torch.linalg.qr(normal(N, CODES, seed=1))[0], normal(N, seed=2), latent)
    return Posterior(decoder, Matrix(normal(rows, N, seed=4), SHAPE), Gaussian(sigma), normal(rows, seed=5))


def over_codes(post: Posterior) -> tuple[Tensor, Tensor]:
    """(M, v) with A g(z) = M z + v."""
    g, A = post.prior, matrix(post.A)
    return A @ g.W, A @ g.b


def exact_gaussian(post: Posterior) -> Law:
    """Mean and covariance of z given y for standard normal codes."""
    M, v = over_codes(post)
    covariance = torch.linalg.inv(M.T @ M / post.noise.sigma**2 + torch.eye(CODES, dtype=F64))
    return covariance @ M.T @ (post.y - v) / post.noise.sigma**2, covariance


# -- latent DPS and latent DAPS: the samplers of signals, on codes ---------------------------------------------------


@pytest.mark.slow
def test_latent_dps_and_daps_on_a_linear_decoder_of_a_mixture():
    post = problem(mixture())
    M, v = over_codes(post)
    codes = post.prior.latent.posterior(Matrix(M), post.noise, post.y - v)
    wanted, other = (post.prior(codes.sample(500, seed=s)) for s in (1, 2))
    prior = post.prior(post.prior.latent.sample(500, seed=3))

    def distance(x: Tensor) -> float:
        return sliced_wasserstein(x.flatten(1), wanted.flatten(1), p=1, slices=300).item()

    floor, without_data = distance(other), distance(prior)
    got = {
        "dps": distance(samplers.DampedDPS(steps=50)(post, 500)),
        "daps": distance(samplers.AdaptiveDAPS(steps=25, langevin_steps=50)(post, 500)),
    }
    # biased: both take p(z_0 | z_sigma) for one Gaussian, so that modes get wrong weights
    assert floor < 0.06 and without_data > 0.7 and got["dps"] < 0.25 and got["daps"] < 0.15, (floor, without_data, got)


class Banana(Generator):
    """x = (z_1, z_2 + z_1^2 / 2, sin z_1) of two standard normal codes."""

    def __init__(self) -> None:
        super().__init__((3,), StandardNormal((2,), F64), data_std=1.0)

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([z[:, 0], z[:, 1] + 0.5 * z[:, 0] ** 2, z[:, 0].sin()], 1)


def banana() -> tuple[Posterior, Tensor, Tensor]:
    """A problem, and its posterior over z as weights on a grid."""
    A = Matrix(torch.tensor([[0.3, 1.0, 0.0]], dtype=F64))
    post = Posterior(Banana(), A, Gaussian(0.2), torch.tensor([1.2], dtype=F64))
    line = torch.linspace(-5, 5, 401, dtype=F64)
    grid = torch.cartesian_prod(line, line)
    log = post.prior.latent.log_prob(grid) + post.log_likelihood(post.prior(grid))
    return post, grid, log.softmax(0)


def moments(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    mean = w @ x
    return mean, (x - mean).T @ ((x - mean) * w[:, None])


@pytest.mark.slow  # a thousand samples of each
def test_latent_dps_and_daps_on_a_curved_decoder():
    post, grid, w = banana()
    mean, covariance = moments(post.prior(grid), w)
    for sampler in (samplers.DampedDPS(steps=50), samplers.AdaptiveDAPS(steps=25, langevin_steps=50)):
        x = sampler(post, 1000)
        m, S = moments(x, torch.full((1000,), 1e-3, dtype=F64))
        # a tenth of a width and of the variance; the error of 1000 samples is 0.03 of each
        assert (m - mean).norm() < 0.2 * covariance.trace().sqrt(), sampler
        assert 0.8 < S.trace() / covariance.trace() < 1.1, sampler


# -- CSGM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "steps", "tol"),
    [pytest.param(None, 25, 1e-6, id="L-BFGS"), pytest.param(0.1, 800, 1e-3, id="Adam", marks=pytest.mark.slow)],
)
def test_csgm_is_the_mode_of_a_gaussian_and_has_no_spread(lr, steps, tol):
    post = problem()
    mode = post.prior(exact_gaussian(post)[0][None])
    x = samplers.CSGM(steps=steps, lr=lr)(post, 5)
    torch.testing.assert_close(x, mode.expand(5, *SHAPE), rtol=tol, atol=tol)


def test_csgm_finds_the_mode_of_a_curved_decoder():
    post, grid, w = banana()
    misfit = lambda z: -(post.prior.latent.log_prob(z) + post.log_likelihood(post.prior(z)))  # noqa: E731
    lowest = misfit(grid[w.argmax()][None])
    codes = []
    samplers.CSGM(restarts=1)(post, 50, callback=lambda k, z: codes.append(z))
    # both arms of the banana have a mode, and descent ends in either: each sample is one of two points
    values = misfit(codes[-1])
    assert (values < lowest + 1e-3).double().mean() > 0.3 and values.max() < lowest + 3, values
    assert (codes[-1] - grid[w.argmax()]).norm(dim=1).min() < 0.03  # the grid's step is 0.025


@pytest.mark.slow
def test_csgm_keeps_the_restart_with_the_smallest_residual():
    post, _, _ = banana()
    one, many = (samplers.CSGM(restarts=r, steps=40)(post, 30) for r in (1, 6))
    a, b = post.residual_over_noise(one), post.residual_over_noise(many)
    assert (b <= a + 1e-9).all() and (b < a - 1e-3).any()
    # the smallest residual, not the smallest objective, which has another mode
    cost = Cost()
    samplers.CSGM(restarts=4, steps=9)(post, 2, cost=cost)
    assert cost.nfe == 4 * 10 + 1
    with pytest.raises(OptionError, match="restarts of CSGM must be a positive whole number, got 0"):
        samplers.CSGM(restarts=0)


@pytest.mark.slow
def test_csgm_uses_the_density_of_the_codes():
    post = problem(mixture(), sigma=3.0)
    x = samplers.CSGM(steps=60)(post, 8)
    codes = post.prior.encode(x).requires_grad_()
    value = post.prior.latent.log_prob(codes) + post.log_likelihood(post.prior(codes))
    (grad,) = torch.autograd.grad(value.sum(), codes)
    assert grad.abs().max() < 1e-4


# -- PULSE ----------------------------------------------------------------------------------------------------------


PULSES = [samplers.PULSE(), samplers.PULSE.paper()]


@pytest.mark.parametrize("sampler", PULSES)
def test_pulse_searches_the_sphere(sampler):
    post, codes = problem(), []
    replace(sampler, steps=10)(post, 20, callback=lambda k, z: codes.append(z))
    for z in codes:
        torch.testing.assert_close(z.norm(dim=1), torch.full((20,), math.sqrt(CODES), dtype=F64))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", PULSES)
def test_pulse_finds_the_best_point_of_a_circle(sampler):
    post, _, _ = banana()
    far = Posterior(post.prior, post.A, post.noise, torch.tensor([3.5], dtype=F64))  # out of reach of |z|^2 = 2
    angle = torch.linspace(0, 2 * math.pi, 100_001, dtype=F64)
    circle = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1)
    best = far.residual_over_noise(far.prior(circle)).min()
    found = far.residual_over_noise(sampler(far, 40))
    assert best > 3 and (found - best).abs().max() < 1e-3 * best, (best, found)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", PULSES)
def test_pulse_stops_at_the_noise_level(sampler):
    post = problem(rows=1)
    found = post.residual_over_noise(sampler(post, 20))
    assert (found <= 1.0001).all()
    assert post.residual_over_noise(replace(sampler, stop=0.0)(post, 20)).max() < 0.1


def test_pulse_keeps_the_start_of_the_smallest_residual():
    post, cost = problem(), Cost()
    one = samplers.PULSE(restarts=1, steps=3, stop=0)(post, 40)
    many = samplers.PULSE(restarts=5, steps=3, stop=0)(post, 40, cost=cost)
    one, many = post.residual_over_noise(one), post.residual_over_noise(many)
    assert (many <= one).all() and (many < one).float().mean() > 0.5  # the first of the five starts is the one
    assert cost.nfe == 5 * 4 + 1  # and the decoding of what is returned


@pytest.mark.slow
def test_pulse_explains_images_of_a_trained_gan():
    prior = priors.load("digits-gan")
    A = Downsample(prior.shape, 4)
    clean = A(prior.sample(8, seed=77))
    post = Posterior(prior, A, Gaussian(0.02), clean + 0.02 * normal(*clean.shape, seed=0).float())
    ours, papers = (post.residual_over_noise(sampler(post)[0]) for sampler in PULSES)
    assert (ours <= 1.1).all() and papers.median() > 1.2, (ours, papers)  # why the defaults are not the paper's


# -- PSLD -----------------------------------------------------------------------------------------------------------


def orthogonal_problem() -> Posterior:
    """Measurements whose rows are orthogonal over the codes, of one length, so that the weight of DPS is a number."""
    post = problem()
    Q = torch.linalg.qr(normal(CODES, 2, seed=6))[0]
    return Posterior(post.prior, Matrix(1.7 * Q.T @ post.prior.W.T, SHAPE), post.noise, post.y)


def codes_at_the_top(sampler: samplers.Sampler, post: Posterior) -> Law:
    """Standard normal codes at the highest level."""
    var = 1 + sampler.levels(post.prior)[0][0] ** 2
    return torch.zeros(CODES, dtype=F64), var * torch.eye(CODES, dtype=F64)


def psld_law(post: Posterior, sampler: samplers.PSLD) -> Law:
    """The algorithm in dense matrices, on standard normal codes."""
    M, v = over_codes(post)
    A, W = matrix(post.A), post.prior.W
    var, eye = post.noise.sigma**2, torch.eye(CODES, dtype=F64)
    K = A.T @ torch.linalg.inv(A @ A.T + var * torch.eye(len(A), dtype=F64))
    T = W.T @ (torch.eye(N, dtype=F64) - K @ A) @ W  # of the code glued together, as a map of the clean code
    glued = W.T @ K @ (post.y - v)

    def step(s: float, s_next: float) -> Map:
        E = eye / (1 + s**2)
        spread = s**2 / (1 + s**2) * 1.7**2 / var
        # z0 + zeta s^2 E M^T r / var / (1 + spread) - gamma s^2 / variance E (I - T)^T ((I - T) z0 - glued)
        weight = s**2 / (1 + s**2) / var / (1 + spread)
        gain = sampler.gamma * (eye - T).T  # s^2 / variance times E is 1 here
        G = E - sampler.zeta * weight * M.T @ M @ E - gain @ (eye - T) @ E
        c = sampler.zeta * weight * M.T @ (post.y - v) + gain @ glued
        return ddim(G, c, s, s_next, 1.0)

    return propagate(sampler, post, step, codes_at_the_top(sampler, post))


@pytest.mark.parametrize("options", [{}, {"gamma": 0.0}, {"zeta": 0.5, "gamma": 0.3}])
def test_psld_is_its_recursion(options):
    post, sampler = orthogonal_problem(), samplers.PSLD(steps=12, order=1, **options)
    assert_same_law(law(sampler, post), psld_law(post, sampler))


@pytest.mark.slow
def test_psld_without_gluing_is_exact_here_and_gluing_counts_the_data_again():
    post = orthogonal_problem()
    mean, covariance = exact_gaussian(post)
    ratios = []
    for gamma in (0.0, 0.1, 0.3):
        m, S = psld_law(post, samplers.PSLD(steps=1000, gamma=gamma))
        ratios.append((S.trace() / covariance.trace()).item())
        # without gluing the guided denoiser is E[z_0 | z, y], and what is left is the error of 1000 steps
        assert (m - mean).norm() < (1e-5 if gamma == 0 else 0.06) * covariance.trace().sqrt()
    assert 0.98 < ratios[0] < 1.0 and ratios[0] - 0.03 > ratios[1] > ratios[2] > 0.9, ratios


# -- ReSample -------------------------------------------------------------------------------------------------------


def resample_law(post: Posterior, sampler: samplers.InvariantReSample) -> Law:
    """Algorithm 1 in dense matrices, on standard normal codes, without a stop: optimisation is projection."""
    M, v = over_codes(post)
    A, W = matrix(post.A), post.prior.W
    eye, levels = torch.eye(CODES, dtype=F64), sampler.levels(post.prior)
    gains = {True: W.T @ torch.linalg.pinv(A), False: torch.linalg.pinv(M)}  # on the signal and encoded, or on the code
    maps, first = [], len(levels) // 3
    assert sampler.corrections >= len(levels) - first  # every level of the last two thirds
    for k, (s, s_next) in enumerate(levels):
        E = eye / (1 + s**2)
        onward = E + s_next / s * (eye - E)
        if k < first:
            maps.append((onward, torch.zeros(CODES, dtype=F64), 0 * eye))
            continue
        gain = gains[k - first < (len(levels) - first) // 3]
        clean, c = (eye - gain @ M) @ E, gain @ (post.y - v)
        if s_next > 0:
            steps = 1.0 if isinstance(sampler, samplers.InvariantReSample) else 1 - (s_next / s) ** 2
            width = sampler.gamma * s_next**2 * steps
            a = width / (width + s_next**2)
            clean, c, noise = a * clean + (1 - a) * onward, a * c, a * s_next**2
        else:
            noise = 0.0
        maps.append((clean, c, noise * eye))
    return through(codes_at_the_top(sampler, post), maps)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [samplers.ReSample, samplers.InvariantReSample])
def test_resample_is_its_recursion(cls):
    post, sampler = problem(), cls(steps=9, schedule="edm", inner_steps=40, stop=0.0)
    assert_same_law(law(sampler, post), resample_law(post, sampler), tol=1e-5)


@pytest.mark.slow
def test_resample_stops_at_the_noise_level_and_spreads_too_little():
    post = problem()
    x = samplers.InvariantReSample()(post, 300)
    level = post.residual_over_noise(x)
    _, covariance = exact_gaussian(post)
    assert (level <= 1.0001).all() and level.mean() > 0.5
    assert 0.4 < x.flatten(1).var(0).sum() / covariance.trace() < 0.6  # half of the posterior's variance


@pytest.mark.slow
def test_resample_works_without_an_encoder_and_says_what_options_it_takes():
    post, _, _ = banana()
    level = post.residual_over_noise(samplers.InvariantReSample(steps=30)(post, 100))
    assert (level < 1.01).double().mean() > 0.9
    with pytest.raises(OptionError, match="gamma of InvariantReSample must be a positive number, got 0.0"):
        samplers.InvariantReSample(gamma=0.0)
    paper = samplers.ReSample()
    assert (paper.steps, paper.corrections, paper.gamma) == (500, 33, 40.0)
