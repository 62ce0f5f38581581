"""Slices with a coupling: against dense minimisers, exact Gaussians, and what holds memory and samplers together."""

import math

import pytest
import torch

from invgen import operators, samplers, solve
from invgen.diffusion import Denoiser
from invgen.errors import OptionError, ShapeError
from invgen.priors import GaussianPrior
from invgen.priors.wrappers.slices import Slices, smooth

F64 = torch.float64


class Shrink(Denoiser):
    """Slices of N(0, data_std^2 I), whose denoiser is the exact one. Knows the most rows that it saw at once."""

    most = 0

    def forward(self, x, sigma):
        self.most = max(self.most, len(x))
        s = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return self.data_std**2 / (self.data_std**2 + s**2) * x


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def differences(n):
    return torch.eye(n, dtype=F64)[1:] - torch.eye(n, dtype=F64)[:-1]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_smoother_is_the_dense_minimiser(axis):
    shape = [3, 4, 5]
    z, n = noise(*shape), shape[axis]
    w = noise(*shape, seed=1).narrow(axis, 0, n - 1).exp()
    u = smooth(z, w, axis).movedim(axis, -1).reshape(-1, n)
    D = differences(n)
    for row, value, weight in zip(
        u, z.movedim(axis, -1).reshape(-1, n), w.movedim(axis, -1).reshape(-1, n - 1), strict=True
    ):
        dense = torch.linalg.solve(torch.eye(n, dtype=F64) + D.T @ (weight[:, None] * D), value)
        torch.testing.assert_close(row, dense, rtol=0, atol=1e-13)


def test_a_random_walk_is_the_posterior_of_a_gaussian():
    n, s, tau, sigma = 6, 0.7, 0.3, 0.5
    prior = Slices(Shrink((1, 2, 2), data_std=s), n, coupling="ar", scale=tau)
    x = noise(2, 1, n, 2, 2)
    z, v = s**2 / (s**2 + sigma**2) * x, s**2 * sigma**2 / (s**2 + sigma**2)
    # N(x; u, sigma^2) prod N(u_k; 0, s^2) prod N(u_{k+1} - u_k; 0, tau^2): the mean and covariance of u
    D = differences(n)
    covariance = torch.linalg.inv(torch.eye(n, dtype=F64) / v + D.T @ D / tau**2)
    mean = torch.einsum("kl,bclhw->bckhw", covariance / v, z)
    torch.testing.assert_close(prior(x, sigma), mean)
    torch.testing.assert_close(prior(x, torch.full((2,), sigma, dtype=F64)), mean)
    assert prior.variance(sigma) == pytest.approx(covariance.diagonal().mean().item())


def test_total_variation_is_the_minimiser_of_its_objective():
    n, scale, v = 9, 0.2, 0.05
    prior = Slices(Shrink((1, 3, 3)), n, coupling="tv", scale=scale)
    z = 0.5 * noise(1, 1, n, 3, 3)
    u = prior._couple(z, v, scale)[0, 0].reshape(n, -1)
    D, z = differences(n), z[0, 0].reshape(n, -1)
    p = torch.zeros(n - 1, 9, dtype=F64)
    for _ in range(3000):  # the dual: u = z - D^T p with |p| <= v / scale, by projected gradients
        p = (p + 0.25 * D @ (z - D.T @ p)).clamp(-v / scale, v / scale)
    exact = z - D.T @ p

    def objective(u):
        return ((u - z).square() / (2 * v)).sum() + (D @ u).abs().sum() / scale

    assert objective(u) < 1.003 * objective(exact)  # eight rounds leave .21 per cent, sixteen .07
    assert (u - exact).abs().max() < 0.04  # .032; .011 after sixteen


