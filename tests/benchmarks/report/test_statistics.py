"""Intervals and paired tests against scipy, Holm's correction against published numbers, and marks only beyond doubt."""

import math

import numpy as np
import pytest
from scipy import stats

from invgen.benchmarks.report.statistics import direction, holm, interval, marks, paired, per_image

RNG = np.random.default_rng(0)
A = RNG.normal(27, 3, (6, 2))  # images, seeds
B = A + RNG.normal(0.4, 0.3, (6, 2))


def values(table):
    return {(f"image {i}", k): float(v) for i, row in enumerate(table) for k, v in enumerate(row)}


def test_the_interval_is_student_s_over_images():
    found = interval(values(A))
    images = A.mean(1)
    low, high = stats.t.interval(0.95, 5, images.mean(), stats.sem(images))
    assert (found.images, found.cells) == (6, 12)
    # scipy computes the same; both lose a few of 16 digits
    assert [found.mean, found.low, found.high] == pytest.approx([images.mean(), low, high], rel=1e-10)


def test_seeds_of_an_image_count_once():
    uneven = {("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 6.0}
    assert per_image(uneven) == {"a": 2.0, "b": 6.0}
    assert interval(uneven).mean == 4.0
    doubled = {**uneven, ("b", 1): 6.0}
    assert interval(doubled).half == pytest.approx(interval(uneven).half)


@pytest.mark.parametrize("table", [[[1.0]], [[1.0, 2.0]], [[math.inf], [1.0]], [[math.nan], [1.0]]])
def test_one_image_or_infinite_values_have_no_interval(table):
    assert math.isnan(interval(values(table)).half)


def test_the_paired_test_is_scipy_s():
    found, theirs = paired(values(B), values(A)), stats.ttest_rel(B.mean(1), A.mean(1))
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert [found.low, found.high] == pytest.approx(theirs.confidence_interval(0.95), rel=1e-9)
    assert paired(values(A), values(B)).mean == -found.mean


def test_pairs_are_those_that_both_have():
    a, b = values(A), values(B)
    some = {place: v for place, v in b.items() if place[0] != "image 3" and place != ("image 0", 1)}
    found = paired(some, a)
    assert (found.images, found.cells) == (5, 9)
    differences = [(B - A)[0, 0], *(B - A)[[1, 2, 4, 5]].mean(1)]
    assert found.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=1e-9)
    assert math.isnan(paired(a, {}).mean) and math.isnan(paired(a, {("image 0", 0): 1.0}).p)


def test_equal_and_constant_differences():
    a = values(A)
    assert paired(a, a).p == 1.0
    assert paired(a, {place: v + 1e-13 for place, v in a.items()}).p == 1.0  # rounding is no difference
    assert paired(a, {place: v - 1.0 for place, v in a.items()}).p == 0.0


def test_holm_s_correction():
    """0.01, 0.04, 0.03, 0.005: the smallest times 4, the next times 3, then 2 and 1, made monotone."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    adjusted = holm([0.02, math.nan, 0.04])
    assert adjusted[0] == 0.04 and math.isnan(adjusted[1]) and adjusted[2] == 0.04


@pytest.mark.parametrize(
    ("metric", "better", "loss"),
    [
        ("psnr", "higher", -2.0),
        ("crps", "lower", 2.0),
        ("lpips(net='vgg')", "lower", 2.0),
        ("residual", "nearest", 1.0),
        ("coverage(level=0.9)", "nearest", 1.1),
        ("coverage", "nearest", 1.5),
    ],
)
def test_what_is_better(metric, better, loss):
    found = direction(metric)
    assert found.better == better and found.loss(2.0) == pytest.approx(loss)


def test_of_every_metric_of_suites_something_is_known():
    from invgen.benchmarks.suite.scores import METRICS

    assert all(direction(metric) for metric in METRICS)


@pytest.mark.parametrize("metric", ["my_module:psnr", "unheard_of", "not ( a spec"])
def test_of_a_user_s_metric_nothing_is_known(metric):
    assert direction(metric) is None
    assert marks([values(A), values(A + 5)], direction(metric)) == ["", ""]


def test_best_and_second_are_marked_beyond_doubt_only():
    noise = RNG.normal(0, 0.2, (4, 6, 2))
    rows = [values(A + shift + n) for shift, n in zip((0.0, 1.5, 3.0, 0.05), noise, strict=True)]
    # three and a half of the differences' standard deviations and more between the first ones, next to nothing below
    assert marks(rows, direction("psnr")) == ["", "second", "best", ""]
    assert marks(rows, direction("crps"))[1:3] == ["", ""]
    assert marks(rows[:1], direction("psnr")) == [""]
    # two that are alike: neither is best, and none is second
    assert marks([rows[2], rows[2], rows[0]], direction("psnr")) == ["", "", ""]
    # the best by its mean, but not on the images that both have
    other = {place: v + 20 for place, v in rows[1].items() if place[0] in ("image 0", "image 1")}
    assert marks([other, rows[1]], direction("crps"))[0] == ""
    # with one image there is no test; a row with one image hinders no other
    one = {place: v for place, v in rows[0].items() if place[0] == "image 0"}
    assert marks([one, rows[0]], direction("psnr")) == ["", ""]
    assert marks([one, rows[0], rows[2]], direction("psnr")) == ["", "", "best"]


def test_nearest_is_judged_by_the_distance():
    level = 0.5 + 0.02 * RNG.standard_normal((8, 1))
    near, low, high = values(level), values(level - 0.2), values(level + 0.2)
    assert marks([near, low, high], direction("coverage")) == ["best", "", ""]


def test_equal_methods_are_rarely_told_apart():
    """Among three that do not differ, one is called best in at most 5 % of experiments; of 300, with 3 standard errors."""
    rng = np.random.default_rng(1)
    wrong = sum(
        "best" in marks([values(rng.standard_normal((5, 1))) for _ in range(3)], direction("psnr")) for _ in range(300)
    )
    assert wrong <= 300 * 0.05 + 3 * math.sqrt(300 * 0.05 * 0.95)
