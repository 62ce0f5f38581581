"""A prior of signals that nobody has seen: training from measurements alone, by expectation maximisation.

Rozet, Andry, Lanusse & Louppe, "Learning diffusion priors from observations by expectation maximization" (NeurIPS 2024),
Algorithm 1. A Gaussian law is fitted to the measurements first (`fit_low_rank`). Then, round by round, every measurement
gets one sample of its posterior under the prior of the round before, and the denoiser is trained on these samples, from the
weights of the round before. Measurements must differ in what they leave out, or nothing tells the prior what that is.

    train_measured(y, [operators.Mask.random((1, 32, 32), 0.4, seed=k) for k in range(len(y))], 0.05, "runs/m", "digits")
"""

import csv
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from tqdm.auto import tqdm

from invgen.diffusion import Denoiser
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.files.writing import replace, require_writable, write_text
from invgen.forward import LinearOperator
from invgen.names import resolve
from invgen.numerics.precision import cast
from invgen.priors.data.folders import digest
from invgen.priors.laws.exact import GaussianPrior
from invgen.priors.load import load
from invgen.priors.recipes import RECIPES, Recipe, chosen, network_for
from invgen.priors.training.each import posterior
from invgen.priors.training.gaussian_em import fit_low_rank
from invgen.priors.training.initial import build, from_weights
from invgen.priors.training.log import Watch, save_sheet, sheet
from invgen.priors.training.loop import run
from invgen.priors.training.train import prepared
from invgen.priors.training.weights import calibrate
from invgen.priors.training.workers import Workers
from invgen.sampler import Sampler

SAMPLER = "MMPS(steps=16, iterations=1)"  # the paper's moment matching, one iteration a step as there
FITTED = 512  # measurements that the Gaussian is fitted to
RANK = 64  # of its covariance, as in the paper
Measurements = Sequence[Tensor] | Tensor


@dataclasses.dataclass(frozen=True)
class _Run:
    """The arguments of `train_measured` in the form that the rounds use."""

    y: Measurements
    operators: Sequence[LinearOperator]
    noise: float
    out: Path
    recipe: Recipe  # of one round
    sampler: Sampler
    workers: Workers
    seed: int
    resume: bool
    checkpoint_minutes: float
    tensorboard: bool
    progress: bool
    bfloat16: bool

    def file(self, name: str, k: int, suffix: str) -> Path:
        """Returns the path of a file of round k."""
        return self.out / f"{name}{k:02}.{suffix}"


