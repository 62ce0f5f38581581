"""Calibration curves: exact for exchangeable samples, whatever their number."""

from types import SimpleNamespace

import pytest
import torch

from invgen.benchmarks.suite.scores import calibration
from invgen.metrics import interval_coverage


def curve(samples, truth):
    return calibration(SimpleNamespace(samples=samples), truth)


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 7, 19, 200])
def test_exchangeable_samples_are_calibrated(n):
    """N values: the standard error of a coverage is at most 0.5 / sqrt(N); 5 of those, over at most 10 levels."""
    N = 40_000
    drawn = torch.randn(n + 1, 1, N, generator=torch.Generator().manual_seed(n)).exp()  # any law will do
    found = curve(drawn[:n], drawn[n])
    assert len(found["levels"]) == min(n // 2, 10) and found["levels"] == sorted(found["levels"])
    for level, coverage in zip(found["levels"], found["coverage"], strict=True):
        assert abs(coverage - level) < 2.5 / N**0.5
        by_metric = interval_coverage(drawn[:n].double(), drawn[n].double(), level, dims=2).item()
        assert coverage == pytest.approx(by_metric, abs=2 / N)  # the metric meets the order statistics up to rounding


def test_levels_are_those_that_the_samples_support():
    drawn = torch.randn(5, 1, 10, generator=torch.Generator().manual_seed(0))
    assert curve(drawn[:4], drawn[4])["levels"] == pytest.approx([0.2, 0.6])  # 1 - 2 i / 5
    assert curve(drawn[:3], drawn[3]) is None
    assert curve(drawn[:1].repeat(8, 1, 1), drawn[4]) is None  # a point estimate
    # none of the truths is in the intervals of samples that all lie above it; all are where it is the middle sample
    assert curve(drawn[:4].abs(), -torch.ones(1, 10))["coverage"] == [0, 0]
    steps = torch.arange(4.0)[:, None, None].expand(4, 1, 10)
    assert curve(steps, torch.full((1, 10), 1.5))["coverage"] == [1, 1]


def test_complex_signals_count_their_parts():
    drawn = torch.complex(*torch.randn(2, 9, 1, 30_000, generator=torch.Generator().manual_seed(1)))
    found = curve(drawn[:8], drawn[8])
    assert found["levels"] == pytest.approx([1 / 9, 3 / 9, 5 / 9, 7 / 9])
    assert all(abs(c - level) < 2.5 / 60_000**0.5 for level, c in zip(found["levels"], found["coverage"], strict=True))
