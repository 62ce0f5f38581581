"""A prior of signals that nobody has seen: training from measurements alone, by expectation maximisation.

Rozet, Andry, Lanusse & Louppe, "Learning diffusion priors from observations by expectation maximization" (NeurIPS 2024),
Algorithm 1. A Gaussian law is fitted to the measurements first (`fit_low_rank`). Then, round by round, every measurement
gets one sample of its posterior under the prior of the round before, and the denoiser is trained on these samples, from the
weights of the round before. Measurements must differ in what they leave out, or nothing tells the prior what that is.

    train_measured(y, [operators.Mask.random((1, 32, 32), 0.4, seed=k) for k in range(len(y))], 0.05, "runs/m", "digits")
"""

import copy
import csv
import dataclasses
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
from invgen.errors import OptionError, ShapeError
from invgen.files.writing import replace, require_writable
from invgen.forward import LinearOperator
from invgen.names import resolve
from invgen.noise import Gaussian
from invgen.numerics.precision import cast
from invgen.posterior import Posterior
from invgen.priors.load import load, read
from invgen.priors.recipes import RECIPES, Recipe
from invgen.priors.training.each import Each, real_rows
from invgen.priors.training.gaussian_em import fit_low_rank
from invgen.priors.training.log import Watch, save_sheet, sheet
from invgen.priors.training.loop import run
from invgen.priors.training.train import build, prepared
from invgen.priors.training.weights import calibrate
from invgen.priors.training.workers import Workers
from invgen.sampler import Sampler

SAMPLER = "MMPS(steps=24, iterations=1)"  # the paper's moment matching, one iteration a step as there
FITTED = 512  # measurements that the Gaussian is fitted to
RANK = 64  # of its covariance, as in the paper


class Drawn:
    """Views that are signals as they are: the samples of a round."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def batch(self, count: int, generator: Generator) -> Tensor:
        """Returns (count, *shape), drawn with replacement."""
        return self.x[torch.randint(len(self.x), (count,), generator=generator)]


def train_measured(
    y: Sequence[Tensor] | Tensor,
    operators: LinearOperator | Sequence[LinearOperator],
    noise: float,
    out: Path | str,
    recipe: str | Recipe | None = None,
    rounds: int = 8,
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
        steps, minutes: the limits of all rounds together. Where a round has no time to draw a sample for every measurement,
            the others keep theirs of the round before.
        batch, device, tensorboard, bfloat16, checkpoint_minutes: as of `train`; in bfloat16 the sampler runs as well.
        seed: of weights, draws and noise.
        resume: whether to go on with what lies in OUT.
        progress: whether to show bars.
        sampler: a sampler of the posterior for linear operators and Gaussian noise, or its name with options.
        value_range: of the signals, for a network by shape; it sets no bound.

    Raises:
        OptionError, ShapeError: measurements and operators that do not fit each other.
    """
    every = [operators] * len(y) if isinstance(operators, LinearOperator) else list(operators)
    _require_fit(y, every, noise)
    recipe = _recipe(recipe, every[0].in_shape, value_range, steps, batch, rounds)
    method, workers, out = resolve.sampler(sampler) if isinstance(sampler, str) else sampler, Workers(device), Path(out)
    if workers.count > 1:
        raise OptionError("training from measurements runs in one process; start it without `accelerate launch`")
    require_writable(out)
    bfloat16 = workers.device.type == "cuda" if bfloat16 is None else bfloat16
    path, clock = out / f"{recipe.name}.safetensors", _Clock(out / "rounds.csv", minutes, resume)
    denoiser: Denoiser | None = None
    for k in range(1, rounds + 1):
        done = out / f"round{k:02}.safetensors"
        if resume and done.exists():
            continue
        if k > 1:
            before = load(out / f"round{k - 1:02}.safetensors").to(workers.device)
            denoiser = cast(before) if bfloat16 else before
        elif denoiser is None:
            denoiser = _gaussian(y, every, noise, recipe, seed, progress)
        draws, share = out / f"draws{k:02}.npy", clock.share(rounds - k + 1)
        x = _draw(denoiser, y, every, noise, method, draws, seed + k * 2**32, share and share / 2, checkpoint_minutes,
                  resume, progress, f"draws {k} of {rounds}")  # fmt: skip
        trained = _fit(x, recipe, k, path, out, workers, seed, clock.share(rounds - k + 1), checkpoint_minutes, resume,
                       tensorboard, progress, bfloat16)  # fmt: skip
        replace(done, lambda temporary: temporary.write_bytes(path.read_bytes()))
        save_sheet(sheet(load(done)), out / f"round{k:02}.png")
        clock.end(k, trained, x)
        for left in (out / f"checkpoint{k:02}.pt", out / f"draws{k - 1:02}.npy"):
            left.unlink(missing_ok=True)
    return path


