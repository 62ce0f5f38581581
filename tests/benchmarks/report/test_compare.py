"""What changed between two results: numbers against scipy, and a gate that closes on regressions and on nothing else."""

import math

import numpy as np
import pytest
from scipy import stats

from invgen.benchmarks.report.compare import compare, parse_tolerances
from invgen.benchmarks.report.compare_text import text
from invgen.benchmarks.report.result_tables import write_csv
from invgen.benchmarks.report.results import read
from invgen.cli import main
from invgen.errors import FileError, OptionError
from tests.benchmarks.fabricated import grid, save

RNG = np.random.default_rng(0)
OLD = RNG.normal(27, 3, (6, 2))


@pytest.fixture
def two(tmp_path):
    def make(new, old=OLD, metric="psnr"):
        grid(tmp_path / "a", {"DPS": old}, metric)
        grid(tmp_path / "b", {"DPS": new}, metric)
        return tmp_path / "a", tmp_path / "b"

    return make


def change(found, metric="psnr"):
    (only,) = (c for c in found.changes if c.metric == metric)
    return only


def test_differences_are_paired_by_image(two):
    new = OLD + RNG.normal(-0.5, 0.2, OLD.shape)
    found = change(compare(*two(new)))
    theirs = stats.ttest_rel(new.mean(1), OLD.mean(1))
    low, high = theirs.confidence_interval(0.95)
    d = found.difference
    assert [d.mean, d.low, d.high, d.p] == pytest.approx([(new - OLD).mean(), low, high, theirs.pvalue], rel=1e-9)
    assert (found.old, found.new) == pytest.approx((OLD.mean(), new.mean()))
    assert (d.images, d.cells) == (6, 12) and d.significant
    assert found.worse.mean == pytest.approx(-d.mean) and found.verdict == "worse" and found.regression  # 0.5 of 27: 1.9 %


def test_p_values_are_corrected_for_the_number_of_metrics(tmp_path):
    new = {"DPS": OLD + RNG.normal(-0.5, 0.4, OLD.shape), "DAPS": OLD + RNG.normal(0, 0.4, OLD.shape)}
    grid(tmp_path / "a", {"DPS": OLD, "DAPS": OLD})
    grid(tmp_path / "b", new)
    found = {c.group[2]: c.difference.p for c in compare(tmp_path / "a", tmp_path / "b").changes if c.metric == "psnr"}
    raw = {name: stats.ttest_rel(v.mean(1), OLD.mean(1)).pvalue for name, v in new.items()}
    assert raw["DPS"] < raw["DAPS"]
    assert found == pytest.approx({"DPS": 2 * raw["DPS"], "DAPS": max(2 * raw["DPS"], raw["DAPS"])}, rel=1e-9)


@pytest.mark.parametrize(
    ("metric", "shift", "verdict", "regression"),
    [
        ("psnr", -0.5, "worse", True),
        ("psnr", -0.1, "worse", False),  # 0.4 %: below the tolerance
        ("psnr", 0.5, "better", False),
        ("psnr", 0.0, "equal", False),
        ("psnr", 1e-9, "equal", False),  # another machine's rounding
        ("crps", 0.5, "worse", True),
        ("crps", -0.5, "better", False),
        ("residual", 0.5, "worse", True),  # from 27 to 27.5, away from 1
        ("my_module:metric", -5.0, "changed", False),  # nobody knows what is better
    ],
)
def test_what_counts_as_a_regression(two, metric, shift, verdict, regression):
    noise = 0.02 * RNG.standard_normal(OLD.shape) if abs(shift) > 1e-6 else 0.0
    found = compare(*two(OLD + shift + noise, metric=metric))
    assert (change(found, metric).verdict, bool(found.regressions)) == (verdict, regression)


def test_nearest_to_the_target_is_better(two):
    """From 0.4 below the level to 0.1 above it: a large change, and a good one."""
    level = 0.5 + 0.01 * RNG.standard_normal(OLD.shape)
    found = change(compare(*two(level + 0.1, level - 0.4, "coverage(level=0.5)")), "coverage(level=0.5)")
    assert found.verdict == "better" and found.difference.mean == pytest.approx(0.5) and not found.regression
    assert found.worse.mean == pytest.approx(-0.3, abs=0.02)  # 2 standard errors of the noise are 0.006


def test_few_images_close_the_gate_where_each_became_worse(two):
    """One image has no test, two hardly one: the gate closes where every image is worse by more than the tolerance."""
    one = two(OLD[:1] - 1, OLD[:1])
    found = change(compare(*one))
    assert math.isnan(found.difference.p) and found.regression and found.verdict == "worse"
    assert not change(compare(*one, {"psnr": 1.5})).regression


def test_one_image_of_two_that_became_worse_leaves_it_open(two):
    found = change(compare(*two(OLD[:2] - [[3.0], [-0.1]], OLD[:2])))
    assert found.verdict == "not significant" and not found.regression