class Drawn:
    """Views that are signals as they are: the samples of a round."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def batch(self, count: int, generator: Generator) -> Tensor:
        """Returns (count, *shape), drawn with replacement."""
        return self.x[torch.randint(len(self.x), (count,), generator=generator)]


def train_measured(
    y: Measurements,
    operators: LinearOperator | Sequence[LinearOperator],
    noise: float,
    out: Path | str,
    recipe: str | Recipe | None = None,
    rounds: int = 16,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    seed: int = 0,
    resume: bool = True,
    device: str | torch.device = "cpu",
    checkpoint_minutes: float = 3.0,
    tensorboard: bool = False,
    progress: bool = True,
    bfloat16: bool | None = None,
    sampler: Sampler | str = SAMPLER,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Path:
    """Trains a prior from measurements alone and returns the path of its weights, OUT/NAME.safetensors.

    OUT/roundNN.safetensors and .png are the prior after each round and a sheet of its samples, OUT/rounds.csv has a row for
    each. After an interruption, of any kind, the same call goes on: from the last draws or the last checkpoint.

    Args:
        y: the measurements, (N, *out_shape), or N tensors of (*out_shape) where they differ.
        operators: one for all, or one for each; the same object where several share it.
        noise: standard deviation of their Gaussian noise, in the units of y.
        out: the folder of the run.
        recipe: the network and its training, one of `RECIPES` by name, whose labels are left aside; by default one for the
            shape that the operators take.
        rounds: after the Gaussian; each takes an equal share of `steps` and `minutes`.
        steps, minutes: the limits of all rounds together. Where a round has no time to draw for every measurement, the
            others keep their sample of the round before, or are left out of the first.
        batch, device, tensorboard, bfloat16, checkpoint_minutes: as of `train`; in bfloat16 the sampler runs as well.
        seed: of weights, draws and noise.
        resume: whether to go on with what lies in OUT; if not, it is removed.
        progress: whether to show bars.
        sampler: a sampler of the posterior for linear operators and Gaussian noise, or its name with options.
        value_range: of the signals, for a network by shape; it sets no bound.

    Raises:
        OptionError, ShapeError: measurements and operators that do not fit each other, or a run on others in OUT.
        UnsupportedError: a sampler that does not draw under an operator for each measurement.
    """
    every = [operators] * len(y) if isinstance(operators, LinearOperator) else list(operators)
    _require_fit(y, every, noise)
    each = _recipe(recipe, every[0].in_shape, value_range, steps, batch, rounds)
    method, workers, out = resolve.sampler(sampler) if isinstance(sampler, str) else sampler, Workers(device), Path(out)
    if workers.count > 1:
        raise OptionError("training from measurements runs in one process; start it without `accelerate launch`")
    bfloat16 = workers.device.type == "cuda" if bfloat16 is None else bfloat16
    options = (seed, resume, checkpoint_minutes, tensorboard, progress, bfloat16)
    em = _Run(y, every, noise, out, each, method, workers, *options)
    _require_sampler(em)
    require_writable(out)
    _require_same(em)
    path, clock = out / f"{each.name}.safetensors", _Clock(out / "rounds.csv", minutes)
    for k in range(1, rounds + 1):
        done, left = em.file("round", k, "safetensors"), rounds - k + 1
        if done.exists():
            continue
        prior = _before(em, k) if k > 1 else _gaussian(em, clock.share(left, 0.2))
        x = _draw(em, prior, k, clock.share(left, 0.5), f"draws {k} of {rounds}")
        trained = _fit(em, x, k, path, clock.share(left))
        clock.end(k, trained, x)
        save_sheet(sheet(load(path)), em.file("round", k, "png"))
        replace(done, lambda temporary: temporary.write_bytes(path.read_bytes()))  # last: the round is over where this lies
        for over in (em.file("checkpoint", k, "pt"), em.file("draws", k - 1, "npy")):
            over.unlink(missing_ok=True)
    return path


def _gaussian(em: _Run, seconds: float | None) -> Denoiser:
    """Returns the Gaussian prior of the first round, fitted to at most 512 of the measurements."""
    chosen = torch.randperm(len(em.y), generator=Generator().manual_seed(em.seed))[:FITTED].sort().values.tolist()
    few = [em.y[i] for i in chosen], [em.operators[i] for i in chosen]
    low, high = em.recipe.sigma_min, em.recipe.sigma_max
    options: dict[str, Any] = {"rank": RANK, "seconds": seconds, "progress": em.progress}
    prior, _ = fit_low_rank(*few, em.noise, sigma_min=low, sigma_max=high, **options)
    return prior.float().to(em.workers.device)


def _before(em: _Run, k: int) -> Denoiser:
    """Returns the prior of the round before k."""
    prior = load(em.file("round", k - 1, "safetensors")).to(em.workers.device)
    return cast(prior) if em.bfloat16 else prior


def _draw(em: _Run, prior: Denoiser, k: int, seconds: float | None, name: str) -> Tensor:
    """Returns one posterior sample a measurement, (N, *shape). Their file has nan where none is drawn yet.

    Within `seconds`, in random order; those that are left have their sample of the round before, or are left out.
    """
    path, before = em.file("draws", k, "npy"), em.file("draws", k - 1, "npy")
    shape, seed, started = em.recipe.shape, em.seed + k * 2**32, time.monotonic()
    x = np.load(path) if path.exists() else np.full((len(em.y), *shape), np.nan, np.float32)
    order = torch.randperm(len(x), generator=Generator().manual_seed(seed)).numpy()
    todo, saved, together = order[_missing(x)[order]], started, max(1, min(64, 2**20 // math.prod(shape)))
    with tqdm(
        total=len(x), initial=len(x) - len(todo), disable=not em.progress, desc=name, mininterval=5, leave=False
    ) as bar:
        for part in [todo[i : i + together].tolist() for i in range(0, len(todo), together)]:
            if (now := time.monotonic()) - saved > 60 * em.checkpoint_minutes:
                _save(path, x)
                saved = now
            if seconds is not None and now - started > seconds and not _missing(x).all():
                break
            post = posterior(prior, [em.y[i] for i in part], [em.operators[i] for i in part], em.noise)
            x[part] = em.sampler(post, 1, [seed + i for i in part])[0].cpu().numpy()
            bar.update(len(part))
    if before.exists() and (left := _missing(x)).any():
        x[left] = np.load(before)[left]
    _save(path, x)
    return torch.from_numpy(x[~_missing(x)])


def _missing(x: np.ndarray) -> np.ndarray:
    """Returns which of the samples (N, *shape) are not drawn, (N,)."""
    return np.isnan(x.reshape(len(x), -1)[:, 0])


def _save(path: Path, x: np.ndarray) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, x)

    replace(path, write)


def _fit(em: _Run, x: Tensor, k: int, path: Path, seconds: float | None) -> int:
    """Trains on the samples of round k from the weights of the round before, writes `path`, and returns the steps."""
    views, watch = Drawn(x), Watch(em.out, em.tensorboard)
    before = em.file("round", k - 1, "safetensors")
    denoiser = from_weights(em.recipe, before) if k > 1 else build(em.recipe, views, em.seed)
    about = {"seed": em.seed, "sources": [{"name": "measurements", "count": len(x)}], "round": k}
    training, _ = prepared(em.recipe, denoiser, views, None, about, path, em.workers, em.bfloat16)
    training = dataclasses.replace(training, name=f"{em.recipe.name} {k}")
    minutes = None if seconds is None else seconds / 60
    times = (minutes, em.seed + k, em.resume, em.checkpoint_minutes, math.inf, em.progress)
    step = run(training, em.file("checkpoint", k, "pt"), em.workers, watch, *times)
    watch.close()
    calibrate(path, views.batch(64, Generator().manual_seed(1)))
    return step


class _Clock:
    """The time of a run: that of the rounds that have ended, by their log, and that of this process."""

    def __init__(self, path: Path, minutes: float | None) -> None:
        self.path, self.minutes, self.started, self.before = path, minutes, time.monotonic(), 0.0
        if path.exists() and (rows := list(csv.DictReader(path.read_text().splitlines()))):
            self.before = 60 * float(rows[-1]["minutes"])

    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.started

    def share(self, rounds: int, part: float = 1.0) -> float | None:
        """Returns a part of the seconds that are left for each of so many rounds."""
        return None if self.minutes is None else part * max(60 * self.minutes - self.elapsed(), 1.0) / rounds

    def end(self, k: int, steps: int, x: Tensor) -> None:
        """Writes a row for a round, in place of one that an interruption may have left."""
        rows = self.path.read_text().splitlines() if self.path.exists() else []
        row = [k, f"{self.elapsed() / 60:.3f}", steps, f"{x.mean().item():.5g}", f"{x.std().item():.5g}"]
        lines = ["round,minutes,steps,mean,std", *rows[1:k], ",".join(map(str, row))]
        write_text(self.path, "\n".join(lines) + "\n")


def _recipe(
    recipe: str | Recipe | None,
    shape: torch.Size,
    value_range: tuple[float, float],
    steps: int | None,
    batch: int | None,
    rounds: int,
) -> Recipe:
    """Returns the recipe of one round."""
    recipe = network_for(shape, value_range) if recipe is None else chosen(recipe, RECIPES)
    if tuple(recipe.shape) != tuple(shape):
        raise ShapeError(f"recipe '{recipe.name}' is for signals {recipe.shape}, the operators take {tuple(shape)}")
    if rounds < 1:
        raise OptionError(f"rounds must be at least 1, got {rounds}")
    each = max(1, round((steps or recipe.steps) / rounds))
    return dataclasses.replace(recipe, steps=each, batch=batch or recipe.batch, classes=0, vector=0)


def _require_fit(y: Measurements, operators: Sequence[LinearOperator], noise: float) -> None:
    """Raises a ShapeError or an OptionError where measurements, operators and noise do not fit."""
    if len(y) != len(operators) or not len(y):
        raise ShapeError(
            f"{len(y)} measurements do not fit {len(operators)} operators, expected one for each, or one for all"
        )
    for k, (v, A) in enumerate(zip(y, operators, strict=True)):
        if not isinstance(A, LinearOperator):
            raise OptionError(f"training from measurements needs linear operators, got {type(A).__name__}")
        if tuple(v.shape) != tuple(A.out_shape):
            raise ShapeError(
                f"measurement {k} has shape {tuple(v.shape)}, expected {tuple(A.out_shape)} as its operator gives"
            )
        if not bool(torch.isfinite(torch.as_tensor(v)).all()):
            raise OptionError(f"measurement {k} has values that are not finite; leave it out")
    if not noise > 0:
        raise OptionError(f"the noise must have a positive standard deviation, got {noise}")


def _require_sampler(em: _Run) -> None:
    """Raises an UnsupportedError where the sampler refuses measurements with an operator each: before any work."""
    prior = GaussianPrior(em.recipe.shape)  # it stands for the denoisers of the rounds
    if why := em.sampler.refuses(posterior(prior, em.y[:2], em.operators[:2], em.noise)):
        raise UnsupportedError(
            f"{type(em.sampler).__name__} {why}; training from measurements takes a sampler such as {SAMPLER}"
        )


def _probe(operators: Sequence[LinearOperator]) -> float:
    """Returns a number that changes with the operators, or with their order: a weighted sum of |A_k v|^2 for one v."""
    v = torch.randn(1, *operators[0].in_shape, generator=Generator().manual_seed(0))
    known: dict[int, float] = {}
    for A in operators:
        if id(A) not in known:
            known[id(A)] = A(v.to(A.in_dtype)).abs().square().sum().item()
    return sum(known[id(A)] * (1 + k / len(operators)) for k, A in enumerate(operators))


def _require_same(em: _Run) -> None:
    """Notes in OUT/measured.json what the run is on; without `resume`, removes what lies there.

    Raises:
        OptionError: it is on other measurements, or of another network, than the one that lies there.
    """
    path, values = em.out / "measured.json", (torch.view_as_real(v) if v.is_complex() else v for v in em.y)
    about = {"measurements": len(em.y), "sha256": digest(v.cpu().contiguous().numpy().tobytes() for v in values)}
    about |= {"noise": em.noise, "recipe": em.recipe.name, "shape": list(em.recipe.shape), "widths": list(em.recipe.widths)}
    about["probe"] = _probe(em.operators)
    if not em.resume:
        for left in [
            p for name in ("round??.*", "draws??.npy", "checkpoint??.pt", "rounds.csv") for p in em.out.glob(name)
        ]:
            left.unlink(missing_ok=True)
    elif path.exists():
        before = json.loads(path.read_text())
        same = math.isclose(before.pop("probe", math.nan), about["probe"], rel_tol=1e-4)  # rounding differs by processor
        if not same or before != {name: value for name, value in about.items() if name != "probe"}:
            raise OptionError(
                f"{em.out} has a run on other measurements, or of other operators: pass resume=False (--no-resume) or "
                "another folder"
            )
    write_text(path, json.dumps(about) + "\n")
