"""Markov chains against the laws that they leave invariant, which are known in closed form on Gaussian problems.

Unadjusted chains are affine maps of their state and noise there, so one step of theirs is read off (`law`) and the law
that it keeps, with the bias of its step, is compared without Monte-Carlo error. Chains that accept and reject are compared
by the moments of many of them.
"""

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, OptionError, Posterior, UnsupportedError, samplers
from invgen.forward import Operator
from invgen.numerics.random import Streams
from invgen.operators import Mask, Matrix
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.pushforward import Flow
from invgen.sampler import Cost
from invgen.samplers.mcmc.base import (
    DualAveraging,
    choose,
    data_score,
    langevin,
    langevin_around,
    local_step,
    log_prior_change,
    metropolis,
    skrock_stability,
)
from tests.invgen.samplers import gaussian_problems
from tests.invgen.samplers.gaussian_problems import (
    EYE,
    F64,
    ROWS,
    SHAPE,
    Law,
    Linear,
    Map,
    N,
    assert_same_law,
    begin,
    correlated,
    denoiser,
    exact,
    law,
    many,
    matrix,
    moments,
    normal,
    through,
)

SIGMA = 0.5


def prior() -> GaussianPrior:
    return correlated(floor=0.3)


def mixture(spread: float = 1.0) -> GaussianMixture:
    return GaussianMixture(spread * normal(3, *SHAPE, seed=7), [0.2, 0.3, 0.5], var=0.4)


def problem(p: GaussianMixture | None = None, A: Operator | None = None, sigma: float = SIGMA) -> Posterior:
    return gaussian_problems.problem(prior() if p is None else p, sigma, A)


def gap(got: Law, wanted: Law) -> float:
    """How far a law is from another, in units of the latter: largest shift of the mean and change of the covariance."""
    L = torch.linalg.cholesky(wanted[1])
    white = torch.linalg.solve_triangular(L, got[1], upper=False)
    white = torch.linalg.solve_triangular(L, white.T, upper=False)
    shift = torch.linalg.solve_triangular(L, (got[0] - wanted[0])[:, None], upper=False)
    return max(shift.abs().max().item(), (white - torch.eye(len(L), dtype=F64)).abs().max().item())


def assert_moments(x: Tensor, wanted: Law) -> None:
    """Moments of independent draws: of some 30 numbers with standard errors up to sqrt(2 / n), none is 4.5 of them off."""
    assert gap(moments(x), wanted) < 4.5 * math.sqrt(2 / len(x))


# -- unadjusted chains: the bias of the step ---------------------------------------------------------------------------


def spectrum(post: Posterior, sampler: samplers.ULA) -> tuple[Law, Tensor, Tensor, float]:
    """The smoothed posterior, its precisions and axes, and the inverse of the bound on them that steps are in units of."""
    sigma = sampler.levels(post.prior)[0][0]
    smoothed = exact(post, sigma)
    variances, Q = torch.linalg.eigh(smoothed[1])
    return smoothed, 1 / variances, Q, 1 / ((post.A.norm() / SIGMA) ** 2 + 1 / sigma**2)


@pytest.mark.parametrize("step", [0.25, 1.0])
def test_ula_keeps_the_smoothed_posterior_with_the_variances_of_its_step(step):
    post, sampler = problem(), samplers.ULA(steps=1, sigma=0.5, step=step)
    (mean, _), q, Q, unit = spectrum(post, sampler)
    h = step * unit
    assert h * q.max() < step  # the bound is one
    kept = mean, Q @ (1 / (q * (1 - h * q / 2))).diag() @ Q.T
    assert_same_law(law(sampler, post, kept), kept, tol=1e-9)


