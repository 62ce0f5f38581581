"""The report of a folder of results: one HTML page that needs nothing else, and the same as tables for other programs."""

import base64
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invgen import __version__
from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.report import pictures, result_tables
from invgen.benchmarks.report import plots as report_plots
from invgen.benchmarks.report.cleaning import visible
from invgen.benchmarks.report.results import Results, Row, environments, finite, read
from invgen.benchmarks.report.tables import Table, about, count, latex, markdown, tables
from invgen.errors import FileError, MissingExtraError, OptionError
from invgen.files.writing import write_text
from invgen.messages import duration

FORMATS = ("html", "csv", "parquet", "md", "tex")
PICTURES = 6_000_000  # bytes of pictures on a page
PLOTS = 40  # problems with plots; more would be a large and slow page
LISTED = 20  # cells under a failure

# Sorts the rows of each tbody by a column, and opens what a link leads to. The page works without it.
SCRIPT = """
document.querySelectorAll("table.sortable").forEach(table => {
  table.querySelectorAll("thead button").forEach(button => button.addEventListener("click", () => {
    const head = button.closest("th"), column = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach(th => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => {
      const cell = row.cells[column], text = cell ? cell.textContent : "";
      const number = parseFloat(cell && cell.dataset.v !== undefined ? cell.dataset.v : text.replace("\\u2212", "-"));
      return [number, text];
    };
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter(row => !row.classList.contains("group")).map(row => [value(row), row]);
      rows.sort(([[a, s]], [[b, t]]) => {
        if (isNaN(a) && isNaN(b)) return (down ? -1 : 1) * s.localeCompare(t, undefined, {numeric: true});
        return isNaN(a) ? 1 : isNaN(b) ? -1 : down ? b - a : a - b;
      });
      rows.forEach(([, row]) => body.append(row));
    }
  }));
});
const reveal = () => {
  const found = location.hash && document.getElementById(location.hash.slice(1));
  for (let up = found; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
  if (found) found.scrollIntoView();
};
addEventListener("hashchange", reveal);
reveal();
"""


@dataclass(frozen=True)
class Written:
    """The files of a report, and what it left out (a sentence each)."""

    files: Sequence[Path]
    left_out: Sequence[str]


def report(
    folder: str | Path,
    out: str | Path | None = None,
    formats: Sequence[str] = (),
    title: str | None = None,
    images: int = 2,
) -> Written:
    """Writes the page and the tables of a folder that `invgen bench run` wrote.

    Args:
        folder: of the results.
        out: the page; report.html in the folder by default. The tables are written beside it.
        formats: some of "html", "csv", "parquet", "md", "tex"; all by default, Parquet where pyarrow is installed.
        title: of the page; by default that of the suite, or the name of the folder.
        images: of which pictures are shown, for each problem.

    Raises:
        FileError: there are no results in the folder, or a file cannot be written.
        OptionError: a format that is not known.
        MissingExtraError: "parquet" is asked for and pyarrow is not installed.
    """
    for name in formats:
        if name not in FORMATS:
            raise OptionError(f"unknown format {name!r}; there are {', '.join(FORMATS)}")
    source = Path(folder)
    if not source.is_dir():
        raise FileError(f"there is no folder {source}; expected what `invgen bench run SUITE --out {source}` writes")
    results = read(source)
    found = tables(results)
    page_path = Path(out) if out is not None else source / "report.html"
    beside = page_path.parent
    name = visible(title or str(Store(source).suite().get("title") or source.resolve().name))
    files: list[Path] = []
    left_out: list[str] = []
    for chosen in formats or FORMATS:
        path = {"html": page_path, "csv": beside / "results.csv", "parquet": beside / "results.parquet"}.get(
            chosen, beside / f"tables.{chosen}"
        )
        try:
            if chosen == "html":
                write_text(path, page(results, found, Store(source), name, images))
            elif chosen == "csv":
                result_tables.write_csv(results, path)
            elif chosen == "parquet":
                result_tables.write_parquet(results, path)
            else:
                write_text(path, (markdown if chosen == "md" else latex)(found, name))
        except MissingExtraError as error:
            if formats:
                raise
            left_out.append(f"{path.name} was left out: {error}")
            continue
        files.append(path)
    return Written(files, left_out)


