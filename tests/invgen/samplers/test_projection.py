"""Putting the measurement in its place: `invgen.samplers.projection.base`, and what every sampler that does so promises.

The laws of these samplers, by the recursions of their papers, stand in test_replacement.py.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, OptionError, Posterior, UnsupportedError, samplers
from invgen.diffusion import noise_levels
from invgen.noise import Noiseless
from invgen.numerics.random import Streams
from invgen.operators import Fourier, Mask, Matrix, from_function
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.sampler import Cost
from invgen.samplers.projection.base import Projection, Spectral, estimate, levels_from, with_jumps
from tests.invgen.samplers.gaussian_problems import EYE, F64, SHAPE, SIGMA, N, correlated, law, many, normal, problem, white

REPLACING = [
    samplers.ScoreSDE(steps=20),
    samplers.MedicalProjection(steps=20),
    samplers.ILVR(steps=20),
    samplers.RePaint(steps=20),
    samplers.CCDF(steps=20),
    samplers.DampedMCG(steps=20),
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
    post = many(Posterior(white(), A, Gaussian(1.0), torch.ones(6, dtype=F64)), 2)
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
    exact_post = many(Posterior(prior, A, Noiseless(), normal(3)), 1)
    x = estimate(exact_post)
    torch.testing.assert_close(A(x), exact_post.y)
    assert (x[0][A.mask == 0] == 3).all()
    # noise as large as the signal: half of the way
    noisy = estimate(Posterior(prior, A, Gaussian(1.0), exact_post.y))
    torch.testing.assert_close(A(noisy), (exact_post.y + 3) / 2)


def test_spectral_coordinates_drop_what_the_noise_drowns():
    A = Matrix(torch.diag(torch.tensor([2.0, 1.0, 0.1, 0.0, 0.0, 0.0], dtype=F64)), SHAPE)
    post = Posterior(white(), A, Gaussian(0.5), torch.ones(6, dtype=F64))
    known = Spectral(many(post, 1), highest=1.0)
    assert known.seen.flatten().tolist() == [True, True, False, False, False, False]
    torch.testing.assert_close(known.y.flatten()[:3], torch.tensor([0.5, 1.0, 0.0], dtype=F64))
    torch.testing.assert_close(known.s_y.flatten()[:3], torch.tensor([0.25, 0.5, 0.0], dtype=F64))


def test_levels_start_in_units_of_the_prior():
    prior = white()
    for scale in (1.0, 40.0):
        levels = levels_from(prior.rescaled(scale), 2.0, 10, "edm")
        assert levels[0][0] == pytest.approx(2 * 0.7 * scale) and len(levels) == 10
    assert levels_from(prior, 1e9, 10, "edm") == noise_levels(10, prior.sigma_min, prior.sigma_max)
    assert levels_from(prior, 2.0, 10, (3.0, 1.0)) == [(3.0, 1.0), (1.0, 0.0)]


# -- properties -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@each
def test_noiseless_masks_keep_the_observed_values(sampler):
    prior = GaussianMixture(normal(3, *SHAPE), var=0.3)
    A = Mask(SHAPE, torch.tensor([[1.0, 0, 1], [0, 1, 0]]))
    truth = prior.sample(1, seed=1)[0]
    x = sampler(Posterior(prior, A, Noiseless(), A(truth)), 5)
    torch.testing.assert_close(A(x), A(truth).expand_as(A(x)), rtol=0, atol=1e-9)


@pytest.mark.slow
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


@pytest.mark.slow
@each
def test_noise_in_the_data_is_neither_fitted_nor_ignored(sampler):
    # residuals over noise: 0 where the noise is fitted. Exact samples have .98 over these eight measurements
    prior = GaussianPrior(
        (40,),
        torch.zeros(40, dtype=F64),
        covariance=0.9 ** (torch.arange(40.0)[:, None] - torch.arange(40.0)).abs().double(),
    )
    A, sigma = Mask((40,), torch.arange(40) % 2 == 0), 0.4
    r = []
    for s in range(2, 10):
        post = Posterior(prior, A, Gaussian(sigma), A(prior.sample(1, seed=s)[0]) + sigma * normal(20, seed=s + 1))
        r.append(many(post, 50).residual_over_noise(sampler(post, 50)).mean().item())
    mean = sum(r) / len(r)  # measured .80 (DDNM) to 1.14 (CCDF), .58 (MCG), standard errors of .02 to .04
    # MCG counts the measurement twice, by gradient and by replacement, and fits some of the noise
    assert (0.4 < mean < 0.75) if isinstance(sampler, samplers.MCG) else (0.7 < mean < 1.25), r


def test_predictor_corrector_by_norms_acts_per_sample():
    post = problem(correlated(), 0.0)
    for sampler in (samplers.ScoreSDE(steps=5, rule="norm"), samplers.MedicalProjection(steps=5, rule="norm")):
        torch.testing.assert_close(sampler(post, 2), sampler(post, 6)[:2], rtol=1e-9, atol=1e-9)
        assert not torch.allclose(sampler(post, 2), type(sampler)(steps=5)(post, 2))


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
    assert (samplers.MCG().steps, samplers.MCG().schedule) == (1000, "vp") and samplers.ILVR.paper().steps == 250
    with pytest.raises(OptionError, match="lidc, ldct, brats"):
        samplers.MedicalProjection.paper("knee")


def test_mcg_as_published_runs_on_data_in_its_range():
    prior = GaussianPrior((16,), torch.zeros(16, dtype=F64), 0.25)
    A = Mask((16,), torch.arange(16) % 2 == 0)
    y = A(prior.sample(1, seed=1))[0]
    x = samplers.MCG(steps=100)(Posterior(prior, A, Noiseless(), y), 20)
    torch.testing.assert_close(A(x), y.expand(20, -1))
    # eight independent values of standard deviation 0.5 are left to the prior
    assert 0.35 < x[:, 1::2].std() < 0.6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.ScoreSDE(snr=0.0), "snr of ScoreSDE must be a positive number"),
        (lambda: samplers.MedicalProjection(lam=1.5), "lam of MedicalProjection must be a number from 0 to 1"),
        (
            lambda: samplers.MedicalProjection(rule="ald"),
            "rule of MedicalProjection must be one of 'level', .* got 'ald'",
        ),
        (lambda: samplers.ILVR(until=-1.0), "until of ILVR must be a number of at least 0"),
        (lambda: samplers.RePaint(jump=10), "jump of RePaint must be a number from 0 to 1, both excluded"),
        (lambda: samplers.RePaint(repeat=0), "repeat of RePaint must be a positive whole number"),
        (lambda: samplers.CCDF(sigma0=0.0), "sigma0 of CCDF must be a positive number"),
        (lambda: samplers.DDNM(travel_length=0), "travel_length"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(make, message):
    with pytest.raises(OptionError, match=message):
        make()
