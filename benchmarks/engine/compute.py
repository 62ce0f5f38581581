"""One cell of a suite: an image measured, reconstructed and scored. What it needs is made once in each process and kept."""

import os
import platform
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invgen import __version__
from invgen.benchmarks.suite import scores
from invgen.benchmarks.suite.cell import KEPT_SAMPLES, Cell
from invgen.benchmarks.suite.parts import in_precision, problem_of, sampler_of
from invgen.cost import Cost
from invgen.inference.solve import Result, warn_unexplained
from invgen.names import resolve
from invgen.posterior import Posterior

if TYPE_CHECKING:
    import numpy as np


# -- the work ------------------------------------------------------------------------------------------------------------


def compute(cells: Sequence[Cell]) -> "list[tuple[dict[str, Any], dict[str, np.ndarray]]]":
    """Returns the record and the arrays of each of some cells that differ in the image alone. Raises whatever goes wrong
    in them.

    Several are computed by one call of the sampler, where it can take a seed for each measurement: the seconds are then
    shared out, and the samples are those of a cell alone up to the round-off of other sizes of batches.
    """
    first, begin = cells[0], time.perf_counter()
    if len(cells) > 1 and not sampler_of(first.sampler).takes_seeds:
        return [computed for cell in cells for computed in compute([cell])]
    if first.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(first.device)
    with _heard() as heard:
        problems = [problem_of(cell) for cell in cells]
        results = _solved(cells, [post for post, _ in problems])
    shared, computed = (time.perf_counter() - begin) / len(cells), []
    for cell, result, (_, truth) in zip(cells, results, problems, strict=True):
        computed.append(_scored(cell, result, truth, heard, shared))
    return computed


def _solved(cells: Sequence[Cell], posts: Sequence[Posterior]) -> list[Result]:
    """Returns a result for each cell, of one call of the sampler."""
    first, sampler, cost = cells[0], sampler_of(cells[0].sampler), Cost()
    seeds = [cell.sampler_seed for cell in cells]
    alone = len(cells) == 1
    cast, precision = in_precision(first, posts[0])
    whole = cast if alone else replace(cast, y=torch.stack([post.y for post in posts]))
    samples = sampler(whole, first.num_samples, seeds[0] if alone else seeds, max_batch=first.max_batch, cost=cost)
    samples = samples.reshape(first.num_samples, len(cells), *whole.prior.shape)
    cost.seconds /= len(cells)
    return [
        Result(samples[:, k], post, sampler, seed, cost.nfe, cost.seconds, cost=cost, precision=precision)
        for k, (post, seed) in enumerate(zip(posts, seeds, strict=True))
    ]


def _scored(
    cell: Cell, result: Result, truth: Tensor, heard: Sequence[str], seconds: float
) -> "tuple[dict[str, Any], dict[str, np.ndarray]]":
    begin = time.perf_counter()
    with _heard() as more, torch.no_grad():
        warn_unexplained(result)
        values = {spec: scores.metric(spec)(result, truth) for spec in cell.metrics}
        calibration = scores.calibration(result, truth)
    arrays = _arrays(cell, result, truth)
    record = {
        "cell": cell.facts(),
        "kind": result.sampler.kind,
        "metrics": values,
        "nfe": result.nfe,
        "seconds": round(result.seconds, 4),
        "cost": _cost(result, cell.device),
        "seconds_of_cell": round(seconds + time.perf_counter() - begin, 4),
        "made_by": {"sampler": repr(result.sampler), "precision": result.precision, "split": result.split},
        "is_of": cell.identities(),
        "warnings": list(dict.fromkeys([*heard, *more])),
        "environment": environment(cell.device),
    }
    if calibration is not None:
        record["calibration"] = calibration
    return record, arrays


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The warnings of the block, once it has ended."""
    sentences: list[str] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        yield sentences
    sentences += [str(w.message) for w in heard]


def _cost(result: Result, device: str) -> dict[str, float]:
    """Returns the counts per sample; on CUDA the most memory that its tensors took, in bytes."""
    found = {name: getattr(result.cost, name) for name in ("nfe", "vjps", "operator_calls")}
    if device.startswith("cuda"):
        found["peak_memory"] = torch.cuda.max_memory_allocated(device)
    return found


def _arrays(cell: Cell, result: Result, truth: Tensor) -> "dict[str, np.ndarray]":
    if cell.arrays == "none":
        return {}
    samples = result.samples if cell.arrays == "all" else result.samples[:KEPT_SAMPLES]
    parts: Mapping[str, Tensor] = {
        "truth": truth,
        "measurement": result.posterior.y,
        "mean": result.mean,
        "std": result.std,
        "samples": samples,
    }
    return {name: x.detach().cpu().numpy() for name, x in parts.items()}


@lru_cache(maxsize=8)
def commit(folder: str) -> str:
    """Returns the git commit of a folder, with "-dirty" where files have changed since; "" where there is none."""
    try:
        command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def environment(device: str) -> dict[str, Any]:
    """Returns the machine and the versions that a cell was computed with."""
    found = {"invgen": __version__, "torch": torch.__version__, "python": platform.python_version()}
    found |= {"commit": commit(os.getcwd()), "commit_of_invgen": commit(os.path.dirname(os.path.abspath(resolve.__file__)))}
    found |= {"host": socket.gethostname(), "threads": torch.get_num_threads(), "device": device}
    if device.startswith("cuda"):
        found["device"] = torch.cuda.get_device_name(device)
    return found | {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
