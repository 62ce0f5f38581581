"""`invgen gallery`: the list, one row, what it writes, its exit status, and the intervals beside the figures."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from invgen.benchmarks.gallery import rows
from invgen.benchmarks.gallery.rows import SYSTEMS, Figure, Row
from invgen.cli import app
from invgen.errors import OptionError


def fabricated(value):
    def run(out, quick):
        (out / "picture.png").write_bytes(b"picture")
        figures = (Figure("error", value, value - 0.1, value + 0.1, "px", most=1.0, baseline="Hough 2.3"),)
        return Row(1, figures, (out / "picture.png",), "quick" if quick else "")

    return run


def test_the_list_names_every_system_and_no_row_pretends(monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "MEASURED", tmp_path)
    monkeypatch.setattr(rows, "script", lambda number: tmp_path if number < 3 else None)
    (tmp_path / "row01.json").write_text(fabricated(1.5)(tmp_path, False).json())
    text = CliRunner().invoke(app, ["gallery"]).output.splitlines()
    assert len(text) == 1 + len(SYSTEMS) == 24
    assert all(name in line for name, line in zip(SYSTEMS.values(), text[1:], strict=True))
    assert text[1].split()[3:] == ["missed", "error", "1.5", "(1.4", "to", "1.6)", "px", "<=", "1", "Hough", "2.3"]
    assert text[2].endswith("not measured yet")
    assert all(line.endswith("not built yet") for line in text[3:])


@pytest.mark.parametrize(("value", "status"), [(0.5, 0), (1.5, 1), (math.nan, 1)])
def test_a_row_prints_writes_and_exits_by_its_bound(monkeypatch, tmp_path, value, status):
    monkeypatch.setattr(rows, "find", lambda number: fabricated(value))
    from invgen.commands import gallery

    monkeypatch.setattr(gallery, "find", rows.find)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["gallery", "1", "--quick", "--out", str(out)])
    assert done.exit_code == status, done.output
    assert ("MISSED" in done.output) == bool(status)
    assert (out / "picture.png").read_bytes() == b"picture"
    assert json.loads((out / "summary.json").read_text())["note"] == "quick"


def test_figures_are_kept_for_the_list(monkeypatch, tmp_path):
    from invgen.commands import gallery

    monkeypatch.setattr(gallery, "find", lambda number: fabricated(0.5))
    monkeypatch.setattr(gallery, "MEASURED", tmp_path / "a" / "b" / "measured")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "docs" / "images").mkdir(parents=True)
    gallery.run(1, tmp_path / "out", quick=True, keep=True)
    assert not gallery.MEASURED.exists()  # a reduced run is no figure
    gallery.run(1, tmp_path / "out", keep=True)
    monkeypatch.setattr(rows, "MEASURED", gallery.MEASURED)
    assert rows.measured(1).figures == fabricated(0.5)(tmp_path, False).figures
    assert (tmp_path / "docs" / "images" / "gallery" / "row01.png").read_bytes() == b"picture"


def test_rows_that_are_not_there_say_so():
    with pytest.raises(OptionError, match="there is no row 24 in the gallery; the systems are numbered from 1 to 23"):
        rows.find(24)
    left = next((n for n in SYSTEMS if rows.script(n) is None), None)
    if left is not None:
        with pytest.raises(OptionError, match=f"row {left}, .* is not built yet"):
            rows.find(left)


def test_every_row_is_short_and_has_a_function():
    for number in SYSTEMS:
        path = rows.script(number)
        if path is not None:
            assert len(path.read_text(encoding="utf-8").splitlines()) < 80, path
            assert callable(rows.find(number))


def test_intervals():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found, low, high = rows.mean(values)
    assert found == pytest.approx(values.mean())
    # Student's quantile for 399 degrees of freedom is 1.966
    assert (high - low) / 2 == pytest.approx(1.966 * values.std(ddof=1) / 20, rel=1e-3)
    assert rows.share([True] * 8 + [False] * 2) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)  # Wilson's, by hand
    median, low, high = rows.bootstrap(np.median, values)
    assert median == np.median(values)
    # the standard error of the median of a normal law is 1.2533 sigma / sqrt(n); its bootstrap is right to a fifth here
    assert (high - low) / (2 * 1.96) == pytest.approx(1.2533 * 2 / 20, rel=0.25)
