"""Ranks, coverage and TARP on exact Gaussians: uniform where calibrated, of the right shape where not; exact bands."""

import itertools

import numpy as np
import pytest
import torch

from invgen.errors import OptionError, ShapeError
from invgen.metrics import (
    coverage_curve,
    rank_histogram,
    region_coverage,
    region_ranks,
    sbc_ranks,
    tarp,
    uniformity,
)


def pairs(n, num_samples, d, seed=0, scale=1.0, shift=0.0):
    """x ~ N(0, I), y = x + N(0, I), samples of N(y / 2 + shift s, (scale s)^2 I) for s^2 = 1/2: exact for 1 and 0."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = x + torch.randn(n, d, generator=g, dtype=torch.float64)
    z = torch.randn(num_samples, n, d, generator=g, dtype=torch.float64)
    return y / 2 + 0.5**0.5 * (shift + scale * z), x


WRONG = {"narrow": {"scale": 0.7}, "wide": {"scale": 1.5}, "low": {"shift": -0.5}, "high": {"shift": 0.5}}


@pytest.mark.parametrize("cumulative", [False, True])
def test_probability_within_by_enumeration(cumulative):
    from scipy.stats import multinomial

    n, probs = 6, np.array([0.15, 0.35, 0.5])
    low, high = (np.array([0, 2, 6]), np.array([2, 5, 6])) if cumulative else (np.array([0, 1, 1]), np.array([2, 3, 4]))
    total = 0.0
    for counts in itertools.product(range(n + 1), repeat=3):
        seen = np.cumsum(counts) if cumulative else np.array(counts)
        if sum(counts) == n and ((seen >= low) & (seen <= high)).all():
            total += multinomial.pmf(counts, n, probs)
    assert abs(uniformity.probability_within(n, probs, low, high, cumulative) - total) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("cumulative", [False, True])
def test_band_and_p_value_are_those_of_simulated_uniform_ranks(cumulative):
    n, probs = 200, np.full(17, 1 / 17)
    low, high = uniformity.band(n, probs, 0.9, cumulative)
    inside, p = [], []
    for counts in np.random.default_rng(0).multinomial(n, probs, size=500):
        seen = counts.cumsum() if cumulative else counts
        inside.append(bool(((seen >= low) & (seen <= high)).all()))
        p.append(uniformity.p_value(counts, probs, cumulative))
    held = uniformity.probability_within(n, probs, low, high, cumulative)
    assert 0.9 <= held < 0.96  # counts are whole: the confidence can only be exceeded
    assert abs(np.mean(inside) - held) < 0.05  # 4 standard errors of 500
    for level in (0.05, 0.3, 0.7):
        assert np.mean(np.array(p) <= level) < level + 4 * (level * (1 - level) / 500) ** 0.5
    assert abs(np.mean(np.array(p) <= 0.3) - 0.3) < 0.09
    assert all(i == (value > 1 - held + 1e-9) for i, value in zip(inside, p, strict=True)), "band and p-value disagree"


def test_p_value_of_hopeless_counts_is_tiny_but_not_zero():
    assert 0 < uniformity.p_value(np.array([200, 0, 0, 0]), np.full(4, 0.25), True) < 1e-50


def test_sbc_ranks_count_and_break_ties_at_random():
    samples = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    assert sbc_ranks(samples, torch.tensor([3.0, 0.0])).tolist() == [2, 0]
    ties = sbc_ranks(torch.ones(3, 4000), torch.ones(4000))
    counts = torch.bincount(ties, minlength=4)
    assert (counts - 1000).abs().max() < 4 * 27.4  # the standard deviation of a binomial count
    assert torch.equal(ties, sbc_ranks(torch.ones(3, 4000), torch.ones(4000)))
    near = torch.ones(3, 4000) + 1e-7
    assert torch.equal(ties, sbc_ranks(near, torch.ones(4000), atol=1e-6))
    assert sbc_ranks(near, torch.ones(4000)).sum() == 0


@pytest.mark.parametrize("num_samples", [9, 50])
def test_calibrated_ranks_are_uniform(num_samples):
    samples, x = pairs(1000, num_samples, 6)
    value = coverage_curve(sbc_ranks(samples, x)[:, 0], num_samples)
    joint = coverage_curve(region_ranks(samples, x, dims=1), num_samples)
    random = tarp(samples, x)
    # one fixed seed of exact tests: each fails with probability 0.01
    for curve in (value, joint, random):
        assert curve.p_value > 0.01
        assert curve.level[-1] == curve.coverage[-1] == 1
    hist = rank_histogram(sbc_ranks(samples, x)[:, 1], num_samples)
    assert hist.p_value > 0.01
    assert hist.counts.sum() == 1000
    torch.testing.assert_close(hist.expected.sum().item(), 1000.0)


@pytest.mark.slow
def test_false_alarms_of_joint_regions_and_tarp_are_as_stated():
    """Over 200 repetitions 5 % of calibrated sets are rejected at 5 %; 4 standard errors are 6 %."""
    p = [[], []]
    for k in range(200):
        samples, x = pairs(60, 9, 3, seed=k)
        p[0].append(coverage_curve(region_ranks(samples, x, dims=1), 9).p_value)
        p[1].append(tarp(samples, x, seed=k, bootstrap=0).p_value)
    for values in p:
        assert np.mean(np.array(values) <= 0.05) <= 0.05 + 0.06
        assert 0.35 < np.mean(values) < 0.65


@pytest.mark.parametrize("how", WRONG)
def test_rank_histograms_have_the_right_shape(how):
    samples, x = pairs(400, 19, 2, **WRONG[how])
    hist = rank_histogram(sbc_ranks(samples, x)[:, 0], 19, bins=20)
    assert not hist.inside
    assert hist.p_value < 1e-3
    ends, middle = hist.counts[[0, 1, -2, -1]].double().mean(), hist.counts[8:12].double().mean()
    tilt = (hist.counts[10:].sum() - hist.counts[:10].sum()).item() / 400
    if how == "narrow":
        assert ends > 1.5 * middle
    elif how == "wide":
        assert middle > 1.5 * ends
    elif how == "low":  # the truth above the samples; Phi(0.5) - Phi(-0.5) = 0.38 of them in the limit
        assert 0.2 < tilt < 0.5
    else:
        assert -0.5 < tilt < -0.2


@pytest.mark.parametrize(("how", "side"), [("narrow", -1), ("wide", 1), ("low", -1), ("high", -1)])
def test_coverage_of_joint_regions(how, side):
    """Below the diagonal for narrow and for biased samples, above it for wide ones."""
    samples, x = pairs(400, 30, 4, **WRONG[how])
    curve = coverage_curve(region_ranks(samples, x, dims=1), 30)
    assert not curve.inside
    assert curve.p_value < 1e-4
    level, coverage, low, high = curve.at(0.5)
    assert abs(level - 0.5) < 0.02
    assert coverage < low if side < 0 else coverage > high
    share = region_coverage(samples, x, 0.5, dims=1).mean().item()
    assert abs(share - curve.at(round(0.5 * 31) / 31)[1]) < 0.02


@pytest.mark.parametrize(
    ("wrong", "slope"), [({}, 0.5), ({"scale": 0.7}, 0.38), ({"scale": 1.5}, 0.66), ({"shift": 1.0}, 0.37)]
)
def test_tarp(wrong, slope):
    """Too few truths between the quartiles of the samples' distances if narrow or biased, too many if wide."""
    samples, x = pairs(600, 60, 2, **wrong)
    curve = tarp(samples, x)
    assert curve.inside == (not wrong)
    assert (curve.p_value > 0.05) == (not wrong)
    assert (curve.bootstrap[0] <= curve.coverage + 1e-12).all() and (curve.coverage <= curve.bootstrap[1] + 1e-12).all()
    # the slopes are means of ten seeds; the standard error of one is 0.02
    assert abs((curve.at(0.75)[1] - curve.at(0.25)[1]) - slope) < 0.08


