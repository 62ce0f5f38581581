"""Tables of results: their numbers are those of the records, in every form, and names cannot break them."""

import csv
import json
import re

import numpy as np
import pytest

from invgen.benchmarks.report import results, tables
from invgen.benchmarks.report.result_tables import write_csv, write_parquet
from invgen.benchmarks.report.statistics import interval
from invgen.errors import FileError, MissingExtraError
from tests.benchmarks.fabricated import grid, save

NASTY = "50% & <b>_x_</b> {a}|$b$ #1 ~^\\"
RNG = np.random.default_rng(0)
GOOD, BAD = RNG.normal(30, 0.2, (4, 2)), RNG.normal(20, 0.2, (4, 2))


@pytest.fixture
def folder(tmp_path):
    grid(tmp_path / "out", {"DPS(steps=100)": GOOD, "DPS(steps=20)": BAD})
    grid(tmp_path / "out", {"TV": BAD - 5}, kind="classical")
    save(tmp_path / "out", {"psnr": 3.25}, problem=NASTY, sampler=NASTY, image=NASTY)
    save(tmp_path / "out", error="out of luck", problem=NASTY, sampler="MMPS")
    return tmp_path / "out"


def test_entries_are_the_means_of_the_records(folder):
    other, table = tables.tables(results.read(folder))
    by_sampler = {}
    for path in folder.glob("cells/*/*.json"):
        record = json.loads(path.read_text())
        if record["cell"]["problem"] == "blur":
            by_sampler.setdefault(record["cell"]["sampler"], []).append(record["metrics"]["psnr"])
    assert [line.sampler for line in table.lines] == ["TV", "DPS(steps=20)", "DPS(steps=100)"]  # 20 before 100
    assert [(name, len(lines)) for name, lines in table.groups()] == [("classical methods", 1), ("samplers", 2)]
    for line in table.lines:
        entry = line.entries["psnr"]
        assert entry.interval.mean == pytest.approx(np.mean(by_sampler[line.sampler]))
        assert (entry.interval.images, entry.interval.cells) == (4, 8)
        assert float(entry.text) == pytest.approx(entry.interval.mean, abs=0.5 * 10 ** -len(entry.text.partition(".")[2]))
        assert line.entries["nfe"].text == "10"
    assert [line.entries["psnr"].mark for line in table.lines] == ["", "second", "best"]
    assert other.lines[1].failed == 1 and not other.lines[1].entries


def test_markdown(folder):
    text = tables.markdown(tables.tables(results.read(folder)), "Results")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert columns == {5}  # a name does not add columns
    best = interval({(str(i), k): v for i, row in enumerate(GOOD) for k, v in enumerate(row)})
    assert f"| DPS(steps=100) | **{best.mean:.2f} ± {best.half:.2f}** | 10 |" in text
    assert "<b>" not in text.replace("\\<b\\>", "")


def test_latex(folder):
    text = tables.latex(tables.tables(results.read(folder)), NASTY)
    assert text.count(r"\begin{tabular}{lrrr}") == 2 and text.count(r"\midrule") == 3
    assert r"50\% \& \textless{}b\textgreater{}\_x\_\textless{}/b\textgreater{} \{a\}\textbar{}\$b\$ \#1 " in text
    assert r"\textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    assert re.search(r"DPS\(steps=100\) & \$\\mathbf\{\d+\.\d+\} \\pm \d+\.\d+\$ & \$10\$", text)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    for row in re.findall(r"^.*\\\\$", body, re.M):
        assert len(re.findall(r"(?<!\\)&", row)) == 3
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (27.314, 0.42, "27.31 ± 0.42"),
        (27.3, 2.34, "27.3 ± 2.3"),
        (0.04321, 0.00096, "0.04321 ± 0.00096"),
        (-12.0, 1.0, "−12.0 ± 1.0"),
        (27.314159, 0.00042, "27.31 ± 0.00"),  # four digits of the mean at most
        (1000.0, 0.0, "1000 ± 0"),
    ],
)
def test_numbers_have_two_digits_of_their_error(mean, half, text):
    digits = tables.decimals([tables.Interval(mean, half, 3, 3)])
    assert f"{tables.number(mean, digits)} ± {tables.number(half, digits)}" == text


def test_numbers_that_are_none():
    assert [tables.number(x, 2) for x in (float("inf"), -float("inf"), float("nan"))] == ["∞", "−∞", "undefined"]
    assert tables.number(3e-9, 6) == "3.00e−09" and tables.number(12345678.0, 0) == "1.23e+07"


def plain(rows):
    return [(r.identity, r.key, r.operator, r.noise, r.kind, r.num_samples, r.values, r.error) for r in rows]


