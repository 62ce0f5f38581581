"""Several measurements of one signal, each with its own law: exact on Gaussians, each part's residual, refusals."""

import pytest
import torch

import invgen
from invgen import Gaussian, OptionError, Posterior, ShapeError, operators, samplers
from invgen.inference.joint import join
from invgen.noise import Energy, Joint, Noiseless, Poisson, StudentT
from tests.invgen.samplers.gaussian_problems import F64, SHAPE, correlated, normal

PRIOR = correlated()
A1, A2 = operators.Matrix(normal(2, 6, seed=3), SHAPE), operators.Matrix(normal(3, 6, seed=4), SHAPE)
X = PRIOR.sample(1, seed=4)
Y1, Y2 = A1(X)[0] + 0.2 * normal(2, seed=5), A2(X)[0] + 0.9 * normal(3, seed=6)
LEVELS = torch.tensor([0.2, 0.2, 0.9, 0.9, 0.9], dtype=F64)


def law_of(parts):
    """The exact mean and covariance given several linear measurements, by adding their precisions."""
    P = torch.linalg.inv(PRIOR.covariance)
    lam, eta = P.clone(), P @ PRIOR.mean.flatten()
    for y, A, sigma in parts:
        lam, eta = lam + A.matrix.T @ A.matrix / sigma**2, eta + A.matrix.T @ y / sigma**2
    return torch.linalg.solve(lam, eta), torch.linalg.inv(lam)


PARTS = ((Y1, A1, 0.2), (Y2, A2, 0.9))


def test_gaussian_parts_are_one_linear_gaussian_problem():
    y, A, noise = join(*PARTS)
    assert isinstance(A, invgen.LinearOperator) and type(noise) is Gaussian
    torch.testing.assert_close(noise.sigma, LEVELS)
    post, x = Posterior(PRIOR, A, noise, y), PRIOR.sample(3, seed=9)
    parts = [Posterior(PRIOR, A, s, y) for y, A, s in PARTS]
    want = sum(p.rows(torch.zeros(3, dtype=torch.int64)).log_likelihood(x) for p in parts)
    torch.testing.assert_close(post.rows(torch.zeros(3, dtype=torch.int64)).log_likelihood(x), want)
    assert join((Y1, A1, 0.3), (Y2, A2, 0.3))[2].sigma == 0.3  # one level: samplers that ask for one take it
    batch = join(
        (torch.stack([Y1, Y1]), A1, Gaussian(torch.tensor([[0.1], [0.2]], dtype=F64))), (torch.stack([Y2, Y2]), A2, 0.9)
    )
    torch.testing.assert_close(batch[2].sigma[:, 0], torch.tensor([0.1, 0.2], dtype=F64))


def loss(y):
    return Joint([Gaussian(0.2), Gaussian(0.9)], [(2,), (3,)])


# 400 samples: a mean is right to 0.05 deviations, six of them to 0.12, the covariance to 0.12; chains end a little short
EXACT = [
    *[(samplers.MMPS(steps=100), LEVELS), (samplers.AdaptivePiGDM(steps=100), LEVELS), (samplers.AdaptiveDAPS(), LEVELS)],
    *[(s, t) for s in (samplers.HMC(steps=40, leapfrogs=5), samplers.PCN(steps=300)) for t in (LEVELS, None)],
]


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "levels"), EXACT, ids=[f"{type(s).__name__}-{t is None}" for s, t in EXACT])
def test_guided_samplers_and_chains_sample_the_joint_posterior(sampler, levels):
    y, A, noise = join(*PARTS)
    post = Posterior(PRIOR, A, noise if levels is not None else loss(y), y)
    m, S = law_of(PARTS)
    x = sampler(post, 400).flatten(1)
    assert ((x.mean(0) - m) / S.diagonal().sqrt()).abs().max() < 0.3
    assert (x.T.cov() - S).norm() / S.norm() < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [samplers.DampedDPS(steps=30), samplers.PnPDM(), samplers.DiffPIR()])
def test_a_biased_sampler_has_the_bias_that_it_has_with_one_measurement(sampler):
    """The same problem in units of its noise is a plain matrix with one level: the same samples."""
    y, A, noise = join(*PARTS)
    one = operators.Matrix(torch.cat([A1.matrix, A2.matrix]) / LEVELS[:, None], SHAPE)
    x = sampler(Posterior(PRIOR, A, noise, y), 8)
    # iterative solves end at their tolerance
    torch.testing.assert_close(x, sampler(Posterior(PRIOR, one, 1.0, y / LEVELS), 8), rtol=1e-4, atol=1e-4)


def test_auto_takes_several_measurements_and_each_has_a_residual():
    y, A, noise = join(*PARTS)
    result = invgen.solve(y, A, PRIOR, noise, num_samples=200, evaluations=640)
    assert [r.shape for r in result.residuals] == [(200,), (200,)]
    torch.testing.assert_close(result.residual**2, (2 * result.residuals[0] ** 2 + 3 * result.residuals[1] ** 2) / 5)
    m, _ = law_of(PARTS)
    assert (result.mean.flatten() - m).abs().max() < 0.5
    other = join((Y1, A1, 0.2), (Y2.abs(), A2, StudentT(0.3)))
    assert isinstance(other[2], Joint) and isinstance(other[2], Energy)
    mixed = invgen.solve(*other[:2], PRIOR, other[2], num_samples=4, evaluations=20)
    assert len(mixed.residuals) == 2


def test_laws_that_differ_are_drawn_and_summed():
    law = join((Y1, A1, 0.2), (Y2.abs(), A2, Poisson(0.1)))[2]
    clean = torch.ones(2000, 5, dtype=F64)
    y = law.sample(clean, torch.Generator().manual_seed(0))
    # 4000 and 6000 values: a deviation is right to 1.1 per cent; four of them
    assert y[:, :2].std() == pytest.approx(0.2, rel=0.045) and y[:, 2:].std() == pytest.approx(0.1**0.5, rel=0.045)
    want = Gaussian(0.2).log_prob(y[:, :2], clean[:, :2]) + Poisson(0.1).log_prob(y[:, 2:], clean[:, 2:])
    torch.testing.assert_close(law.log_prob(y, clean), want)


def test_what_cannot_be_joined_says_so():
    with pytest.raises(OptionError, match="join takes at least two measurements"):
        join((Y1, A1, 0.2))
    with pytest.raises(OptionError, match="an exact measurement cannot be joined"):
        join((Y1, A1, 0.2), (Y2, A2, Noiseless()))
    with pytest.raises(ShapeError, match="one batch shape"):
        join((Y1[None], A1, 0.2), (Y2, A2, 0.2))
    with pytest.raises(
        OptionError, match=r"part 1 of join must be \(y, A, noise\) with an operator A, got \(\w+, Tensor, float\)"
    ):
        join((A1, Y1, 0.2), (Y2, A2, 0.2))
    with pytest.raises(ShapeError, match="measurement 1 has shape"):
        join((Y2, A1, 0.2), (Y2, A2, 0.2))
