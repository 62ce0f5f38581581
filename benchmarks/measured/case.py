"""A case of an instrument: its measurement and its model, the methods that reconstruct it, and its own score."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invgen.cost import Cost
from invgen.errors import FileError
from invgen.method import Method
from invgen.posterior import Posterior


@dataclass(frozen=True)
class Case:
    """One measurement of an instrument.

    Attributes:
        instrument: its name, as on the command line.
        name: which of its measurements.
        post: measurement, operator, noise and prior, of one signal.
        methods: by their names in the table: classical methods and samplers.
        score: of a reconstruction (*shape), the first number the one that counts: {"MCC": .98}.
        shown: what a picture shows of a reconstruction (*shape): (rows, columns), or (3, rows, columns) in [0, 1].
        reference: the reference as such a picture, or None.
        others: the posterior of methods that have one of their own (another prior, another form of the data).
        each: whether samples are scored one by one, and the mean and the standard deviation of their scores count, in place
            of the score of their mean.
    """

    instrument: str
    name: str
    post: Posterior[Any, Any, Any]
    methods: Mapping[str, Method]
    score: Callable[[Tensor], dict[str, float]]
    shown: Callable[[Tensor], Tensor]
    reference: Tensor | None = None
    others: Mapping[str, Posterior[Any, Any, Any]] = field(default_factory=dict)
    each: bool = False


@dataclass(frozen=True)
class Found:
    """A reconstruction of a case by one method.

    Attributes:
        case, method: their names.
        kind: "classical" or "sampler".
        scores: name -> number.
        residual: over the noise level, of what was scored: 1 where it explains the data.
        evaluations: of the network, a sample.
        seconds: of computing.
        picture: what was scored, the first of several, as `Case.shown` gives it.
    """

    case: Case
    method: str
    kind: str
    scores: dict[str, float]
    residual: float
    evaluations: float
    seconds: float
    picture: Tensor


def solved(case: Case, num_samples: int, seed: int = 0) -> Iterator[Found]:
    """Yields what each method of a case finds, a sampler by the mean of its samples."""
    for name, method in case.methods.items():
        post = case.others.get(name, case.post)
        start, cost = time.process_time(), Cost()
        classical = method.kind == "classical" or method.point
        samples = method(post, 1 if classical else num_samples, seed, max_batch=4, cost=cost)
        seconds = time.process_time() - start
        judged = samples if case.each else samples.mean(0, keepdim=True)
        with torch.no_grad():
            residual = post.reduced().residual_over_noise(judged).mean().item()
        kind = "classical" if classical else "sampler"
        yield Found(case, name, kind, scored(case, judged), residual, cost.nfe, seconds, case.shown(judged[0]))


def scored(case: Case, signals: Tensor) -> dict[str, float]:
    """Returns the scores of signals (n, *shape), their mean and, of several, their standard deviation."""
    every = [case.score(x) for x in signals]
    found = {}
    for key in every[0]:
        values = torch.tensor([one[key] for one in every], dtype=torch.float64)
        found[key] = values.mean().item()
        if len(values) > 1:
            found[f"{key}, standard deviation"] = values.std().item()
    return found


def file(folder: Path, name: str) -> Path:
    """Returns the path of a file of the data folder.

    Raises:
        FileError: it is not there.
    """
    path = folder / name
    if not path.exists():
        raise FileError(f"{path} is not there; docs/measured.md says where the measurements come from and how they lie")
    return path


def grey(value_range: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    """Returns a function that shows a signal (1, H, W) in grey, (H, W) in [0, 1]."""
    low, high = value_range
    return lambda x: ((x[0] - low) / (high - low)).clamp(0, 1)
