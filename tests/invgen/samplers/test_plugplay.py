"""Plug-and-play methods against the closed forms of their fixed points, and denoisers of one level wherever they go.

With a Gaussian prior and its exact denoiser, D(x, s) = m + C (C + s^2)^-1 (x - m), the three methods are affine, and where
they end is known in dense matrices.
"""

import math
import warnings

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, OptionError, Posterior, UnsupportedError, calibrate, log_prob, priors, samplers, solve
from invgen.operators import Mask, from_function
from invgen.priors import GaussianPrior
from invgen.pushforward import Flow
from invgen.samplers.plug_and_play.dpir import turned
from tests.invgen.samplers.gaussian_problems import EYE, F64, SHAPE, SIGMA, N, correlated, denoiser, exact, problem


def mode(post: Posterior, precision: Tensor) -> Tensor:
    """argmin |y - A x|^2 / sigma_y^2 + (x - m)^T precision (x - m), of shape SHAPE."""
    M, m = post.A.matrix, post.prior.mean.flatten()
    H = M.T @ M / post.noise.var + precision
    return (m + torch.linalg.solve(H, M.T @ (post.y - M @ m) / post.noise.var)).reshape(SHAPE)


def known_alone(prior: GaussianPrior, level: float) -> priors.FunctionDenoiser:
    """The exact denoiser of one level, as a function of x alone."""
    facts = {"data_mean": prior.data_mean, "data_std": prior.data_std, "value_range": prior.value_range}

    class Known(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = prior

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x, level)

    return priors.from_denoiser(Known(), SHAPE, level=level, **facts)


# -- where they end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_pnp_admm_ends_at_the_posterior_mean_at_any_level(sigma):
    post = problem(correlated())
    x = samplers.PnPADMM(steps=400, sigma=sigma)(post)[0]
    torch.testing.assert_close(x.flatten(), exact(post)[0].flatten(), rtol=1e-8, atol=1e-8)


def test_pnp_admm_weighs_the_prior_by_lam():
    post = problem(correlated())
    x = samplers.PnPADMM(steps=400, lam=0.3)(post)[0]
    torch.testing.assert_close(x, mode(post, 0.3 * torch.linalg.inv(post.prior.covariance)), rtol=1e-8, atol=1e-8)


def test_pnp_admm_with_a_falling_level_ends_there_too():
    # rho grows without end, so that the last steps are short: near the mean, not on it
    post = problem(correlated())
    x = samplers.PnPADMM.adaptive(steps=400)(post)[0]
    width = exact(post)[1].trace().sqrt()
    assert (x.flatten() - exact(post)[0].flatten()).norm() < 0.02 * width
    seen = []
    post.prior.register_forward_hook(lambda module, args, out: seen.append(float(args[1])))
    samplers.PnPADMM(steps=20, sigma=0.2, gamma=4.0, eta=0.0)(post)
    halved = [a / b for a, b in zip(seen, seen[1:], strict=False)]
    # eta = 0: at every step but the first, which has none to compare with
    assert halved[1:] == pytest.approx([2.0] * 18) or seen[-1] == post.prior.sigma_min, seen


@pytest.mark.parametrize("method", ["fixed-point", "descent"])
@pytest.mark.parametrize("lam", [1.0, 0.25])
def test_red_ends_at_the_mean_under_the_blurred_prior(method, lam):
    post, s = problem(correlated(), 1.0), 0.5
    width = post.prior.value_range[1] - post.prior.value_range[0]
    x = samplers.RED(steps=1000, sigma=s / width, lam=lam, method=method)(post)[0]
    wanted = mode(post, lam * torch.linalg.inv(post.prior.covariance + s**2 * EYE))
    torch.testing.assert_close(x, wanted, rtol=1e-7, atol=1e-7)


def test_red_published_parameters_are_those_of_grey_levels():
    red = samplers.RED.paper("uniform deblurring")
    assert red.sigma == pytest.approx(3.25 / 255) and red.lam == pytest.approx(0.02 * 3.25**2) and red.steps == 200
    assert samplers.DPIR.paper("super-resolution") == samplers.DPIR(steps=24, ensemble=True)


def test_dpir_is_its_recursion():
    post, sampler = problem(correlated()), samplers.DPIR(steps=6, sigma=0.3)
    prior, M = post.prior, post.A.matrix
    first = 0.3 * (prior.value_range[1] - prior.value_range[0])
    last = SIGMA / torch.linalg.matrix_norm(M, 2).item()
    x = prior.data_mean * torch.ones(N, dtype=F64)
    x = x + torch.linalg.solve(M.T @ M / SIGMA**2 + EYE / prior.data_std**2, M.T @ (post.y - M @ x) / SIGMA**2)
    for k in range(6):
        s = math.exp(math.log(first) + k / 5 * math.log(last / first))
        x = torch.linalg.solve(M.T @ M / SIGMA**2 + 0.23 / s**2 * EYE, M.T @ post.y / SIGMA**2 + 0.23 / s**2 * x)
        E, c = denoiser(prior, s)
        x = E @ x + c
    # the power method that finds |A| stops at 1e-6
    torch.testing.assert_close(sampler(post)[0].flatten(), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("shape", "count"), [((2, 3, 5, 5), 8), ((2, 3, 5, 4), 4), ((2, 7), 2)])