@pytest.mark.slow
def test_ula_bias_is_a_number_and_falls_with_the_step():
    post = problem()
    biases = []
    for step in (1.0, 0.5, 0.25):
        _, q, _, unit = spectrum(post, samplers.ULA(sigma=0.5, step=step))
        biases.append((1 / (1 - step * unit * q.max() / 2) - 1).item())
    # the stiffest variance is 91 per cent too large at step 1, 13 at the default; first order in the step
    assert biases[0] == pytest.approx(0.906, abs=5e-3) and biases[2] == pytest.approx(0.135, abs=5e-3), biases
    # a chain of 1500 steps has forgotten its start
    sampler = samplers.ULA(steps=1500, sigma=0.5, warm=0)
    x = sampler(post, 1000, seed=1)
    (mean, _), q, Q, unit = spectrum(post, sampler)
    assert (1 - sampler.step * unit * q.min()) ** 1500 < 5e-3
    assert_moments(x, (mean, Q @ (1 / (q * (1 - sampler.step * unit * q / 2))).diag() @ Q.T))


def chebyshev(order: int, x: Tensor, kind: int) -> Tensor:
    a, b = torch.ones_like(x), kind * x
    for _ in range(order):
        a, b = b, 2 * x * b - a
    return a


@pytest.mark.parametrize(("stages", "step"), [(3, 0.5), (10, 0.5), (10, 0.05)])
def test_skrock_keeps_the_law_of_its_stability_polynomials(stages, step):
    post, sampler = problem(), samplers.SKROCK(steps=1, sigma=0.5, step=step, stages=stages)
    (mean, S), q, Q, unit = spectrum(post, sampler)
    h = step * unit * skrock_stability(stages)
    # Abdulle, Almuslimani & Vilmart (2018): x' = A(p) x + B(p) sqrt(2 h) z with p = -h q
    w0 = torch.tensor(1 + 0.05 / stages**2, dtype=F64)
    w1 = chebyshev(stages, w0, 1) / (stages * chebyshev(stages - 1, w0, 2))
    at = w0 - w1 * h * q
    A = chebyshev(stages, at, 1) / chebyshev(stages, w0, 1)
    B = chebyshev(stages - 1, at, 2) / chebyshev(stages - 1, w0, 2) * (1 - w1 * h * q / 2)
    assert (A.abs() < 1).all()
    kept = mean, Q @ (2 * h * B**2 / (1 - A**2)).diag() @ Q.T
    assert_same_law(law(sampler, post, kept), kept, tol=1e-9)
    if step == 0.05:  # at small steps it is the posterior
        assert gap(kept, (mean, S)) < 0.35


def test_skrock_forgets_its_start_faster_than_ula_at_equal_cost():
    post = problem()
    _, q, _, unit = spectrum(post, samplers.ULA(sigma=0.1))
    start = exact(post)[0] + 1.0, EYE
    wanted = exact(post, 0.1 * post.prior.data_std)[0]
    left = []
    for sampler in (samplers.ULA(steps=100), samplers.SKROCK(steps=10, stages=10)):
        left.append((law(sampler, post, start)[0] - wanted).norm().item())
    assert left[1] < 0.5 * left[0], left


# -- Metropolis-adjusted chains: no bias -------------------------------------------------------------------------------


def hidden(p: GaussianMixture) -> GaussianMixture:
    """The same prior, which does not tell its density."""
    other = copy.copy(p)
    other.__class__ = type("Hidden", (type(p),), {"has_density": False})
    return other


@pytest.mark.slow
def test_mala_samples_the_smoothed_posterior():
    post, sampler = problem(), samplers.MALA(steps=300, sigma=0.5, warm=0)
    sigma = sampler.levels(post.prior)[0][0]
    assert_moments(sampler(post, 3000), exact(post, sigma))


@pytest.mark.slow  # two thousand chains
def test_mala_on_a_mixture_by_the_density_and_by_the_integral_of_the_score():
    p = mixture(0.5)
    wide = GaussianMixture(p.means.reshape(-1, *SHAPE), p.weights, var=0.4 + (0.5 * p.data_std) ** 2)
    post = problem(p)
    wanted = wide.posterior(post.A, post.noise, post.y)
    sampler = samplers.MALA(steps=300, sigma=0.5, warm=0)
    cost, dearer = Cost(), Cost()
    a = sampler(post, 1000, cost=cost)
    b = sampler(dataclasses.replace(post, prior=hidden(p)), 1000, cost=dearer)
    for x in (a, b):
        assert_moments(x, (wanted.mean.flatten(), wanted.covariance))
    assert (cost.nfe, dearer.nfe) == (301, 601)


