"""AFDPS on a Gaussian: its start, its guidance, and the law and the evidence that it converges to."""

import pytest
import torch

from invgen import Gaussian, Posterior, samplers
from invgen.diffusion import step_kernel
from invgen.forward import as_svd
from invgen.operators import Mask
from invgen.priors import GaussianMixture
from tests.invgen.samplers.gaussian_problems import (
    EYE,
    F64,
    SHAPE,
    SIGMA,
    N,
    correlated,
    exact,
    many,
    matrix,
    normal,
    problem,
)


def log_evidence() -> float:
    post = problem(correlated())
    M = matrix(post.A)
    S = M @ post.prior.covariance @ M.T + SIGMA**2 * torch.eye(len(M), dtype=F64)
    return torch.distributions.MultivariateNormal(M @ post.prior.mean.flatten(), S).log_prob(post.y).item()


@pytest.mark.slow
def test_law_and_evidence_converge_with_steps():
    post, (mean, S), biases = problem(correlated()), exact(problem(correlated())), []
    for steps in (100, 400):
        found = samplers.AFDPS(steps=steps, particles=256).weighted(post, 20, seed=1)
        # unbiased after the exponential: the mean of the logarithm is lower by half its variance
        biases.append(found.log_evidence.mean().item() + found.log_evidence.var().item() / 2 - log_evidence())
        w, x = found.log_weights.exp(), found.samples.flatten(2)
        first = torch.einsum("cp,cpi->i", w, x) / len(w)
        second = torch.einsum("cp,cpi,cpj->ij", w, x, x) / len(w) - torch.outer(first, first)
        # 5000 particles, dependent within a chain: three standard errors of as many hundreds, and the bias of the steps
        assert (first - mean).norm() < 0.15 * mean.norm()
        assert (second - S).norm() < (0.25 if steps == 100 else 0.2) * S.norm()
    # Euler's weights: of first order in the steps
    assert -2.4 < biases[0] < -1.4 and 0.1 * biases[0] > biases[1] > 0.6 * biases[0], biases


@pytest.mark.slow
def test_distant_modes_have_their_weights():
    # two modes 6 apart that one value of the measurement does not tell from each other, of weights 0.2 and 0.8
    means = torch.tensor([[-3.0, 0, 1], [3.0, 0, 1]], dtype=F64)
    y = torch.tensor([1.2], dtype=F64)
    post = Posterior(GaussianMixture(means, [0.2, 0.8], var=0.3), Mask((3,), torch.tensor([0, 0, 1.0])), Gaussian(0.4), y)
    found = samplers.AFDPS(steps=100, particles=400).weighted(post, 10, seed=0)
    share = (found.log_weights.exp() * (found.samples[..., 0] > 0)).sum(1)
    # ten chains, three standard errors
    assert abs(share.mean() - 0.8) < 3 * share.std() / 10**0.5 + 0.01 and share.std() < 0.1, share


def test_the_guidance_is_the_flow_of_the_likelihood_between_two_levels():
    # dx/ds = 2 s A^T (A x - y) / r_s^2 by small Euler steps, from the state that the prior's own step leaves
    post, sampler, s, s_next = many(problem(correlated()), 1), samplers.AFDPS(), 1.3, 0.9
    x, A = 2 * normal(1, *SHAPE, seed=9), as_svd(problem(correlated()).A)

    def still(like: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(like)

    x0 = post.prior(x, s)
    moved = sampler.move(post, x, s, s_next, still, torch.zeros(1, dtype=F64), x0)[0]
    z, n = step_kernel(x, x0, s, s_next)[0], 20000
    for k in range(n):
        level = s - (s - s_next) * (k + 0.5) / n
        z = z + 2 * level * (s - s_next) / n * post.A.adjoint(post.residual(z)) / sampler.variance(post, A, level)
    torch.testing.assert_close(moved, z, rtol=1e-4, atol=1e-4)


def test_the_first_particles_have_the_law_of_white_signals_given_the_loud_measurement():
    post, sampler, rows = problem(correlated()), samplers.AFDPS(), 4000
    x = sampler.start(many(post, rows), lambda like: normal(*like.shape, seed=like.shape[1]), rows).flatten(1)
    s, d = sampler.levels(post.prior)[0][0], post.prior.data_std
    v, r2, M = s**2 + d**2, sampler.variance(post, as_svd(post.A), s), matrix(post.A)
    S = torch.linalg.inv(EYE / v + M.T @ M / r2)
    mean = S @ (M.T @ post.y / r2 + post.prior.data_mean / v)
    assert ((x.mean(0) - mean).abs() < 5 * (S.diagonal() / rows).sqrt()).all()
    assert ((x.T.cov() - S).abs() < 5 * v * (2 / rows) ** 0.5).all()
    W = v * M @ M.T + r2 * torch.eye(len(M), dtype=F64)
    law = torch.distributions.MultivariateNormal(M @ torch.full((N,), post.prior.data_mean, dtype=F64), W)
    found = sampler.first_evidence(many(post, 1), x[:1].reshape(1, *SHAPE), s)
    torch.testing.assert_close(found[0], law.log_prob(post.y))
