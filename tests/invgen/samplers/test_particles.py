"""Chains of particles: resampling, weights, evidence.

With a Gaussian prior, start and unguided steps of the sampler are a linear recursion, so that the law which the discrete
steps have, and with it p_model(y), is known to rounding (`model`): what an estimate of the evidence must have as its mean.
"""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from invgen import DivergedError, Gaussian, Posterior
from invgen.errors import OptionError
from invgen.noise import Noise
from invgen.numerics.random import Streams
from invgen.operators import Mask, Matrix
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.samplers import TDS, LinearisedTDS
from invgen.samplers.smc.base import ParticleSampler, effective_size, resample
from tests.invgen.samplers.gaussian_problems import F64, Law, correlated, denoiser, matrix, normal

SCHEMES = ("systematic", "stratified", "residual", "multinomial")
WEIGHTS = torch.tensor([0.02, 0.31, 0.0, 0.17, 0.08, 0.29, 0.13], dtype=F64)
CHAINS = 20_000
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def counts(scheme: str, count: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Indices and copies of each particle over many chains with the same weights."""
    log_w = (WEIGHTS.log() + shift).expand(CHAINS, -1)
    chosen = resample(log_w, count, Streams(0, torch.arange(CHAINS)), scheme)
    return chosen, torch.nn.functional.one_hot(chosen, len(WEIGHTS)).sum(1).double()


# -- resampling -----------------------------------------------------------------------------------------------------


@each_scheme
@pytest.mark.parametrize("count", [1, 7, 10])
def test_resampling_is_unbiased(scheme, count):
    # weights need no normalisation, and exp(-5000) is not zero where all are that small
    _, copies = counts(scheme, count, shift=-5000.0)
    assert (copies.sum(1) == count).all() and (copies[:, WEIGHTS == 0] == 0).all()
    error = (copies.mean(0) - count * WEIGHTS) / (copies.std(0) / math.sqrt(CHAINS)).clamp(min=1e-12)
    assert error[WEIGHTS > 0].abs().max() < 4.5  # 18 numbers a scheme


def test_each_scheme_is_what_its_name_says():
    count = 10
    ideal = count * WEIGHTS
    systematic, stratified, residual, multinomial = (counts(s, count) for s in SCHEMES)
    # systematic: no particle is off by one; stratified: place j falls into stratum j; residual: whole parts are kept
    assert ((systematic[1] - ideal).abs() < 1).all()
    edges = WEIGHTS.cumsum(0)
    for chosen, _ in (systematic, stratified):
        place = torch.arange(count)
        assert (edges[chosen] > place / count).all() and ((edges - WEIGHTS)[chosen] < (place + 1) / count).all()
    assert (residual[1] >= ideal.floor()).all() and not (residual[1] <= ideal.ceil()).all()
    assert ((stratified[1] - ideal).abs() > 1).any()
    # multinomial: the binomial variance of each count, to 5 per cent with 20 000 chains
    torch.testing.assert_close(multinomial[1].var(0), count * WEIGHTS * (1 - WEIGHTS), rtol=0.05, atol=1e-12)


def test_schemes_in_the_order_of_their_variance():
    copies = {s: counts(s, 10)[1] for s in SCHEMES}
    f = torch.arange(len(WEIGHTS), dtype=F64)
    # counts whose mean is w have at least the variance of the fraction of w: systematic resampling reaches it
    fraction = 10 * WEIGHTS - (10 * WEIGHTS).floor()
    least = fraction * (1 - fraction)
    torch.testing.assert_close(copies["systematic"].var(0), least, rtol=0.05, atol=2e-3)
    assert all((c.var(0).sum() > least.sum() + 0.3) for s, c in copies.items() if s != "systematic")
    # of an estimate, stratified and residual never exceed multinomial (Douc, Cappe & Moulines, 2005, Section 3)
    variance = {s: (c @ f).var().item() for s, c in copies.items()}
    assert variance["stratified"] < 0.5 * variance["multinomial"] and variance["residual"] < 0.8 * variance["multinomial"]


def test_equal_weights_keep_every_particle():
    for scheme in ("systematic", "stratified"):
        chosen = resample(torch.zeros(3, 8), 8, Streams(0, [0, 1, 2]), scheme)
        assert torch.equal(chosen, torch.arange(8).expand(3, 8))
    assert torch.equal(resample(torch.zeros(1, 8), 8, Streams(0, [0]), "residual"), torch.arange(8)[None])


def test_effective_size():
    log_w = torch.tensor([[0.0, 0.0, 0.0, 0.0], [-900.0, 5.0, -900.0, -900.0], [0.0, 0.0, -torch.inf, -torch.inf]])
    torch.testing.assert_close(effective_size(log_w), torch.tensor([4.0, 1.0, 2.0]))
    torch.testing.assert_close(effective_size(WEIGHTS.log()[None] + 7), 1 / WEIGHTS.square().sum()[None])


# -- evidence -------------------------------------------------------------------------------------------------------


def gaussian(n: int = 3, rows: int = 2, sigma: float = 0.8) -> Posterior:
    prior = correlated((n,), sigma_min=0.1, sigma_max=4.0)
    A = Matrix(normal(rows, n, seed=3), (n,))
    return Posterior(prior, A, Gaussian(sigma), A(prior.mean) + 0.7 * normal(rows, seed=4))


def model(sampler: LinearisedTDS, prior: GaussianPrior) -> Law:
    """Mean and covariance of x_0 under the sampler's start and unguided steps, by the recursion of (x, last D)."""
    n = prior.mean.numel()
    eye, zero = torch.eye(n, dtype=F64), torch.zeros(n, n, dtype=F64)
    mean, S = prior.mean.flatten(), prior.covariance
    levels = sampler.levels(prior)
    m = torch.cat([mean, mean])
    P = torch.block_diag(S + levels[0][0] ** 2 * eye, zero)
    h = math.inf
    for k, (s, s_next) in enumerate(levels):
        E, _ = denoiser(prior, s)
        share = 1 - (s_next / s) ** 2
        c = math.log(s / s_next) / (2 * h) if getattr(sampler, "order", 1) == 2 and k and s_next else 0.0
        # D = E (x - mean) + mean: about the mean, the recursion has no constant
        F = torch.cat([torch.cat([(1 - share) * eye + share * (1 + c) * E, -share * c * eye], 1), torch.cat([E, zero], 1)])
        drawn = prior.variance(s) if isinstance(sampler, LinearisedTDS) else 0.0
        var = s_next**2 * share if s_next else drawn
        centre = torch.cat([mean, mean])
        m, P = centre + F @ (m - centre), F @ P @ F.T + torch.block_diag(var * eye, zero)
        h = math.log(s / s_next) if s_next else h
    return m[:n], P[:n, :n]


def log_model_evidence(sampler: LinearisedTDS, post: Posterior) -> float:
    m, P = model(sampler, post.prior)
    A = matrix(post.A)
    S = A @ P @ A.T + post.noise.sigma**2 * torch.eye(len(A), dtype=F64)
    return torch.distributions.MultivariateNormal(A @ m, S).log_prob(post.y.flatten()).item()


def assert_unbiased(sampler: LinearisedTDS, post: Posterior, chains: int, spread: tuple[float, float]) -> None:
    """The mean over chains of exp(log_evidence) / p_model(y) is 1 within 3.5 of its standard errors."""
    ratio = (sampler.weighted(post, chains, seed=1).log_evidence - log_model_evidence(sampler, post)).exp()
    error = ratio.std() / math.sqrt(chains)
    assert spread[0] < ratio.std() < spread[1], ratio.std()  # what the standard error is worth
    assert abs(ratio.mean() - 1) < 3.5 * error, (ratio.mean(), error)


@pytest.mark.slow
@each_scheme
@pytest.mark.parametrize("threshold", [0.0, 0.8, 1.0])
def test_evidence_is_unbiased_for_every_scheme_and_threshold(scheme, threshold):
    # eight steps leave weights uneven enough that chains of 4 often resample; the interval is 3 per cent wide
    sampler = LinearisedTDS(steps=8, particles=4, twist="local", order=1, resampling=scheme, threshold=threshold)
    assert_unbiased(sampler, gaussian(), 4000, (0.3, 0.8))


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("twist", ["covariance", "local"])
def test_evidence_is_unbiased_for_every_twist(twist, order):
    # one per cent, more noise than signal; the laws of the two orders differ by 10
    post = gaussian(sigma=1.5)
    one, two = (log_model_evidence(LinearisedTDS(steps=8, twist=twist, order=k), post) for k in (1, 2))
    assert abs(one - two) > 0.09
    assert_unbiased(LinearisedTDS(steps=8, particles=4, twist=twist, order=order), post, 4000, (0.1, 0.3))


@pytest.mark.slow
def test_evidence_of_the_paper_is_unbiased():
    assert_unbiased(TDS(steps=8, threshold=0.5), gaussian(sigma=1.5), 4000, (0.1, 0.3))


@pytest.mark.slow
def test_evidence_goes_to_that_of_the_prior_as_steps_grow():
    post = gaussian()
    exact = post.prior.posterior(post.A, post.noise, post.y).log_evidence
    for order, rate in ((1, 2), (2, 4)):
        # the model's own law: its distance to the prior falls with the order of the steps
        laws = [model(LinearisedTDS(steps=n, order=order), post.prior)[1] for n in (50, 100)]
        errors = [(P - post.prior.covariance).norm() for P in laws]
        assert 0.75 * rate < errors[0] / errors[1] < 1.35 * rate, (order, errors)
    sampler = LinearisedTDS(steps=150, particles=500)
    assert abs(sampler.weighted(post, 1).log_evidence.item() - exact) < 0.02


def mixture() -> Posterior:
    prior = GaussianMixture(
        torch.tensor([[-4.0, 0.0], [0.0, 4.0], [5.0, -1.0]], dtype=F64),
        [0.2, 0.5, 0.3],
        0.5,
        sigma_min=0.02,
        sigma_max=100.0,
    )
    return Posterior(prior, Matrix(torch.tensor([[0.6, 0.8]], dtype=F64)), Gaussian(0.5), torch.tensor([2.8], dtype=F64))


@pytest.mark.slow
def test_evidence_of_a_mixture():
    post = mixture()
    exact = post.prior.posterior(post.A, post.noise, post.y).log_evidence
    ratio = (LinearisedTDS(steps=100, particles=400).weighted(post, 30).log_evidence - exact).exp()
    error = (ratio.std() / math.sqrt(len(ratio))).item()
    # 1 per cent is what 100 steps leave of the discretisation
    assert error < 0.02 and abs(ratio.mean().item() - 1) < 3 * error + 0.01


# -- chains ---------------------------------------------------------------------------------------------------------


def test_weighted_particles_and_samples_are_the_same_chains():
    post = gaussian()
    post = dataclasses.replace(post, y=post.y + torch.arange(3, dtype=F64)[:, None])  # three measurements
    sampler = LinearisedTDS(steps=5, particles=7, draws=2, twist="local")
    out = sampler.weighted(post, 4, seed=3)
    assert out.samples.shape == (4, 7, 3, 3) and out.log_weights.shape == (4, 7, 3) and out.log_evidence.shape == (4, 3)
    assert out.ess.shape == (6, 4, 3) and out.mean.shape == (4, 3, 3)
    torch.testing.assert_close(out.log_weights.logsumexp(1), torch.zeros(4, 3, dtype=F64))
    torch.testing.assert_close(out.ess[-1], 1 / out.log_weights.exp().square().sum(1))
    torch.testing.assert_close(out.mean, (out.log_weights.exp()[..., None] * out.samples).sum(1))
    # each sample of __call__ is a particle of its own chain and measurement; an odd number leaves the last out
    x = sampler(post, 7, seed=3)
    assert x.shape == (7, 3, 3)
    for i in range(7):
        for b in range(3):
            assert (x[i, b] == out.samples[i // 2, :, b]).all(1).any()
    # chains depend on seed, number and measurement only
    again = sampler.weighted(dataclasses.replace(post, y=post.y[:1]), 2, seed=3)
    torch.testing.assert_close(again.samples[:, :, 0], out.samples[:2, :, 0], rtol=1e-8, atol=1e-8)
    assert not torch.allclose(sampler.weighted(post, 1, seed=4).samples, out.samples[:1])


@pytest.mark.slow
@pytest.mark.parametrize("max_batch", [1, 5, 7, 20])
def test_memory_bound_does_not_change_particles(max_batch):
    post, sampler = gaussian(), LinearisedTDS(steps=5, particles=7, draws=3)
    torch.testing.assert_close(sampler(post, 8, max_batch=max_batch), sampler(post, 8), rtol=1e-8, atol=1e-8)
    few, all_ = sampler.weighted(post, 3, max_batch=max_batch), sampler.weighted(post, 3)
    for field in dataclasses.fields(few):
        torch.testing.assert_close(getattr(few, field.name), getattr(all_, field.name), rtol=1e-8, atol=1e-8)


def test_the_network_never_sees_more_rows_than_max_batch():
    post, seen = gaussian(), []
    handle = post.prior.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    LinearisedTDS(steps=3, particles=7)(post, 4, max_batch=3)
    handle.remove()
    assert max(seen) == 3 and sum(seen) == 3 * 7 * 4


def test_samples_of_one_chain_follow_its_weights():
    post = gaussian()
    sampler = TDS(steps=3, particles=5, draws=4000, threshold=0.0)
    out, x = sampler.weighted(post, 1), sampler(post, 4000)
    share = (x[:, None] == out.samples[0]).all(2).double().mean(0)
    torch.testing.assert_close(share, out.log_weights[0].exp(), rtol=0, atol=1 / 4000)  # drawn systematically ...
    first = (x[:1000, None] == out.samples[0]).all(2).double().mean(0)
    assert (first - share).abs().max() < 0.06  # ... and shuffled


class Never(Noise):
    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        return clean.flatten(1).sum(1) * 0 - torch.inf

    def std(self, clean: Tensor) -> float:
        return 1.0


def test_losing_all_particles_is_an_error():
    post = dataclasses.replace(gaussian(), noise=Never())
    for threshold in (0.0, 1.0):
        with pytest.raises(DivergedError, match="TDS lost all particles of a chain"):
            LinearisedTDS(steps=3, particles=4, threshold=threshold)(post)


@dataclasses.dataclass(frozen=True)
class Bootstrap(ParticleSampler):
    """Likelihood weighting of the prior's own steps: the smallest subclass, without memory."""

    def potential(self, post: Posterior, x: Tensor, s: float, s_next: float) -> tuple[Tensor, ...]:
        x0 = post.prior(x, s)
        return torch.zeros(len(x), dtype=F64), x0

    def move(self, post, x, s, s_next, randn, potential, x0):
        return (x0 + (s_next / s) ** 2 * (x - x0) + s_next * math.sqrt(1 - (s_next / s) ** 2) * randn(x)), -potential


def test_a_sampler_without_twist_is_importance_sampling_from_the_prior():
    post = gaussian(sigma=1.5)
    sampler = Bootstrap(steps=6, particles=8)
    ratio = sampler.weighted(post, 5000).log_evidence - log_model_evidence(TDS(steps=6), post)
    assert abs(ratio.exp().mean() - 1) < 3.5 * ratio.exp().std() / math.sqrt(5000)


def test_options_are_checked():
    for options in ({"particles": 0}, {"draws": 0}, {"resampling": "best"}, {"threshold": 1.5}):
        with pytest.raises(OptionError, match="(particles|draws|resampling|threshold) of LinearisedTDS must be "):
            LinearisedTDS(**options)
    with pytest.raises(OptionError, match="chains"):
        LinearisedTDS(steps=2).weighted(gaussian(), 0)


def test_a_mask_and_single_precision_keep_weights_in_double():
    prior = GaussianMixture(torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0)), var=0.4)
    A = Mask((2, 3), torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=torch.bool))
    out = LinearisedTDS(steps=4, particles=6).weighted(Posterior(prior, A, Gaussian(0.3), A(torch.ones(2, 3))), 2)
    assert out.samples.dtype == torch.float32 and out.log_weights.dtype == out.log_evidence.dtype == F64
