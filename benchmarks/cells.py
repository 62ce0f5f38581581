"""One cell of a suite: an image measured, reconstructed and scored. What it needs is made once in each process and kept."""

import os
import platform
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invgen import __version__
from invgen.benchmarks import curves, fingerprint, identity, methods, pictures, scores
from invgen.benchmarks.identity import Identity
from invgen.diffusion import Prior
from invgen.errors import FileError
from invgen.forward import Operator
from invgen.inference.solve import Result, warn_unexplained
from invgen.names import resolve
from invgen.names.prepare import prepared
from invgen.posterior import Posterior
from invgen.priors.load import WEIGHTS
from invgen.priors.load import names as priors_by_name
from invgen.sampler import Cost, Sampler

if TYPE_CHECKING:
    import numpy as np

KEPT_SAMPLES = 2  # with arrays="summary"


@dataclass(frozen=True)
class Cell:
    """One reconstruction. All specs are texts as `invgen.names` reads them, so that a cell may travel to any process.

    Attributes:
        key: names it: a hash of everything that determines its result.
        problem, image: for the reader.
        source: of the image: a file, or "shipped:photo/face".
        is_of: the identities of the prior, the operator and the image, as they were when the suite was expanded.
        noise_seed, sampler_seed: from the seed and the name of the image, so that every sampler sees the same measurement,
            on every machine, and a result does not depend on what else is in the suite.
    """

    key: str
    problem: str
    operator: str
    noise: str
    prior: str
    sampler: str
    image: str
    seed: int
    num_samples: int
    source: str
    is_of: tuple[Identity, Identity, Identity]
    noise_seed: int
    sampler_seed: int
    size: tuple[int, ...] | None = None
    rescale: tuple[float, float] = (1.0, 0.0)
    metrics: tuple[str, ...] = ("psnr", "residual")
    arrays: str = "summary"
    max_batch: int | None = None
    device: str = "cpu"

    def facts(self) -> dict[str, Any]:
        """What a row of the table says about it."""
        shown = ("problem", "operator", "noise", "prior", "sampler", "image", "seed", "num_samples")
        found = {name: value for name, value in asdict(self).items() if name in shown}
        if self.size is not None:  # one prior may stand in a suite in several sizes
            found["prior"] += f" {'x'.join(map(str, self.size))}"
        return found


def of_what(cell: Cell) -> dict[str, Any]:
    """What a record keeps of the prior, the operator and the image of a cell."""
    return {n: asdict(i) for n, i in zip(("prior", "operator", "image"), cell.is_of, strict=True)}


def stands(cell: Cell, record: Mapping[str, Any]) -> bool:
    """Whether a record of this key was made with priors, operators and images that do what those of the cell do."""
    kept = record.get("is_of")
    try:
        return all(
            identity.is_like(kept[name]["values"])
            for name, identity in zip(("prior", "operator", "image"), cell.is_of, strict=True)
        )
    except (KeyError, TypeError):
        return False


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread for the block: what is computed with several differs in the last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=2)
def prior_of(spec: str, size: tuple[int, ...] | None, rescale: tuple[float, float], device: str) -> tuple[Prior, Identity]:
    """A prior and its identity: its file or its options, its shape, its units and the code of its classes."""
    prior = prepared(spec, size, rescale, device)
    name = fingerprint.of_spec(spec, prior, _weights(spec))
    name = fingerprint.digest([name, list(prior.shape), list(rescale)])
    return prior, Identity(name, identity.of_prior(prior))


def _weights(spec: str) -> Path | None:
    """The file or folder that the spec of a prior stands for, as `invgen.names.resolve.prior` reads it."""
    name, shipped = spec.partition("(")[0].strip(), priors_by_name()
    if os.path.isfile(spec) or (os.path.isdir(spec) and spec not in shipped):
        return Path(spec)
    return WEIGHTS / f"{name}.safetensors" if name in shipped else None


@lru_cache(maxsize=16)
def operator_of(
    spec: str, shape: tuple[int, ...], value_range: tuple[float, float], device: str
) -> tuple[Operator, Identity]:
    """An operator on signals of a shape and a range, and its identity: its options and the code of its classes."""
    A = resolve.operator(spec, shape).to(torch.device(device))
    return A, Identity(fingerprint.of_spec(spec, A), identity.of_operator(A, value_range))


sampler_of = lru_cache(maxsize=64)(methods.method)  # samplers are frozen
noise_of = lru_cache(maxsize=64)(resolve.noise)


def forget() -> None:
    """Drops what is kept, so that files and weights are read anew."""
    for kept in (prior_of, operator_of, sampler_of, noise_of, pictures.signal_of):
        kept.cache_clear()
    fingerprint.forget_files()


# -- the work ------------------------------------------------------------------------------------------------------------


