"""The cells of a run on Dask: workers of this machine, SLURM jobs, or any cluster that runs.

    dask, dask:N          a cluster on this machine: a process for each core, or for each GPU on cuda; or N of them
    slurm, slurm:N        N SLURM jobs through dask-jobqueue, with the options of its configuration (docs/suites.md)
    tcp://HOST:PORT       a scheduler that runs somewhere: Kubernetes, PBS, ssh ...; tls:// likewise

The engine carries specs and outcomes alone. The task itself stores its cell, so that a lost driver, scheduler or worker
costs what was in flight, and `out` has to be on a file system that all workers see.
"""

import contextlib
import logging
import os
import queue
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invgen.benchmarks.engine.dask_clusters import Workers, credentials, scheduler, slurm
from invgen.benchmarks.engine.executor import WAIT, Executor, ended, environments, still_busy
from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.engine.tasks import Outcome, Outcomes, Task, died, run_task
from invgen.benchmarks.suite.cell import Cell
from invgen.benchmarks.suite.parts import one_thread
from invgen.errors import InvgenError, MissingExtraError, OptionError

if TYPE_CHECKING:
    from distributed import Client, Future

# A long call into compiled code keeps a worker from answering: without a time to live it is not taken for dead.
# No pages: they are served without asking who reads them.
SETTINGS = {
    "distributed.scheduler.worker-ttl": None,
    "distributed.scheduler.allowed-failures": 2,
    "distributed.scheduler.http.routes": [],
}
RETRIES = 2  # of a task that ends with an exception: a result that could not be stored
ANSWER = 20.0  # seconds that a scheduler that runs already has to answer
LOOK = 2.0  # seconds between two looks at how many workers there are
PATIENCE = 300.0  # seconds without a worker until it is said; and to see a stored cell through a network file system

_one_cell = threading.Lock()


def results(executor: Executor, tasks: Sequence[Task], store: Store, device: str) -> Outcomes:
    """Yields the outcome of every cell as it ends. Closing the iterator ends a cluster that was started for it.

    Args:
        executor: where to run.
        tasks: the cells.
        store: of the results.
        device: of torch.

    Raises:
        MissingExtraError: distributed, or dask-jobqueue, is not installed.
        InvgenError: no scheduler answers, the cluster has gone, or its workers do not see the folder of results.
    """
    try:
        import dask.config
        from distributed import Client
    except ImportError as error:
        raise MissingExtraError("this executor needs Dask: pip install 'invgen-solvers[bench]'") from error
    if not tasks:
        return
    # a message that finds its receiver gone, as any may while a cluster ends, is told at this level with a traceback
    logging.getLogger("distributed.batched").setLevel(logging.WARNING)
    flying: dict[Future, Task] = {}
    restart: Callable[[], None] = _nothing
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(SETTINGS))
        if executor.kind == "address":
            try:
                client = stack.enter_context(Client(executor.address, timeout=ANSWER, set_as_default=False))
            except (OSError, ValueError) as error:
                raise InvgenError(f"no Dask scheduler answers at {executor.address}: {error}") from error
        else:
            if executor.kind == "dask":
                stack.callback(lambda: [store.drop_unfinished(cell.key) for task in flying.values() for cell in task])
                security = credentials()
                cluster = stack.enter_context(scheduler(security))
                chosen = environments(executor.count, device)[: len(tasks)]
                workers = Workers(cluster.scheduler_address, chosen, device, security)
                stack.callback(workers.stop)
                restart = workers.restart
            else:
                cluster = slurm(device, store.folder)
                stack.callback(cluster.keys.cleanup)
                stack.enter_context(cluster)
                if shutil.which("sbatch") is None:  # without it no worker would ever come
                    raise InvgenError("the executor slurm needs the command sbatch, which this machine does not have")
                cluster.scale(jobs=executor.count or 1)
            client = stack.enter_context(Client(cluster, set_as_default=False))
        yield from _through(client, tasks, flying, store, device, executor, restart)


