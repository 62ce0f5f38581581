"""Samplers of a few steps: the papers' recursions in dense matrices, and their laws on Gaussian priors, known exactly."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import invgen
from invgen import Gaussian, Posterior, UnsupportedError, sample, samplers
from invgen.conditional import ConditionalDenoiser
from invgen.diffusion import Denoiser, Sigma
from invgen.inference.auto import recommend
from invgen.noise import Noiseless
from invgen.operators import Mask
from invgen.priors import GaussianConsistency, GaussianPrior
from tests.invgen.samplers.gaussian_problems import (
    EYE,
    F64,
    ROWS,
    SHAPE,
    SIGMA,
    Linear,
    Map,
    N,
    assert_same_law,
    exact,
    law,
    matrix,
    normal,
    problem,
    through,
)

MASK = Mask(SHAPE, torch.arange(N).reshape(SHAPE) < 4)


def white(d: float = 0.7) -> GaussianConsistency:
    return GaussianConsistency(SHAPE, 0.2 * normal(*SHAPE, seed=2), d**2)


def correlated() -> GaussianConsistency:
    root = normal(N, N, seed=1)
    return GaussianConsistency(SHAPE, normal(*SHAPE, seed=2), covariance=root @ root.T / N + 0.2 * EYE)


def chain(n: int = 36) -> Posterior:
    """A Gaussian of correlation length 6 whose every third value is measured with noise 0.3."""
    k = torch.arange(n)
    prior = GaussianConsistency((n,), torch.zeros(n, dtype=F64), covariance=(-(k[:, None] - k).abs() / 6).to(F64).exp())
    return problem(prior, 0.3, Mask((n,), k % 3 == 0), signal=3)


def errors(got: tuple[Tensor, Tensor], post: Posterior) -> tuple[float, float, float]:
    """Of the mean in deviations, of the covariance, relative, and the variance of measured values over the exact one."""
    (m, S), (mean, covariance) = got, exact(post)
    kept = matrix(post.A).abs().sum(0) > 0
    ratio = (S.diagonal() / covariance.diagonal())[kept].mean().item()
    off = ((m - mean).norm() / covariance.trace().sqrt()).item()
    return off, ((S - covariance).norm() / covariance.norm()).item(), ratio


def jump(prior: GaussianConsistency, s: float) -> tuple[Tensor, Tensor]:
    """(J, c) with f(x, s) = J x + c, from the covariance."""
    values, vectors = torch.linalg.eigh(prior.covariance)
    J = vectors * (values / (values + s**2)).sqrt() @ vectors.T
    return J, (EYE - J) @ prior.mean.flatten()


# -- CM4IR --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("damping", "eta"), [(1.0, 0.1), (0.0, 0.6)])
def test_cm4ir_follows_the_papers_recursion(damping, eta):
    post = problem(correlated())
    sampler = samplers.CM4IR(damping=damping, eta=eta, deltas=(0.2, 0.1))
    A, unit = matrix(post.A), (post.prior.value_range[1] - post.prior.value_range[0]) / 2
    gain = A.T @ torch.linalg.inv(A @ A.T + damping * SIGMA**2 / unit**2 * torch.eye(len(A), dtype=F64))
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    alpha = (1 - beta).cumprod(0)[250].item()
    levels = [unit * math.sqrt(1 - min(alpha * 1.2**k, 0.9999)) for k in range(4)]
    flat = torch.full((N,), post.prior.data_mean, dtype=F64)
    m, P = flat + gain @ (post.y - A @ flat), levels[0] ** 2 * EYE
    maps: list[Map] = []
    for k, s in enumerate(levels):
        J, c = jump(post.prior, (1 + (0.2, 0.1, 0.0, 0.0)[k]) * s)
        if k == 3:  # no guidance in the last step where there is noise
            maps.append((J, c, 0 * EYE))
            continue
        back, sign = EYE - gain @ A, -levels[k + 1] * math.sqrt(1 - eta**2) / s
        noise = (levels[k + 1] * eta) ** 2 * EYE
        maps.append((back @ J + sign * (EYE - J), back @ c + gain @ post.y - sign * c, noise))
    assert_same_law(law(sampler, post), through((m, P), maps))


def test_cm4ir_has_the_released_settings():
    assert samplers.CM4IR.paper("deblurring") == samplers.CM4IR(first=150, growth=0.05, damping=1.0)
    prior = GaussianConsistency((4,), var=0.25, value_range=(-1.0, 1.0), sigma_min=0.01)
    # sqrt(1 - 0.523) with alpha-bar of DDPM's step 250
    assert samplers.CM4IR().levels(prior)[0][0] == pytest.approx(0.691, abs=2e-3)


def test_cm4ir_is_a_restoration_not_a_sampler():
    post = problem(white(), 0.3, MASK)
    off, _, measured = errors(law(samplers.CM4IR(), post), post)
    assert measured < 0.12 and 0.1 < off < 0.6


# -- LATINO -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [samplers.LATINO, samplers.AdaptiveLATINO])
@pytest.mark.parametrize("latent", [False, True])
def test_latino_follows_the_recursion(cls, latent):
    W, b = (normal(N, N, seed=6), 0.3) if latent else (EYE, 0.0)
    codes = correlated() if not latent else GaussianConsistency((N,), normal(N, seed=2), 0.5)
    prior = Linear(W, b, codes) if latent else codes
    post = dataclasses.replace(problem(white()), prior=prior)
    sampler, A, d = cls(steps=5, delta=0.7), matrix(post.A), prior.data_std
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=F64) ** 2
    kept = (1 - beta).cumprod(0)
    levels = [((1 - kept[t]) / kept[t]).sqrt().item() * codes.data_std for t in (999, 799, 599, 399, 199)]
    back, b = torch.linalg.inv(W), torch.full((N,), float(b), dtype=F64)

    def data(width: float) -> tuple[Tensor, Tensor]:
        gain = width * A.T @ torch.linalg.inv(width * A @ A.T + SIGMA**2 * torch.eye(len(A), dtype=F64))
        return EYE - gain @ A, gain

    flat = torch.full((N,), prior.data_mean, dtype=F64)
    M, gain = data(d**2)
    start = back @ (M @ flat + gain @ post.y - b), 0 * EYE
    maps = []
    for s in levels:
        values, vectors = torch.linalg.eigh(codes.covariance)
        J = vectors * (values / (values + s**2)).sqrt() @ vectors.T
        c = (EYE - J) @ codes.mean.flatten()
        width, fresh = 0.7 * d**2 * s**2 / (codes.data_std**2 + s**2), 0.0
        if cls is samplers.AdaptiveLATINO:
            r2, v = codes.variance(s), codes.variance(codes.sigma_max)
            a, fresh = math.sqrt(1 - r2 / v), SIGMA**2
            width = 0.7 * (r2 / v * d**2 if latent else r2) / (1 + a)
        M, gain = data(width)
        step = back @ M @ W
        noise = s**2 * (step @ J) @ (step @ J).T + fresh * back @ gain @ gain.T @ back.T
        maps.append((step @ J, step @ c + back @ (M @ b + gain @ post.y - b), noise))
    assert_same_law(law(sampler, post), through(start, maps))


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_adaptive_latino_is_exact_on_a_white_prior_at_any_number_of_steps(steps):
    post = problem(white())
    off, covariance, _ = errors(law(samplers.AdaptiveLATINO(steps=steps), post), post)
    # a level of 14.6 deviations leaves a fifteenth of the start, whose unmeasured part is off by the scatter of the mean
    assert off < 0.02 and covariance < 0.01


def test_latino_is_too_narrow_on_a_white_prior_and_slow_on_a_chain():
    post = problem(white(), 0.3, MASK)
    assert 0.25 < errors(law(samplers.LATINO(), post), post)[2] < 0.5
    post = chain()
    off, covariance, _ = zip(*(errors(law(samplers.LATINO(steps=n), post), post) for n in (8, 64)), strict=True)
    assert 0.5 < off[0] < 1.1 and off[1] < 0.3
    assert 0.9 < covariance[0] < 1.5 and covariance[1] < 0.3


class Prompted(ConditionalDenoiser):
    """N(W c, C) by its consistency function, for an embedding c of three entries; c = 0 without one."""

    consistency = True

    def __init__(self) -> None:
        super().__init__((64,), sigma_min=1e-3, sigma_max=80.0, data_std=1.0)
        self.law = GaussianConsistency((64,), torch.zeros(64), 0.04)
        self.W = normal(64, 3, seed=11).float()

    def forward(self, x: Tensor, sigma: Sigma, condition: Tensor | None = None) -> Tensor:
        mean = 0.0 if condition is None else condition @ self.W.T
        return mean + self.law(x - mean, sigma)


def test_latino_pro_finds_the_condition():
    network, truth, start = Prompted(), torch.tensor([1.0, -0.5, 0.8]), torch.zeros(3)
    x = network.W @ truth
    post = Posterior(network.condition(start), Mask((64,), torch.arange(64) < 32), 0.05, x[:32])
    # a round without a step is LATINO, and costs as much
    one = samplers.LATINOPRO(rounds=1, rate=0.0)
    torch.testing.assert_close(one(post, 2, seed=3), samplers.LATINO(steps=4)(post, 2, seed=3), rtol=0, atol=1e-6)
    assert invgen.solve(post.y, post.A, post.prior, 0.05, samplers.LATINOPRO(), seed=0).nfe == 60

    def off(sampler: samplers.Sampler, prior: Denoiser) -> float:
        found = sampler(dataclasses.replace(post, prior=prior), 8, seed=0).mean(0)
        return (found - x)[32:].norm().item()

    # values that were not measured are known from the condition alone
    before, after = (off(s, network.condition(start)) for s in (samplers.LATINO(steps=4), samplers.LATINOPRO()))
    right = off(samplers.LATINO(steps=4), network.condition(truth))
    assert after < 0.4 * before and right < 0.4 * before
    # a small ball keeps it where it was
    near = off(samplers.LATINOPRO(radius=0.1), network.condition(start))
    assert near > 0.8 * before
    with pytest.raises(UnsupportedError, match="under an embedding, network.condition"):
        samplers.LATINOPRO()(dataclasses.replace(post, prior=network))


# -- the Jacobian -------------------------------------------------------------------------------------------------------


def test_linearised_latino_follows_its_recursion():
    post = problem(correlated())
    prior, A = post.prior, matrix(post.A)
    sampler = samplers.LinearisedLATINO(steps=3, iterations=ROWS)  # as many as there are rows: the solve is exact
    d = prior.data_std
    maps = []
    for s in (5 * d, 2.5**0.5 * d, 0.5 * d):
        J, c = jump(prior, s)
        W = s**2 * J @ J / (1 + math.sqrt(1 - prior.variance(s) / prior.variance(prior.sigma_max)))
        gain = W @ A.T @ torch.linalg.inv(A @ W @ A.T + SIGMA**2 * torch.eye(ROWS, dtype=F64))
        M = (EYE - gain @ A) @ J
        b = (EYE - gain @ A) @ c + gain @ post.y
        maps.append((M, b, s**2 * M @ M.T + SIGMA**2 * gain @ gain.T))
    flat = torch.full((N,), prior.data_mean, dtype=F64)
    gain = d**2 * A.T @ torch.linalg.inv(d**2 * A @ A.T + SIGMA**2 * torch.eye(ROWS, dtype=F64))
    assert_same_law(law(sampler, post), through((flat + gain @ (post.y - A @ flat), 0 * EYE), maps), 1e-6)


def test_the_posterior_of_any_gaussian_is_the_fixed_point_of_the_whole_covariance():
    # W = s^2 J (1 + J)^-1 J, of which the sampler takes (1 + J) for a number: at every level, whatever it is
    post = problem(correlated())
    A, wanted = matrix(post.A), exact(post)
    for s in (0.05, 0.7, 20.0):
        J, c = jump(post.prior, s)
        W = s**2 * J @ torch.linalg.inv(EYE + J) @ J
        gain = W @ A.T @ torch.linalg.inv(A @ W @ A.T + SIGMA**2 * torch.eye(ROWS, dtype=F64))
        M = (EYE - gain @ A) @ J
        noise = s**2 * M @ M.T + SIGMA**2 * gain @ gain.T
        assert_same_law(through(wanted, [(M, (EYE - gain @ A) @ c + gain @ post.y, noise)]), wanted, 1e-9)


@pytest.mark.parametrize(
    ("steps", "iterations", "mean", "covariance"), [(1, 12, 0.25, 0.05), (4, 3, 0.08, 0.1), (8, 3, 0.08, 0.1)]
)
def test_linearised_latino_has_the_covariance_of_a_chain_in_few_evaluations(steps, iterations, mean, covariance):
    # MMPS with the step of second order: .09 at 10 evaluations
    post = chain()
    off, error, measured = errors(law(samplers.LinearisedLATINO(steps=steps, iterations=iterations), post), post)
    assert off < mean and error < covariance and 0.95 < measured < 1.1


# -- what they ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [samplers.CM4IR, samplers.LATINO, samplers.AdaptiveLATINO, samplers.LinearisedLATINO])
def test_a_denoiser_is_refused(cls):
    post = problem(GaussianPrior(SHAPE, torch.zeros(SHAPE, dtype=F64)))
    with pytest.raises(UnsupportedError, match="needs a consistency function, and GaussianPrior gives the mean"):
        cls()(post)


def test_a_decoder_needs_an_encoder():
    class Blind(Linear):
        has_encoder = False

    post = problem(white())
    post = Posterior(Blind(EYE, 0.0, GaussianConsistency((N,), torch.zeros(N, dtype=F64))), post.A, Gaussian(SIGMA), post.y)
    assert samplers.LATINO().refuses(post) == "needs a decoder with an encoder, and Blind has none"


def test_auto_takes_what_a_consistency_function_is_for():
    prior = GaussianConsistency((1, 6, 6), torch.zeros(1, 6, 6, dtype=F64))
    mask = Mask((1, 6, 6), torch.ones(1, 6, 6, dtype=torch.bool))
    post = Posterior(prior, mask, Gaussian(SIGMA), torch.zeros(36, dtype=F64))
    assert recommend(post)[0] == samplers.LinearisedLATINO(steps=8) and "consistency" in recommend(post)[1]
    assert recommend(dataclasses.replace(post, noise=Noiseless()))[0] == samplers.AdaptiveLATINO()
    assert recommend(post, evaluations=3)[0] == samplers.LinearisedLATINO(steps=3)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_multistep_consistency_draws_from_the_prior(steps):
    prior = correlated()
    x = samplers.MultistepConsistency(steps=steps)(prior, 4000, 0).flatten(1)
    # 4000 draws: four standard errors of a mean and of a variance of about 0.5
    torch.testing.assert_close(x.mean(0), prior.mean.flatten(), rtol=0, atol=0.06)
    torch.testing.assert_close(x.T.cov(), prior.covariance, rtol=0, atol=0.08)
    with pytest.raises(UnsupportedError, match="needs a consistency function"):
        samplers.MultistepConsistency()(GaussianPrior(SHAPE))


def test_a_prior_that_jumps_is_drawn_from_by_jumps():
    class Jump(Denoiser):
        consistency = True

        def forward(self, x: Tensor, sigma: float) -> Tensor:
            return x / (1 + sigma**2) ** 0.5

    assert torch.equal(sample(Jump((3,)), 5), samplers.MultistepConsistency()(Jump((3,)), 5))