def page(results: Results, found: Sequence[Table], store: Store, title: str, images: int = 2) -> str:
    """Returns the HTML page.

    Args:
        results: of the suite.
        found: a table for each problem.
        store: where the arrays of pictures lie.
        title: of the page.
        images: how many of a problem are shown.
    """
    from jinja2 import Environment, FileSystemLoader

    maker = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    maker.filters["values"] = _texts
    failed = [row for row in results.rows if row.error]
    colours = report_plots.colours(found)
    share = PICTURES // len(found)
    sections = [_section(table, store, colours, images, share, k < PLOTS) for k, table in enumerate(found)]
    when = sorted(row.finished for row in results.rows if row.finished)
    said = f"Computed from {_time(when[0])} to {_time(when[-1])}. " if when else ""
    seconds = sum(row.values["seconds"] for row in results.rows if finite(row.values.get("seconds")))
    return maker.get_template("page.html.jinja").render(
        title=title,
        about=f"{said}Page written by invgen {__version__}, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC.",
        done=len(results.rows) - len(failed),
        failed=len(failed),
        methods=len({row.sampler for row in results.rows}),
        images=len({row.image for row in results.rows}),
        time=duration(seconds),
        notes=_notes(results, len(found), [*results.damaged, *_said(store)]),
        sections=sections,
        failures=_alike((row, row.error) for row in failed),
        warnings=_alike((row, text) for row in results.rows for text in _warnings(row)),
        environment=[(name, _listed(list(values.items()))) for name, values in environments(results.rows).items()],
        script=SCRIPT,
        script_hash=base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
    )


def _section(
    table: Table, store: Store, colours: Mapping[str, str], images: int, budget: int, plots: bool
) -> dict[str, Any]:
    """Returns the part of the page about one problem."""
    failed = [row for line in table.lines for row in line.cells if row.error]
    marked = [
        (metric, table.label(line))
        for metric in table.columns
        for line in table.lines
        if metric in line.entries and line.entries[metric].mark == "best"
    ]
    return {
        "table": table,
        "about": about(table),
        "heads": [table.head(column) for column in table.columns],
        "groups": table.groups(),
        "colours": {line.number: report_plots.colour_of(line, colours) for line in table.lines},
        "best": marked,
        "cells": sum(len(line.cells) for line in table.lines),
        "failed": len(failed),
        "failures": _alike((row, row.error) for row in failed),
        "costs": report_plots.costs(table, colours) if plots else None,
        "calibration": report_plots.calibrations(table, colours) if plots else None,
        "grids": pictures.grids(store, table, images, budget),
    }


def _said(store: Store) -> list[str]:
    """Returns what is wrong with the arrays that pictures are made of."""
    return [f"{path.relative_to(store.folder)}: {why}" for path, why in store.damaged.items()]


def _notes(results: Results, problems: int, damaged: Sequence[str]) -> list[str]:
    """Returns the notes that come before the numbers."""
    found = []
    damaged = list(dict.fromkeys(damaged))
    if damaged:
        found.append(
            f"{count(len(damaged), 'result file')} could not be read; `invgen bench run` computes them anew: "
            f"{_listed([(one, 0) for one in damaged])}."
        )
    if results.superseded:
        found.append(
            f"{count(results.superseded, 'older cell')} left out: computed with other code, weights or options than a "
            "later cell of the same problem, prior, sampler, image and seed."
        )
    for fact, values in environments(results.rows).items():
        if fact in ("invgen", "torch", "device") and len(values) > 1:
            found.append(f"Cells were computed with several values of {fact}: {_listed(list(values.items()))}.")
    if problems > PLOTS:
        found.append(f"Plots are drawn for the first {PLOTS} problems of {problems}.")
    return found


def _alike(said: Iterable[tuple[Row, str]]) -> list[dict[str, Any]]:
    """Returns sentences, most frequent first, with the cells that they are said of."""
    found: dict[str, list[Row]] = {}
    for row, sentence in said:
        found.setdefault(sentence, []).append(row)
    return [
        {
            "sentence": sentence[:1000],
            "count": len(rows),
            "methods": _listed([(name, 0) for name in dict.fromkeys(row.sampler for row in rows)]),
            "shown": rows[:LISTED],
            "traceback": str(rows[0].record.get("traceback") or "")[-6000:],
        }
        for sentence, rows in sorted(found.items(), key=lambda item: -len(item[1]))
    ]


def _warnings(row: Row) -> list[str]:
    said = row.record.get("warnings")
    return [str(text) for text in said] if isinstance(said, list) else []


def _listed(values: Sequence[tuple[str, int]], most: int = 8) -> str:
    """Returns values with the number of cells that have them (0: not said)."""
    shown = [f"{value} ({count(n, 'cell')})" if n and len(values) > 1 else value for value, n in values[:most]]
    return ", ".join(shown) + (f" and {len(values) - most} more" if len(values) > most else "")


def _texts(row: Row, columns: Sequence[str]) -> list[str]:
    """Returns a cell's numbers as the appendix shows them."""
    return [f"{row.values[column]:.6g}" if column in row.values else "" for column in columns]


def _time(iso: str) -> str:
    return iso[:16].replace("T", " ")
