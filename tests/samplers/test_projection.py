"""Samplers that put the measurement in its place.

On Gaussian priors they are affine in the noise they draw, so that their laws are known exactly (`law`) and compared with
the recursion of the paper written in dense matrices, and with the exact posterior: replacement is biased, by numbers that
stand here, and resampling removes the bias.
"""

from collections.abc import Iterator

import pytest
import torch
from gaussian_problems import (
    EYE,
    F64,
    SHAPE,
    SIGMA,
    N,
    assert_same_law,
    bures,
    correlated,
    ddim,
    denoiser,
    exact,
    law,
    normal,
    problem,
    white,
)
from torch import Tensor

from invgen import Gaussian, OptionError, Posterior, UnsupportedError, samplers
from invgen.diffusion import noise_levels
from invgen.noise import Noiseless
from invgen.operators import Fourier, Mask, Matrix, from_function
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.projection import Projection, Spectral, estimate, levels_from, with_jumps
from invgen.random import Streams
from invgen.sampler import Cost

Map = tuple[Tensor, Tensor, Tensor]  # x -> M x + b + noise of covariance V

REPLACING = [
    samplers.ScoreSDE(steps=20),
    samplers.MedicalProjection(steps=20),
    samplers.ILVR(steps=20),
    samplers.RePaint(steps=20),
    samplers.CCDF(steps=20),
    samplers.MCG(steps=20),
    samplers.DDNM(steps=20, travel_length=4, travel_repeat=2),
]
each = pytest.mark.parametrize("sampler", REPLACING, ids=lambda s: type(s).__name__)


# -- the ingredient -------------------------------------------------------------------------------------------------


class Once(samplers.ScoreSDE):
    """One projection, from a fixed state."""

    def run(self, post: Posterior, x: Tensor, randn: object) -> Iterator[Tensor]:
        yield Projection(post, randn)(torch.ones_like(x), 1.3)


@pytest.mark.parametrize("sigma", [0.0, SIGMA])
def test_the_projection_gives_the_measured_part_the_law_of_the_noised_signal(sigma):
    post = problem(correlated(), sigma)
    m, S = law(Once(), post)
    M = post.A.matrix
    inverse = torch.linalg.pinv(M)
    # measured part: A^+ y, whose noise of covariance sigma^2 A^+ A^+T is topped up to 1.3^2; the other part stays
    seen = inverse @ M
    torch.testing.assert_close(m, inverse @ post.y + (EYE - seen) @ torch.ones(N, dtype=F64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(S, 1.3**2 * seen - sigma**2 * inverse @ inverse.T, rtol=1e-9, atol=1e-9)


def test_coordinates_below_their_own_noise_are_left_alone():
    A = Matrix(torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0, 0.0], dtype=F64)), SHAPE)
    post = Posterior(white(), A, Gaussian(1.0), torch.ones(6, dtype=F64)).rows(torch.zeros(2, dtype=torch.int64))
    x = Projection(post, Streams(0, [0, 1]))(torch.zeros(2, *SHAPE, dtype=F64), 0.6).flatten(1)
    # noise levels 1 / s = 0.25, 0.5, 1, 2
    assert ((x != 0) == torch.tensor([1, 1, 0, 0, 0, 0], dtype=torch.bool)).all()
    assert (Projection(post, Streams(0, [0, 1]))(torch.zeros(2, *SHAPE, dtype=F64), 0.0) == 0).all()


