"""Running a suite: what is missing is computed, cell by cell, and stored the moment it ends.

A process may be killed at any time, and several runs may share a folder: `Store` says why nothing is lost.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invgen.benchmarks.engine import local
from invgen.benchmarks.engine.executor import Executor, environments
from invgen.benchmarks.engine.probe import Probe, probed
from invgen.benchmarks.engine.progress import Progress
from invgen.benchmarks.engine.store import State, Store
from invgen.benchmarks.engine.tasks import Outcomes, Task, tasks_of
from invgen.benchmarks.report.cleaning import visible
from invgen.benchmarks.report.result_tables import write_csv
from invgen.benchmarks.report.results import read
from invgen.benchmarks.suite.cell import Cell
from invgen.benchmarks.suite.expand import Suite, expand, load, shard_of
from invgen.benchmarks.suite.parts import one_thread
from invgen.errors import FileError, OptionError
from invgen.messages import duration, warn
from invgen.validation.arguments import checked

NAMED = 5  # damaged files in a warning


PROBING = 20.0  # seconds of trying cells, after which one cell stands for others of its sampler and prior


@dataclass(frozen=True)
class Report:
    """The outcome of a run.

    Attributes:
        total, done, failed: cells of the suite (or shard), and of them with a result and with a failure.
        computed: by this run.
        seconds: that it took.
        errors: sentences of the failures, and how many cells each.
    """

    total: int
    done: int
    failed: int
    computed: int
    seconds: float
    errors: Mapping[str, int]

    def __str__(self) -> str:
        remaining = self.total - self.done - self.failed
        state = f"{self.total} cells: {self.done} done, {self.failed} failed, {remaining} remaining"
        return f"{state}; {self.computed} computed now in {self.seconds:.1f} s"


@checked
def run(
    suite: "str | Path | Mapping[str, Any] | Suite",
    out: str | Path,
    executor: str = "serial",
    shard: tuple[int, int] | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    batch: int = 1,
) -> Report:
    """Computes the cells of a suite that `out` lacks.

    Args:
        suite: as `invgen.benchmarks.suite.expand.load` takes it.
        out: the folder of results, and of results.csv, a row for each cell in it.
        executor: "serial", in this process; "local", one process for each core (for each GPU, where the suite's device is
            cuda), or "local:N"; "dask:N", "slurm", "slurm:N", "tcp://HOST:PORT" and "tls://HOST:PORT", see
            `invgen.benchmarks.engine.dask`.
        shard: (i, n), the i-th of n parts, counted from 1.
        retry_failed: whether cells that failed before are computed again.
        progress: whether to tell on stderr how many cells are done, failed and remaining, and the time left.
        batch: how many cells that differ in the image alone are computed at once, to fill a GPU. Their results are those of
            cells alone up to round-off.

    Raises:
        OptionError, FileError: the suite is wrong, a file cannot be read, or `out` not written (a full disk, for example),
            or results were removed while the run went on: what is stored stays. The failure of a cell is a result, and
            does not end the run.
        KeyboardInterrupt: what was in flight is dropped.
    """
    begin, where = time.perf_counter(), Executor.parse(executor)
    if where.kind == "local":
        local.refuse_to_multiply()
    if not isinstance(batch, int) or batch < 1:
        raise OptionError(f"batch must be a positive whole number of cells, got {batch!r}")
    suite = load(suite)
    chosen, store = shard_of(expand(suite), shard), Store(out)
    store.prepare()
    store.save_suite({"file": suite.name, **suite.content})
    states = _states(store, chosen)
    if retry_failed:
        states = {key: state for key, state in states.items() if state == "done"}
    tasks = tasks_of([cell for cell in chosen if cell.key not in states], batch)
    computed = 0
    results = _results(where, tasks, store, chosen[0].device if chosen else "cpu")
    with Progress(len(chosen), list(states.values()), progress) as bar, closing(results):
        for cell, outcome in results:
            states[cell.key] = "failed" if outcome == "failed" else "done"
            computed += outcome != "there"
            bar.count(states[cell.key])
    lost = len(states) - len(store.states(states, arrays=False))
    if lost:
        raise FileError(
            f"{lost} of {len(states)} results are no longer in {store.folder}: they were removed or damaged while the run "
            "went on; run it again to compute them"
        )
    if states:
        write_csv(read(store.folder), store.folder / "results.csv")
    ended = list(states.values())
    errors: dict[str, int] = {}
    for failed in (store.failure(key) for key, state in states.items() if state == "failed"):
        if failed is not None:
            sentence = visible(f"{failed['cell']['sampler']}, {failed['cell']['problem']}: {failed['error']}")
            errors[sentence] = errors.get(sentence, 0) + 1
    seconds = time.perf_counter() - begin
    return Report(len(chosen), ended.count("done"), ended.count("failed"), computed, seconds, errors)


def _results(where: Executor, tasks: Sequence[Task], store: Store, device: str) -> Outcomes:
    """Yields every cell as it ends, with its outcome; closing the iterator stops what is in flight."""
    if where.kind == "serial":
        return local.serial(tasks, store)
    if where.kind == "local":
        return local.pool(tasks, store, environments(where.count, device)[: len(tasks)])
    from invgen.benchmarks.engine import dask

    return dask.results(where, tasks, store, device)


def _states(store: Store, chosen: Sequence[Cell]) -> dict[str, State]:
    """Returns the states of cells whose results still stand. Warns of files that are damaged, by their names."""
    cells = {cell.key: cell for cell in chosen}
    states = store.states(cells, lambda key, record: cells[key].made(record))
    if store.damaged:
        named = [f"{path.relative_to(store.folder)} ({why})" for path, why in store.damaged.items()]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        warn(
            f"results in {store.folder} are damaged, and their cells are to be computed again: "
            f"{', '.join(named[:NAMED])}{more}",
        )
    return states


# -- before a run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """The work that a run would have to do.

    Attributes:
        total, done, failed: cells of the suite (or shard) and of them in the folder.
        seconds: of work that is missing, on one core; of the cells that could be probed.
        nfe, operator_calls: network evaluations and applications of operators in it.
        memory: bytes that the most demanding of them needs, on its device; None where it is not known.
        device: of the suite.
        unknown: missing cells of which nothing is known, and why: {sentence: number of cells}.
    """

    total: int
    done: int
    failed: int
    seconds: float
    nfe: float
    operator_calls: float
    memory: int | None
    device: str
    unknown: Mapping[str, int]

    def __str__(self) -> str:
        missing = self.total - self.done - self.failed
        lines = [f"{self.total} cells: {self.done} done, {self.failed} failed, {missing} to compute"]
        on_cpu, known = self.device == "cpu", missing - sum(self.unknown.values())
        if known and self.seconds:
            unit = "core" if on_cpu else "GPU"
            evaluations = f"{self.nfe:.0f} network evaluations and {self.operator_calls:.0f} applications of operators"
            lines.append(f"{evaluations}, about {duration(self.seconds)} on one {unit}, by a probe of each kind")
        if known and self.memory:
            of = "a worker process (the peak of this one, which has tried each kind)" if on_cpu else "tensors on the GPU"
            lines.append(f"up to {self.memory / 1e9:.1f} GB of memory for {of}")
        lines += [f"{count} of them could not be probed: {why}" for why, count in self.unknown.items()]
        return "\n".join(lines)


def check(
    suite: "str | Path | Mapping[str, Any] | Suite",
    out: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    probe: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Estimate:
    """Reads a suite and estimates its time and memory, without writing anything.

    Each combination of problem, prior and sampler that is missing is tried on one of its cells, see `probe.probed`, for
    twenty seconds in all; each sampler on each prior comes first, and stands for the combinations that are left then.

    Args:
        suite: a file, its content, or a Suite.
        out: the folder of results, whose cells are not missing.
        shard: (k, n) for the k-th of n parts.
        probe: whether to try cells.
        say: gets lines about the progress.
    """
    chosen = shard_of(expand(suite), shard)
    states = _states(Store(out), chosen) if out is not None else {}
    kinds: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in chosen:
        if cell.key not in states:
            kind = (cell.problem, cell.prior, cell.size, cell.rescale, cell.sampler, cell.num_samples)
            kinds.setdefault(kind, []).append(cell)
    seconds, nfe, calls, memory, unknown = 0.0, 0.0, 0.0, None, {}
    tried: dict[tuple[Any, ...], Probe] = {}
    begin, like = time.perf_counter(), {kind: kind[1:] for kind in kinds}
    first = {like[kind]: kind for kind in reversed(kinds)}
    order = sorted(kinds, key=lambda kind: first[like[kind]] != kind)  # stable: the first of its like, then the others
    with one_thread():
        for k, kind in enumerate(order if probe else ()):
            alike = kinds[kind]
            say(f"probe {k + 1} of {len(kinds)}: {alike[0].sampler}, {alike[0].problem}")
            try:
                late = time.perf_counter() - begin > PROBING
                found = tried[like[kind]] if late and like[kind] in tried else probed(alike[0])
                tried.setdefault(like[kind], found)
                seconds += len(alike) * found.seconds
                nfe, calls = nfe + len(alike) * found.nfe, calls + len(alike) * found.operator_calls
                memory = max(memory or 0, found.memory or 0) or None
            except Exception as error:  # what would fail in the run is told here, and does not end the check
                sentence = f"{alike[0].sampler}, {alike[0].problem}: {error}"
                unknown[sentence] = unknown.get(sentence, 0) + len(alike)
    ended = list(states.values())
    device = chosen[0].device if chosen else "cpu"
    done, failed = ended.count("done"), ended.count("failed")
    return Estimate(len(chosen), done, failed, seconds, nfe, calls, memory, device, unknown)
