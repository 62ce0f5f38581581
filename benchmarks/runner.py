"""Running a suite: what is missing is computed, cell by cell, and stored the moment it ends.

A process may be killed at any time, and several runs may share a folder: `Store` says why nothing is lost.
Every process works with one torch thread, so that a result does not depend on how many there are.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from invgen import names
from invgen.benchmarks import cells as work
from invgen.benchmarks.cells import Cell
from invgen.benchmarks.store import Store
from invgen.benchmarks.suite import Suite, expand, shard_of
from invgen.errors import InvgenError, OptionError

Outcome = Literal["done", "failed", "busy", "there"]  # busy: another runner computes it; there: it has done so

WAIT = 0.5  # seconds between two looks at a cell that another runner computes
SAY = 30.0  # seconds between two lines of progress where there is no terminal


@dataclass(frozen=True)
class Report:
    """How a run ended.

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


def run(
    suite: "str | Path | Mapping[str, Any] | Suite",
    out: str | Path,
    executor: str = "serial",
    shard: tuple[int, int] | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> Report:
    """Computes the cells of a suite that `out` lacks.

    Args:
        suite: as `invgen.benchmarks.suite.load` takes it.
        out: the folder of results, and of results.csv, a row for each cell in it.
        executor: "serial", in this process, "local", one process for each core, or "local:N".
        shard: (i, n), the i-th of n parts, counted from 1.
        retry_failed: whether cells that failed before are computed again.
        progress: whether to tell on stderr how many cells are done, failed and remaining, and the time left.

    Raises:
        OptionError, FileError: the suite is wrong, a file cannot be read, or `out` not written (a full disk, for example):
            what was stored until then stays. The failure of a cell is a result, and does not end the run.
        KeyboardInterrupt: what was in flight is dropped.
    """
    begin = time.perf_counter()
    workers = _workers(executor)
    chosen, store = shard_of(expand(suite), shard), Store(out)
    store.prepare()
    states = store.states([cell.key for cell in chosen])
    if retry_failed:
        states = {key: state for key, state in states.items() if state == "done"}
    missing = [cell for cell in chosen if cell.key not in states]
    computed = 0
    with _Progress(len(chosen), list(states.values()), progress) as bar, _one_thread():
        results = _serial(missing, store) if workers == 0 else _pool(missing, store, workers)
        for cell, outcome in results:
            states[cell.key] = "failed" if outcome == "failed" else "done"
            computed += outcome != "there"
            bar.count(states[cell.key])
    store.write_csv(store.folder / "results.csv")
    ended = list(states.values())
    errors: dict[str, int] = {}
    for row in store.rows([key for key, state in states.items() if state == "failed"]):
        sentence = f"{row['sampler']}, {row['problem']}: {row['error']}"
        errors[sentence] = errors.get(sentence, 0) + 1
    seconds = time.perf_counter() - begin
    return Report(len(chosen), ended.count("done"), ended.count("failed"), computed, seconds, errors)


def _workers(executor: str) -> int:
    """The number of worker processes, 0 for none."""
    match = re.fullmatch(r"(serial)|local(?::([1-9]\d*))?", executor)
    if not match:
        raise OptionError(f"unknown executor {executor!r}; there are serial, local and local:N with N processes")
    return 0 if match[1] else int(match[2] or os.cpu_count() or 1)


def run_cell(cell: Cell, folder: str | Path) -> Outcome:
    """Computes one cell and stores it, unless it is there by now or another runner is at it."""
    store = Store(folder)
    with store.claim(cell.key) as mine:
        if not mine:
            return "busy"
        if store.record(cell.key) is not None:
            return "there"
        try:
            record, arrays = work.compute(cell)
        except Exception as error:  # a failure is a result: stored, shown, and tried again on request
            store.save_failure(cell.key, _failure(cell, error))
            return "failed"
        store.save(cell.key, record, arrays)  # what goes wrong here ends the run
    return "done"


def _failure(cell: Cell, error: Exception) -> dict[str, Any]:
    sentence = str(error) if isinstance(error, InvgenError) else f"{type(error).__name__}: {error}"
    return {
        "cell": cell.facts(),
        "error": sentence,
        "error_type": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
        "environment": work.environment(cell.device),
    }


# -- executors -----------------------------------------------------------------------------------------------------------


def _serial(missing: Sequence[Cell], store: Store) -> Iterator[tuple[Cell, Outcome]]:
    queue = deque(missing)
    waited = 0
    while queue:
        cell = queue.popleft()
        try:
            outcome = run_cell(cell, store.folder)
        except KeyboardInterrupt:
            store.drop_unfinished(cell.key)
            raise
        if outcome == "busy":
            queue.append(cell)
            waited += 1
            if waited >= len(queue):  # all that are left are in other hands
                time.sleep(WAIT)
                waited = 0
            continue
        waited = 0
        yield cell, outcome


def _pool(missing: Sequence[Cell], store: Store, workers: int) -> Iterator[tuple[Cell, Outcome]]:
    """Over worker processes. Where one dies, what flew is tried again, each cell alone: that tells whose fault it was."""
    queue, suspects, idle_deaths = deque(missing), deque(), 0
    while queue or suspects:
        alone = not queue
        source, size = (suspects, 1) if alone else (queue, min(workers, len(queue)))
        flying: dict[Future, Cell] = {}
        pool = _new_pool(size)
        try:
            yield from _fly(pool, source, flying, store, size)
        except BrokenProcessPool as error:
            idle_deaths += not flying
            if idle_deaths > 3:
                raise InvgenError("worker processes end before they take a cell; try --executor serial") from error
            for cell in flying.values():
                store.drop_unfinished(cell.key)
                if alone:
                    store.save_failure(cell.key, _failure(cell, RuntimeError(_DIED)))
                    yield cell, "failed"
                else:
                    suspects.append(cell)
        finally:
            _stop(pool)
            for cell in flying.values():
                store.drop_unfinished(cell.key)


_DIED = "its worker process died, twice: killed from outside, for want of memory, or by a crash in compiled code"


def _fly(
    pool: ProcessPoolExecutor, source: deque, flying: dict[Future, Cell], store: Store, size: int
) -> Iterator[tuple[Cell, Outcome]]:
    """Keeps one cell in flight for each worker, none in a queue, so that an interrupt or a death loses little."""
    while source or flying:
        while source and len(flying) < size:
            cell = source.popleft()
            flying[_submit(pool, cell, source, store)] = cell
        ready, _ = wait(flying, return_when=FIRST_COMPLETED)
        busy = 0
        for future in ready:
            outcome = future.result()
            cell = flying.pop(future)
            if outcome == "busy":
                source.append(cell)
                busy += 1
            else:
                yield cell, outcome
        if busy and len(source) <= busy:
            time.sleep(WAIT)


def _submit(pool: ProcessPoolExecutor, cell: Cell, source: deque, store: Store) -> Future:
    try:
        return pool.submit(run_cell, cell, store.folder)
    except BrokenProcessPool:
        source.appendleft(cell)  # it never flew
        raise


def _new_pool(workers: int) -> ProcessPoolExecutor:
    with _environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1"):
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getcwd(),))
        pool.submit(os.getpid)  # a process starts with the environment of this moment
        return pool


