"""Denoising by the diffusion itself: the exact law on a Gaussian as steps grow, and a judge of a network."""

import pytest
import torch

from invgen import UnsupportedError, calibrate, samplers
from invgen.operators import Identity, Mask, Matrix
from invgen.priors import GaussianPrior
from tests.invgen.samplers.gaussian_problems import F64, SHAPE, N, correlated, exact, law, normal, problem

# three times an orthogonal matrix: noise of .9 in the measurement is a level of .3 of the signal
ROTATION = Matrix(3 * torch.linalg.qr(normal(N, N, seed=7)).Q, SHAPE)


@pytest.mark.parametrize(("sigma", "A"), [(0.4, Identity(SHAPE)), (1.5, Identity(SHAPE)), (0.9, ROTATION)])
def test_a_gaussian_is_denoised_exactly_as_steps_grow(sigma, A):
    post = problem(correlated(), sigma, A)
    mean, covariance = exact(post)
    errors = []
    for steps in (25, 100):
        m, S = law(samplers.ReverseDiffusion(steps=steps), post)
        # the mean of every step is exact; the covariance lacks what the first step does not know, of order 1 / steps^2
        torch.testing.assert_close(m, mean, rtol=1e-7, atol=1e-7)
        errors.append(torch.linalg.norm(S - covariance) / covariance.norm())
    assert errors[0] < 0.04
    assert errors[1] < 0.004


def test_the_first_order_step_lacks_variance_and_the_second_does_not():
    post = problem(correlated(), 0.8, Identity(SHAPE))
    truth = exact(post)[1].trace()
    first, second = (law(samplers.ReverseDiffusion(steps=25, order=k), post)[1].trace() / truth for k in (1, 2))
    assert first < 0.8
    assert abs(second - 1) < 0.05


def test_what_is_no_denoising_is_refused():
    prior = GaussianPrior(SHAPE, torch.zeros(SHAPE, dtype=F64), 1.0)
    with pytest.raises(UnsupportedError, match="denoises, with operators such as Identity, got Mask"):
        samplers.ReverseDiffusion()(problem(prior, 0.4, Mask(SHAPE, torch.arange(N).reshape(SHAPE) % 2 == 0)))
    with pytest.raises(UnsupportedError, match="needs noise of a level that the prior knows"):
        samplers.ReverseDiffusion()(problem(prior, 1e4, Identity(SHAPE)))
    with pytest.raises(UnsupportedError):
        samplers.ReverseDiffusion()(problem(prior, 0.0, Identity(SHAPE)))


def test_a_denoiser_that_is_not_of_its_own_samples_is_found_without_guidance():
    class Overconfident(GaussianPrior):
        """The denoiser of a quarter of the variance, with the samples of the whole."""

        def forward(self, x, sigma):
            return super().forward(x, 2 * torch.as_tensor(sigma, dtype=x.dtype))

    options = {"num_simulations": 200, "num_samples": 19, "sampler": "ReverseDiffusion"}
    right = calibrate(GaussianPrior(SHAPE, 0.0, 1.0), Identity(SHAPE), 0.5, **options)
    wrong = calibrate(Overconfident(SHAPE, 0.0, 1.0), Identity(SHAPE), 0.5, **options)
    # 200 signals of 6 values: the ratio has a standard error of about 2 %
    assert right.calibrated and abs(right.spread_over_error - 1) < 0.08
    assert not wrong.calibrated


def test_the_schedule_is_heeded():
    post = problem(correlated(), 0.8, Identity(SHAPE))
    early, log = (law(samplers.ReverseDiffusion(steps=25, schedule=name), post)[1] for name in ("early", "log"))
    wanted = exact(post)[1]
    # the first step of "log" is longer, and lacks more variance
    assert torch.linalg.norm(log - wanted) > 1.5 * torch.linalg.norm(early - wanted)
    # the first level is that of the noise, the last the prior's lowest
    pairs = samplers.ReverseDiffusion(steps=5).levels(post.prior, 0.8)
    assert pairs[0][0] == 0.8 and pairs[-1] == (pytest.approx(post.prior.sigma_min), 0.0)
