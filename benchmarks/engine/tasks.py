"""The unit of work of every executor: some cells, computed and stored where they are computed."""

import traceback
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from invgen.benchmarks.engine import compute as work
from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.suite.cell import Cell
from invgen.errors import InvgenError

Task = tuple[Cell, ...]  # one cell, or several that differ in the image alone and are computed by one call of the sampler
Outcome = Literal["done", "failed", "busy", "there"]  # busy: another runner computes it; there: it has done so
Outcomes = Generator[tuple[Cell, Outcome], None, None]  # every cell as it ends; closed, it stops what is in flight

DIED = "its worker process died, more than once: killed from outside, for want of memory, or by a crash in compiled code"


def tasks_of(cells: Sequence[Cell], batch: int) -> list[Task]:
    """Returns the cells as tasks of at most `batch` cells that differ in the image alone, in the order of their first
    cells."""
    if batch == 1:
        return [(cell,) for cell in cells]
    alike: dict[Cell, list[Cell]] = {}
    for cell in cells:
        kind = replace(cell, key="", image="", source="", is_of=cell.is_of[:2], noise_seed=0, sampler_seed=0)
        alike.setdefault(kind, []).append(cell)
    return [tuple(group[k : k + batch]) for group in alike.values() for k in range(0, len(group), batch)]


def run_task(task: Task, folder: str | Path) -> list[Outcome]:
    """Computes cells and stores them, unless they are there by now or another runner is at them; what became of each.

    Raises:
        FileError: a result could not be stored.
    """
    store, outcomes, mine = Store(folder), {}, []
    with ExitStack() as claims:
        for cell in task:
            if not claims.enter_context(store.claim(cell.key)):
                outcomes[cell.key] = "busy"
            elif (record := store.record(cell.key)) is not None and cell.made(record):
                outcomes[cell.key] = "there"
            else:
                mine.append(cell)
        outcomes |= _computed(mine, store)
    return [outcomes[cell.key] for cell in task]


def _computed(cells: list[Cell], store: Store) -> dict[str, Outcome]:
    if not cells:
        return {}
    try:
        results = work.compute(cells)
    except Exception as error:  # a failure is a result: stored, shown, and tried again on request
        if len(cells) > 1:  # one by one, to find the cell that fails
            return {key: outcome for cell in cells for key, outcome in _computed([cell], store).items()}
        store.save_failure(cells[0].key, failure(cells[0], error))
        return {cells[0].key: "failed"}
    for cell, (record, arrays) in zip(cells, results, strict=True):
        store.save(cell.key, record, arrays)  # what goes wrong here ends the run
    return {cell.key: "done" for cell in cells}


def failure(cell: Cell, error: Exception) -> dict[str, Any]:
    """Returns the record of a cell that has failed."""
    sentence = str(error) if isinstance(error, InvgenError) else f"{type(error).__name__}: {error}"
    return {
        "cell": cell.facts(),
        "is_of": cell.identities(),
        "error": sentence,
        "error_type": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
        "environment": work.environment(cell.device),
    }


def died(cell: Cell, store: Store) -> Outcome:
    """Keeps the failure of a cell whose worker processes have died."""
    store.drop_unfinished(cell.key)
    store.save_failure(cell.key, failure(cell, RuntimeError(DIED)))
    return "failed"