def _nothing() -> None:
    """Others see to the workers."""


# -- tasks ---------------------------------------------------------------------------------------------------------------


def on_worker(task: Task, folder: str, here: str) -> list[Outcome]:
    """Returns `run_task` on a worker, which may have several threads: one cell at a time, as the hooks that count are
    shared.

    Args:
        folder: of the results.
        here: the folder that the run was started in, where specs of the user's code are looked up.
    """
    with _one_cell, one_thread(), contextlib.ExitStack() as stack:
        if Path(here).is_dir():
            stack.enter_context(contextlib.chdir(here))
            if here not in sys.path:
                sys.path.insert(0, here)
        return run_task(task, folder)


def _through(
    client: "Client",
    tasks: Sequence[Task],
    flying: "dict[Future, Task]",
    store: Store,
    device: str,
    executor: Executor,
    restart: Callable[[], None],
) -> Outcomes:
    """Keeps one task in flight for each worker, none in a queue: a death then identifies the cell."""
    from distributed import KilledWorker

    arrived: queue.SimpleQueue[Future] = queue.SimpleQueue()
    waiting, where = deque(tasks), executor.address or executor.kind
    workers, looked, lonely, seen, count = 0, 0.0, time.monotonic(), False, 0
    folder, here = str(store.folder.resolve()), os.getcwd()
    try:
        while waiting or flying:
            if time.monotonic() - looked > LOOK:
                restart()
                found = client.scheduler_info()["workers"].values()
                gpus = device == "cuda" and any("GPU" in worker.get("resources", {}) for worker in found)
                workers, looked = len(found), time.monotonic()
                if workers:
                    lonely = time.monotonic()
                elif time.monotonic() - lonely > PATIENCE:
                    if executor.kind == "dask":
                        raise InvgenError("worker processes have ended and do not start again; try --executor serial")
                    print(f"invgen: no worker of {where} has come yet", file=sys.stderr, flush=True)
                    lonely = time.monotonic()
            while waiting and len(flying) < workers:
                task, count = waiting.popleft(), count + 1
                future = client.submit(
                    on_worker, task, folder, here,
                    key=f"cell-{task[0].key}-{count}", pure=False, retries=RETRIES, resources={"GPU": 1} if gpus else None,
                )  # fmt: skip
                flying[future] = task
                future.add_done_callback(arrived.put)
            try:
                future = arrived.get(timeout=LOOK)
            except queue.Empty:
                continue
            task = flying.pop(future)
            error: Any = future.exception() if future.status == "error" else None
            if isinstance(error, KilledWorker):
                if len(task) == 1:
                    yield task[0], died(task[0], store)
                else:  # one by one, to find the cell that fails
                    waiting.extend((cell,) for cell in task)
                continue
            if error is not None:
                raise error
            if future.status not in ("finished", "pending"):
                raise InvgenError(f"the cluster {where} has gone; what was stored until then stays, start the run again")
            try:
                outcomes = future.result(timeout=LOOK)
            except TimeoutError:  # the outcome went with its worker: the task is run again, and finds the cell stored
                flying[future] = task
                arrived.put(future)
                continue
            for cell, outcome in ended(task, outcomes):
                if not seen:
                    seen = _visible(store, cell, where)
                yield cell, outcome
            left = still_busy(task, outcomes)
            if left:
                waiting.append(left)
                if len(waiting) == 1:
                    time.sleep(WAIT)
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            client.cancel(list(flying))


def _visible(store: Store, cell: Cell, where: str) -> bool:
    """Tells whether what a worker has stored is here, too. Raises OptionError where it does not come."""
    end = time.monotonic() + PATIENCE
    while store.record(cell.key) is None and store.failure(cell.key) is None:
        if time.monotonic() > end:
            raise OptionError(
                f"the workers of {where} have stored a cell that {store.folder} does not have; choose an --out on a file "
                "system that they and this machine share"
            )
        time.sleep(WAIT)
    return True