def test_the_change_of_the_prior_by_simpsons_rule():
    randn = Streams(0, list(range(50)))
    x = randn(torch.empty(50, *SHAPE, dtype=F64))
    way = randn(x)
    for p, s in ((prior(), 0.2), (mixture(), 0.2)):
        errors = []
        for length in (0.05, 0.025):
            new = x + length * way
            scores = p.score(x, s), p.score(new, s)
            got = log_prior_change(hidden(p), s, x, new, scores).flatten()
            errors.append((got - (p.log_prob(new, s) - p.log_prob(x, s))).abs().max().item())
        # exact where the score is linear, else of fifth order: a factor of 32 for half the way
        assert errors[0] < 1e-12 if isinstance(p, GaussianPrior) else errors[1] < errors[0] / 16 < 1e-3, errors


def pushed(G: Tensor, mean: Tensor, post: Posterior) -> Law:
    """The posterior of x = G z + mean, its mean and covariance, for standard normal z."""
    H = matrix(post.A)
    S = torch.linalg.inv(torch.eye(G.shape[1], dtype=F64) + (H @ G).T @ (H @ G) / post.noise.var)
    z = S @ (H @ G).T @ (post.y - H @ mean) / post.noise.var
    return G @ z + mean, G @ S @ G.T


W = normal(N, 4, seed=11)
LATENT = [samplers.PCN(steps=400), samplers.HMC(steps=40, leapfrogs=5)]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", LATENT, ids=lambda s: type(s).__name__)
def test_latent_chains_sample_the_exact_posterior_of_a_linear_generator(sampler):
    generator = Linear(W, 0.5, (4,))
    post = problem()
    post = dataclasses.replace(post, prior=generator)
    x = sampler(post, 2000).flatten(1)
    mean, S = pushed(generator.W, torch.full((N,), 0.5, dtype=F64), post)
    back = torch.linalg.pinv(generator.W)  # compared as codes: the law of x is flat
    z = (x - 0.5) @ back.T
    torch.testing.assert_close(z @ generator.W.T + 0.5, x, atol=1e-5, rtol=1e-5)
    assert_moments(z, (back @ (mean - 0.5), back @ S @ back.T))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", LATENT, ids=lambda s: type(s).__name__)
def test_latent_chains_on_a_diffusion_prior_sample_the_posterior_of_its_flow(sampler):
    post = problem()
    eye = torch.cat([torch.zeros(1, N, dtype=F64), EYE]).reshape(-1, *SHAPE)

    def of_flow(steps: int) -> Law:
        x = Flow(post.prior, steps, "flow", "midpoint")(eye).flatten(1)
        return pushed((x[1:] - x[0]).T, x[0], post)

    x = dataclasses.replace(sampler, ode_steps=4)(post, 500)
    assert x.shape == (500, *SHAPE)
    assert_moments(x, of_flow(4))
    # the rule is of second order at least, and so is what it leaves of the error
    errors = [gap(of_flow(n), exact(post)) for n in (4, 8, 16)]
    assert errors[2] < 0.3 * errors[1] < 0.09 * errors[0] and errors[2] < 1e-3, errors


def test_latent_chains_ask_for_a_standard_normal_latent_and_pcn_for_no_gradient():
    post = problem()
    odd = dataclasses.replace(post, prior=Linear(W, 0.5, GaussianPrior((4,), 0.0, 2.0)))
    for sampler in LATENT:
        with pytest.raises(UnsupportedError, match="needs a standard normal latent, got GaussianPrior; samplers that fit"):
            sampler(odd)

    class Counter(Operator):
        differentiable = False

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).floor()

    black = Posterior(prior(), Counter(SHAPE), Gaussian(0.5), torch.zeros(N, dtype=F64))
    assert torch.isfinite(samplers.PCN(steps=20)(black, 2)).all()
    assert "gradient of the operator" in samplers.HMC().refuses(black)


