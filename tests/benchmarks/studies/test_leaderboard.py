"""The leaderboard: regrets of fabricated runs, and a sampler of a stranger's added by one command."""

import math

import pytest
from typer.testing import CliRunner

from invgen.benchmarks.studies import exact, leaderboard
from invgen.benchmarks.studies.exact import FLOOR, Run
from invgen.cli import app
from invgen.errors import OptionError

FAMILY = "mixture-8-1"
RUNS = [
    *(Run(FAMILY, FLOOR, i, 0, 0.5) for i in range(3)),
    *(Run(FAMILY, "Good", i, 10, d, nfe=10, seconds=s) for i, (d, s) in enumerate([(1.0, 1), (2.0, 3), (4.0, 2)])),
    *(Run(FAMILY, "Better", i, 10, d, nfe=10) for i, d in enumerate([0.5, 4.0])),  # on two instances of three
    Run(FAMILY, "Dear", 0, 10, 0.1, nfe=13),  # over the budget
    *(Run(FAMILY, "Broken", i, 10, d, nfe=10, error=e) for i, d, e in ((0, math.nan, "ValueError: no"), (1, 2.0, ""))),
    Run("gaussian", "Good", 0, 10, 3.0, nfe=10),
]


def test_regret_is_over_the_best_of_each_instance():
    of = leaderboard.places(RUNS, 10)["mixture 8"]
    assert set(of) == {"Good", "Better", "Broken"}
    assert of["Good"].regret == pytest.approx(2 ** (1 / 3)) and of["Better"].regret == pytest.approx(2**0.5)
    assert of["Good"].floor == pytest.approx(4.0) and of["Good"].seconds == 2 and of["Good"].runs == 3
    # what failed counts as the worst that ended, Good's 1.0 over Better's 0.5
    assert of["Broken"].regret == pytest.approx(2**0.5) and of["Broken"].failed == 1
    assert not leaderboard.places(RUNS, 25)
    assert leaderboard.overall(leaderboard.places(RUNS, 10)) == {"Good": pytest.approx(2 ** (1 / 6))}  # alone on both


def test_the_page_ranks_and_tells_where_yours_are():
    page = leaderboard.markdown(RUNS, ["Broken"])
    table = page[page.index("## Mixture 8") :].splitlines()
    assert table[4] == "| 1 | `Good` 1.26, 2 s |" and table[5].startswith("| 2 | `Better` 1.41")
    assert table[6].startswith("| 3 | **`Broken`** 1.41") and table[6].endswith("1 of 2 failed |")
    assert "**`Broken`**: rank 3 of 3 at 10 (1.41)." in page and "`Dear`" not in page


@pytest.mark.slow
def test_a_sampler_is_added_by_one_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from invgen.samplers import MMPS\n\n\nclass Mine(MMPS):\n    'As MMPS.'\n")
    call = ["bench", "exact", "./mine.py:Mine", "--family", "gaussian", "--instances", "1", "--evaluations", "10"]
    done = CliRunner().invoke(app, [*call, "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "**`./mine.py:Mine`**: rank " in done.output
    mine = next(r for r in exact.load(tmp_path / "exact.csv") if r.sampler != FLOOR)
    theirs = next(r for r in exact.load(exact.RESULTS) if r.key == ("gaussian", "MMPS", 0, 10))
    assert mine.distance == pytest.approx(theirs.distance, rel=0.05)  # the same algorithm, at most another torch
    with pytest.raises(OptionError, match="unknown family 'gausian'"):
        leaderboard.enter(["MMPS"], tmp_path / "exact.csv", ["gausian"])
    with pytest.raises(OptionError, match="CSGM takes none of the problems"):
        leaderboard.enter(["CSGM"], tmp_path / "exact.csv", ["gaussian"])