def _draw(
    prior: Denoiser,
    y: Sequence[Tensor] | Tensor,
    operators: Sequence[LinearOperator],
    noise: float,
    sampler: Sampler,
    path: Path,
    seed: int,
    seconds: float | None,
    checkpoint_minutes: float,
    resume: bool,
    progress: bool,
    name: str,
    together: int = 64,
) -> Tensor:
    """Returns one posterior sample a measurement, (N, *shape); `path` keeps those that are drawn, nan where none is yet.

    Within `seconds`, in random order; those that are left have their sample of the round before, if there is one.
    """
    shape, before = operators[0].in_shape, path.with_name(f"draws{int(path.stem[-2:]) - 1:02}.npy")
    x = np.load(path) if resume and path.exists() else np.full((len(y), *shape), np.nan, np.float32)
    order = torch.randperm(len(y), generator=Generator().manual_seed(seed)).numpy()
    missing = np.isnan(x.reshape(len(x), -1)).any(1)
    todo = order[missing[order]]
    started = saved = time.monotonic()
    with tqdm(total=len(y), initial=len(y) - len(todo), disable=not progress, desc=name, mininterval=5, leave=False) as bar:
        for part in np.split(todo, range(together, len(todo), together)) if len(todo) else []:
            now = time.monotonic()
            if now - saved > 60 * checkpoint_minutes:
                _save(path, x)
                saved = now
            if seconds is not None and now - started > seconds and before.exists():
                break
            post = posterior(prior, [y[int(i)] for i in part], [operators[int(i)] for i in part], noise)
            drawn = sampler(post, 1, [seed + int(i) for i in part])[0]
            x[part] = drawn.cpu().numpy()
            bar.update(len(part))
    missing = np.isnan(x.reshape(len(x), -1)).any(1)
    if missing.any():
        x[missing] = np.load(before)[missing]
    _save(path, x)
    return torch.from_numpy(x)


def posterior(
    prior: Denoiser, y: Sequence[Tensor] | Tensor, operators: Sequence[LinearOperator], noise: float
) -> Posterior[Denoiser, Each, Gaussian]:
    """Returns the posterior of a batch of measurements, each by its own operator."""
    A = Each(operators)
    rows = torch.zeros(len(operators), *A.out_shape)
    for row, A_i, y_i in zip(rows, operators, y, strict=True):
        values = real_rows(A_i, y_i[None])[0]
        row[: len(values)] = values
    return Posterior(prior, A.to(prior.device), noise, rows.to(prior.device))


def _fit(
    x: Tensor,
    recipe: Recipe,
    k: int,
    path: Path,
    out: Path,
    workers: Workers,
    seed: int,
    seconds: float | None,
    checkpoint_minutes: float,
    resume: bool,
    tensorboard: bool,
    progress: bool,
    bfloat16: bool,
) -> int:
    """Trains on the samples of round k from the weights of the round before, writes `path`, and returns the steps."""
    views, watch = Drawn(x), Watch(out, tensorboard)
    denoiser = build(recipe, Drawn(x), seed)
    if k > 1:  # the same units as the network that goes on
        before = load(out / f"round{k - 1:02}.safetensors")
        denoiser.data_mean, denoiser.data_std = before.data_mean, before.data_std
        denoiser.net.load_state_dict({n: t.float() for n, t in read(out / f"round{k - 1:02}.safetensors")[0].items()})
    denoiser = denoiser.to(workers.device)
    if denoiser.net.dims == 2:
        denoiser.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (torch does not type it)
    averaged = copy.deepcopy(denoiser).requires_grad_(False).eval()
    about: dict[str, Any] = {"seed": seed, "sources": [{"name": "measurements", "count": len(x)}], "round": k}
    training = prepared(recipe, denoiser, averaged, views, None, about, path, workers, bfloat16)
    training = dataclasses.replace(training, name=f"{recipe.name} {k}")
    minutes = None if seconds is None else seconds / 60
    times = (minutes, seed + k, resume, checkpoint_minutes, math.inf, progress)
    step = run(training, out / f"checkpoint{k:02}.pt", workers, watch, *times)
    watch.close()
    calibrate(path, views.batch(64, Generator().manual_seed(1)))
    return step