@pytest.mark.parametrize("coupling", ["tv", "ar"])
def test_learn_finds_the_scale_of_a_random_walk(coupling):
    g = torch.Generator().manual_seed(0)
    steps = 0.1 * torch.randn(4, 1, 20, 8, 8, generator=g, dtype=F64)
    if coupling == "tv":  # jumps: one of ten differences
        steps = 5 * steps * (torch.rand(steps.shape, generator=g) < 0.1)
    volumes = steps.cumsum(2) + torch.randn(4, 1, 1, 8, 8, generator=g, dtype=F64)
    prior = Slices(Shrink((1, 8, 8), data_std=volumes.std().item(), sigma_min=0.03, sigma_max=3.0), 20, coupling=coupling)
    alone = Slices(prior.prior, 20)
    assert prior.learn(volumes) is prior
    if coupling == "ar":
        assert 0.08 < prior.scale < 0.14  # .1 on a grid of half octaves that has .08 and .113
    level = prior.mmse[3][0]
    x = volumes + level * noise(*volumes.shape, seed=1)
    error, before = ((p(x, level) - volumes).square().mean().item() for p in (prior, alone))
    assert error < 0.75 * before and prior.variance(level) == pytest.approx(
        error, rel=0.15
    )  # both from some 500 jumps: .06


def test_differentiable_in_chunks_and_shared_noise():
    net = Shrink((1, 4, 4))
    prior = Slices(net, 10, coupling="tv", scale=0.1, shared_noise=0.75, max_batch=3)
    x = noise(2, 1, 10, 4, 4)
    D, pull = prior.vjp(x, 0.3)
    h = 1e-6 * noise(*x.shape, seed=1)
    change = ((prior(x + h, 0.3) - prior(x - h, 0.3)) / 2 * noise(*x.shape, seed=2)).sum()
    assert (pull(noise(*x.shape, seed=2)) * h).sum().item() == pytest.approx(change.item(), rel=1e-4)
    assert net.most == 3 and D.shape == x.shape
    z = prior.start(noise(4000, 1, 10, 1, 1).expand(-1, -1, -1, 4, 4), 10.0)[:, 0, :, 0, 0]
    c = torch.corrcoef(z.T)
    assert z.std().item() == pytest.approx(math.hypot(10, 0.5), rel=0.02)  # as if nothing was shared
    assert c[~torch.eye(10, dtype=torch.bool)].mean().item() == pytest.approx(0.75, abs=0.03)  # 1 / sqrt(4000) = .016


@pytest.mark.parametrize("axis", [0, 1])
def test_samplers_see_the_coupling(axis):
    prior = Slices(GaussianPrior((3,), 0.0, 1.0), 5, axis, coupling="ar", scale=0.3)
    A = operators.Mask(prior.shape, torch.rand(prior.shape, generator=torch.Generator().manual_seed(0)) < 0.4)
    y = A(torch.ones(prior.shape))
    result = solve(y, A, prior, noise=0.1, sampler=samplers.AdaptivePiGDM(steps=12), num_samples=64, seed=0)
    # the exact posterior of three columns of five slices each, side by side
    D = differences(5)
    precision = torch.kron(torch.eye(3, dtype=F64), torch.eye(5, dtype=F64) + D.T @ D / 0.09)
    kept = (A.mask if axis == 0 else A.mask.T).double().T.reshape(-1)
    precision = precision + torch.diag(kept / 0.01)
    mean = torch.linalg.solve(precision, kept / 0.01).reshape(3, 5)
    got = result.mean.double() if axis else result.mean.double().T
    assert (got - mean).abs().max() < 0.1  # 12 steps of a Gaussian guidance; the deviation is up to .2


def test_bad_input_is_one_sentence():
    net = Shrink((1, 4, 4))
    with pytest.raises(OptionError, match="give scale=, or call learn"):
        Slices(net, 3, coupling="tv")(noise(1, 1, 3, 4, 4), 0.5)
    with pytest.raises(OptionError, match="scale belongs to a coupling"):
        Slices(net, 3, scale=0.1)
    with pytest.raises(OptionError, match="make the prior with coupling"):
        Slices(net, 3).learn(noise(1, 1, 3, 4, 4))
    with pytest.raises(ShapeError, match="at least two slices"):
        Slices(net, 3, coupling="ar").learn(noise(1, 1, 1, 4, 4))
    with pytest.raises(OptionError, match="slices that differ"):
        Slices(net, 3, coupling="ar").learn(torch.ones(1, 1, 3, 4, 4))
