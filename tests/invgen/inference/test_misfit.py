"""Renderers as priors: chains are right where the renderer is, and `solve` warns where it is not."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from invgen import DivergedError, Posterior, calibrate, operators, priors, samplers, solve
from invgen.pushforward import Generator

N = 16
LINE = (torch.arange(N) + 0.5) / N * 2 - 1


def disc(z: Tensor) -> Tensor:
    """A soft disc of centre 0.3 z_1, 0.3 z_2 and radius 0.5 exp(z_3 / 4) in [-1, 1]^2, (B, 1, N, N)."""
    x, y, radius = (v[:, None, None, None] for v in (0.3 * z[:, 0], 0.3 * z[:, 1], 0.5 * (0.25 * z[:, 2]).exp()))
    return torch.sigmoid((radius - ((LINE - x) ** 2 + (LINE[:, None] - y) ** 2 + 1e-6).sqrt()) / 0.1)


def half_seen(count: int, sigma: float, seed: int = 1) -> tuple[Generator, operators.Mask, Tensor, Tensor]:
    """The prior of discs, an operator that hides their right half, codes, and the measurements of them."""
    prior = priors.from_generator(disc, (3,), (1, N, N), value_range=(0, 1), data_mean=0.3, data_std=0.4)
    keep = (torch.arange(N) < N // 2).expand(1, N, N)
    A, g = operators.Mask(prior.shape, keep), torch.Generator().manual_seed(seed)
    z = torch.randn(count, 3, generator=g)
    return prior, A, z, A(disc(z)) + sigma * torch.randn(count, *A.out_shape, generator=g)


def coverage(post: Posterior, z: Tensor) -> float:
    """How often a true code lies within the range of 8 samples of HMC."""
    seen = {}
    samplers.HMC(steps=40)(post, 8, callback=lambda k, codes: seen.update(last=codes))
    codes = seen["last"].unflatten(0, (8, len(z)))
    return ((z > codes.amin(0)) & (z < codes.amax(0))).float().mean().item()


@pytest.mark.slow
def test_hmc_covers_what_a_renderer_made():
    prior, A, z, y = half_seen(100, 0.1)
    # the truth is as any of nine exchangeable draws: outside the range twice in nine; three errors of 100 problems
    assert abs(coverage(Posterior(prior, A, 0.1, y), z) - 7 / 9) < 3 * math.sqrt(7 / 9 * 2 / 9 / 100)


@pytest.mark.slow
def test_particles_cover_what_a_renderer_made():
    """The published twisting function is too narrow for weak noise, and says which one is not."""
    prior, A, z, y = half_seen(30, 0.4)
    codes = samplers.LinearisedTDS(steps=25)(Posterior(prior, A, 0.4, y).latent(), 4)
    inside = ((z > codes.amin(0)) & (z < codes.amax(0))).float().mean().item()
    # the truth is as any of five exchangeable draws: within the range of the four others three times in five; three errors
    assert abs(inside - 3 / 5) < 3 * math.sqrt(3 / 5 * 2 / 5 / 30)
    prior, A, _, y = half_seen(5, 0.05)
    with pytest.raises(DivergedError, match="take LinearisedTDS, which widens p\\(y | D\\) by the uncertainty of D, or "):
        samplers.TDS(steps=25)(Posterior(prior, A, 0.05, y), 8)


@pytest.mark.slow
def test_hmc_on_a_renderer_is_calibrated():
    prior, A, _, _ = half_seen(1, 0.1)
    assert calibrate(prior, A, 0.1, samplers.HMC(steps=40), num_simulations=100, num_samples=9).calibrated


def shaded(z: Tensor) -> Tensor:
    """The same discs lit from one side, which `disc` cannot make."""
    return disc(z) * (1 + 0.3 * LINE[:, None])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sigma", "why"), [(0.05, "residuals are at least 1.[2-9]"), (0.1, "residuals have a correlation of")]
)
def test_a_renderer_that_only_comes_near_is_said_to(sigma, why):
    prior, A, z, _ = half_seen(20, sigma)
    y = A(shaded(z))
    y = y + (sigma if sigma < 0.1 else 0.02) * torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    with pytest.warns(UserWarning, match=f"the Decoder cannot make what was measured, .* {why}"):
        solve(y, A, prior, sigma, samplers.PCN(steps=200), num_samples=8)
    assert coverage(Posterior(prior, A, sigma, y), z) < 0.65  # of 0.78, which is why


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.4])
def test_samples_of_a_right_renderer_raise_no_alarm(sigma):
    prior, A, _, y = half_seen(300, sigma)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(y, A, prior, sigma, samplers.PCN(steps=200), num_samples=4)