def _gaussian(
    y: Sequence[Tensor] | Tensor, operators: Sequence[LinearOperator], noise: float, recipe: Recipe, seed: int, bar: bool
) -> Denoiser:
    """Returns the Gaussian prior of the first round, fitted to at most 512 of the measurements."""
    chosen = torch.randperm(len(y), generator=Generator().manual_seed(seed))[:FITTED].sort().values.tolist()
    few = [y[i] for i in chosen], [operators[i] for i in chosen]
    levels = {"sigma_min": recipe.sigma_min, "sigma_max": recipe.sigma_max}
    return fit_low_rank(*few, noise, rank=RANK, progress=bar, **levels)[0].float()


class _Clock:
    """The time of a run: that of the rounds that have ended, by their log, and that of this process."""

    def __init__(self, path: Path, minutes: float | None, resume: bool) -> None:
        self.path, self.minutes, self.started, self.before = path, minutes, time.monotonic(), 0.0
        if not resume:
            path.unlink(missing_ok=True)
        if path.exists():
            rows = list(csv.DictReader(path.read_text().splitlines()))
            self.before = 60 * float(rows[-1]["minutes"]) if rows else 0.0

    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.started

    def share(self, rounds: int) -> float | None:
        """Returns the seconds that are left for each of so many rounds."""
        return None if self.minutes is None else max(60 * self.minutes - self.elapsed(), 1.0) / rounds

    def end(self, k: int, steps: int, x: Tensor) -> None:
        """Writes a row for a round."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(["round", "minutes", "steps", "mean", "std"])
            rows.writerow([k, f"{self.elapsed() / 60:.3f}", steps, f"{x.mean().item():.5g}", f"{x.std().item():.5g}"])


def _save(path: Path, x: np.ndarray) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, x)

    replace(path, write)


def _recipe(
    recipe: str | Recipe | None,
    shape: torch.Size,
    value_range: tuple[float, float],
    steps: int | None,
    batch: int | None,
    rounds: int,
) -> Recipe:
    """Returns the recipe of one round."""
    if isinstance(recipe, str) and recipe not in RECIPES:
        raise OptionError(f"unknown recipe '{recipe}'; there are: {', '.join(RECIPES)}")
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe or network_for(shape, value_range)
    if tuple(recipe.shape) != tuple(shape):
        raise ShapeError(f"recipe '{recipe.name}' is for signals {recipe.shape}, the operators take {tuple(shape)}")
    if rounds < 1:
        raise OptionError(f"rounds must be at least 1, got {rounds}")
    each = max(1, round((steps or recipe.steps) / rounds))
    return dataclasses.replace(recipe, steps=each, batch=batch or recipe.batch, classes=0, vector=0)


def network_for(shape: Sequence[int], value_range: tuple[float, float] = (-1.0, 1.0)) -> Recipe:
    """Returns a recipe by the shape of signals, (C, H, W) or (C, L), whose sides are multiples of 8."""
    if len(shape) not in (2, 3) or any(n % 8 for n in shape[1:]):
        raise OptionError(f"a network takes signals (C, H, W) or (C, L) with sides in multiples of 8, got {tuple(shape)}")
    side = max(shape[1:]) if len(shape) == 3 else max(shape[1:]) // 16
    widths, blocks, fold = (
        ((48, 64, 88), 1, 2) if side <= 32 else ((64, 96, 128), 2, 2) if side <= 64 else ((64, 96, 160), 2, 4)
    )
    levels = {"log_sigma_mean": -0.6, "log_sigma_std": 1.6, "embedding": 64}
    return Recipe(
        "own", tuple(shape), widths, blocks, fold, "of the measured signals", batch=32, value_range=value_range, **levels
    )


def _require_fit(y: Sequence[Tensor] | Tensor, operators: Sequence[LinearOperator], noise: float) -> None:
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