def _start_worker(folder: str) -> None:
    """One thread; Ctrl-C is the parent's to handle; and no worker outlives a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.chdir(folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _stop(pool: ProcessPoolExecutor) -> None:
    """Ends the workers at once, whatever they do: what they were writing is under a temporary name."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    for process in processes:
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)
    for process in processes:
        process.join()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- what is shown -------------------------------------------------------------------------------------------------------


class _Progress:
    """Cells done, failed, remaining and the time left, on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self, total: int, states: Sequence[str], show: bool) -> None:
        self.total, self.done, self.failed = total, states.count("done"), states.count("failed")
        self.begin, self.first, self.said = time.monotonic(), self.done + self.failed, time.monotonic()
        self.show, self.bar = show, None
        if show and sys.stderr.isatty():
            from tqdm.auto import tqdm

            shape = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} cells{postfix}, {remaining} left"
            self.bar = tqdm(total=total, initial=self.first, bar_format=shape, leave=False)
            self.bar.set_postfix_str(f"{self.failed} failed")

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.show and self.total:
            self._say()

    def count(self, state: str) -> None:
        self.done += state == "done"
        self.failed += state == "failed"
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.failed} failed", refresh=False)
            self.bar.update()
        elif self.show and time.monotonic() - self.said > SAY:
            self._say()

    def _say(self) -> None:
        self.said = time.monotonic()
        ended = self.done + self.failed
        each = (self.said - self.begin) / max(ended - self.first, 1)
        left = self.total - ended
        print(
            f"invgen: {self.done} done, {self.failed} failed, {left} remaining, {duration(left * each)} left",
            file=sys.stderr,
            flush=True,
        )


def duration(seconds: float) -> str:
    """Seconds as people say them: 12 s, 3 min, 4.5 h, 2.1 days."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


