"""The measurement of scale itself, on a few cells. (What it measures is in benchmarks/data/scale.csv, not in a test.)"""

from types import SimpleNamespace

import pytest

from invgen.benchmarks.report.results import read
from invgen.benchmarks.studies import suite_cost
from invgen.benchmarks.suite.expand import expand


@pytest.mark.slow
def test_every_figure_of_a_small_run_is_told(tmp_path):
    data, figures = tmp_path / "images", []
    data.mkdir()
    suite_cost._images(data)
    suite_cost.machinery(tmp_path, data, (10, 20), figures.append)
    assert [f.what for f in figures if "CPU" in f.what and "wall" not in f.what] == [
        "a cell of 10, CPU",
        "a cell of 20, CPU",
        "resuming 20 cells, CPU",
        "report of 20 cells, CPU",
    ]
    assert all(f.value >= 0 for f in figures)
    assert len(read(tmp_path / "20").rows) == len(expand(suite_cost.suite(20, data))) == 20


def test_the_gain_of_two_workers_is_the_ratio_of_their_rates(tmp_path, monkeypatch):
    """By a clock of its own: n workers end a cell every 1 / n seconds, once the first of each has been slow to start.

    (That two workers compute at one time is tested with the engine; how much they gain, the study measures.)
    """
    data, now = tmp_path / "images", 0.0
    data.mkdir()
    suite_cost._images(data)

    def pool(tasks, store, environments):
        nonlocal now
        assert all(environment["INVGEN_SCALE"] == "1" for environment in environments)
        for k, (cell,) in enumerate(tasks):
            now += 1 / len(environments) if k >= len(environments) else 30.0
            yield cell, "done"

    monkeypatch.setattr(suite_cost, "pool", pool)
    monkeypatch.setattr(suite_cost, "time", SimpleNamespace(perf_counter=lambda: now))
    assert suite_cost.speed_up(tmp_path, data, "asleep", 1.0, 20) == pytest.approx(2)
