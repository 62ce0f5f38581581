"""The full benchmark: its families, its budget, its store that survives an interrupt, its tables and the page."""

import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from scipy import stats

from invgen import samplers
from invgen.benchmarks.studies import exact as exact_full
from invgen.benchmarks.studies import manifold, mixture, problems, sampler_page, spread
from invgen.errors import FileError
from invgen.inference.auto import recommend
from invgen.sampler import Cost

FAMILIES = problems.families()


@pytest.mark.parametrize("key", [k for k in FAMILIES if "800" not in k])
def test_exact_samples_fit_their_own_measurement(key):
    family = FAMILIES[key]
    problem = family.make(0)
    post, x = problem.posterior, problem.law(2000, 0)
    assert x.shape == (2000, *post.prior.shape) and torch.isfinite(x).all()
    assert not torch.equal(problem.law(5, 0), problem.law(5, 1))
    r = post.y - post.A(x)
    if key == "mask":
        assert r.abs().max() < 1e-3
        return
    # averaged over x ~ p(x | y) and over y, the squared residual is the noise's; for one y it may be several times that or
    # a small part of it, never the data's own size
    ratio = (r.square().mean() / post.noise.sigma**2).item()
    assert 1e-3 < ratio < 8
    assert r.square().mean() < post.y.square().mean()


def test_the_seeded_instance_is_the_published_one():
    # printed by the reference for d_y = 1: S = 0.0947, sigma = 0.0048, y = -0.295
    post = FAMILIES["seeded-1"].make(0).posterior
    assert torch.linalg.svdvals(post.A.matrix).item() == pytest.approx(0.0947, abs=5e-5)
    assert post.noise.sigma == pytest.approx(0.0048, abs=5e-5) and post.y.item() == pytest.approx(-0.295, abs=5e-4)


@pytest.mark.slow
def test_the_error_of_exact_samples_in_sixteen_dimensions():
    # the reference computes 1.105 and 1.304 for the many weak measurements; five draws of the noise, 500 samples
    for sigma, expected in ((0.2, 1.105), (0.5, 1.304)):
        family = FAMILIES[f"sixteen-many-weak-{sigma}"]
        mean = sum(family.floor(i)["rmse"] for i in range(family.count)) / family.count
        assert mean == pytest.approx(expected, rel=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["DampedDPS", "AdaptiveDAPS", "PnPDM", "LinearisedTDS", "EKI", "RePaint"])
def test_every_sampler_gets_the_same_budget(spec):
    post = FAMILIES["mixture-8-1"].make(0).posterior
    sampler = exact_full.at_budget(samplers.get(spec)(), post, 60, 16)
    spent = Cost()
    sampler(post, 16, cost=spent)
    assert spent.nfe <= 60
    if spec == "EKI":  # ends when the data are met, after as many levels as that takes
        return
    # within a few steps of the budget
    one = exact_full.evaluations(samplers.get(spec)(steps=9), post) - exact_full.evaluations(
        samplers.get(spec)(steps=8), post
    )
    per_draw = getattr(samplers.get(spec)(), "particles", 1)
    assert spent.nfe > 60 - 8 * max(one / per_draw, 1)


@pytest.mark.slow
def test_runs_resume_and_a_cut_line_is_dropped(tmp_path):
    store, keys = tmp_path / "runs.csv", ["mixture-8-4"]
    first = exact_full.complete(store, keys, ["DDRM"], [10], instances=2, workers=1)
    order = sorted((r.instance, r.sampler) for r in first)
    assert order == [(0, "DDRM"), (0, "floor"), (1, "DDRM"), (1, "floor")]
    with store.open("a") as file:
        file.write("mixture-8-4,DDRM,7,0.1")
    before = store.stat().st_mtime_ns
    again = exact_full.complete(store, keys, ["DDRM", "DPS"], [10], instances=2, workers=2)
    assert len(again) == 6 and store.stat().st_mtime_ns > before
    same = {r.key: r.distance for r in again}
    assert all(same[r.key] == pytest.approx(r.distance, rel=1e-4) for r in first)
    kept = [r.key for r in exact_full.load(store)]
    assert kept == sorted(kept) and len(kept) == 6
    assert [r.sampler for r in exact_full.load(store) if r.nfe == 10].count("DPS") == 2
    store.write_text("a,b\n1,2\n")
    with pytest.raises(FileError, match="no table of exact runs"):
        exact_full.load(store)


