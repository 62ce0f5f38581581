"""Where the cells of a run are computed: in this process, or in processes of this machine. `dask` has clusters.

Every process works with one torch thread, so that a result does not depend on how many there are.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from invgen.benchmarks.engine.executor import WAIT, Environment, ended, still_busy
from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.engine.tasks import Outcomes, Task, died, run_task
from invgen.benchmarks.suite.parts import one_thread
from invgen.errors import InvgenError

UNGUARDED = 77  # the exit status of a worker that would start workers as it starts
GUARD = (
    "each worker process runs your script again as it starts, and this script then starts a run: put what starts the run "
    'under `if __name__ == "__main__":`'
)


# -- in this process -----------------------------------------------------------------------------------------------------


def serial(tasks: Sequence[Task], store: Store) -> Outcomes:
    """Yields one task after the other."""
    queue, waited = deque(tasks), 0
    with one_thread():
        while queue:
            task = queue.popleft()
            try:
                outcomes = run_task(task, store.folder)
            except KeyboardInterrupt:
                for cell in task:
                    store.drop_unfinished(cell.key)
                raise
            yield from ended(task, outcomes)
            busy = still_busy(task, outcomes)
            waited = waited + 1 if busy else 0
            if busy:
                queue.append(busy)
                if waited >= len(queue):  # all that are left are in other hands
                    time.sleep(WAIT)
                    waited = 0


# -- in processes of this machine ----------------------------------------------------------------------------------------


def refuse_to_multiply() -> None:
    """Ends a worker process that, as it starts, runs a script that starts workers in its turn; `pool` says why."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # what multiprocessing itself asks
        raise SystemExit(UNGUARDED)


class _Worker:
    """A process of its own pool, so that its death breaks nothing else. `ready` ends when it has started."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        with _set(environment):  # a process starts with the environment of this moment
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=start_worker, initargs=(os.getcwd(),))
            self.ready = self.pool.submit(list)
        self.processes = list((getattr(self.pool, "_processes", None) or {}).values())

    def submit(self, task: Task, store: Store) -> Future:
        return self.pool.submit(run_task, task, store.folder)

    def stop(self) -> None:
        """Ends the process at once, whatever it does: what it was writing is under a temporary name."""
        for process in self.processes:
            process.terminate()
        self.pool.shutdown(wait=True, cancel_futures=True)
        for process in self.processes:
            process.join()


def pool(tasks: Sequence[Task], store: Store, environments: Sequence[Environment]) -> Outcomes:
    """Over worker processes, one for each environment.

    Each has one task, and none waits at it: an interrupt or a death loses little, and a death identifies the cell. The
    cells of a task whose worker dies are tried once more, each alone; one that loses a second worker has failed.

    Raises:
        InvgenError: processes cannot be started.
    """
    queue, deaths, false_starts = deque(tasks), Counter[str](), 0
    idle: list[_Worker] = []
    flying: dict[Future, tuple[_Worker, Task]] = {}  # no task while a worker starts

    def start(environment: Environment) -> None:
        worker = _Worker(environment)
        flying[worker.ready] = (worker, ())

    try:
        for environment in environments:
            start(environment)
        while queue or any(task for _, task in flying.values()):
            ready, _ = wait(flying, return_when=FIRST_COMPLETED)
            busy = 0
            for future in ready:
                worker, task = flying.pop(future)
                idle.append(worker)
                try:
                    outcomes = future.result()
                except BrokenProcessPool as error:
                    idle.remove(worker)
                    worker.stop()
                    if not task and UNGUARDED in [process.exitcode for process in worker.processes]:
                        raise InvgenError(GUARD) from None
                    false_starts += not task
                    if false_starts > len(environments) + 3:
                        raise InvgenError("worker processes end before they take a cell; try --executor serial") from error
                    for cell in task:
                        deaths[cell.key] += 1
                        store.drop_unfinished(cell.key)
                        if deaths[cell.key] > 1:
                            yield cell, died(cell, store)
                        else:
                            queue.append((cell,))
                    start(worker.environment)
                    continue
                yield from ended(task, outcomes)
                left = still_busy(task, outcomes)
                if left:
                    queue.append(left)
                    busy += 1
            if busy and len(queue) <= busy:
                time.sleep(WAIT)
            while queue and idle:
                worker, task = idle.pop(), queue.popleft()
                try:
                    flying[worker.submit(task, store)] = (worker, task)
                except BrokenProcessPool:  # it died while it had nothing to do
                    queue.appendleft(task)
                    worker.stop()
                    start(worker.environment)
    finally:
        for worker in [*idle, *(worker for worker, _ in flying.values())]:
            worker.stop()
        for cell in (cell for _, task in flying.values() for cell in task):
            store.drop_unfinished(cell.key)


def start_worker(folder: str) -> None:
    """One thread; Ctrl-C is the parent's to handle; and no worker outlives a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.chdir(folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker is started by another process

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _set(values: Environment) -> Iterator[None]:
    """Environment variables for the block."""
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