def problem_of(cell: Cell) -> tuple[Posterior, Tensor]:
    """The posterior that a cell asks for, and the true image.

    Raises:
        FileError: the prior, the operator or the image is not the one that the suite was expanded with.
    """
    prior, of_prior = prior_of(cell.prior, cell.size, cell.rescale, cell.device)
    A, of_operator = operator_of(cell.operator, tuple(prior.shape), tuple(prior.value_range), cell.device)
    of_image = pictures.identity_of(cell.source, prior, of_prior.name)
    said = (f"prior {cell.prior}", f"operator {cell.operator}", f"image {cell.source}")
    for what, here, expected in zip(said, (of_prior, of_operator, of_image), cell.is_of, strict=True):
        if here.name != expected.name:
            raise FileError(f"the {what} has changed since the run began; start it again")
        if not here.is_like(expected.values):
            raise FileError(
                f"the {what} gives other values than where the run began: other weights, or other versions of the packages "
                "that make it; use the same everywhere and start the run again"
            )
    truth = pictures.truth_of(cell.source, prior)
    with torch.no_grad():
        clean = A(truth)
        # drawn on the CPU, so that every device sees the same measurement
        law = noise_of(cell.noise)
        y = law.sample(clean.cpu(), torch.Generator().manual_seed(cell.noise_seed))
    return Posterior(prior, A, law.to(clean.device), y.to(clean.device)), truth


def compute(cells: Sequence[Cell]) -> "list[tuple[dict[str, Any], dict[str, np.ndarray]]]":
    """The record and the arrays of each of some cells that differ in the image alone. Raises whatever goes wrong in them.

    Several are computed by one call of the sampler, where it can take a seed for each measurement: the seconds are then
    shared out, and the samples are those of a cell alone up to the round-off of other sizes of batches.
    """
    first, begin = cells[0], time.perf_counter()
    if len(cells) > 1 and not _takes_seeds(sampler_of(first.sampler)):
        return [computed for cell in cells for computed in compute([cell])]
    if first.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(first.device)
    with _heard() as said:
        problems = [problem_of(cell) for cell in cells]
        results = _solved(cells, [post for post, _ in problems])
    shared, computed = (time.perf_counter() - begin) / len(cells), []
    for cell, result, (_, truth) in zip(cells, results, problems, strict=True):
        computed.append(_scored(cell, result, truth, said, shared))
    return computed


def _takes_seeds(sampler: Sampler) -> bool:
    """Whether a sampler leaves seeds and batches to the base class; one that has its own `__call__` may do anything."""
    return type(sampler).__call__ is Sampler.__call__


def _solved(cells: Sequence[Cell], posts: Sequence[Posterior]) -> list[Result]:
    """A result for each cell, of one call of the sampler."""
    first, sampler, cost = cells[0], sampler_of(cells[0].sampler), Cost()
    seeds = [cell.sampler_seed for cell in cells]
    alone = len(cells) == 1
    whole = posts[0] if alone else replace(posts[0], y=torch.stack([post.y for post in posts]))
    samples = sampler(whole, first.num_samples, seeds[0] if alone else seeds, max_batch=first.max_batch, cost=cost)
    samples = samples.reshape(first.num_samples, len(cells), *whole.prior.shape)
    cost.seconds /= len(cells)
    return [
        Result(samples[:, k], post, sampler, seed, cost.nfe, cost.seconds, cost=cost)
        for k, (post, seed) in enumerate(zip(posts, seeds, strict=True))
    ]


def _scored(
    cell: Cell, result: Result, truth: Tensor, said: Sequence[str], seconds: float
) -> "tuple[dict[str, Any], dict[str, np.ndarray]]":
    begin = time.perf_counter()
    with _heard() as also_said, torch.no_grad():
        warn_unexplained(result)
        values = {spec: scores.metric(spec)(result, truth) for spec in cell.metrics}
        calibration = curves.calibration(result, truth)
    arrays = _arrays(cell, result, truth)
    record = {
        "cell": cell.facts(),
        "kind": getattr(result.sampler, "kind", "sampler"),
        "metrics": values,
        "nfe": result.nfe,
        "seconds": round(result.seconds, 4),
        "cost": _cost(result, cell.device),
        "seconds_of_cell": round(seconds + time.perf_counter() - begin, 4),
        "made_by": {"sampler": repr(result.sampler)},
        "is_of": of_what(cell),
        "warnings": list(dict.fromkeys([*said, *also_said])),
        "environment": environment(cell.device),
    }
    if calibration is not None:
        record["calibration"] = calibration
    return record, arrays


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The warnings of the block, once it has ended."""
    sentences: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        yield sentences
    sentences += [str(w.message) for w in said]


def _cost(result: Result, device: str) -> dict[str, float]:
    """What was counted, per sample; on CUDA the most memory that its tensors took, in bytes."""
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
    """The git commit of a folder, with "-dirty" where files have changed since; "" where there is none."""
    try:
        command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def environment(device: str) -> dict[str, Any]:
    """Where and with what a cell was computed."""
    found = {"invgen": __version__, "torch": torch.__version__, "python": platform.python_version()}
    found |= {"commit": commit(os.getcwd()), "commit_of_invgen": commit(os.path.dirname(os.path.abspath(resolve.__file__)))}
    found |= {"host": socket.gethostname(), "threads": torch.get_num_threads(), "device": device}
    if device.startswith("cuda"):
        found["device"] = torch.cuda.get_device_name(device)
    return found | {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
