"""The twisted sampler against exact posteriors; `test_particles` shows that its evidence is unbiased for every twist."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, Posterior
from invgen.errors import UnsupportedError
from invgen.forward import Operator
from invgen.noise import Energy, Poisson
from invgen.numerics.random import Streams
from invgen.operators import Mask, Matrix
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.samplers import TDS, LinearisedTDS
from invgen.samplers.smc._linearised import Linearised
from tests.invgen.samplers.gaussian_problems import F64, many


def mixture(sigma: float, y: float) -> Posterior:
    """Modes far apart, of which the measurement leaves two that it tells apart by their weights only."""
    means = torch.tensor([[-5.0, 0.0], [3.0, 4.0], [5.0, -4.0]], dtype=F64)
    prior = GaussianMixture(means, [0.2, 0.5, 0.3], 0.5, sigma_min=0.02, sigma_max=100.0)
    return Posterior(prior, Matrix(torch.tensor([[1.0, 0.25]], dtype=F64)), Gaussian(sigma), torch.tensor([y], dtype=F64))


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [1e-5, 0.5, 30.0])
def test_a_mixture_has_its_modes_in_proportion(sigma):
    # noise far below the lowest level, among the modes, far above them
    post = mixture(sigma, 4.0)
    exact = post.prior.posterior(post.A, post.noise, post.y)
    x = LinearisedTDS(steps=100, particles=1000, draws=1000)(post, 2000)
    where = torch.cdist(x, post.prior.means).argmin(1)
    share = torch.bincount(where, minlength=3) / len(x)
    truth = torch.bincount(torch.cdist(exact.sample(20000), post.prior.means).argmin(1), minlength=3) / 20000
    # two chains of 1000: 0.5 / sqrt(2000) is 0.011, and the chains resample
    assert (share - truth).abs().max() < 0.045, (share, truth)
    gap = (x.mean(0) - exact.mean).abs() / exact.var.sqrt()
    assert gap.max() < 0.1
    torch.testing.assert_close(x.var(0), exact.var, rtol=0.12, atol=1e-3)
    assert (
        0.9
        < post.residual_over_noise(x).square().mean().sqrt()
        / post.residual_over_noise(exact.sample(2000)).square().mean().sqrt()
        < 1.1
    )


@pytest.mark.slow
@pytest.mark.parametrize("twist", ["covariance", "local"])
def test_gaussian_posterior(twist):
    root = torch.randn(5, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    prior = GaussianPrior((5,), covariance=root @ root.T / 5 + 0.1 * torch.eye(5), sigma_min=0.01, sigma_max=50.0)
    post = Posterior(prior, Matrix(root[:3].clone()), Gaussian(0.3), torch.tensor([1.0, -1.0, 0.5], dtype=F64))
    exact = prior.posterior(post.A, post.noise, post.y)
    x = LinearisedTDS(steps=100, particles=1000, draws=1000, twist=twist)(post, 4000)
    gap = (x.mean(0) - exact.mean) / exact.var.sqrt()
    assert gap.abs().max() < 0.1
    assert (torch.cov(x.T) - exact.covariance).norm() / exact.covariance.norm() < 0.1


class Pointwise(Operator):
    def __init__(self, f: Callable[[Tensor], Tensor], size: int = 1) -> None:
        super().__init__((size,))
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


def loss(clean: Tensor, y: Tensor) -> Tensor:
    return (clean - y).abs() / 0.5


# the square is flat where the denoiser stands at high noise, and leaves both signs of x open
NONLINEAR = {
    "exponential": (torch.exp, Gaussian(0.4), 2.0),
    "square": (torch.square, Gaussian(0.4), 2.0),
    "square, little noise": (torch.square, Gaussian(0.05), 2.0),
    "absolute value": (torch.abs, Gaussian(0.2), 1.5),
    "saturated": (torch.tanh, Gaussian(0.1), 0.8),
    "square, poisson": (torch.square, Poisson(0.5), 2.0),
    "square, loss": (torch.square, Energy(loss), 2.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("twist", ["auto", "local"])
@pytest.mark.parametrize("name", NONLINEAR)
def test_nonlinear_operators_and_any_noise_by_quadrature(name, twist):
    f, noise, y = NONLINEAR[name]
    prior = GaussianMixture(torch.tensor([[-1.0], [2.0]], dtype=F64), [0.7, 0.3], 0.3, sigma_min=0.01, sigma_max=50.0)
    post = Posterior(prior, Pointwise(f), noise, torch.tensor([y], dtype=F64))
    grid = torch.linspace(-6, 8, 20001, dtype=F64)[:, None]
    joint = (prior.log_prob(grid) + many(post, len(grid)).log_likelihood(grid)).exp()
    evidence = joint.sum() * 14 / 20000
    mean = (joint @ grid) / joint.sum()
    out = LinearisedTDS(steps=100, particles=500, twist=twist).weighted(post, 8)
    ratio = out.log_evidence.exp() / evidence
    error = (ratio.std() / math.sqrt(8)).item()
    # the tempered likelihood of a steep function is the one that takes more particles
    assert error < (0.1 if (name, twist) == ("exponential", "local") else 0.06)
    assert abs(ratio.mean().item() - 1) < 3 * error + 0.02, (ratio.mean(), error)
    # means of the chains, each self-normalised, about the true one
    means = out.mean[:, 0]
    assert abs(means.mean() - mean.item()) < 3.5 * means.std() / math.sqrt(8) + 0.02, (means, mean)


@pytest.mark.slow
@pytest.mark.parametrize("twist", ["covariance", "local"])
def test_four_modes_of_two_squares(twist):
    means = torch.tensor([[-1.0, 0.5], [2.0, -1.0], [0.0, 2.0]], dtype=F64)
    prior = GaussianMixture(means, [0.5, 0.3, 0.2], 0.3, sigma_min=0.01, sigma_max=50.0)
    post = Posterior(prior, Pointwise(torch.square, 2), Gaussian(0.3), torch.tensor([2.0, 1.0], dtype=F64))
    line = torch.linspace(-5, 6, 801, dtype=F64)
    grid = torch.cartesian_prod(line, line)
    evidence = (prior.log_prob(grid) + many(post, len(grid)).log_likelihood(grid)).exp().sum() * (11 / 800) ** 2
    ratio = LinearisedTDS(steps=60, particles=500, twist=twist).weighted(post, 6).log_evidence.exp() / evidence
    # a linear twist gives 0.05 with as many particles
    assert 0.92 < ratio.mean() < 1.08 and 0.7 < ratio.min() < ratio.max() < 1.3, ratio


def test_the_twist_is_exact_for_a_gaussian_prior():
    prior = GaussianPrior((4,), var=torch.tensor([0.3, 1.0, 2.0, 0.7], dtype=F64), sigma_min=0.01, sigma_max=50.0)
    A = torch.randn(2, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    post = many(Posterior(prior, Matrix(A), Gaussian(0.2), torch.tensor([0.5, -1.0], dtype=F64)), 6)
    s = 0.8
    x = 2 * torch.randn(6, 4, dtype=F64, generator=torch.Generator().manual_seed(2))
    twist, x0, _, guidance = LinearisedTDS().potential(post, x, s, 0.7)
    C = torch.diag(prior.spectrum[0] * s**2 / (prior.spectrum[0] + s**2))
    S = A @ C @ A.T + 0.04 * torch.eye(2)
    law = torch.distributions.MultivariateNormal(x0 @ A.T, S)
    torch.testing.assert_close(twist, law.log_prob(post.y))
    torch.testing.assert_close(guidance, (post.y - x0 @ A.T) @ torch.linalg.inv(S) @ A @ C)


def test_last_draw_of_many_values_through_the_svd_equals_dense_algebra():
    prior = GaussianPrior((30,), var=torch.linspace(0.2, 2, 30, dtype=F64), sigma_min=0.3, sigma_max=20.0)
    A = Mask((30,), torch.arange(30) % 3 > 0)
    post = many(Posterior(prior, A, Gaussian(1e-3), torch.zeros(20, dtype=F64)), 5)
    x0 = prior.sample(5)
    x, log_w = LinearisedTDS(twist="local").finish(post, x0, 0.05, Streams(0, torch.arange(5)))
    # weight times likelihood is p(y) of the last step whatever was drawn
    dense = Linearised(post, x0).gaussian(0.05 * torch.eye(20, dtype=F64).expand(5, -1, -1))[0]
    torch.testing.assert_close(log_w + post.log_likelihood(x), dense)
    y, other = Linearised(post, x0).draw(0.05, Streams(0, torch.arange(5)))
    torch.testing.assert_close(other + post.log_likelihood(y), dense)
    assert (post.residual_over_noise(x) < 2).all() and (post.residual_over_noise(y) < 2).all()


def test_guidance_stops_where_the_data_are_met_along_the_mean_of_a_signal():
    # values that move together: along their mean C is a hundred times its average r^2, and so was the overshoot
    cov = 0.3 * torch.ones(150, 150, dtype=F64) + 0.002 * torch.eye(150, dtype=F64)
    prior = GaussianPrior((150,), covariance=cov, sigma_min=0.01, sigma_max=50.0)
    prior.measure_mmse(prior.sample(64))
    A = Mask((150,), torch.arange(150) % 5 > 0)
    post = Posterior(prior, A, Gaussian(0.05), A(prior.sample(1, seed=3))[0])
    exact = prior.posterior(A, post.noise, post.y)
    x = LinearisedTDS(steps=30, particles=4, twist="local")(post, 8)
    # the standard deviation of the posterior's mean value is 0.005; one path in four is chosen by its weight
    assert (x.mean(1) - exact.mean.mean()).abs().max() < 0.03
    assert (post.residual_over_noise(x) < 1.2).all()


def test_complex_measurements():
    class Phase(Operator):
        def forward(self, x: Tensor) -> Tensor:
            return torch.polar(torch.ones_like(x), x)

    prior = GaussianPrior((2,), torch.zeros(2, dtype=F64), 0.3, sigma_min=0.01, sigma_max=20.0)
    truth = torch.tensor([0.4, -0.3], dtype=F64)
    post = Posterior(prior, Phase((2,)), Gaussian(0.05), Phase((2,))(truth))
    x = LinearisedTDS(steps=40, particles=200, draws=200)(post, 200)
    assert (x.mean(0) - truth).abs().max() < 0.03 and 0.03 < x.std(0).mean() < 0.07  # the noise, 0.05


def test_the_papers_settings_and_what_the_covariance_refuses():
    paper = TDS()
    assert (paper.steps, paper.threshold, paper.particles) == (100, 1.0, 4)
    post = mixture(2.0, 4.0)
    assert torch.isfinite(paper(post, 3)).all()
    loss = Posterior(post.prior, post.A, Energy(lambda clean, y: (clean - y) ** 2), post.y)
    with pytest.raises(UnsupportedError, match="standard deviation"):
        LinearisedTDS(twist="covariance")(loss)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["latent", pytest.param("normal", marks=pytest.mark.slow)])
def test_codes_of_a_linear_decoder_are_met_to_the_floor(key):
    from invgen.benchmarks.studies.problems import families

    # z has the exact posterior as its law, through an operator that is linear without saying so; measured 1.6 and 1.4,
    # since resampling repeats particles: 1.2 to 1.9 in one instance
    family = families()[key]
    sampler, ratios = LinearisedTDS(steps=100, particles=1000, draws=1000), []
    for i in range(4):
        x = sampler(family.make(i).posterior, 1000)
        ratios.append(family.evaluate(x, i)["distance"] / family.floor(i)["distance"])
    assert sum(ratios) / 4 < 1.9, ratios


@pytest.mark.slow
@pytest.mark.parametrize(("dy", "instances"), [(1, 20), (2, 20), (4, 8)])
def test_the_mixtures_of_mcgdiff_are_met_to_the_floor(dy, instances):
    from invgen.benchmarks.studies import mixture as exact

    # 2000 particles for 1000 draws are MCGDiff's 200 evaluations a sample. Measured 1.40 and 1.12 times the floor for
    # d_y = 1 and 2, in the median of the instances 1.13 and 1.04: on one of twenty a chain loses a mode. For d_y = 4, which
    # takes twice the time, none of twenty is above 1.5, and eight have 1.04, twenty 1.06
    sampler = LinearisedTDS(steps=100, particles=2000, draws=1000)
    row, floor = exact.evaluate(sampler, "TDS", 8, dy, instances), exact.floor(8, dy, instances)
    assert row.finite.mean() < 1.5 * floor.finite.mean(), (row.distances, floor.distances)
