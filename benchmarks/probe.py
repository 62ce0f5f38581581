"""Before a run: how long a cell will take and how much memory, from runs with few steps."""

import sys
import time
from dataclasses import dataclass, fields, replace

import torch

from invgen.benchmarks import cells as work
from invgen.benchmarks import methods
from invgen.benchmarks.cells import Cell

FEW = (2, 6)  # steps of the two runs whose difference is the time of a step


@dataclass(frozen=True)
class Probe:
    """What a cell is expected to take.

    Attributes:
        seconds: of its sampler; the time is taken to grow linearly with the steps.
        memory: bytes. On CUDA the most that tensors held during the probe; on the CPU the most that this process has held
            since it began (its peak resident memory), so that it bounds what a worker process needs; None where the system
            does not tell.
    """

    seconds: float
    memory: int | None


def probed(cell: Cell) -> Probe:
    """Runs a cell with few steps. Raises what the cell would raise."""
    post, _ = work.problem_of(cell)
    sampler = methods.method(cell.sampler)
    on_cuda = cell.device.startswith("cuda")
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(cell.device)
    counts = FEW if isinstance(getattr(sampler, "schedule", None), str) else None
    if "steps" not in {f.name for f in fields(sampler)}:  # a method without steps
        counts = None
    spent = []
    for steps in (FEW[0], *FEW) if counts else (None, None):  # the first run pays for what is made once
        few = sampler if steps is None else replace(sampler, steps=min(steps, sampler.steps))
        begin = time.perf_counter()
        few(post, cell.num_samples, cell.sampler_seed, max_batch=cell.max_batch)
        if on_cuda:
            torch.cuda.synchronize(cell.device)
        spent.append(time.perf_counter() - begin)
    seconds = spent[-1]
    if counts:
        low, high = spent[1:]
        seconds = low + max(high - low, 0.0) / (FEW[1] - FEW[0]) * max(sampler.steps - FEW[0], 0)
    return Probe(seconds, torch.cuda.max_memory_allocated(cell.device) if on_cuda else peak_memory())


def peak_memory() -> int | None:
    """The peak resident memory of this process, in bytes; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