# -- annealed chains ---------------------------------------------------------------------------------------------------


def annealed(sampler: samplers.Sampler, post: Posterior, step: Callable[[float], Map]) -> Law:
    """The law after x' = (I - P) x + b + noise of covariance V at each level, (P, b, V) = step(s), and a last denoising."""
    levels = sampler.levels(post.prior)
    maps = [(EYE - P, b, V) for s, _ in levels for P, b, V in [step(s)] * sampler.iterations]
    return through(begin(sampler, post), [*maps, (*denoiser(post.prior, levels[-1][0]), 0 * EYE)])


def test_ald_follows_its_recursion():
    post, sampler = problem(), samplers.WidenedALD(steps=20, step=0.15, iterations=2)
    H, mean = matrix(post.A), post.prior.mean.flatten()

    def step(s: float) -> Map:
        inverse = torch.linalg.inv(post.prior.covariance + s**2 * EYE)
        gradient = H.T @ torch.linalg.inv(SIGMA**2 * torch.eye(ROWS, dtype=F64) + s**2 * H @ H.T)
        a = 0.15 * s**2
        return a * (inverse + gradient @ H), a * (inverse @ mean + gradient @ post.y), 2 * a * EYE

    assert_same_law(law(sampler, post), annealed(sampler, post, step), tol=1e-9)


def test_snips_follows_the_papers_recursion():
    A = Matrix(normal(ROWS, N, seed=3), SHAPE)
    post, sampler = problem(A=A), samplers.SNIPS(steps=20, step=0.15, iterations=2)
    H, mean = matrix(A), post.prior.mean.flatten()
    U, values, Vt = torch.linalg.svd(H)
    values = torch.cat([values, torch.zeros(N - ROWS, dtype=F64)])
    y = torch.cat([U.T @ post.y, torch.zeros(N - ROWS, dtype=F64)])

    def step(s: float) -> Map:
        inverse = Vt @ torch.linalg.inv(post.prior.covariance + s**2 * EYE) @ Vt.T
        P, b, V = torch.zeros(N, N, dtype=F64), torch.zeros(N, dtype=F64), torch.zeros(N, dtype=F64)
        for i, v in enumerate(values.tolist()):
            # equation 12 and the step sizes of Algorithm 1, as the released code has them
            data = v / abs(v**2 * s**2 - SIGMA**2)
            if v * s > SIGMA:
                size, score = 0.15 * (s**2 - (SIGMA / v) ** 2), 0.0
            else:
                size, score = 0.15 * s**2 * (1 - (v * s / SIGMA) ** 2), 1.0
            P[i] = size * score * inverse[i]
            P[i, i] += size * data * v
            b[i] = size * (score * inverse[i] @ Vt @ mean + data * y[i])
            V[i] = 2 * size
        return Vt.T @ P @ Vt, Vt.T @ b, Vt.T @ V.diag() @ Vt

    assert_same_law(law(sampler, post), annealed(sampler, post, step), tol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [samplers.WidenedALD, samplers.SNIPS], ids=lambda c: c.__name__)
def test_annealed_chains_converge_to_the_posterior(cls):
    post = problem()
    gaps = [gap(law(cls(steps=n), post), exact(post)) for n in (20, 60, 180)]
    # 1.10, 0.27, 0.085 for ALD; 0.92, 0.23, 0.073 for SNIPS: first order in the number of levels
    assert gaps[2] < 0.4 * gaps[1] < 0.14 * gaps[0] and gaps[2] < 0.1, gaps