# -- before a run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a run would have to do.

    Attributes:
        total, done, failed: cells of the suite (or shard) and of them in the folder.
        seconds: of work that is missing, on one core; of the cells that could be probed.
        unknown: missing cells of which nothing is known, and why: {sentence: number of cells}.
    """

    total: int
    done: int
    failed: int
    seconds: float
    unknown: Mapping[str, int]

    def __str__(self) -> str:
        missing = self.total - self.done - self.failed
        lines = [f"{self.total} cells: {self.done} done, {self.failed} failed, {missing} to compute"]
        if missing:
            lines.append(f"about {duration(self.seconds)} on one core, by a probe of each kind with few steps")
        lines += [f"{count} of them could not be probed: {why}" for why, count in self.unknown.items()]
        return "\n".join(lines)


def check(
    suite: "str | Path | Mapping[str, Any] | Suite",
    out: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    probe: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Estimate:
    """Reads a suite and estimates its time, without writing anything.

    Each combination of problem, prior and sampler that is missing is timed on one of its cells with two small numbers of
    steps; the time of a cell is taken to grow linearly with the steps.
    """
    chosen = shard_of(expand(suite), shard)
    states = Store(out).states([c.key for c in chosen]) if out is not None else {}
    kinds: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in chosen:
        if cell.key not in states:
            kind = (cell.problem, cell.prior, cell.size, cell.rescale, cell.sampler, cell.num_samples)
            kinds.setdefault(kind, []).append(cell)
    seconds, unknown = 0.0, {}
    with _one_thread():
        for k, alike in enumerate(kinds.values() if probe else ()):
            say(f"probe {k + 1} of {len(kinds)}: {alike[0].sampler}, {alike[0].problem}")
            try:
                seconds += len(alike) * probed(alike[0])
            except Exception as error:  # what would fail in the run is told here, and does not end the check
                sentence = f"{alike[0].sampler}, {alike[0].problem}: {error}"
                unknown[sentence] = unknown.get(sentence, 0) + len(alike)
    ended = list(states.values())
    return Estimate(len(chosen), ended.count("done"), ended.count("failed"), seconds, unknown)


def probed(cell: Cell) -> float:
    """Seconds that a cell will take, from runs with few steps."""
    post, _ = work.problem_of(cell)
    sampler = names.sampler(cell.sampler)
    counts = (2, 6) if isinstance(sampler.schedule, str) else (sampler.steps, sampler.steps)
    spent = []
    for steps in (counts[0], *counts):  # the first run pays for what is made once
        few = replace(sampler, steps=min(steps, sampler.steps))
        begin = time.perf_counter()
        few(post, cell.num_samples, cell.sampler_seed, max_batch=cell.max_batch)
        spent.append(time.perf_counter() - begin)
    low, high = spent[1:]
    each = max(high - low, 0.0) / (counts[1] - counts[0]) if counts[1] > counts[0] else 0.0
    return low + each * max(sampler.steps - counts[0], 0)
