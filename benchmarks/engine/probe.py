"""Before a run: what a cell will take, by `invgen.forecast`, or from runs with few steps where there is none."""

import sys
import time
from contextlib import suppress
from dataclasses import dataclass, fields, replace

import torch

from invgen.benchmarks.methods import catalogue
from invgen.benchmarks.suite import parts
from invgen.benchmarks.suite.cell import Cell
from invgen.errors import DivergedError
from invgen.inference.forecasting import forecast
from invgen.sampler import Sampler

FEW = (2, 6)  # steps of the two runs whose difference is the time of a step


@dataclass(frozen=True)
class Probe:
    """The expected cost of a cell.

    Attributes:
        seconds: of its sampler.
        nfe, operator_calls: of all its samples together; 0 where nothing foretells them.
        memory: bytes. On CUDA the most that tensors held during the probe; on the CPU the most that this process has held
            since it began (its peak resident memory), so that it bounds what a worker process needs; None where the system
            does not tell.
    """

    seconds: float
    nfe: float
    operator_calls: float
    memory: int | None


def probed(cell: Cell) -> Probe:
    """Runs a cell with two steps, for its memory and for what it would raise; without a forecast with six steps too.

    Raises:
        Exception: whatever the cell would raise.
    """
    post, _ = parts.in_precision(cell, parts.problem_of(cell)[0])
    sampler = catalogue.method(cell.sampler)
    on_cuda = cell.device.startswith("cuda")
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(cell.device)
    expected = forecast(sampler, post, cell.num_samples, cell.max_batch) if isinstance(sampler, Sampler) else None
    stepped = isinstance(getattr(sampler, "schedule", None), str) and "steps" in {f.name for f in fields(sampler)}
    counts = FEW if stepped else None
    own: int = getattr(sampler, "steps", 0)
    spent = []
    # the first run pays for what is made once
    for steps in (None,) if not counts else (FEW[0],) if expected else (FEW[0], *FEW):
        few = sampler if steps is None else replace(sampler, steps=min(steps, own))
        begin = time.perf_counter()
        with suppress(DivergedError):  # two steps are too few for some samplers; all of their steps may do
            few(post, cell.num_samples, cell.sampler_seed, max_batch=cell.max_batch)
        if on_cuda:
            torch.cuda.synchronize(cell.device)
        spent.append(time.perf_counter() - begin)
    memory = torch.cuda.max_memory_allocated(cell.device) if on_cuda else peak_memory()
    if expected:
        total = expected.samples
        return Probe(expected.seconds, expected.nfe * total, expected.operator_calls * total, memory)
    seconds = spent[-1]
    if counts:  # the time grows linearly with the steps
        low, high = spent[1:]
        seconds = low + max(high - low, 0.0) / (FEW[1] - FEW[0]) * max(own - FEW[0], 0)
    return Probe(seconds, 0.0, 0.0, memory)


def peak_memory() -> int | None:
    """Returns the peak resident memory of this process, in bytes; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