def test_bootstrap_limits_are_binomial():
    """Resampling N simulations spreads the coverage at each level as a binomial share does."""
    samples, x = pairs(400, 19, 2)
    curve = tarp(samples, x, bootstrap=4000)
    level, coverage, _, _ = curve.at(0.5)
    k = int((curve.level - 0.5).abs().argmin())
    width = (curve.bootstrap[1] - curve.bootstrap[0])[k].item()
    assert abs(width - 2 * 1.96 * (coverage * (1 - coverage) / 400) ** 0.5) < 0.01


def test_references_are_the_callers_choice():
    samples, x = pairs(300, 20, 3)
    with pytest.raises(ShapeError, match="references have shape"):
        tarp(samples, x, x[:, :2])
    far = torch.zeros_like(x)
    far[:, 0] = 1e6  # the distance to a point far away orders by the first value, downwards
    width = x.amax(0) - x.amin(0)
    assert width.min() > 0
    curve = tarp(samples, x, far, bootstrap=0)
    direct = coverage_curve(20 - sbc_ranks(samples, x)[:, 0], 20)
    torch.testing.assert_close(curve.coverage, direct.coverage, atol=2 / 300, rtol=0)


def test_units_do_not_matter():
    samples, x = pairs(50, 9, 4)
    scale, shift = torch.tensor([1e-3, 1.0, 10.0, 1e4], dtype=torch.float64), 5.0
    assert torch.equal(region_ranks(scale * samples + shift, scale * x + shift, dims=1), region_ranks(samples, x, dims=1))
    a, b = tarp(scale * samples + shift, scale * x + shift), tarp(samples, x)
    torch.testing.assert_close(a.coverage, b.coverage)


