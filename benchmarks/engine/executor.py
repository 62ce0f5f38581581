"""Where the cells of a run are computed, from the text of `--executor`; what all kinds share."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from invgen.benchmarks.engine.tasks import Outcome, Task
from invgen.benchmarks.suite.cell import Cell
from invgen.errors import OptionError

Environment = Mapping[str, str]


WAIT = 0.5  # seconds between two looks at a cell that another runner computes


KINDS = "serial, local and local:N (N processes), dask:N, slurm and slurm:N (N jobs), tcp://HOST:PORT and tls://HOST:PORT"


@dataclass(frozen=True)
class Executor:
    """The choice of `--executor`.

    Attributes:
        kind: "serial", "local", "dask", "slurm" or "address".
        count: of processes or jobs, where it is given.
        address: of a scheduler that runs.
    """

    kind: str
    count: int | None = None
    address: str = ""

    @classmethod
    def parse(cls, text: str) -> "Executor":
        """Raises OptionError: there is no such executor."""
        if re.fullmatch(r"(tcp|tls)://.+:\d+", text):
            return cls("address", address=text)
        match = re.fullmatch(r"serial|(local|dask|slurm)(?::([1-9]\d*))?", text)
        if not match:
            raise OptionError(f"unknown executor {text!r}; there are {KINDS}")
        return cls(match[1] or "serial", int(match[2]) if match[2] else None)


def ended(task: Task, outcomes: Sequence[Outcome]) -> Iterator[tuple[Cell, Outcome]]:
    """Yields the cells of a task that are no longer to be computed."""
    return ((cell, outcome) for cell, outcome in zip(task, outcomes, strict=True) if outcome != "busy")


def still_busy(task: Task, outcomes: Sequence[Outcome]) -> Task:
    """Returns the cells of a task that another runner is computing."""
    return tuple(cell for cell, outcome in zip(task, outcomes, strict=True) if outcome == "busy")


def environments(workers: int | None, device: str, gpus: Sequence[str] | None = None) -> list[Environment]:
    """Returns the environment variables of each worker process.

    Args:
        workers: how many; by default one for each core, or for each GPU where the device is "cuda".
        gpus: that may be used; by default those that CUDA_VISIBLE_DEVICES names, or all of this machine. Each worker sees
            one of them, in turns.

    Raises:
        OptionError: the device is "cuda" and there is no GPU.
    """
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if device != "cuda":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return [one] * (workers or cores or 1)
    gpus = visible_gpus() if gpus is None else gpus
    if not gpus:
        raise OptionError("the suite asks for the device cuda and no GPU is visible; set device: cpu, or run it elsewhere")
    return [{**one, "CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} for k in range(workers or len(gpus))]


def visible_gpus() -> list[str]:
    """Returns the values of CUDA_VISIBLE_DEVICES, for each GPU of its own."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() and name.strip() != "-1"]
    return [str(k) for k in range(torch.cuda.device_count())]