def test_tolerances():
    assert parse_tolerances(["0.02", "psnr=0.1", "lpips(net='vgg')=0.3"]) == {
        "": 0.02,
        "psnr": 0.1,
        "lpips(net='vgg')": 0.3,
    }
    with pytest.raises(OptionError, match="cannot read the tolerance 'much'"):
        parse_tolerances(["much"])


def test_costs_are_gated_on_request_only(tmp_path):
    for name, seconds in (("a", 0.5), ("b", 5.0)):
        for image in "xyz":
            save(tmp_path / name, {"psnr": 20.0}, image=image, seconds=seconds)
    a, b = tmp_path / "a", tmp_path / "b"
    assert not compare(a, b).regressions and change(compare(a, b), "seconds").verdict == "worse"
    (said,) = compare(a, b, {"seconds": 1.0}).regressions
    assert "seconds became worse, 0.5 -> 5.0 (tolerance 1)" in said
    with pytest.raises(OptionError, match="no metric 'ssim' has a result; there are nfe, psnr, seconds"):
        compare(a, b, {"ssim": 1.0})
    with pytest.raises(OptionError, match="a tolerance must be 0 or more"):
        compare(a, b, -1.0)


def test_missing_new_and_failing_cells(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for image in ("both", "fails", "gone"):
        save(a, {"psnr": 20.0, "ssim": 0.5}, image=image)
    save(a, error="bad luck", image="repaired")
    save(a, error="bad luck", image="gone and no loss")
    for image in ("both", "new", "repaired"):
        save(b, {"psnr": 20.0}, image=image)
    save(b, error="infinite values at step 3", image="fails")
    found = compare(a, b)
    names = [[row.image for row in rows] for rows in (found.newly_failed, found.only_old, found.only_new, found.repaired)]
    assert names == [["fails"], ["gone", "gone and no loss"], ["new"], ["repaired"]]
    assert found.regressions == [
        "blur, DPS(steps=10), prior photo: ssim is no longer computed",
        "newly failed: blur, DPS(steps=10), prior photo, fails, seed 0: infinite values at step 3",
        "missing: blur, DPS(steps=10), prior photo, gone, seed 0",
    ]
    said = text(found)
    assert "1 cell newly failed" in said and "2 cells only in a" in said and "3 regressions for the gate." in said


def test_values_that_are_no_longer_finite(two):
    new = OLD.copy()
    new[2, 1] = np.nan
    found = change(compare(*two(new)))
    assert (found.lost, found.verdict, found.regression) == (1, "not finite in 1 cell", True)
    assert found.difference.mean == 0  # of the others


def test_significant_changes_stand_first(tmp_path):
    shifts = {"better": 3.0, "same": 0.0, "worse": -1.0, "noisy": RNG.normal(0, 3, OLD.shape)}
    grid(tmp_path / "a", dict.fromkeys(shifts, OLD))
    grid(tmp_path / "b", {name: OLD + shift + 0.01 * RNG.standard_normal(OLD.shape) for name, shift in shifts.items()})
    found = compare(tmp_path / "a", tmp_path / "b")
    order = [c.group[2] for c in found.changes if c.metric == "psnr"]
    assert order[:2] == ["worse", "better"]
    said = text(found)
    assert said.index("Significant changes") < said.index("worse (regression)") < said.index("better\n")
    assert said.index("better\n") < said.index("Changes that are not significant")
    columns = {line.count("|") for line in text(found, markdown=True).splitlines() if line.startswith("|")}
    assert columns == {8}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folder", "csv", "parquet"])
def test_the_command_line(two, tmp_path, capsys, form):
    a, b = two(OLD - 1)
    if form == "csv":
        write_csv(read(a), a := tmp_path / "a.csv")
    if form == "parquet":
        pytest.importorskip("pyarrow")
        from invgen.benchmarks.report.result_tables import write_parquet

        write_parquet(read(a), a := tmp_path / "a.parquet")
    for args, code in [
        ([a, b], 0),
        ([a, b, "--gate"], 1),
        ([a, b, "--gate", "--markdown", "--tolerance", "psnr=2"], 0),
        ([b, a, "--gate"], 0),
        ([a, a, "--gate"], 0),
        ([a, tmp_path / "nothing", "--gate"], 2),
    ]:
        with pytest.raises(SystemExit) as end:
            main(["bench", "compare", *map(str, args)])
        said = capsys.readouterr()
        assert (end.value.code or 0) == code, said
        if code == 1:
            assert "regression: blur, DPS, prior photo: psnr became worse" in said.err and "-1.0" in said.out


def test_names_cannot_break_markdown(tmp_path):
    for name, value in (("a", 20.0), ("b", 10.0)):
        save(tmp_path / name, {"psnr": value}, problem="<b>|x|</b>")
    said = text(compare(tmp_path / "a", tmp_path / "b"), markdown=True)
    assert "| \\<b\\>\\|x\\|\\</b\\>, DPS(steps=10), prior photo |" in said


def test_what_cannot_be_compared_is_said(tmp_path):
    with pytest.raises(FileError, match="there is no folder or table"):
        compare(tmp_path / "a", tmp_path / "b")
