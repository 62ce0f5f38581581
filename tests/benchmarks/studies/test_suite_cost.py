"""The measurement of scale itself, on a few cells. (What it measures is in benchmarks/data/scale.csv, not in a test.)"""

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


@pytest.mark.slow
def test_two_workers_do_more_than_one(tmp_path):
    """On cells that wait, so that it holds however busy the machine is; 1.9 is the target at ease."""
    data = tmp_path / "images"
    data.mkdir()
    suite_cost._images(data)
    assert suite_cost.speed_up(tmp_path, data, "asleep", 1.0, 20) > 1.5
