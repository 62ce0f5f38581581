"""Random walks: the lattice against closed forms, quadrature and Gibbs sampling, which share no code."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from invgen.errors import UnsupportedError
from invgen.operators import Identity, Matrix
from invgen.priors import GaussianPrior, LevyProcess

F64 = torch.float64
LAWS = {
    "gaussian": {"scale": 0.5},
    "laplace": {},
    "student": {"df": 1.0},
    "bernoulli-laplace": {"rate": 0.3},
}


def law(name: str, length: int = 64) -> LevyProcess:
    return LevyProcess(length, name, **LAWS[name])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [1e-3, 0.3, 4.0, 100.0])
def test_gaussian_steps_are_a_gaussian_prior(sigma):
    prior, summed = law("gaussian"), torch.tril(torch.ones(64, 64, dtype=F64))
    exact = GaussianPrior((64,), torch.zeros(64, dtype=F64), covariance=0.25 * summed @ summed.T)
    assert prior.data_std == pytest.approx(exact.data_std)
    x, v = prior.sample(4, seed=1) + sigma * noise(4, 64), noise(4, 64, seed=2)
    (D, vjp), (D_exact, vjp_exact) = prior.vjp(x, sigma), exact.vjp(x, sigma)
    # sums over the points of a third of sigma in a window of six have errors of exp(-18) = 2e-8, times a few
    torch.testing.assert_close(D, D_exact, rtol=0, atol=1e-6 * sigma)
    torch.testing.assert_close(vjp(v), vjp_exact(v), rtol=0, atol=1e-6 * v.abs().max().item())
    torch.testing.assert_close(prior.log_prob(x, sigma), exact.log_prob(x, sigma), rtol=0, atol=1e-5)


def moments(name: str, x: np.ndarray, sigma: float) -> np.ndarray:
    """Returns (E[z_1], E[z_2]) of a walk of two steps by adaptive quadrature, parts with steps of zero by themselves."""
    density = {
        "gaussian": lambda u: math.exp(-2 * u * u) * math.sqrt(2 / math.pi),
        "laplace": lambda u: math.exp(-abs(u)) / 2,
        "student": lambda u: 1 / (math.pi * (1 + u * u)),
        "bernoulli-laplace": lambda u: math.exp(-abs(u)) / 2,
    }[name]
    rate = LAWS[name].get("rate", 1.0)

    def seen(a: float, b: float) -> float:
        return math.exp(-((x[0] - a) ** 2 + (x[1] - b) ** 2) / (2 * sigma**2))

    def over(f, zero_1: bool, zero_2: bool) -> float:
        low, high = x - 8 * sigma, x + 8 * sigma
        if zero_1 and zero_2:
            return f(0, 0) * seen(0, 0)
        if zero_1 or zero_2:
            a, b = (low[1], high[1]) if zero_1 else (min(low), max(high))

            def line(t: float) -> float:
                return (f(0, t) * seen(0, t) if zero_1 else f(t, t) * seen(t, t)) * density(t)

            return integrate.quad(line, a, b, points=[0.0], limit=200)[0]

        def inner(a: float) -> float:
            return integrate.quad(lambda b: f(a, b) * seen(a, b) * density(b - a), low[1], high[1], points=[a])[
                0
            ] * density(a)

        return integrate.quad(inner, low[0], high[0], points=[0.0], limit=200)[0]

    total = np.zeros(3)
    for zero_1 in (False, True):
        for zero_2 in (False, True):
            share = ((1 - rate) if zero_1 else rate) * ((1 - rate) if zero_2 else rate)
            if share:
                fs = (lambda a, b: 1.0, lambda a, b: a, lambda a, b: b)
                total += share * np.array([over(f, zero_1, zero_2) for f in fs])
    return total[1:] / total[0]


@pytest.mark.parametrize("name", LAWS)
def test_two_steps_against_quadrature(name):
    x, sigma = torch.tensor([[0.7, -0.4]], dtype=F64), 0.6
    found = law(name, 2)(x, sigma)[0].numpy()
    # the corner of Laplace's density costs (h / scale)^2 / 12 of it at a distance h = .2 or less; here 3e-3 of a step
    np.testing.assert_allclose(found, moments(name, x[0].numpy(), sigma), atol=3e-3 if "laplace" in name else 1e-5)


@pytest.mark.parametrize("name", LAWS)
def test_denoiser_jacobian_and_density_agree(name):
    prior, sigma = law(name, 16), 0.4
    x, v, step = prior.sample(3, seed=3) + sigma * noise(3, 16), noise(3, 16, seed=4), 1e-4
    D, vjp = prior.vjp(x, sigma)
    along = (prior(x + step * v, sigma) - prior(x - step * v, sigma)) / (2 * step)
    torch.testing.assert_close(vjp(v), along, rtol=1e-3, atol=1e-3)  # the Jacobian is symmetric; windows jump by points
    slope = (prior.log_prob(x + step * v, sigma) - prior.log_prob(x - step * v, sigma)) / (2 * step)
    torch.testing.assert_close(((D - x) / sigma**2 * v).sum(1), slope, rtol=1e-3, atol=1e-3)  # Tweedie
    levels = torch.tensor([0.4, 2.0, 0.4], dtype=F64)
    torch.testing.assert_close(prior(x, levels)[1], prior(x[1:2], 2.0)[0], rtol=0, atol=0)
    torch.testing.assert_close(prior(x, levels)[::2], D[::2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_gibbs_sampling_of_noise_alone_is_the_denoiser(name):
    prior, sigma = law(name), 0.3
    y = prior.sample(4, seed=1) + sigma * noise(4, 64)
    x = prior.posterior_samples(Identity((64,)), sigma, y, 400, burn_in=100, seed=5)
    assert x.shape == (400, 4, 64)
    off = (x.mean(0) - prior(y, sigma)) / x.std(0)
    # 400 samples that depend on each other, as 200 or more: .07 deviations, here the root mean square of 256 values
    assert off.square().mean().sqrt() < 0.1


def test_gibbs_sampling_of_gaussian_steps_has_the_exact_moments():
    prior, A = law("gaussian", 8), Matrix(noise(3, 8, seed=7))
    y = A(prior.sample(1, seed=2))[0]
    summed = torch.tril(torch.ones(8, 8, dtype=F64))
    exact = GaussianPrior((8,), torch.zeros(8, dtype=F64), covariance=0.25 * summed @ summed.T).posterior(A, 0.5, y)
    x = prior.posterior_samples(A, 0.5, y, 4000, burn_in=1)  # independent draws
    assert x.shape == (4000, 8)
    std = exact.var.sqrt()
    assert ((x.mean(0) - exact.mean).abs() < 5 * std / 4000**0.5).all()  # five standard errors
    assert ((x.T.cov() - exact.covariance).abs() < 5 * (3 / 4000) ** 0.5 * torch.outer(std, std)).all()


def test_samples_and_densities():
    prior = LevyProcess(5, "bernoulli-laplace", rate=0.25)
    x = prior.sample(20_000, seed=1)
    assert torch.equal(x[:7], prior.sample(7, seed=1))
    steps = torch.diff(x, dim=1, prepend=torch.zeros(len(x), 1, dtype=F64))
    there = (steps != 0).double().mean().item()
    assert abs(there - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 100_000)  # five standard deviations of a share
    assert steps.square().mean().item() == pytest.approx(0.5, rel=0.06)  # fourth moment 6, 100 000 steps: five of .012
    expected = 2 * math.log(0.75) + 3 * math.log(0.25 / 2) - 1.5
    walk = torch.tensor([[0.5, 0.5, 1.0, 1.0, 1.5]], dtype=F64)
    assert prior.log_mass(walk).item() == pytest.approx(expected)
    with pytest.raises(UnsupportedError, match="no density at sigma = 0"):
        prior.log_prob(walk)
    heavy = law("student", 5)
    assert heavy.log_prob(walk).item() == pytest.approx(stats.cauchy.logpdf([0.5, 0, 0.5, 0, 0.5]).sum())


def test_the_error_by_level_is_that_of_the_law():
    # of Gaussian steps it is the mean of the posterior's variances; 64 samples of 16 values that go together: five per cent
    walk = LevyProcess(16, "gaussian", 0.5)
    covariance = 0.25 * torch.minimum(*torch.meshgrid(*[torch.arange(1.0, 17.0)] * 2, indexing="ij"))
    for sigma in (0.3, 1.0, 3.0):
        S = torch.linalg.inv(torch.linalg.inv(covariance) + torch.eye(16) / sigma**2)
        assert walk.variance(sigma) == pytest.approx(S.diagonal().mean().item(), rel=0.15)
