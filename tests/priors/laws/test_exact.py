"""The exact priors against independent formulas: scipy's densities, autograd, dense Bayes, Monte-Carlo moments."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from invgen import Gaussian, Posterior
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.forward import LinearOperator, Operator
from invgen.noise import Noiseless, Poisson
from invgen.priors import Atoms, GaussianMixture, GaussianPrior

F64 = torch.float64


class Dense(LinearOperator):
    def __init__(self, matrix: Tensor, in_shape: tuple[int, ...]) -> None:
        super().__init__(in_shape)
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x.dtype).T


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def spd(n: int, seed: int = 0) -> Tensor:
    root = normal(n, n, seed=seed)
    return root @ root.T / n + 0.1 * torch.eye(n, dtype=F64)


def priors() -> dict[str, GaussianMixture]:
    """Every way of giving a covariance, over signals of shape (2, 3)."""
    means, weights = 3 * normal(4, 2, 3, seed=1), [0.1, 0.2, 0.3, 0.4]
    return {
        "gaussian": GaussianPrior((2, 3), normal(2, 3), 0.7),
        "gaussian diagonal": GaussianPrior((2, 3), 1.0, normal(2, 3) ** 2 + 0.1),
        "gaussian full": GaussianPrior((2, 3), normal(2, 3), covariance=spd(6)),
        "isotropic": GaussianMixture(means, weights, 0.5),
        "isotropic, own": GaussianMixture(means, weights, torch.tensor([0.2, 0.5, 1.0, 2.0])),
        "diagonal": GaussianMixture(means, weights, normal(4, 2, 3) ** 2 + 0.1),
        "shared full": GaussianMixture(means, weights, covariances=spd(6)),
        "full": GaussianMixture(means, weights, covariances=torch.stack([spd(6, seed=k) for k in range(4)])),
    }


def dense_components(prior: GaussianMixture) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """(weight, mean, covariance) of each component, from the constructor's tables through numpy only."""
    spectrum = prior.spectrum.expand(len(prior.means), -1)
    out = []
    for k in range(len(prior.means)):
        q = torch.eye(6, dtype=F64) if prior.basis is None else prior.basis[k if len(prior.basis) > 1 else 0]
        out.append((prior.weights[k].item(), prior.means[k].numpy(), (q @ spectrum[k].diag() @ q.T).numpy()))
    return out