@pytest.mark.slow  # chains of 200 levels
@pytest.mark.parametrize("cls", [samplers.WidenedALD, samplers.SNIPS], ids=lambda c: c.__name__)
def test_annealed_chains_on_a_mixture(cls):
    p = mixture(0.5)
    post = problem(p)
    wanted = p.posterior(post.A, post.noise, post.y)
    x = cls(steps=200)(post, 1000)
    # Monte-Carlo errors of 0.1 and what is left of the annealing
    assert gap(moments(x), (wanted.mean.flatten(), wanted.covariance)) < 0.25
    # between distant modes the weights are decided at high noise, where neither law is that of x_sigma given y
    p = mixture(1.5)
    post = problem(p)
    wanted = p.posterior(post.A, post.noise, post.y)
    shares = [p.responsibilities(cls(steps=n)(post, 300))[:, 0].mean().item() for n in (30, 200)]
    assert wanted.weights[0] > 0.9999
    assert shares == pytest.approx({"WidenedALD": [0.47, 0.76], "SNIPS": [0.77, 0.99]}[cls.__name__], abs=0.09)


def test_ald_of_the_released_code():
    sampler = samplers.ALD.paper(iterations=4)
    levels = sampler.levels(prior())
    assert len(levels) == sampler.steps == 1156 and levels[0][0] == pytest.approx(1.2374, abs=1e-4)
    assert levels[-1][0] == pytest.approx(0.0066) and sampler.step * 0.0066**2 == pytest.approx(5e-5)
    post = problem()
    x = normal(4, *SHAPE, seed=3)
    rows = many(post, 4)
    score = post.prior.score(x, 0.3)
    gradient = sampler.likelihood_gradient(rows, x, 0.3, score)
    torch.testing.assert_close(gradient.flatten(1).norm(dim=1), 5 * score.flatten(1).norm(dim=1))
    plain = post.A.adjoint(rows.residual(x))
    torch.testing.assert_close(
        (gradient * plain).sum((1, 2)), gradient.flatten(1).norm(dim=1) * plain.flatten(1).norm(dim=1)
    )


def test_snips_of_the_released_code_and_without_noise():
    sampler = samplers.SNIPS.paper()
    levels = sampler.levels(prior())
    assert len(levels) == 500 and levels[0][0] == 90 and levels[-1][0] == pytest.approx(0.01)
    assert sampler.step == pytest.approx(0.033)
    mask = Mask(SHAPE, torch.arange(N).reshape(SHAPE) % 2 == 0)
    post = problem(A=mask, sigma=0.0)
    x = samplers.SNIPS(steps=60)(post, 5)
    torch.testing.assert_close(mask(x), post.y.expand(5, -1), atol=5e-3, rtol=0)  # a few times the last level


# -- split Gibbs at a fixed rho ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.3, 1.0])
def test_split_gibbs_at_a_fixed_rho_keeps_its_stationary_law(rho):
    post = problem()
    wanted = exact(post, rho=rho * post.prior.data_std)
    # one sweep moves the law by what the reverse diffusion in n levels gets wrong, which halves as they double
    errors = [gap(law(samplers.PnPDM.fixed(rho, 1, denoise_steps=n), post, wanted), wanted) for n in (20, 40, 80)]
    assert errors[2] < 0.6 * errors[1] < 0.4 * errors[0] and errors[2] < 0.12, errors
    # and the chain forgets its start: the law after some sweeps is the stationary one, to the same accuracy
    sampler = samplers.PnPDM.fixed(rho, 40 if rho < 1 else 12, denoise_steps=20)
    assert gap(law(sampler, post), wanted) < 2 * errors[0]


def test_split_gibbs_approaches_the_posterior_as_rho_falls():
    post = problem()
    biases = [gap(exact(post, rho=rho * post.prior.data_std), exact(post)) for rho in (0.1, 0.05, 0.025)]
    # second order in rho
    assert biases[2] < 0.3 * biases[1] < 0.15 * biases[0] and biases[2] < 0.2, biases
    assert samplers.PnPDM.fixed(0.2, 7).levels(post.prior)[3] == 2 * (pytest.approx(0.2 * post.prior.data_std),)


