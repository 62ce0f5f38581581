"""Noise of heavy tails, and of a level that is inferred, against scipy and against integration over the level."""

import math

import pytest
import torch
from scipy import integrate, stats

import invgen
from invgen.noise import Gaussian, InferredLevel, StudentT


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_student_is_scipys():
    y, clean = random(2, 3, 4), random(2, 3, 4, seed=1)
    want = stats.t.logpdf(y.numpy(), 4, clean.numpy(), 0.3).sum((1, 2))
    torch.testing.assert_close(StudentT(0.3, 4).log_prob(y, clean), torch.as_tensor(want), rtol=1e-12, atol=0)


def test_an_unknown_level_is_the_integral_over_levels():
    y, clean, law = random(1, 5), random(1, 5, seed=1), InferredLevel(0.4, df=3)

    def joint(log_var):  # sigma^2 ~ df guess^2 / chi-square(df)
        var = math.exp(log_var)
        return math.exp(
            float(Gaussian(var**0.5).log_prob(y, clean)) + stats.invgamma.logpdf(var, 1.5, scale=1.5 * 0.16) + log_var
        )

    want = math.log(integrate.quad(joint, -12, 12, limit=200)[0])
    assert float(law.log_prob(y, clean)) == pytest.approx(want, abs=1e-6)


def test_samples_have_the_law_that_is_declared():
    # 4000 rows of 3 values: the share of a quantile is right to 0.4 per cent for independent values; 3 of them
    g = torch.Generator().manual_seed(0)
    for law in (StudentT(0.5, 3), InferredLevel(0.5, df=3)):
        r = law.sample(torch.zeros(4000, 3, dtype=torch.float64), g)
        u = stats.t.cdf(r.numpy() / 0.5, 3)  # each value of both has Student's law
        assert abs((u < 0.05).mean() - 0.05) < 0.012 and abs((u < 0.5).mean() - 0.5) < 0.03


def test_the_level_is_found_and_spots_are_counted():
    white = 0.2 * random(4, 1, 40, 40)
    law = InferredLevel(1.0)
    # 1600 values tell a level to 1 / sqrt(3200) = 1.8 per cent; the guess of 1 counts as one value of 1600
    assert law.level(white, torch.zeros_like(white)).sub(0.2).abs().max() < 0.02
    found = InferredLevel.of_residual(white)
    assert found.guess == pytest.approx(0.2, rel=0.05) and found.patch == pytest.approx(1.0, abs=0.3)
    spots = torch.nn.functional.avg_pool2d(random(4, 1, 46, 46), 7, 1)
    # a mean over 7 values has correlations 1 - k / 7, whose sum is 7 along an axis; estimated from 36 spots a picture
    assert InferredLevel.of_residual(spots).patch == pytest.approx(49, rel=0.3)


def test_patches_divide_the_evidence():
    y, clean = random(2, 6), random(2, 6, seed=1)
    whole, half = InferredLevel(0.1, df=2), InferredLevel(0.1, df=2, patch=2)
    # two copies of each value, which are one piece of evidence
    doubled = half.log_prob(torch.cat([y, y], 1), torch.cat([clean, clean], 1))
    torch.testing.assert_close(doubled, whole.log_prob(y, clean))


@pytest.mark.slow
def test_outliers_move_a_mean_less_under_heavy_tails():
    prior = invgen.priors.GaussianPrior((1,), 0.0, 100.0).to(torch.float64)
    A = invgen.operators.Matrix(torch.ones(9, 1, dtype=torch.float64))
    y = torch.cat([0.1 * random(8), torch.tensor([30.0], dtype=torch.float64)])
    x = invgen.solve(y, A, prior, StudentT(0.1, 2), invgen.samplers.PCN(steps=300), num_samples=50).samples
    assert x.mean().abs() < 0.2  # the mean of all nine is 3.3