@pytest.mark.parametrize("name", priors())
def test_density_and_denoiser_agree_with_scipy_and_with_tweedie(name):
    prior, x = priors()[name], 2 * normal(5, 2, 3, seed=7)
    for sigma in (0.05, 1.0, 20.0):
        density = sum(
            w * stats.multivariate_normal(m, S + sigma**2 * np.eye(6)).pdf(x.flatten(1))
            for w, m, S in dense_components(prior)
        )
        log = prior.log_prob(x, sigma)
        np.testing.assert_allclose(log.numpy(), np.log(density), rtol=1e-9)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(prior.log_prob(leaf, sigma).sum(), leaf)
        # Tweedie: the score is the gradient of the log density of the smoothed law
        torch.testing.assert_close(prior.score(x, sigma), gradient, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(prior(x, torch.full((5,), sigma, dtype=F64)), prior(x, sigma), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", priors())
def test_given_covariances_are_the_ones_of_the_law(name):
    wanted = {
        "gaussian full": [spd(6)],
        "shared full": [spd(6)] * 4,
        "full": [spd(6, seed=k) for k in range(4)],
        "isotropic, own": [v * torch.eye(6, dtype=F64) for v in torch.tensor([0.2, 0.5, 1.0, 2.0], dtype=F64)],
        "diagonal": list(torch.diag_embed((normal(4, 2, 3) ** 2 + 0.1).flatten(1))),
    }
    for (_, _, S), expected in zip(dense_components(priors()[name]), wanted.get(name, []), strict=False):
        np.testing.assert_allclose(S, expected.numpy(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", priors())
def test_samples_have_the_moments_that_the_prior_states(name):
    prior, count = priors()[name], 40_000
    x = prior.sample(count, seed=3)
    assert x.shape == (count, 2, 3)
    assert torch.equal(x[:10], prior.sample(10, seed=3)) and not torch.equal(x[:10], prior.sample(10, seed=4))
    flat, covariance = x.flatten(1), prior.covariance
    torch.testing.assert_close(covariance.diagonal(), prior.var.flatten())
    # five standard errors of a mean, and of a covariance entry (fourth moments bounded by three times the squares)
    std = covariance.diagonal().sqrt()
    assert ((flat.mean(0) - prior.mean.flatten()).abs() < 5 * std / count**0.5).all()
    assert ((flat.T.cov() - covariance).abs() < 5 * (3 / count) ** 0.5 * torch.outer(std, std)).all()


def test_atoms():
    points = normal(3, 4)
    prior = Atoms(points, [1.0, 2.0, 5.0])
    x, sigma = normal(6, 4, seed=5), 0.8
    log = torch.tensor([1.0, 2.0, 5.0], dtype=F64).log() - ((x[:, None] - points) ** 2).sum(2) / (2 * sigma**2)
    torch.testing.assert_close(prior(x, sigma), log.softmax(1) @ points)
    torch.testing.assert_close(prior.responsibilities(x, sigma), log.softmax(1))
    share = (prior.sample(20_000, seed=0)[:, None] - points).norm(dim=2).argmin(1).bincount() / 20_000
    # five standard deviations of a binomial proportion
    assert ((share - torch.tensor([1, 2, 5]) / 8).abs() < 5 * 0.5 / 20_000**0.5).all()
    assert prior.log_prob(x, sigma).isfinite().all()
    with pytest.raises(UnsupportedError, match="no density at sigma = 0"):
        prior.log_prob(x)


@pytest.mark.parametrize("name", priors())
def test_vjp_is_the_jacobian(name):
    prior, x, v = priors()[name], normal(3, 2, 3, seed=2), normal(3, 2, 3, seed=4)
    _, pullback = prior.vjp(x, 0.9)
    h = 1e-6
    # the Jacobian of a denoiser is a covariance over sigma^2, so that it is symmetric: J^T v = J v
    torch.testing.assert_close(pullback(v), (prior(x + h * v, 0.9) - prior(x - h * v, 0.9)) / (2 * h), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", priors())
@pytest.mark.parametrize("rows", [1, 4, 6, 9])
def test_posterior_is_the_bayes_rule(name, rows):
    prior = priors()[name]
    A = Dense(normal(rows, 6, seed=11), (2, 3))
    y = A(prior.sample(1, seed=8))[0] + 0.3 * normal(rows, seed=9)
    law = prior.posterior(A, Gaussian(0.3), y)
    assert type(law) is type(prior)
    x = 2 * normal(4, 2, 3, seed=12)
    bayes = prior.log_prob(x) + Posterior(prior, A, Gaussian(0.3), y.expand(4, rows)).log_likelihood(x)
    # p(x) p(y | x) = p(x | y) p(y) at any x
    torch.testing.assert_close(law.log_prob(x) + law.log_evidence, bayes, rtol=1e-8, atol=1e-8)


def test_posterior_of_atoms_reweighs_the_points_for_any_operator_and_noise():
    class Square(Operator):
        def forward(self, x: Tensor) -> Tensor:
            return x**2

    prior = Atoms(normal(5, 3), [1, 1, 2, 2, 3])
    y = torch.tensor([1.0, 0.0, 2.0], dtype=F64)
    law = prior.posterior(Square((3,)), Poisson(1.0), y)
    log = prior.weights.log() + Poisson(1.0).log_prob(y.expand(5, 3), prior.means**2)
    torch.testing.assert_close(law.weights, log.softmax(0))
    assert law.log_evidence == pytest.approx(log.logsumexp(0).item())


def test_posterior_with_a_noise_level_per_entry_and_complex_measurements():
    class Fourier(LinearOperator):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x, norm="ortho")

    prior, A = GaussianPrior(6, covariance=spd(6)), Fourier((6,))
    sigma = torch.tensor([0.1, 0.5, 0.3, 0.2], dtype=F64)
    y = A(prior.sample(1))[0]
    law = prior.posterior(A, Gaussian(sigma), y)
    x = normal(3, 6)
    bayes = prior.log_prob(x) + Gaussian(sigma).log_prob(y.expand(3, 4), A(x))
    torch.testing.assert_close(law.log_prob(x) + law.log_evidence, bayes, rtol=1e-8, atol=1e-8)


def test_posterior_of_an_exact_measurement_is_singular_and_explains_it():
    prior, A = GaussianPrior(6, covariance=spd(6)), Dense(normal(2, 6), (6,))
    y = normal(2, seed=1)
    x = prior.posterior(A, Noiseless(), y).sample(100)
    # the roots of eigenvalues that rounding leaves at 1e-16
    torch.testing.assert_close(A(x), y.expand(100, 2), rtol=0, atol=1e-6)


def test_variance_is_the_error_of_the_denoiser():
    for name, prior in priors().items():
        x0 = prior.sample(4000, seed=5)
        for sigma in (0.1, 1.0, 10.0):
            error = (prior(x0 + sigma * normal(*x0.shape, seed=6), sigma) - x0).square().flatten(1).mean(1)
            # five standard errors of this average and of the 256 samples behind the table, and 2 % for its interpolation
            bound = 5 * error.std() * (4000**-0.5 + 256**-0.5) + 0.02 * error.mean()
            assert abs(prior.variance(sigma) - error.mean()) < bound, name


def test_precision_follows_the_tables_and_the_state():
    single, double = GaussianMixture(torch.zeros(2, 3)), GaussianMixture(torch.zeros(2, 3, dtype=F64))
    assert single.dtype == torch.float32 and double.dtype == F64
    assert single(torch.zeros(1, 3, dtype=F64), 1.0).dtype == F64
    assert single.double().dtype == F64


def test_scales_of_a_prior():
    prior = GaussianPrior(5, 2.0, 0.25)
    assert (prior.data_mean, prior.data_std) == pytest.approx((2.0, 0.5))
    assert prior.value_range == pytest.approx((0.5, 3.5))
    assert (prior.sigma_min, prior.sigma_max) == pytest.approx((5e-4, 50.0))
    assert GaussianPrior(5, sigma_max=3.0).sigma_max == 3.0
    spread = GaussianMixture(torch.tensor([[-3.0], [3.0]]), var=torch.tensor([1.0, 4.0]))
    assert spread.data_std == pytest.approx(math.sqrt(9 + 2.5)) and spread.sigma_min == pytest.approx(1e-3)


def test_bad_input_is_one_sentence():
    A = Dense(torch.ones(2, 3), (3,))
    prior, large = GaussianPrior(3), Dense(torch.ones(1, 5000), (5000,))
    cases = [
        (ShapeError, "means must be finite", lambda: GaussianMixture(torch.zeros(3))),
        (OptionError, "weights must be 2 non-negative", lambda: GaussianMixture(torch.zeros(2, 3), [1.0, -1.0])),
        (OptionError, "weights must be 2 non-negative", lambda: Atoms(torch.zeros(2, 3), [0.0, 0.0])),
        (ShapeError, "var must be a number", lambda: GaussianMixture(torch.zeros(2, 3), var=torch.ones(3))),
        (OptionError, "not negative", lambda: GaussianPrior(3, var=-1.0)),
        (ShapeError, "must broadcast", lambda: GaussianPrior(3, torch.zeros(2))),
        (ShapeError, "covariances must have shape", lambda: GaussianPrior(3, covariance=torch.eye(2))),
        (OptionError, "symmetric", lambda: GaussianPrior(2, covariance=torch.tensor([[1.0, 1.0], [0.0, 1.0]]))),
        (OptionError, "negative eigenvalues", lambda: GaussianPrior(2, covariance=-torch.eye(2))),
        (ShapeError, "one measurement", lambda: prior.posterior(A, 0.1, torch.zeros(4, 2))),
        (UnsupportedError, "needs a LinearOperator", lambda: prior.posterior(A, Poisson(), torch.zeros(2))),
        (UnsupportedError, "at most 4096", lambda: GaussianPrior(5000).posterior(large, 1.0, torch.zeros(1))),
        (UnsupportedError, "singular", lambda: prior.posterior(A, Noiseless(), torch.zeros(2))),
    ]  # fmt: skip
    for error, words, call in cases:
        with pytest.raises(error, match=words):
            call()


def test_a_mixture_starts_with_the_covariance_of_the_noised_law():
    # two components far apart along one direction: variances alone would spread the start over all directions
    means = torch.zeros(2, 50, dtype=torch.float64)
    means[0], means[1] = 20.0, -20.0
    prior, sigma = GaussianMixture(means, var=1.0), 10.0
    eye = torch.eye(50, dtype=torch.float64)
    root = prior.start(eye, sigma) - prior.start(0 * eye, sigma)  # rows are the images of unit vectors
    torch.testing.assert_close(root.T @ root, prior.covariance + sigma**2 * eye, rtol=1e-9, atol=1e-6)