# -- the kernels -------------------------------------------------------------------------------------------------------


def test_dual_averaging_reaches_the_target_in_each_row_then_stays():
    stiff = torch.tensor([[0.1], [1.0], [30.0]], dtype=F64)
    size = DualAveraging(torch.ones_like(stiff), 0.6, 400)
    for _ in range(400):
        size.update(torch.exp(-stiff * size.value))
    torch.testing.assert_close(torch.exp(-stiff * size.value), torch.full_like(stiff, 0.6), atol=0.03, rtol=0)
    last = size.value
    size.update(torch.zeros_like(stiff))
    assert size.value is last
    bounded = DualAveraging(torch.full((2, 1), 0.5), 0.2, 50, largest=1.0)
    for _ in range(60):
        bounded.update(torch.ones(2, 1))
        assert bounded.value.max() <= 1.0 + 1e-6


def test_rows_accept_for_themselves_and_never_what_has_no_density():
    randn = Streams(0, [0, 1, 2, 3])
    accepted, probability = metropolis(torch.tensor([[torch.inf], [-torch.inf], [torch.nan], [0.0]]), randn)
    assert accepted.flatten().tolist() == [True, False, False, True]
    assert probability.flatten().tolist() == [1, 0, 0, 1]
    new, old = torch.ones(4, 2, 3), torch.zeros(4, 2, 3)
    a, b = choose(accepted, (new, new[:, 0, 0]), (old, old[:, 0, 0]))
    assert a[:, 0, 0].tolist() == b.tolist() == [1, 0, 0, 1]


def test_local_step_is_per_sample_whatever_the_rank_of_the_measurement():
    class Squared(Operator):
        def forward(self, x: Tensor) -> Tensor:
            return x.square().flatten(1)

    x = normal(2, *SHAPE, seed=1)
    post = Posterior(prior(), Squared(SHAPE), Gaussian(0.1), normal(2, N, seed=2))
    h = local_step(post, x, 0.3)
    assert h.shape == (2, 1, 1)
    alone = local_step(post.rows(torch.tensor([1])), x[1:], 0.3)
    torch.testing.assert_close(h[1:], alone)


@pytest.mark.parametrize("noise", [0.1, torch.full((N,), 0.1)])
def test_steps_about_a_mean_are_langevins_in_fewer_operations(noise):
    x, A = normal(2, *SHAPE, seed=1), Matrix(torch.randn(N, 6, generator=torch.Generator().manual_seed(2)), in_shape=SHAPE)
    post = Posterior(prior(), A, Gaussian(noise), normal(2, N, seed=3))
    u = normal(2, *SHAPE, seed=4)
    torch.testing.assert_close(data_score(post)(u), post.likelihood_score(u), rtol=1e-12, atol=1e-10)  # float64, up to 1e3
    h = local_step(post, x, 0.3)

    def score(u: Tensor) -> Tensor:
        return (x - u) / 0.3 + post.likelihood_score(u)

    kept = x.clone()
    found = langevin_around(x, 0.3, data_score(post), h, 20, Streams(0, range(2)))
    torch.testing.assert_close(found, langevin(x, score, h, 20, Streams(0, range(2))), rtol=1e-11, atol=1e-11)
    assert torch.equal(x, kept)


def test_options_that_make_no_chain_are_refused():
    for cls, options in (
        (samplers.ULA, {"sigma": 0.0}),
        (samplers.MALA, {"step": -1.0}),
        (samplers.ULA, {"warm": -1}),
        (samplers.SKROCK, {"stages": 1}),
        (samplers.PCN, {"beta": 1.5}),
        (samplers.HMC, {"leapfrogs": 0}),
        (samplers.HMC, {"ode_steps": 0}),
        (samplers.ALD, {"weight": 0.0}),
        (samplers.SNIPS, {"iterations": 0}),
    ):
        with pytest.raises(OptionError, match=cls.__name__):
            cls(**options)
