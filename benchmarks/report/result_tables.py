"""Results as tables, written and read: CSV with a row for each cell, Parquet with one for each cell and metric."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invgen.benchmarks.report.cleaning import from_cell, to_cell
from invgen.errors import FileError, MissingExtraError
from invgen.files.writing import atomic_file, write_text

if TYPE_CHECKING:
    from invgen.benchmarks.report.results import Results, Row

FACTS = ("key", "problem", "operator", "noise", "prior", "sampler", "kind", "image", "seed", "num_samples")
COSTS = ("nfe", "seconds")
_NEEDED = ("problem", "sampler", "image", "seed")


def write_csv(results: "Results", path: str | Path) -> None:
    """A row for each cell: facts, metrics, costs, error. Numbers are written so that they are read back exactly.

    The one writer of results.csv. A text that a spreadsheet would run as a formula has an apostrophe before it.
    """
    columns = [*FACTS, *results.metrics, *COSTS, "error"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(to_cell, columns))
    for row in results.rows:
        line = {**_facts(row), **row.values, "error": row.error}
        cells = (line.get(name, "") for name in columns)
        writer.writerow(to_cell(cell) if isinstance(cell, str) else cell for cell in cells)
    write_text(path, text.getvalue())


def write_parquet(results: "Results", path: str | Path) -> None:
    """A row for each cell and metric (costs are metrics here), and one without a metric for each failure.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = parquet_module()
    types = {"seed": pyarrow.int64(), "num_samples": pyarrow.int64(), "value": pyarrow.float64()}
    names = [*FACTS, "metric", "value", "error"]
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for row in results.rows:
        for metric, value in row.values.items() or [(None, None)]:
            line = {**_facts(row), "metric": metric, "value": value, "error": row.error}
            for name in names:
                columns[name].append(line[name])
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in names])
    with atomic_file(path) as work:
        pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), work)


def _facts(row: "Row") -> dict[str, str | int]:
    return {name: getattr(row, name) for name in FACTS}


def read_table(path: Path) -> Iterator[tuple[int, tuple[dict[str, Any], dict[str, Any]]]]:
    """Yields the cells of a table, as (line, (facts, values)), from either form.

    Raises:
        FileError: it cannot be read, or is no table of results.
        MissingExtraError: it is in Parquet, and pyarrow is not installed.
    """
    lines = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    if lines and any(name not in lines[0] for name in _NEEDED):
        raise FileError(f"{path} lacks columns of a table of results; expected {', '.join(_NEEDED)} and metrics")
    tidy = bool(lines) and "metric" in lines[0] and "value" in lines[0]
    found: dict[Any, tuple[int, tuple[dict[str, Any], dict[str, Any]]]] = {}
    for number, line in enumerate(lines, 2):  # the first line of a CSV file is its head
        facts = {k: v for k, v in line.items() if k in (*FACTS, "error")}
        if tidy:
            values = {line["metric"]: line["value"]} if line["metric"] else {}
            name = tuple(str(facts.get(fact)) for fact in FACTS)
        else:
            values = {k: v for k, v in line.items() if k and k not in facts and _is_number(v)}
            name = number
        found.setdefault(name, (number, (facts, {})))[1][1].update(values)
    return iter(found.values())


def _csv(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
            return [{_plain(name): _plain(cell) for name, cell in line.items()} for line in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not a table in CSV"
        raise FileError(f"cannot read {path}: {reason}") from error


def _plain(cell: Any) -> Any:
    return from_cell(cell) if isinstance(cell, str) else cell


def _parquet(path: Path) -> list[dict[str, Any]]:
    pyarrow = parquet_module()
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise FileError(f"cannot read {path}: it is not a Parquet table ({str(error)[:80]})") from error


def parquet_module() -> Any:
    """Returns pyarrow with its Parquet reader and writer.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("Parquet tables need pyarrow: pip install 'invgen-solvers[bench]'") from error
    return pyarrow


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
