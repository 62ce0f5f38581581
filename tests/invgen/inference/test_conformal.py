"""Corrected intervals hold new truths as often as they say, for a sampler that is wrong in any way."""

import math
from functools import lru_cache

import pytest
import torch

import invgen
from invgen.errors import OptionError, ShapeError
from invgen.inference.conformal import Correction
from invgen.inference.simulation import simulate
from tests.invgen.inference.test_calibration import NOISE, PRIOR, A, Exact, calibrate

MASK = torch.tensor([True, True, True, False, False, False, False, False])


@lru_cache
def fresh(num: int, seed: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    return simulate(PRIOR, A, NOISE, num, seed)


def solved(sampler, num=500, samples=19):
    x, y = fresh(num)
    return x, invgen.solve(y, A, PRIOR, NOISE, sampler, num_samples=samples, seed=3)


def share(low, high, x, joint=False):
    inside = (low <= x) & (x <= high)
    return (inside.all(-1) if joint else inside).double().mean(0)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_guarantee_is_exact(level, joint):
    """39 pairs: the k-th score of 39 covers with k / 40, whatever the law: skewed truths, samples too narrow and off."""
    generator, covered = torch.Generator().manual_seed(0), []
    for _ in range(400):
        size = torch.rand(39 + 20, 1, generator=generator) + 0.2  # pairs differ in how sure they can be
        x = size * torch.randn(59, 3, generator=generator).exp()
        samples = 0.3 + 0.5 * size * torch.randn(9, 59, 3, generator=generator)
        low, high = Correction(samples[:, :39], x[:39]).interval(samples[:, 39:], level, joint=joint)
        covered.append(share(low, high, x[39:], joint))
    found = torch.stack(covered).reshape(400, -1)
    # of one correction the coverage is Beta(k, 40 - k), of which this is the mean over 400; four standard errors
    error = math.sqrt(level * (1 - level) * (1 / 41 + 1 / 20) / 400)
    assert (found.mean(0) - math.ceil(40 * level) / 40).abs().max() < 4 * error


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*do not explain the measurement")  # which is what a shift does
@pytest.mark.parametrize("sampler", [Exact(scale=0.6), Exact(shift=0.8), Exact(scale=1.6)])
def test_intervals_of_a_wrong_sampler_are_mended(sampler):
    """On 500 pairs held out: coverage before is off by the sampler's fault, after within 4 of its standard errors."""
    correction = calibrate(sampler, num_simulations=400, num_samples=19).correct()
    x, result = solved(sampler)
    error = math.sqrt(0.9 * 0.1 * (1 / 402 + 1 / 500))
    for of, joint, truth in [(None, False, x), (MASK, False, x[:, :3].mean(1)), (None, True, x)]:
        low, high = result.interval(0.9, of, joint=joint, correction=correction)
        assert (share(low, high, truth, joint) - 0.9).abs().max() < 4 * error
    before = share(*result.interval(0.9), x)
    assert (before.mean() < 0.85) if sampler.scale <= 1 else (before.mean() > 0.95)


@pytest.mark.slow
def test_corrected_widths_are_those_of_the_right_sampler():
    """A deviation that is wrong by a factor is found again: widths within 5 % of those of the exact sampler, corrected."""
    width = {}
    for scale in (0.6, 1.0, 1.6):
        sampler = Exact(scale=scale)
        low, high = solved(sampler)[1].interval(0.9, correction=calibrate(sampler, num_samples=19).correct())
        width[scale] = (high - low).mean().item()
    assert width[0.6] == pytest.approx(width[1.0], rel=0.05)
    assert width[1.6] == pytest.approx(width[1.0], rel=0.05)


@pytest.mark.slow
def test_the_exact_sampler_is_left_as_it_is():
    factor = calibrate(Exact(), num_simulations=1000, num_samples=19).correct().factor(0.9, 19)
    assert factor.shape == PRIOR.shape
    # of Student's law of 18 degrees, times sqrt(1 + 1 / 19) for the mean: 1.78; the quantile of 1000 scores errs by 0.05.
    # Values more sure than the others have less of it: their variance is pooled with that of the whole signal
    assert factor.max() < 1.78 + 4 * 0.05 and factor.min() > 1.5


@pytest.mark.slow
def test_held_out_halves_tell_before_and_after():
    correction = calibrate(Exact(scale=0.6), num_simulations=400, num_samples=19).correct()
    before, width, after, wider = correction.held_out(0.9)
    # the ends of 19 samples are noisier than their deviation, so that a little less than 1 / 0.6 = 1.67 is enough
    assert before < 0.75 and abs(after - 0.9) < 0.03 and 1.4 < wider / width < 1.7
    lines = correction.table().splitlines()
    assert len(lines) == 2 + 3 * 4
    assert str(correction).startswith("Exact(steps=1, schedule='edm', scale=0.6, shift=0.0) on GaussianPrior(8,)")


def test_a_result_may_have_fewer_samples_than_the_calibration():
    correction = calibrate(Exact(scale=0.6), num_simulations=400, num_samples=19).correct()
    x, result = solved(Exact(scale=0.6), samples=4)
    assert (share(*result.interval(0.9, correction=correction), x) - 0.9).abs().max() < 0.07
    with pytest.raises(OptionError, match="4 samples span no interval of level 0.9: draw 19 or more, pass a correction"):
        result.interval(0.9)


def test_functionals():
    x, result = solved(Exact(), num=5)
    weights = torch.arange(8.0, dtype=torch.float64)
    for of, f in [(weights, lambda v: v @ weights), (lambda v: v.amax(1), lambda v: v.amax(-1))]:
        low, high = result.interval(0.5, of)
        drawn = f(result.samples)
        assert low.shape == high.shape == (5,)
        assert torch.allclose((low + high) / 2, (drawn.sort(0).values[4] + drawn.sort(0).values[14]) / 2)
    low, _ = result.interval(0.5, lambda v: v[:, :2])
    assert low.shape == (5, 2)


def test_a_measurement_without_batch_axes():
    y = fresh(1)[1][0]
    low, high = invgen.solve(y, A, PRIOR, NOISE, Exact(), num_samples=19).interval(0.9)
    assert low.shape == high.shape == (8,) and (low < high).all()
    assert invgen.solve(y, A, PRIOR, NOISE, Exact(), num_samples=19).interval(0.9, MASK)[0].shape == ()


def test_values_that_are_measured_exactly_stay_narrow():
    """Samples agree to rounding in half of the values, so that only the pooled variance keeps scores finite."""
    generator = torch.Generator().manual_seed(0)
    x, samples = torch.randn(60, 4, generator=generator), torch.randn(20, 60, 4, generator=generator)
    samples[..., :2] = x[:, :2] + 1e-7 * samples[..., :2]
    low, high = Correction(samples, x).interval(samples, 0.9)
    assert (high - low)[:, :2].max() < 1e-5


def test_what_does_not_fit_is_one_sentence():
    report = calibrate(Exact(), num_simulations=20, num_samples=9)
    correction, result = report.correct(), solved(Exact(), num=2, samples=9)[1]
    for call, sentence in [
        (lambda: result.interval(0.99, correction=correction), "20 pairs cannot correct .* num_simulations=99 or more"),
        (lambda: result.interval(0.96, correction=correction), "num_simulations=24 or more"),
        (lambda: result.interval(0.5, joint=True), "a joint region takes a correction"),
        (lambda: result.interval(1.5), "level of .*interval must be a number from 0 to 1"),
        (lambda: result.interval(0.5, torch.zeros(8, dtype=torch.bool)), "the mask of a functional is empty"),
        (
            lambda: solved(Exact(), num=2)[1].interval(0.9, correction=correction),
            "for 2 to 9 samples of a measurement and the result has 19: draw as many, or calibrate with that",
        ),
        (
            lambda: solved(Exact(scale=0.5), num=2, samples=9)[1].interval(0.5, correction=correction),
            "the calibration is of Exact.*scale=1.0.* and the result of Exact.*scale=0.5.*: calibrate that sampler on",
        ),
    ]:
        with pytest.raises(OptionError, match=sentence):
            call()
    for of, sentence in [
        (torch.ones(3), r"must have the shape of a signal, \(8,\), got \(3,\)"),
        (lambda v: v.sum(), r"one row for each of 2 signals, \(B, ...\), got shape \(\)"),
    ]:
        with pytest.raises(ShapeError, match=sentence):
            result.interval(0.5, of)
    with pytest.raises(ShapeError, match="truths"):
        Correction(torch.zeros(5, 3, 2), torch.zeros(4, 2))
    assert result.interval(0.95, correction=calibrate(Exact(), num_simulations=19, num_samples=9).correct())


def test_pairs_of_ones_own_correct_as_well():
    """Signals twice as large as the sampler's prior, N(0, I), expects: pairs of them cover, pairs of the prior do not."""
    generator = torch.Generator().manual_seed(0)

    def pairs(num, size):
        x = size * torch.randn(num, 8, generator=generator)
        y = x + torch.randn(num, 8, generator=generator)  # the posterior is N(y / 2, 1 / 2)
        return y / 2 + math.sqrt(0.5) * torch.randn(19, num, 8, generator=generator), x

    samples, x = pairs(1000, 2.0)
    low, high = Correction(*pairs(200, 2.0)).interval(samples, 0.9)
    assert abs(share(low, high, x).mean() - 0.9) < 0.02  # eight values, of an error of 0.023 each
    low, high = Correction(*pairs(200, 1.0)).interval(samples, 0.9)
    assert share(low, high, x).mean() < 0.8
