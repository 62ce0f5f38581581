"""The laws of samplers that put the measurement in its place, by the recursions of their papers in dense matrices.

On Gaussian priors these samplers are affine in the noise they draw, so that their laws are known exactly (`law`), and so is
the bias of replacement, by numbers that stand here; resampling and correctors remove it. The projection itself is tested in
test_projection.py.
"""

import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, Posterior, samplers
from invgen.noise import Noiseless
from invgen.operators import Matrix
from invgen.priors import GaussianPrior
from invgen.samplers.projection.base import with_jumps
from tests.invgen.samplers.gaussian_problems import (
    EYE,
    F64,
    SHAPE,
    SIGMA,
    Law,
    Map,
    N,
    assert_same_law,
    begin,
    correlated,
    ddim,
    denoiser,
    distance,
    law,
    normal,
    problem,
    through,
    white,
)

Recursion = Callable[[samplers.Sampler, Posterior], Iterator[Map]]


# -- recursions --------------------------------------------------------------------------------------------------------


@functools.lru_cache(1)  # of the matrix that was asked for last: thousands of maps ask for the same
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
    gain = h / (h + s_y[s_y > s] ** 2 - s**2)
    held = EYE - V @ torch.diag(gain) @ V.T, V @ (gain * ((U.T @ post.y) / d)[s_y > s]), torch.zeros(N, N, dtype=F64)
    return [(EYE + h / s**2 * (E - EYE), h / s**2 * c, 2 * h * EYE), held]


def forward(post: Posterior, s: float, s_next: float) -> Map:
    """The forward process; for coordinates below their own noise the bridge to the measurement."""
    U, d, Vt = svd(post.A.matrix)
    on = post.noise.sigma / d > s
    V, s_y, rise = Vt[on].T, post.noise.sigma / d[on], s_next**2 - s**2
    gain = (rise / (s_y**2 - s**2)).clamp(max=1)
    var = torch.where(s_y > s_next, rise * (1 - gain), s_next**2 - s_y**2)
    y = ((U.T @ post.y) / d)[on]
    return EYE - V @ torch.diag(gain) @ V.T, V @ (gain * y), rise * (EYE - V @ V.T) + V @ torch.diag(var) @ V.T


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


def recursion(sampler: samplers.Sampler, maps: Recursion, post: Posterior) -> Law:
    """The law of the last state."""
    return through(begin(sampler, post), maps(sampler, post))


@pytest.mark.slow
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
    assert_same_law(law(sampler, post), recursion(sampler, maps, post))


def test_mcg_is_pigdm_with_replacement_where_guidance_is_linear():
    # orthonormal rows, white prior, no noise: DPS's guide goes straight to the measurement, as PiGDM's does
    A = Matrix(torch.linalg.qr(normal(N, 3, seed=3)).Q.T.contiguous(), SHAPE)
    post, sampler = problem(white(), 0.0, A), samplers.DampedMCG(steps=20)
    null = EYE - A.matrix.T @ A.matrix

    def maps(q, post) -> Iterator[Map]:
        levels = q.levels(post.prior)
        yield replacement(post, levels[0][0])
        for s, s_next in levels:
            E, c = denoiser(post.prior, s)
            yield ddim(null @ E, null @ c + A.matrix.T @ post.y, s, s_next, 1.0)
            yield replacement(post, s_next)

    assert_same_law(law(sampler, post), recursion(sampler, maps, post))


# -- bias -----------------------------------------------------------------------------------------------------------


def error(sampler: samplers.Sampler, maps: Recursion, post: Posterior) -> float:
    """Distance to the exact posterior, of a law that is known by its recursion."""
    return distance(recursion(sampler, maps, post), post)


def chain() -> Posterior:
    """Six values of which neighbours have correlation 0.9, the first and the last measured exactly."""
    steps = (torch.arange(N)[:, None] - torch.arange(N)).abs()
    prior = GaussianPrior(SHAPE, torch.zeros(SHAPE, dtype=F64), covariance=0.9 ** steps.double())
    return problem(prior, 0.0, Matrix(EYE[[0, 5]], SHAPE))


@pytest.mark.slow  # thousands of maps of each sampler
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


@pytest.mark.slow  # 200 steps ten times over
def test_resampling_removes_the_bias_of_replacement():
    post = chain()
    # more steps do not help
    alone = [error(samplers.RePaint(steps=n, repeat=1), repaint, post) for n in (50, 200)]
    assert alone == pytest.approx([0.379, 0.418], abs=0.002), alone
    # repeats do
    found = [error(samplers.RePaint(steps=200, repeat=r), repaint, post) for r in (2, 5, 10)]
    assert found == pytest.approx([0.220, 0.071, 0.028], abs=0.002), found


@pytest.mark.slow
def test_correctors_remove_it_too():
    found = [error(samplers.ScoreSDE(steps=200, corrector_steps=c), scoresde, chain()) for c in (0, 1, 4)]
    assert found == pytest.approx([0.418, 0.320, 0.177], abs=0.002), found


def test_ddnm_has_less_of_it_and_time_travel_takes_some():
    # at levels that are dense near zero time travel takes the rest; "flow", the default, leaves none to take
    for schedule, wanted in {"edm": [0.169, 0.071], "flow": [0.074, 0.070]}.items():
        make = functools.partial(samplers.DDNM, steps=50, schedule=schedule, travel_length=2)
        found = [error(make(travel_repeat=r), ddnm, chain()) for r in (1, 5)]
        assert found == pytest.approx(wanted, abs=0.002), found


@pytest.mark.slow
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


def test_a_corrector_leaves_the_prior_as_it_is():
    # at one level, many steps: a Langevin step of size h = 2 (snr s)^2 has the variance of p_s up to snr^2 / 2 of it
    prior, s, snr = white(), 0.8, 0.16
    post = problem(prior)
    M, b, V = langevin(post, s, snr)[0]
    P = V / (1 - M[0, 0] ** 2)
    assert P[0, 0].item() == pytest.approx((0.49 + s**2) * (1 + 0.5 * snr**2 * 2 * s**2 / (0.49 + s**2)), rel=1e-3)


BIASES = {
    0.0: {"ScoreSDE": 0.150, "MedicalProjection": 0.150, "ILVR": 0.141, "RePaint": 0.225, "CCDF": 0.233},
    SIGMA: {"ScoreSDE": 0.102, "MedicalProjection": 0.102, "ILVR": 0.081, "RePaint": 0.235, "CCDF": 0.214},
}
FIRST = [0.750, 0.209, 0.225, 0.409, 0.407]