def test_the_projection_works_in_a_fourier_basis():
    shape = (2, 4, 4)
    kept = torch.arange(16).reshape(4, 4) % 3 == 0
    A = Mask(shape, kept) @ Fourier(shape)
    prior = GaussianPrior(shape, torch.zeros(shape, dtype=F64), 1.0)
    post = Posterior(prior, A, Gaussian(0.3), normal(*A.out_shape))

    class Here(samplers.ScoreSDE):
        def run(self, post: Posterior, x: Tensor, randn: object) -> Iterator[Tensor]:
            yield Projection(post, randn)(torch.zeros_like(x), 1.0)

    m, S = law(Here(), post)
    clean = A(torch.eye(32, dtype=F64).reshape(32, *shape)).T  # the matrix of A
    torch.testing.assert_close(clean @ m, post.y, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(clean @ S @ clean.T, (1 - 0.09) * torch.eye(len(post.y), dtype=F64), rtol=1e-6, atol=1e-6)


def test_a_part_of_the_projection_shrinks_the_noise():
    # lambda < 1 mixes two independent noises: a flaw of the paper's step that its docstring states
    post, lam = problem(white(), 0.0), 0.7

    class Part(samplers.ScoreSDE):
        def run(self, post: Posterior, x: Tensor, randn: object) -> Iterator[Tensor]:
            yield Projection(post, randn)(1.3 * randn(x), 1.3, lam)

    _, S = law(Part(), post)
    seen = torch.linalg.pinv(post.A.matrix) @ post.A.matrix
    wanted = 1.3**2 * (EYE - seen + ((1 - lam) ** 2 + lam**2) * seen)
    torch.testing.assert_close(S, wanted, rtol=1e-9, atol=1e-9)


def test_the_first_image_solves_for_what_was_measured_and_has_the_mean_elsewhere():
    prior = GaussianPrior(SHAPE, torch.full(SHAPE, 3.0, dtype=F64), 1.0)
    A = Mask(SHAPE, torch.tensor([[1.0, 0, 1], [0, 1, 0]]))
    exact_post = Posterior(prior, A, Noiseless(), normal(3)).rows(torch.zeros(1, dtype=torch.int64))
    x = estimate(exact_post)
    torch.testing.assert_close(A(x), exact_post.y)
    assert (x[0][A.mask == 0] == 3).all()
    # noise as large as the signal: half of the way
    noisy = estimate(Posterior(prior, A, Gaussian(1.0), exact_post.y))
    torch.testing.assert_close(A(noisy), (exact_post.y + 3) / 2)


# -- the recursions of the papers -----------------------------------------------------------------------------------


def svd(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values above zero."""
    U, d, Vt = torch.linalg.svd(M, full_matrices=False)
    return U[:, d > 0], d[d > 0], Vt[d > 0]


def replacement(post: Posterior, s: float, weight: float = 1.0) -> Map:
    """x -> x + weight A^+ (y_s - A x), coordinate by coordinate of the SVD."""
    M, sigma = post.A.matrix, post.noise.sigma
    U, d, Vt = svd(M)
    on = (sigma / d <= s) & ((sigma == 0) | (s > 0))
    V = Vt[on].T
    level = s**2 - (sigma / d[on]) ** 2
    y = (U.T @ post.y)[on] / d[on]
    return EYE - weight * V @ V.T, weight * V @ y, weight**2 * V @ torch.diag(level) @ V.T


def predictor(post: Posterior, s: float, s_next: float, eta: float = 1.0) -> Map:
    return ddim(*denoiser(post.prior, s), s, s_next, eta)


def langevin(post: Posterior, s: float, snr: float) -> list[Map]:
    """A step on the prior, then an implicit one on N(y_i; x_i, s_y^2 - s^2) for coordinates below their own noise."""
    E, c = denoiser(post.prior, s)
    h = 2 * (snr * s) ** 2
    U, d, Vt = svd(post.A.matrix)
    s_y = post.noise.sigma / d
    V = Vt[s_y > s].T
    pull = h / (h + s_y[s_y > s] ** 2 - s**2)
    held = EYE - V @ torch.diag(pull) @ V.T, V @ (pull * ((U.T @ post.y) / d)[s_y > s]), torch.zeros(N, N, dtype=F64)
    return [(EYE + h / s**2 * (E - EYE), h / s**2 * c, 2 * h * EYE), held]


def forward(post: Posterior, s: float, s_next: float) -> Map:
    """The forward process; for coordinates below their own noise the bridge to the measurement."""
    U, d, Vt = svd(post.A.matrix)
    on = post.noise.sigma / d > s
    V, s_y, rise = Vt[on].T, post.noise.sigma / d[on], s_next**2 - s**2
    pull = (rise / (s_y**2 - s**2)).clamp(max=1)
    var = torch.where(s_y > s_next, rise * (1 - pull), s_next**2 - s_y**2)
    y = ((U.T @ post.y) / d)[on]
    return EYE - V @ torch.diag(pull) @ V.T, V @ (pull * y), rise * (EYE - V @ V.T) + V @ torch.diag(var) @ V.T


def scoresde(q, post) -> Iterator[Map]:
    levels = q.levels(post.prior)
    yield replacement(post, levels[0][0])
    for s, s_next in levels:
        for _ in range(q.corrector_steps):
            yield from langevin(post, s, q.snr)
            yield replacement(post, s)
        yield predictor(post, s, s_next, q.eta)
        yield replacement(post, s_next)


def song2022(q, post) -> Iterator[Map]:
    for s, s_next in q.levels(post.prior):
        yield replacement(post, s, q.lam)
        yield from langevin(post, s, q.snr)
        yield replacement(post, s, q.lam)
        yield predictor(post, s, s_next)
    yield replacement(post, 0.0)


def ilvr(q, post) -> Iterator[Map]:
    for s, s_next in q.levels(post.prior):
        yield predictor(post, s, s_next, q.eta)
        if s_next >= q.until * post.prior.data_std:
            yield replacement(post, s_next)


# the times that the released schedule gives for 6 steps, jumps of 2, 3 passes
TIMES = [5, 4, 3, 2, 3, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, -1]


def moves(q, post) -> list[tuple[float, float]]:
    levels = q.levels(post.prior)
    ddnm = isinstance(q, samplers.DDNM)
    length, repeat = (q.travel_length, q.travel_repeat) if ddnm else (round(q.jump * q.steps), q.repeat)
    if (q.steps, length, repeat) != (6, 2, 3):
        return [(s, s_next) for s, s_next, _ in with_jumps(levels, max(1, length), repeat)]
    sigma = [s for s, _ in levels][::-1] + [0.0]
    return [(sigma[t], sigma[u]) for t, u in zip(TIMES, TIMES[1:], strict=False)]


def repaint(q, post) -> Iterator[Map]:
    yield replacement(post, q.levels(post.prior)[0][0])
    for s, s_next in moves(q, post):
        if s_next > s:
            yield forward(post, s, s_next)
        else:
            yield predictor(post, s, s_next)
            yield replacement(post, s_next)


def ddnm(q, post) -> Iterator[Map]:
    M = post.A.matrix
    inverse = torch.linalg.pinv(M)
    null = EYE - inverse @ M
    for s, s_next in moves(q, post):
        if s_next > s:
            yield EYE, torch.zeros(N, dtype=F64), (s_next**2 - s**2) * EYE
        else:
            E, c = denoiser(post.prior, s)
            yield ddim(null @ E, null @ c + inverse @ post.y, s, s_next, q.eta, (E, c))


def ccdf(q, post) -> Iterator[Map]:
    levels, M = q.levels(post.prior), post.A.matrix
    d2, mean = post.prior.data_std**2, torch.full((N,), post.prior.data_mean, dtype=F64)
    gain = d2 * M.T @ torch.linalg.inv(d2 * M @ M.T + post.noise.sigma**2 * torch.eye(len(M), dtype=F64))
    yield torch.zeros(N, N, dtype=F64), mean + gain @ (post.y - M @ mean), levels[0][0] ** 2 * EYE
    for s, s_next in levels:
        yield predictor(post, s, s_next, q.eta)
        yield replacement(post, s_next)


def dense(sampler: samplers.Sampler, maps, post: Posterior) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the last state."""
    m, P = post.prior.mean.flatten(), post.prior.covariance + sampler.levels(post.prior)[0][0] ** 2 * EYE
    for M, b, V in maps(sampler, post):
        m, P = M @ m + b, M @ P @ M.T + V
    return m, P


@pytest.mark.parametrize("sigma", [0.0, SIGMA], ids=["exact", "noisy"])
@pytest.mark.parametrize(
    ("sampler", "maps"),
    [
        (samplers.ScoreSDE(steps=12, corrector_steps=0), scoresde),
        (samplers.ScoreSDE(steps=12, corrector_steps=2, eta=0.3), scoresde),
        (samplers.MedicalProjection(steps=12), song2022),
        (samplers.MedicalProjection(steps=12, lam=0.8, snr=0.3), song2022),
        (samplers.ILVR(steps=12), ilvr),
        (samplers.ILVR(steps=12, until=0.5), ilvr),
        (samplers.RePaint(steps=6, jump=1 / 3, repeat=3), repaint),
        (samplers.CCDF(steps=12), ccdf),
        (samplers.DDNM(steps=6, travel_length=2, travel_repeat=3), ddnm),
    ],
    ids=[
        "ScoreSDE, no corrector",
        "ScoreSDE",
        "Song2022",
        "Song2022, lam=0.8",
        "ILVR",
        "ILVR until",
        "RePaint",
        "CCDF",
        "DDNM",
    ],
)
def test_samplers_follow_the_recursion_of_their_paper(sampler, maps, sigma):
    if maps is ddnm and sigma > 0:
        return  # DDNM+ is DDRM's step, whose equations test_gaussian.py writes out
    post = problem(correlated(), sigma)
    assert_same_law(law(sampler, post), dense(sampler, maps, post))


def test_mcg_is_pigdm_with_replacement_where_guidance_is_linear():
    # orthonormal rows, white prior, no noise: DPS's guide goes straight to the measurement, as PiGDM's does
    A = Matrix(torch.linalg.qr(normal(N, 3, seed=3)).Q.T.contiguous(), SHAPE)
    post, sampler = problem(white(), 0.0, A), samplers.MCG(steps=20)
    null = EYE - A.matrix.T @ A.matrix

    def maps(q, post) -> Iterator[Map]:
        levels = q.levels(post.prior)
        yield replacement(post, levels[0][0])
        for s, s_next in levels:
            E, c = denoiser(post.prior, s)
            yield ddim(null @ E, null @ c + A.matrix.T @ post.y, s, s_next, 1.0)
            yield replacement(post, s_next)

    assert_same_law(law(sampler, post), dense(sampler, maps, post))


# -- bias -----------------------------------------------------------------------------------------------------------


def error(sampler: samplers.Sampler, maps, post: Posterior) -> float:
    """Wasserstein-2 distance to the exact posterior over the root of its total variance."""
    return bures(dense(sampler, maps, post), exact(post)) / exact(post)[1].trace().sqrt().item()


def chain() -> Posterior:
    """Six values of which neighbours have correlation 0.9, the first and the last measured exactly."""
    steps = (torch.arange(N)[:, None] - torch.arange(N)).abs()
    prior = GaussianPrior(SHAPE, torch.zeros(SHAPE, dtype=F64), covariance=0.9 ** steps.double())
    return problem(prior, 0.0, Matrix(EYE[[0, 5]], SHAPE))


def test_replacement_is_exact_where_coordinates_are_independent_noisy_or_not():
    # noise included: at the level of its own noise the measurement is the state, below it the prior alone goes on, and
    # neither correctors nor resampling lose it
    prior = GaussianPrior(SHAPE, normal(*SHAPE), normal(*SHAPE, seed=1) ** 2 + 0.2)
    A = Matrix(torch.diag(torch.tensor([3.0, 1.0, 0.3, 0.5, 0.0, 0.0], dtype=F64))[:4], SHAPE)
    for noise in (Gaussian(0.3), Noiseless()):
        post = Posterior(prior, A, noise, A(prior.sample(1, seed=4))[0])
        for maps, make in (
            (scoresde, lambda n: samplers.ScoreSDE(steps=n, corrector_steps=0)),
            (scoresde, lambda n: samplers.ScoreSDE(steps=n)),
            (repaint, lambda n: samplers.RePaint(steps=n, repeat=3)),
        ):
            errors = [error(make(n), maps, post) for n in (100, 400)]
            # first order, up to where the grid meets the levels of the noise: a quarter, at most 0.45 of it
            assert errors[1] < 0.45 * errors[0] and errors[1] < 0.025, (noise, errors)


def test_resampling_removes_the_bias_of_replacement():
    post = chain()
    # more steps do not help
    alone = [error(samplers.RePaint(steps=n, repeat=1), repaint, post) for n in (50, 200)]
    assert alone == pytest.approx([0.454, 0.478], abs=0.002), alone
    # repeats do
    found = [error(samplers.RePaint(steps=200, repeat=r), repaint, post) for r in (2, 5, 10)]
    assert found == pytest.approx([0.258, 0.090, 0.038], abs=0.002), found


def test_correctors_remove_it_too():
    found = [error(samplers.ScoreSDE(steps=200, corrector_steps=c), scoresde, chain()) for c in (0, 1, 4)]
    assert found == pytest.approx([0.478, 0.366, 0.205], abs=0.002), found


def test_ddnm_has_less_of_it_and_time_travel_takes_the_rest():
    found = [error(samplers.DDNM(steps=50, travel_length=2, travel_repeat=r), ddnm, chain()) for r in (1, 5)]
    assert found == pytest.approx([0.193, 0.075], abs=0.002), found


def test_biases_stand_in_numbers():
    """At about 100 network evaluations, on a random operator, without noise and with it."""
    make = {
        "ScoreSDE": (samplers.ScoreSDE(steps=50), scoresde),
        "MedicalProjection": (samplers.MedicalProjection(steps=50), song2022),
        "ILVR": (samplers.ILVR(steps=100), ilvr),
        "RePaint": (samplers.RePaint(steps=20, jump=0.05, repeat=5), repaint),
        "CCDF": (samplers.CCDF(steps=100), ccdf),
    }
    for sigma, wanted in BIASES.items():
        post = problem(correlated(), sigma)
        bias = {name: error(sampler, maps, post) for name, (sampler, maps) in make.items()}
        assert bias == pytest.approx(wanted, abs=0.002), (sigma, bias)


def test_ccdf_trades_the_first_image_for_replacement():
    # the unmeasured part starts at the mean value and keeps it if little noise is put on it
    found = [error(samplers.CCDF(steps=100, sigma0=t), ccdf, chain()) for t in (0.1, 0.5, 1.4, 5.0, 50.0)]
    assert found == pytest.approx(FIRST, abs=0.002), found


# -- properties -----------------------------------------------------------------------------------------------------


@each
def test_noiseless_masks_keep_the_observed_values(sampler):
    prior = GaussianMixture(normal(3, *SHAPE), var=0.3)
    A = Mask(SHAPE, torch.tensor([[1.0, 0, 1], [0, 1, 0]]))
    truth = prior.sample(1, seed=1)[0]
    x = sampler(Posterior(prior, A, Noiseless(), A(truth)), 5)
    torch.testing.assert_close(A(x), A(truth).expand_as(A(x)), rtol=0, atol=1e-9)


@each
def test_exact_measurements_need_no_svd(sampler):
    prior = correlated()
    A = from_function(lambda x: x.flatten(1).cumsum(1)[:, 1::2], SHAPE, linear=True)
    y = A(prior.sample(1, seed=1))[0]
    x = sampler(Posterior(prior, A, Noiseless(), y), 3)
    # conjugate gradients to 1e-10
    torch.testing.assert_close(A(x), y.expand(3, -1), rtol=0, atol=1e-7)
    with pytest.raises(UnsupportedError, match="needs an SVDOperator for noisy measurements"):
        sampler(Posterior(prior, A, Gaussian(0.1), y), 3)
    with pytest.raises(UnsupportedError, match="needs one noise level, got a tensor"):
        sampler(Posterior(prior, A, Gaussian(torch.tensor([0.1, 0.2, 0.3])), y), 3)


@each
def test_noise_in_the_data_is_neither_fitted_nor_ignored(sampler):
    # residuals over noise: 0 where the noise is fitted. Exact samples of this posterior have 1.1 to 1.3
    prior = GaussianPrior(
        (40,),
        torch.zeros(40, dtype=F64),
        covariance=0.9 ** (torch.arange(40.0)[:, None] - torch.arange(40.0)).abs().double(),
    )
    A, sigma = Mask((40,), torch.arange(40) % 2 == 0), 0.4
    truth = prior.sample(1, seed=2)[0]
    y = A(truth) + sigma * normal(20, seed=3)
    post = Posterior(prior, A, Gaussian(sigma), y)
    r = post.rows(torch.zeros(50, dtype=torch.int64)).residual_over_noise(sampler(post, 50)).mean().item()
    # MCG counts the measurement twice, by gradient and by replacement, and fits some of the noise
    assert (0.4 if isinstance(sampler, samplers.MCG) else 0.7) < r < 1.4, r


def test_predictor_corrector_by_norms_acts_per_sample():
    post = problem(correlated(), 0.0)
    for sampler in (samplers.ScoreSDE(steps=5, rule="norm"), samplers.MedicalProjection(steps=5, rule="norm")):
        torch.testing.assert_close(sampler(post, 2), sampler(post, 6)[:2], rtol=1e-9, atol=1e-9)
        assert not torch.allclose(sampler(post, 2), type(sampler)(steps=5)(post, 2))


def test_a_corrector_leaves_the_prior_as_it_is():
    # at one level, many steps: a Langevin step of size h = 2 (snr s)^2 has the variance of p_s up to snr^2 / 2 of it
    prior, s, snr = white(), 0.8, 0.16
    post = problem(prior)
    M, b, V = langevin(post, s, snr)[0]
    P = V / (1 - M[0, 0] ** 2)
    assert P[0, 0].item() == pytest.approx((0.49 + s**2) * (1 + 0.5 * snr**2 * 2 * s**2 / (0.49 + s**2)), rel=1e-3)


def test_published_budgets():
    path = list(with_jumps(samplers.RePaint.paper().levels(white()), 10, 10))
    down = sum(s_next < s for s, s_next, _ in path)
    # 24 places to jump from, 9 jumps of 10 steps at each: 2160 steps up and 2410 down, through the network
    assert (len(path) - down, down, sum(new for *_, new in path)) == (24 * 9, 2410, 250)
    cost = Cost()
    samplers.RePaint(steps=25, jump=0.04, repeat=3)(problem(white()), 2, cost=cost)
    assert cost.nfe == 25 + 24 * 2
    assert samplers.ScoreSDE.paper().steps == samplers.MedicalProjection.paper("brats").steps == 1000
    assert (samplers.MedicalProjection.paper("ldct").lam, samplers.MedicalProjection.paper("lidc").snr) == (0.72, 0.246)
    assert samplers.MCG.paper().form == "paper" and samplers.ILVR.paper().steps == 250
    with pytest.raises(OptionError, match="lidc, ldct, brats"):
        samplers.MedicalProjection.paper("knee")


def test_mcg_as_published_runs_on_data_in_its_range():
    prior = GaussianPrior((16,), torch.zeros(16, dtype=F64), 0.25)
    A = Mask((16,), torch.arange(16) % 2 == 0)
    y = A(prior.sample(1, seed=1))[0]
    x = samplers.MCG.paper(steps=100)(Posterior(prior, A, Noiseless(), y), 20)
    torch.testing.assert_close(A(x), y.expand(20, -1))
    # eight independent values of standard deviation 0.5 are left to the prior
    assert 0.35 < x[:, 1::2].std() < 0.6


def test_levels_start_in_units_of_the_prior():
    prior = white()
    for scale in (1.0, 40.0):
        levels = levels_from(prior.rescaled(scale), 2.0, 10, "edm")
        assert levels[0][0] == pytest.approx(2 * 0.7 * scale) and len(levels) == 10
    assert levels_from(prior, 1e9, 10, "edm") == noise_levels(10, prior.sigma_min, prior.sigma_max)
    assert levels_from(prior, 2.0, 10, (3.0, 1.0)) == [(3.0, 1.0), (1.0, 0.0)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.ScoreSDE(snr=0.0), "ScoreSDE needs corrector_steps >= 0, snr > 0"),
        (lambda: samplers.MedicalProjection(lam=1.5), "0 <= lam <= 1"),
        (lambda: samplers.MedicalProjection(rule="ald"), "rule 'level' or 'norm'"),
        (lambda: samplers.ILVR(until=-1.0), "until >= 0"),
        (lambda: samplers.RePaint(jump=10), "share of the steps"),
        (lambda: samplers.RePaint(repeat=0), "whole number of repeats"),
        (lambda: samplers.CCDF(sigma0=0.0), "sigma0 > 0"),
        (lambda: samplers.DDNM(travel_length=0), "travel_length"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_spectral_coordinates_drop_what_the_noise_drowns():
    A = Matrix(torch.diag(torch.tensor([2.0, 1.0, 0.1, 0.0, 0.0, 0.0], dtype=F64)), SHAPE)
    post = Posterior(white(), A, Gaussian(0.5), torch.ones(6, dtype=F64))
    known = Spectral(post.rows(torch.zeros(1, dtype=torch.int64)), drowned=1.0)
    assert known.seen.flatten().tolist() == [True, True, False, False, False, False]
    torch.testing.assert_close(known.y.flatten()[:3], torch.tensor([0.5, 1.0, 0.0], dtype=F64))
    torch.testing.assert_close(known.s_y.flatten()[:3], torch.tensor([0.25, 0.5, 0.0], dtype=F64))


BIASES = {
    0.0: {"ScoreSDE": 0.106, "MedicalProjection": 0.106, "ILVR": 0.090, "RePaint": 0.222, "CCDF": 0.234},
    SIGMA: {"ScoreSDE": 0.122, "MedicalProjection": 0.122, "ILVR": 0.103, "RePaint": 0.237, "CCDF": 0.232},
}
FIRST = [0.918, 0.437, 0.348, 0.471, 0.470]
