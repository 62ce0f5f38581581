"""The results of a suite as rows, read from a folder of results, a table in CSV, or one in Parquet."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.report.cleaning import visible
from invgen.benchmarks.report.result_tables import COSTS, read_table
from invgen.errors import FileError

KINDS = ("sampler", "classical", "peer")

Identity = tuple[str, str, str, str, int]  # problem, prior, sampler, image, seed


@dataclass(frozen=True, slots=True)
class Row:
    """One cell: what it is, and its numbers or its error.

    Attributes:
        values: metrics by their specs, and the costs "nfe" (network evaluations) and "seconds"; empty where it failed.
        error: the sentence of its failure, or "".
        record: the rest of what is stored of it: environment, warnings, calibration, traceback. Empty for tables.
    """

    key: str
    problem: str
    operator: str
    noise: str
    prior: str
    sampler: str
    kind: str
    image: str
    seed: int
    num_samples: int
    values: Mapping[str, float]
    error: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        """The key for comparisons, within a suite and between two results."""
        return self.problem, self.prior, self.sampler, self.image, self.seed

    @property
    def finished(self) -> str:
        """When it ended, as ISO text; "" where that is not known."""
        environment = self.record.get("environment")
        return str(environment.get("finished", "")) if isinstance(environment, Mapping) else ""


@dataclass(frozen=True)
class Results:
    """The rows of a folder or a table, one for each (problem, prior, sampler, image, seed).

    Attributes:
        name: of the folder or the file.
        superseded: how many cells were left out because a later one stands for the same, computed with other code,
            weights or options.
        damaged: what is wrong with result files that could not be read, a sentence each.
    """

    name: str
    rows: tuple[Row, ...]
    superseded: int = 0
    damaged: tuple[str, ...] = ()

    @property
    def metrics(self) -> list[str]:
        """The specs of all metrics, in the order of their appearance."""
        return list(dict.fromkeys(m for row in self.rows for m in row.values if m not in COSTS))


def read(source: str | Path) -> Results:
    """Returns the results in a folder that `invgen bench run` wrote, or in a CSV or Parquet table of them.

    Tables may have a row for each cell (as results.csv) or for each cell and metric (as results.parquet).

    Raises:
        FileError: it is not there, cannot be read, or holds no cells.
        MissingExtraError: a Parquet file, and pyarrow is not installed.
    """
    path = Path(source)
    damaged: tuple[str, ...] = ()
    if path.is_dir():
        found, damaged = _from_folder(path)
    elif not path.exists():
        raise FileError(f"there is no folder or table {path}; expected what `invgen bench run SUITE --out {path}` writes")
    else:
        found = _from_table(path)
    if not found:
        lost = f" ({len(damaged)} damaged: {damaged[0]})" if damaged else ""
        raise FileError(f"{path} has no results of cells{lost}; `invgen bench run SUITE --out FOLDER` computes them")
    rows = _told_apart(_with_kinds(found))
    rows.sort(key=lambda row: row.finished)
    newest = {row.identity: row for row in rows}
    kept = _in_reading_order(newest.values())
    return Results(visible(path.name or str(path)), tuple(kept), len(rows) - len(kept), damaged)


def _in_reading_order(rows: Iterable[Row]) -> list[Row]:
    """Returns problems as they were computed first, and within them kinds, priors, samplers, images, seeds; numbers as
    numbers."""
    rows = list(rows)
    first: dict[str, tuple[str, str]] = {}
    for row in rows:
        first[row.problem] = min(first.get(row.problem, (row.finished, row.problem)), (row.finished, row.problem))
    kinds = {kind: k for k, kind in enumerate(("classical", "sampler", "peer"))}

    def order(row: Row) -> tuple[Any, ...]:
        kind = kinds.get(row.kind, len(kinds))
        return (
            first[row.problem],
            row.problem,
            kind,
            row.kind,
            row.prior,
            natural(row.sampler),
            natural(row.image),
            row.seed,
        )

    return sorted(rows, key=order)


def natural(text: str) -> list[tuple[int, float, str]]:
    """Returns a key that sorts "steps=50" before "steps=100"."""
    parts, digits = [], ""
    for character in text.casefold() + "\0":
        if character.isascii() and character.isdigit():
            digits += character
            continue
        if digits:
            parts.append((0, float(digits[:300]), ""))
            digits = ""
        parts.append((1, 0.0, character))
    return parts


def _told_apart(rows: list[Row]) -> list[Row]:
    """Returns problems of one name, but of several operators or noises, get those into their names."""
    laws: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        laws.setdefault(row.problem, set()).add((row.operator, row.noise))
    return [
        replace(row, problem=f"{row.problem}: {row.operator}, {row.noise}") if len(laws[row.problem]) > 1 else row
        for row in rows
    ]


def _with_kinds(rows: list[Row]) -> list[Row]:
    """Failures do not know whether their method is a classical one: the results of the same method do."""
    known = {row.sampler: row.kind for row in rows if not row.error and row.kind}
    return [row if not row.error and row.kind else replace(row, kind=known.get(row.sampler, "sampler")) for row in rows]


# -- folders -------------------------------------------------------------------------------------------------------------


def _from_folder(folder: Path) -> tuple[list[Row], tuple[str, ...]]:
    """Returns the rows, and what is wrong with files that gave none."""
    store = Store(folder)
    rows = []
    for key in store.stored():
        record = store.record(key, arrays=False)  # who reads the arrays has them checked
        if record is not None:
            values = {**record["metrics"], "nfe": record["nfe"], "seconds": record["seconds"]}
            rows.append(_row(record["cell"], key, values, str(record.get("kind", "sampler")), "", record))
        elif (record := store.failure(key)) is not None:
            rows.append(_row(record["cell"], key, {}, "", record["error"] or "it failed", record))
    return rows, tuple(f"{path.relative_to(folder)}: {why}" for path, why in store.damaged.items())


def _row(
    cell: Mapping[str, Any], key: str, values: Mapping[str, Any], kind: str, error: str, record: Mapping[str, Any]
) -> Row:
    cell, error = visible(cell), visible(error)
    return Row(
        key=key,
        problem=str(cell["problem"]),
        operator=str(cell.get("operator") or ""),
        noise=str(cell.get("noise") or ""),
        prior=str(cell.get("prior") or ""),
        sampler=str(cell["sampler"]),
        kind=visible(kind),
        image=str(cell["image"]),
        seed=int(cell["seed"]),
        num_samples=int(cell.get("num_samples") or 1),
        values={visible(str(n)): float(value) for n, value in values.items() if value is not None and value != ""},
        error=error,
        record=visible({k: v for k, v in record.items() if k not in ("cell", "metrics", "is_of", "sha256")}),
    )


def _from_table(path: Path) -> list[Row]:
    rows = []
    for number, (facts, values) in read_table(path):
        try:
            kind, error = str(facts.get("kind") or ""), str(facts.get("error") or "")
            rows.append(_row(facts, str(facts.get("key") or ""), values, kind, error, {}))
        except (TypeError, ValueError) as error:
            raise FileError(f"{path}, line {number}: {error}; expected a cell of a suite") from error
    return rows


# -- what several pages say ----------------------------------------------------------------------------------------------


def environments(rows: Iterable[Row]) -> dict[str, Counter[str]]:
    """Of each fact of the environments (versions, host, device): its values, and how many cells have each."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        environment = row.record.get("environment")
        if isinstance(environment, Mapping):
            for name, value in environment.items():
                if name != "finished" and value not in ("", None):
                    found.setdefault(str(name), Counter())[str(value)] += 1
    return found


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