def test_csv_holds_the_cells(folder, tmp_path):
    found = results.read(folder)
    write_csv(found, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(found.rows) == 26 and {line["image"] for line in lines} >= {NASTY}
    assert sorted(plain(results.read(tmp_path / "r.csv").rows)) == sorted(plain(found.rows))


def test_parquet_is_tidy_and_holds_the_cells(folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = results.read(folder)
    write_parquet(found, tmp_path / "r.parquet")
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table.num_rows == 25 * 3 + 1  # psnr, nfe and seconds of each; the failure
    assert {"problem", "sampler", "image", "seed", "metric", "value", "error"} <= set(table.column_names)
    assert sorted(plain(results.read(tmp_path / "r.parquet").rows)) == sorted(plain(found.rows))


def test_without_pyarrow_the_extra_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"invgen-solvers\[bench\]"):
        write_parquet(results.read(folder), tmp_path / "r.parquet")


FORMULAS = ["=1+1", "+SUM(A1)", "-cmd|' /C calc'!A0", "@x", "\t=1", "\r=1", " =1", "\uff1d1", "'=1", "''=1"]
PLAIN = ["-0.5", "+3", "'quoted'", "a=b", "DPS(steps=10)", "1e-3", ""]


def test_a_spreadsheet_runs_no_cell(tmp_path):
    """Names and sentences that begin as formulas do are texts, and are read back as they were; numbers are numbers."""
    for k, text in enumerate(FORMULAS + PLAIN):
        save(tmp_path, {"psnr": -1.5, "=cmd": 1.0}, sampler=text or "none", image=str(k), noise="-0.1")
        save(tmp_path, error=text, image=f"failed {k}")
    found = results.read(tmp_path)
    write_csv(found, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    for cell in (cell for line in lines for cell in line):
        number = cell.lstrip("+-").replace(".", "").isdigit()
        assert number or not cell.lstrip().startswith(("=", "+", "-", "@", "\uff1d")) and not cell.startswith(("\t", "\r"))
    assert {line[lines[0].index("psnr")] for line in lines[1:]} == {"-1.5", ""}
    assert sorted(plain(results.read(tmp_path / "r.csv").rows)) == sorted(plain(found.rows))


def test_marks_that_turn_a_text_around_are_taken_out(tmp_path):
    save(tmp_path, {"ps\u202enr": 1.0}, problem="a\u202eb\u2066c\x1b[31m\ud800", sampler="\u200fDPS", warnings=["x\u061cy"])
    (row,) = results.read(tmp_path).rows
    assert (row.problem, row.sampler, row.values["psnr"]) == ("abc[31m\ufffd", "DPS", 1.0)
    assert row.record["warnings"] == ["xy"]
    write_csv(results.read(tmp_path), tmp_path / "r.csv")


def test_a_title_cannot_leave_its_comment():
    text = tables.latex([], "100 % \\input{x}\n\\input{y} ^^M # \u2028z")
    (head,) = text.splitlines()
    assert head.startswith(r"% 100 \% \textbackslash{}input\{x\} \textbackslash{}input\{y\} \textasciicircum{}")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", None, "there is no folder or table"),
        ("empty.csv", "", "has no results of cells"),
        ("other.csv", "a,b\n1,2\n", "lacks columns of a table of results; expected problem, sampler, image, seed"),
        ("seed.csv", "problem,sampler,image,seed,psnr\np,s,i,many,3\n", "line 2"),
        ("bytes.csv", b"\xff\xfe\x00", "cannot read"),
        ("bytes.parquet", b"nothing", "cannot read"),
    ],
)
def test_what_is_no_table_is_said(tmp_path, name, content, said):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FileError, match=said):
        results.read(tmp_path / name)


def test_folders_with_nothing_in_them_are_said(tmp_path):
    with pytest.raises(FileError, match=r"has no results of cells; `invgen bench run"):
        results.read(tmp_path)
    key = save(tmp_path, {"psnr": 1.0})
    (path,) = tmp_path.glob("cells/*/*.json")
    path.write_text("{}" if key else "")
    with pytest.raises(FileError, match=r"has no results of cells \(1 damaged: cells/../.*json: it is of format None"):
        results.read(tmp_path)


def test_later_cells_stand_for_earlier_ones(tmp_path):
    save(tmp_path, {"psnr": 2.0}, version="new", finished="2026-11-22T12:00:00Z")
    save(tmp_path, {"psnr": 1.0}, version="old", finished="2026-11-22T11:00:00Z")
    found = results.read(tmp_path)
    assert [row.values["psnr"] for row in found.rows] == [2.0] and found.superseded == 1


def test_problems_of_one_name_are_told_apart(tmp_path):
    for noise in ("0.05", "0.1"):
        save(tmp_path, {"psnr": 1.0}, noise=noise)
    assert [row.problem for row in results.read(tmp_path).rows] == ["blur: Blur, 0.05", "blur: Blur, 0.1"]


def test_a_point_estimate_has_no_coverage(tmp_path):
    for kind in ("classical", "sampler"):
        save(tmp_path, {"coverage": 0.0}, sampler=kind, kind=kind)
    (table,) = tables.tables(results.read(tmp_path))
    assert [sorted(line.entries) for line in table.lines] == [["nfe", "seconds"], ["coverage", "nfe", "seconds"]]