def test_the_self_ensemble_turns_back_what_it_turned(shape, count):
    x = torch.arange(math.prod(shape), dtype=F64).reshape(shape)
    seen = {tuple(turned(x, k).flatten().tolist()) for k in range(8)}
    assert len(seen) == count and all(turned(x, k).shape == x.shape for k in range(8))
    assert all(torch.equal(turned(turned(x, k), k, back=True), x) for k in range(8))


def test_the_self_ensemble_changes_nothing_for_a_prior_that_looks_alike_from_all_sides():
    prior = GaussianPrior((1, 4, 4), torch.zeros(1, 4, 4, dtype=F64), 0.5)
    A = Mask((1, 4, 4), torch.eye(4))
    post = Posterior(prior, A, Gaussian(0.1), A(prior.sample(1, seed=1))[0])
    plain, turning = (samplers.DPIR(ensemble=e)(post) for e in (False, True))
    torch.testing.assert_close(plain, turning, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["PnPADMM", "RED", "DPIR"])
def test_one_point_says_that_it_is_no_posterior(name):
    post = problem(correlated())
    with pytest.warns(UserWarning, match=f"{name} finds one point: its 3 samples are equal"):
        x = samplers.get(name)(steps=3)(post, 3)
    assert torch.equal(x[0], x[2])
    with pytest.raises(OptionError, match=f"calibration asks .* {name} finds one point"):
        calibrate(post.prior, post.A, SIGMA, samplers.get(name)())


