"""TemperedSMC against the exact posterior of a linear generator, of two modes, and its evidence."""

import math

import pytest
import torch

from invgen import Gaussian, Posterior, UnsupportedError
from invgen.operators import Identity, Matrix
from invgen.priors import GaussianPrior
from invgen.pushforward import Generator
from invgen.samplers import TemperedSMC

F64 = torch.float64


class Linear(Generator):
    """x = W z."""

    network = False

    def __init__(self, W, latent=None):
        super().__init__((len(W),), latent or (W.shape[1],), data_std=1.0, value_range=(-4, 4))
        self.register_buffer("W", W)

    def forward(self, z):
        return z @ self.W.T


class Square(Generator):
    """x = z^2, of two codes each."""

    network = False

    def __init__(self):
        super().__init__((1,), (1,), value_range=(0, 9))

    def forward(self, z):
        return z**2


@pytest.mark.slow
def test_moments_and_evidence_of_a_gaussian():
    g = torch.Generator().manual_seed(0)
    W, y = torch.randn(6, 4, dtype=F64, generator=g), torch.randn(2, 6, dtype=F64, generator=g)
    prior = Linear(W).to(F64)
    prior.latent = prior.latent.to(F64)
    post = Posterior(prior, Matrix(torch.eye(6, dtype=F64)), Gaussian(0.2), y)
    S = torch.linalg.inv(torch.eye(4, dtype=F64) + W.T @ W / 0.04)
    codes = []
    TemperedSMC(steps=20, particles=1000, draws=1000)(post, 3000, codes=codes.append)
    z = codes[0]
    for k in (0, 1):
        mean = S @ W.T @ y[k] / 0.04
        white = (z[:, k] - mean) @ torch.linalg.cholesky(torch.linalg.inv(S))
        # 3000 draws of three chains of 1000 particles, worth about 1000: a mean to 0.03, a covariance to 0.045; three
        torch.testing.assert_close(white.mean(0), torch.zeros(4, dtype=F64), atol=0.1, rtol=0)
        torch.testing.assert_close(white.T.cov(), torch.eye(4, dtype=F64), atol=0.15, rtol=0)
    log = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=F64), W @ W.T + 0.04 * torch.eye(6, dtype=F64))
    found = TemperedSMC(steps=20, particles=1000).weighted(post, chains=2).log_evidence.mean(0)
    # a dozen temperatures of 1000 particles, two chains: sqrt(12 / 2000) = 0.08; three
    torch.testing.assert_close(found, log.log_prob(y), atol=0.24, rtol=0)


def test_two_modes_keep_their_shares():
    post = Posterior(Square(), Identity((1,)), 0.1, torch.tensor([2.25]))
    codes = []
    TemperedSMC(steps=15, particles=400, draws=400, moves=3)(post, 800, codes=codes.append)
    z = codes[0].flatten()
    # shares of one half by two chains of 400 particles that no longer change modes: sqrt(5 / 4 / 800) = 0.04; three
    assert abs((z > 0).double().mean() - 0.5) < 0.12
    # near |z| = 1.5 the posterior is normal of width 0.1 / (2 * 1.5), moved by the prior's slope: 1.5 * 0.033^2
    assert abs(z.abs().mean() - 1.4983 + 0.1**2 / (8 * 1.5**3)) < 0.01 and 0.028 < z.abs().std() < 0.039


def test_it_asks_for_a_standard_normal_latent():
    prior = Linear(torch.eye(2), GaussianPrior((2,), 0.0, 2.0))
    with pytest.raises(UnsupportedError, match="needs a standard normal latent, got GaussianPrior"):
        TemperedSMC()(Posterior(prior, Identity((2,)), 0.1, torch.zeros(2)))
    assert math.isfinite(
        TemperedSMC(steps=3).weighted(Posterior(Square(), Identity((1,)), 0.1, torch.ones(1))).log_evidence
    )
