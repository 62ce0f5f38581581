"""One cell of a suite: an image measured, reconstructed and scored. What it needs is made once in each process and kept."""

import os
import platform
import socket
import subprocess
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invgen import __version__, names
from invgen.benchmarks import fingerprint, pictures, scores
from invgen.diffusion import Prior
from invgen.errors import FileError, OptionError
from invgen.forward import Operator
from invgen.inference import Result, solve
from invgen.posterior import Posterior
from invgen.reconstruct import prepared

try:
    from invgen.benchmarks import curves
except ImportError:
    curves = None

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
        image_hash, prior_hash: of the image in the prior's units and of the prior, seen when the suite was expanded.
        noise_seed, sampler_seed: from the seed and the image, so that every sampler sees the same measurement, and a result
            does not depend on what else is in the suite.
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
    image_hash: str
    prior_hash: str
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
        return {name: value for name, value in asdict(self).items() if name in shown}


@lru_cache(maxsize=2)
def prior_of(spec: str, size: tuple[int, ...] | None, rescale: tuple[float, float], device: str) -> tuple[Prior, str]:
    """A prior and its fingerprint: tables and weights, facts, and the code of its classes."""
    prior = prepared(spec, size, rescale, device)
    return prior, fingerprint.of_spec(spec, prior)


@lru_cache(maxsize=16)
def operator_of(spec: str, shape: tuple[int, ...], device: str) -> tuple[Operator, str]:
    """An operator and its fingerprint."""
    A = names.operator(spec, shape)
    return A.to(torch.device(device)), fingerprint.of_spec(spec, A)


def forget() -> None:
    """Drops what is kept, so that files and weights are read anew."""
    for kept in (prior_of, operator_of, pictures.signal_of):
        kept.cache_clear()


# -- the work ------------------------------------------------------------------------------------------------------------


def problem_of(cell: Cell) -> tuple[Posterior, Tensor]:
    """The posterior that a cell asks for, and the true image.

    Raises:
        FileError, OptionError: the image or the prior are not those that the suite was expanded with.
    """
    prior, found = prior_of(cell.prior, cell.size, cell.rescale, cell.device)
    if found != cell.prior_hash:
        raise OptionError(f"the prior {cell.prior} has changed since the run began; start it again")
    truth = pictures.truth_of(cell.source, prior)
    if fingerprint.of_tensor(truth) != cell.image_hash:
        raise FileError(f"the image {cell.source} has changed since the run began; start it again")
    A, _ = operator_of(cell.operator, tuple(prior.shape), cell.device)
    with torch.no_grad():
        clean = A(truth)
        # drawn on the CPU, so that every device sees the same measurement
        y = names.noise(cell.noise).sample(clean.cpu(), torch.Generator().manual_seed(cell.noise_seed))
    return Posterior(prior, A, names.noise(cell.noise).to(clean.device), y.to(clean.device)), truth


def compute(cell: Cell) -> tuple[dict[str, Any], "dict[str, np.ndarray]"]:
    """The record and the arrays of a cell. Raises whatever goes wrong in it."""
    begin = time.perf_counter()
    if cell.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(cell.device)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        post, truth = problem_of(cell)
        options = {"num_samples": cell.num_samples, "seed": cell.sampler_seed, "max_batch": cell.max_batch}
        result = solve(post.y, post.A, post.prior, post.noise, names.sampler(cell.sampler), **options)
        with torch.no_grad():
            values = {spec: scores.metric(spec)(result, truth) for spec in cell.metrics}
        calibration = curves.calibration(result, truth) if curves is not None else None
    arrays = _arrays(cell, result, truth)
    record = {
        "cell": cell.facts(),
        "kind": getattr(result.sampler, "kind", "sampler"),
        "metrics": values,
        "nfe": result.nfe,
        "seconds": round(result.seconds, 4),
        "cost": _cost(result, cell.device),
        "seconds_of_cell": round(time.perf_counter() - begin, 4),
        "made_by": {"sampler": repr(result.sampler), "prior": cell.prior_hash, "image": cell.image_hash},
        "warnings": list(dict.fromkeys(str(w.message) for w in said)),
        "environment": environment(cell.device),
    }
    if calibration is not None:
        record["calibration"] = calibration
    return record, arrays


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
    found |= {"commit": commit(os.getcwd()), "commit_of_invgen": commit(os.path.dirname(os.path.abspath(names.__file__)))}
    found |= {"host": socket.gethostname(), "threads": torch.get_num_threads(), "device": device}
    if device.startswith("cuda"):
        found["device"] = torch.cuda.get_device_name(device)
    return found | {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