@pytest.mark.slow
def test_a_killed_run_loses_at_most_what_was_in_flight(tmp_path):
    store = tmp_path / "runs.csv"
    command = [
        sys.executable,
        "-m",
        "invgen",
        "bench",
        "study",
        "exact",
        "--full",
        "--families",
        "mixture-8-4",
        "--samplers",
        "DDRM",
    ]
    command += ["--steps", "10", "--workers", "1", "--instances", "8", "--store", str(store)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if store.exists() and store.read_text().count("\n") > 3:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = exact_full.load(store)
    assert len(kept) >= 3
    whole = exact_full.complete(store, ["mixture-8-4"], ["DDRM"], [10], instances=8, workers=1)
    assert len(whole) == 16 and len({r.key for r in whole}) == 16
    assert {r.key: r.distance for r in kept}.items() <= {r.key: r.distance for r in whole}.items()


def test_a_run_that_fails_is_shown_and_counted():
    def run(sampler, instance, distance, budget=100, **more):
        return exact_full.Run("mixture-8-4", sampler, instance, budget, distance, **more)

    runs = [run("floor", i, 0.05, 0) for i in range(3)]
    runs += [run("DPS", 0, 1.0, nfe=100), run("DPS", 2, 3.0, nfe=100)]
    runs += [run("DPS", 1, math.nan, error="DivergedError: at step 3")]
    # what took more than it was allowed, and what ran at another budget, is in no table of this one
    runs += [run("PnPDM", 0, 0.1, nfe=130), run("DDRM", 0, 0.1, 10, nfe=10)]
    page = exact_full.markdown(runs)
    assert "PnPDM" not in page and "DDRM" not in page
    line = next(row for row in page.splitlines() if row.startswith("| DPS"))
    assert "2.00 +- 1.96 (2/3)" in line and "| 40.0 |" in line and line.split(" | ")[5] == "1"
    assert exact_full.best(runs)["mixture-8-4"] == ("DPS", pytest.approx(40))


def test_the_spread_of_exact_samples_and_its_table(tmp_path):
    # two exact sets of 3000: the covariance is off by sqrt((1 + tr(S)^2 / |S|^2) / n), .08 to .1 here; variances by 1 %
    for name in spread.PROBLEMS:
        found = spread.run_one(spread.FLOOR, name, 0)
        n, (_, exact, _) = spread.SAMPLES, spread.problem(name)
        S = exact.covariance.reshape(spread.SIZE, spread.SIZE)
        expected = ((1 + (S.trace() / S.norm()) ** 2) / n) ** 0.5
        assert found["covariance"] == pytest.approx(expected.item(), rel=0.25)
        assert found["trace"] == pytest.approx(1, abs=0.02) and found["mean"] < 0.03
    store = tmp_path / "spread.json"
    first = spread.complete(store, ["DDRM"], [10], workers=1)
    assert set(first) == {"DDRM", spread.FLOOR} and spread.complete(store, ["DDRM"], [10]) == first == spread.load(store)
    assert spread.markdown(first, [10]).splitlines()[-1].startswith("| `DDRM` | ")
    store.write_text("{")
    with pytest.raises(FileError, match="no table of the spread"):
        spread.load(store)


@pytest.mark.slow  # clouds of 2^14 points
def test_the_covariance_test_ranks_the_choices_as_the_paper_does(monkeypatch):
    monkeypatch.setattr(manifold, "LEVELS", (0.2, 1.0))
    found = manifold.divergences(0, points=400, cloud=2**14)
    # no covariance is worst, the exact one best, by factors
    for k in range(2):
        assert found["exact"][k] < 0.5 * found["zero"][k]
        assert found["exact"][k] < found["sigma"][k]
    page = manifold.markdown({c: [[v] for v in values] for c, values in found.items()})
    assert page.count("| V = ") == len(manifold.CHOICES)


@pytest.mark.slow
# the page runs every method, point estimates too
@pytest.mark.filterwarnings("ignore:.* finds one point")
def test_the_page_is_what_the_stored_runs_give():
    assert set(sampler_page.WHEN) == {c.__name__ for c in samplers.catalogue().values()}
    assert {c.family for c in samplers.catalogue().values()} <= set(sampler_page.HEADINGS)
    page = sampler_page.markdown(exact_full.load(exact_full.RESULTS))
    assert (exact_full.RESULTS.resolve().parents[2] / "docs" / "samplers.md").read_text() == page


def test_the_goals_of_the_suite_stand_in_the_stored_runs():
    best = exact_full.best(exact_full.load(exact_full.RESULTS))
    for (d, dy), limit in {pair: 1.5 if pair[0] < 800 else 3.0 for pair in mixture.ALL_DIMS}.items():
        name, ratio = best[f"mixture-{d}-{dy}"]
        assert ratio < limit, f"{name} on d={d}, d_y={dy}"


def test_every_method_is_as_close_as_public_code_at_the_same_budget():
    # paired over the instances; a method stands in the table with our defaults and with the settings of the re-run, and the
    # better of its rows counts. Of 36 comparisons whose true ratio is 1, one would miss a 95 % interval: 99.9 % here
    runs = exact_full.load(exact_full.RESULTS)
    compared = 0
    for d, dy in mixture.ALL_DIMS:
        lows: dict[str, list[float]] = {}
        for row in exact_full.lines(f"mixture-{d}-{dy}", runs):
            column = mixture.RERUNS.get(row.sampler.split("(")[0])
            other = [mixture.reruns().get((d, dy, r.instance), {}).get(column, math.nan) for r in row.runs]
            log = np.log(row.distances / np.array(other, dtype=float))
            log = log[np.isfinite(log)]
            if len(log) > 1:
                low = log.mean() - stats.t.ppf(0.9995, len(log) - 1) * stats.sem(log)
                lows.setdefault(column, []).append(low)
        for column, found in lows.items():
            compared += 1
            assert min(found) <= 0, f"{column} on d={d}, d_y={dy}: {math.exp(min(found)):.2f} times the re-run at least"
    assert compared == 36  # six methods in six cells


@pytest.mark.slow
@pytest.mark.parametrize("budget", exact_full.BUDGETS)
def test_auto_is_within_a_tenth_of_the_best_of_the_table(budget):
    """At each budget, of the samplers with options that a user has: not the row of 2000 particles."""
    runs = [r for r in exact_full.load(exact_full.RESULTS) if "(" not in r.sampler]
    ratios = sampler_page.over_floor(runs, budget)
    for group, keys in {"mixture 8": sampler_page.GROUPS["mixture 8"], "Gaussian": ("gaussian",)}.items():
        best = min(found[group] for found in ratios.values() if group in found)
        for key in keys:
            picked, _ = recommend(FAMILIES[key].make(0).posterior, budget, FAMILIES[key].samples)
            assert ratios[type(picked).__name__][group] <= 1.1 * best, (group, picked)