def test_exactly_known_values_do_not_count():
    samples, x = pairs(200, 9, 3)
    known = torch.cat([samples, x.expand_as(samples)[..., :1] + 1e-9], -1)  # taken over from the measurement, with rounding
    got = region_ranks(known, torch.cat([x, x[:, :1]], 1), atol=1e-6, dims=1)
    assert torch.equal(got, region_ranks(samples, x, dims=1))


def test_bins_and_levels():
    ranks = torch.randint(0, 51, (300,), generator=torch.Generator().manual_seed(0))
    hist = rank_histogram(ranks, 50)
    assert hist.edges.tolist() == list(range(0, 52, 3))  # 17 bins of 3 ranks: 51 = 3 * 17
    uneven = rank_histogram(ranks, 50, bins=20)
    torch.testing.assert_close(uneven.expected, 300 * uneven.edges.diff().double() / 51)
    assert uneven.counts.tolist() == [
        int(((ranks >= a) & (ranks < b)).sum()) for a, b in zip(uneven.edges, uneven.edges[1:], strict=False)
    ]
    curve = coverage_curve(ranks, 50)
    assert len(curve.level) == 51
    assert curve.coverage[4] == (ranks < 5).double().mean()
    many = torch.randint(0, 10001, (300,), generator=torch.Generator().manual_seed(0))
    assert len(coverage_curve(many, 10000).level) == 200


def test_errors():
    samples, x = pairs(20, 9, 3)
    ranks = sbc_ranks(samples, x)[:, 0]
    for f in (rank_histogram, coverage_curve):
        with pytest.raises(ShapeError, match="integers of shape"):
            f(ranks.double(), 9)
        with pytest.raises(ShapeError, match="integers of shape"):
            f(ranks[:, None], 9)
        with pytest.raises(OptionError, match="lie in 0 to 5"):
            f(ranks, 5)
        with pytest.raises(OptionError, match="confidence"):
            f(ranks, 9, confidence=1.0)
    with pytest.raises(OptionError, match="bins must be a whole number from 2 to num_samples"):
        rank_histogram(ranks, 9, bins=11)
    with pytest.raises(ShapeError, match="pass dims="):
        tarp(samples[..., None], x[..., None])
    with pytest.raises(ShapeError, match="must be equal"):
        region_ranks(samples, x[:, :2], dims=1)
    with pytest.raises(OptionError, match="from 0 to 1"):
        region_coverage(samples, x, 1.0, dims=1)