# -- denoisers of one level -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.3, 0.7])
def test_a_denoiser_of_one_level_is_a_prior_of_that_level(level):
    full = problem(correlated())
    prior = known_alone(full.prior, level)
    assert prior.sigma_min == prior.sigma_max == level and prior.one_level
    post = Posterior(prior, full.A, full.noise, full.y)
    x = solve(post.y, post.A, prior, post.noise, samplers.PnPADMM(steps=500)).mean
    torch.testing.assert_close(x.flatten(), exact(full)[0].flatten(), rtol=1e-6, atol=1e-6)
    x = samplers.RED(steps=600)(post)[0]
    wanted = mode(full, torch.linalg.inv(full.prior.covariance + level**2 * EYE))
    torch.testing.assert_close(x, wanted, rtol=1e-6, atol=1e-6)
    # in other units too
    other = Posterior(
        prior.rescaled(5.0, 2.0), full.A * 0.2, full.noise, full.y + full.A(torch.full(SHAPE, 0.4, dtype=F64))
    )
    torch.testing.assert_close(samplers.RED(steps=600)(other)[0], 5 * x + 2, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_langevin_on_a_denoiser_of_one_level_draws_from_the_blurred_posterior():
    full = problem(correlated(), 1.5)
    prior, count = known_alone(full.prior, 0.3), 300
    post = Posterior(prior, full.A, full.noise, full.y)
    x = samplers.ULA(warm=0, steps=300, sigma=0.01, step=0.5)(post, count).flatten(1)
    blurred = torch.linalg.inv(full.prior.covariance + 0.09 * EYE)
    H = full.A.matrix.T @ full.A.matrix / 1.5**2 + blurred
    h = 0.5 / (torch.linalg.matrix_norm(full.A.matrix, 2) ** 2 / 1.5**2 + 1 / 0.09)
    wanted, covariance = mode(full, blurred).flatten(), torch.linalg.inv(H @ (EYE - 0.5 * h * H))
    # five standard errors, and what the slowest direction remembers of its start after 300 steps: 1 %
    assert ((x.mean(0) - wanted).abs() < 5 * (covariance.diag() / count).sqrt() + 1e-2).all()
    assert (x.T.cov().diag() / covariance.diag() - 1).abs().max() < 5 * (2 / count) ** 0.5 + 0.02


def test_samplers_of_many_levels_refuse_it_and_name_those_that_fit():
    full = problem(correlated())
    post = Posterior(known_alone(full.prior, 0.1), full.A, full.noise, full.y)
    fit = [c.__name__ for c in samplers.catalogue().values() if c().refuses(post) is None]
    assert sorted(fit) == ["PnPADMM", "RED"]
    for name in ("DPS", "PiGDM", "DiffPIR", "DAPS", "PnPDM", "DPIR", "HMC", "REDdiff", "TDS", "FlowPriors", "MMPS"):
        with pytest.raises(UnsupportedError, match="many noise levels, and this one knows 0.1 alone; .* PnPADMM, RED$"):
            samplers.get(name)()(post)
    with pytest.raises(UnsupportedError, match="with warm=0 it takes this one"):
        samplers.ULA()(post)
    with pytest.raises(UnsupportedError, match="needs a denoiser of many noise levels"):
        samplers.Heun()(post.prior)
    with pytest.raises(UnsupportedError, match="flow ODE needs a denoiser of many"):
        Flow(post.prior)
    with pytest.raises(UnsupportedError, match="log_prob .* needs a denoiser of many"):
        log_prob(post.prior, torch.zeros(1, *SHAPE, dtype=F64))
    with pytest.raises(UnsupportedError, match="with gamma > 1 needs a denoiser of many noise levels"):
        samplers.PnPADMM(gamma=1.2)(post)


@pytest.mark.slow
def test_auto_takes_what_one_level_allows():
    full = problem(correlated())
    result = solve(full.y, full.A, known_alone(full.prior, 0.1), SIGMA, "auto")
    assert isinstance(result.sampler, samplers.PnPADMM) and "without an uncertainty" in result.reason
    curved = from_function(lambda x: x.flatten(1) ** 3, SHAPE)
    y = torch.ones(N, dtype=F64)
    assert isinstance(solve(y, curved, known_alone(full.prior, 0.3), 1.0, "auto").sampler, samplers.ULA)


def test_what_a_denoiser_is_told():
    x = torch.ones(2, 3)
    one = priors.from_denoiser(lambda x: 0.5 * x, (3,), level=0.1)
    assert torch.equal(one(x, 0.1), 0.5 * x) and torch.equal(one(x, torch.full((2,), 0.1005)), 0.5 * x)
    with pytest.raises(OptionError, match="knows the noise level 0.1 alone and was asked for 0.3"):
        one(x, 0.3)
    blind = priors.from_denoiser(lambda x: 0.5 * x, (3,), blind=True, sigma_min=0.01, sigma_max=0.2)
    assert torch.equal(blind(x, 0.15), 0.5 * x) and not blind.one_level
    told = priors.from_denoiser(lambda x, s: s * x, (3,), sigma_min=0.1, sigma_max=0.1)
    assert torch.equal(told(x, 0.1), 0.1 * x) and told.one_level
    for options in ({"level": 0.1, "sigma_max": 1.0}, {"level": 0.1, "blind": True}, {"level": 0.1, "per_sample": True}):
        with pytest.raises(OptionError, match="one level= is told no other"):
            priors.from_denoiser(lambda x: x, (3,), **options)
    for options in ({}, {"sigma_max": 0.2}, {"sigma_min": 0.1, "sigma_max": 0.2, "per_sample": True}):
        with pytest.raises(OptionError, match="a blind denoiser takes x alone: give sigma_min= and sigma_max="):
            priors.from_denoiser(lambda x: x, (3,), blind=True, **options)
    for level in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(OptionError, match="noise levels must satisfy|level of FunctionDenoiser must be"):
            priors.from_denoiser(lambda x: x, (3,), level=level)


def test_the_error_of_a_denoiser_of_one_level_is_measured_there():
    prior = GaussianPrior((50,), torch.zeros(50, dtype=F64), 0.5)
    one = priors.from_denoiser(lambda x: prior(x, 0.3), (50,), level=0.3, data_std=0.5**0.5)
    one.measure_mmse(prior.sample(400, seed=1))
    wanted = 0.09 * 0.5 / 0.59
    # 20,000 values: a standard error of one per cent
    assert len(one.mmse) == 1 and one.variance(0.3) == pytest.approx(wanted, rel=0.05)
    assert one.variance(0.15) == pytest.approx(one.variance(0.3) / 4) and one.variance(3.0) == one.variance(0.3)


def test_check_prior_looks_at_the_one_level_that_there_is():
    prior = GaussianPrior((1, 8, 8), torch.zeros(1, 8, 8, dtype=F64), 0.25)
    x0 = prior.sample(16, seed=1)
    facts = {"level": 0.3, "data_std": 0.5, "value_range": (-1.5, 1.5)}
    report = priors.check_prior(priors.from_denoiser(lambda x: prior(x, 0.3), (1, 8, 8), **facts), x0)
    assert [level.sigma for level in report.levels] == [pytest.approx(0.3)]
    assert not any("fit its declaration" in finding for finding in report.findings), report.findings
    # an error below its reference is no fault, and what is said of such a denoiser does not read as praise
    sharp = priors.from_denoiser(lambda x: x0[: len(x)] + 0.1 * (x - x0[: len(x)]), (1, 8, 8), **facts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = priors.check_prior(sharp, x0)
    assert report.levels[0].error < report.levels[0].linear
    assert not any("times that of a mere gain" in finding for finding in report.findings), report.findings
    # signals set what was left open, never the one level
    told = priors.from_denoiser(lambda x: prior(x, 0.3), (1, 8, 8), level=0.3, data=x0)
    assert told.sigma_min == told.sigma_max == 0.3 and told.data_std == pytest.approx(0.5, rel=0.1)
