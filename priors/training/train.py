"""Training of denoisers: EDM's loss, AdamW, averaged weights, checkpoints that survive a kill.

    train("photo", "runs/photo", data=["BSDS500", "wallpapers"], minutes=120)
    train(None, "runs/own", data="my/pictures")

writes into the folder checkpoint.pt (to resume from), NAME.safetensors (to load with `invgen.priors.load`), log.csv and
samples.png.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from invgen.files.writing import require_writable
from invgen.priors.checkpoints.networks.unet import EDMDenoiser
from invgen.priors.data.folders import recipe_for
from invgen.priors.data.views import Views, open_views, signals
from invgen.priors.load import origin
from invgen.priors.recipes import RECIPES, Recipe, chosen
from invgen.priors.training.initial import build, continued, require_same_start
from invgen.priors.training.log import Watch
from invgen.priors.training.loop import Training, run
from invgen.priors.training.weights import calibrate, export
from invgen.priors.training.workers import Workers


def draw_sigma(recipe: Recipe, count: int, generator: Generator) -> Tensor:
    """Returns (count,) noise levels, one from each of `count` equal parts of their distribution, which steadies the
    gradient."""
    u = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    low, high = math.log(recipe.sigma_min), math.log(recipe.sigma_max)
    normal = recipe.log_sigma_mean + recipe.log_sigma_std * torch.special.ndtri(((u - 0.1) / 0.9).clamp(1e-4, 1 - 1e-4))
    uniform = low + (high - low) * (u / 0.1).clamp(0, 1)
    return torch.where(u < 0.1, uniform, normal.clamp(low, high)).exp()


def loss(denoiser: EDMDenoiser, clean: Tensor, sigma: Tensor, noise: Tensor, *given: Tensor) -> Tensor:
    """Returns the mean of |D(x0 + sigma eps, sigma) - x0|^2 / c_out^2: unit targets (Karras et al., 2022, Table 1).

    Args:
        denoiser: D.
        clean: x0, (B, *shape).
        sigma: (B,).
        noise: eps, (B, *shape).
        given: the class of each signal, its vector, or both, for a conditional denoiser.
    """
    s = sigma.view(-1, *[1] * (clean.ndim - 1))
    condition = (given,) if len(given) > 1 else given
    error = denoiser(clean + s * noise, sigma, *condition) - clean
    return (error.square() * (s**2 + denoiser.data_std**2) / (s * denoiser.data_std) ** 2).mean()


def draw(recipe: Recipe, views: Views, generator: Generator) -> tuple[Tensor, ...]:
    """Returns the inputs of `loss` for one batch: clean, sigma, noise, and labels and vectors, some of each left out."""
    batch = views.batch(recipe.batch, generator)
    clean, *given = batch if isinstance(batch, tuple) else (batch,)
    noise = torch.randn(clean.shape, generator=generator)
    sigma = draw_sigma(recipe, recipe.batch, generator)
    for k, known in enumerate(given):
        left_out = torch.rand(len(known), generator=generator) < recipe.drop_label
        given[k] = known.masked_fill(left_out.view(-1, *[1] * (known.ndim - 1)), recipe.classes if known.ndim == 1 else 0)
    return clean, sigma, noise, *given


def denoising(denoiser: EDMDenoiser, done: float, *drawn: Tensor) -> Tensor:
    """Returns `loss` as the objective of a training, which is the same from its begin to its end."""
    return loss(denoiser, *drawn)


def prepared(
    recipe: Recipe,
    denoiser: EDMDenoiser,
    views: Views,
    held_out: Views | None,
    about: dict[str, Any],
    path: Path,
    workers: Workers,
    bfloat16: bool,
    objective: Callable[..., Tensor] = denoising,
) -> tuple[Training, EDMDenoiser]:
    """Returns the training of a denoiser on views, which writes its averaged weights to `path`, and the averaged denoiser.

    Args:
        recipe: its steps and rates.
        denoiser: what is trained.
        views: to train on.
        held_out: views whose loss is logged, if any.
        about: facts of the training for the weights file.
        path: of the weights file.
        workers: the processes.
        bfloat16: whether the network runs in bfloat16 autocast.
        objective: the loss of a denoiser, given how much of the training is over, from 0 to 1, and a batch of `draw`.
    """
    device = workers.device
    denoiser = denoiser.to(device)
    if denoiser.net.dims == 2:  # a tenth faster
        denoiser.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (torch does not type it)
    averaged = copy.deepcopy(denoiser).requires_grad_(False).eval()
    watched = draw(dataclasses.replace(recipe, batch=32), held_out, Generator().manual_seed(1)) if held_out else None

    def objectives(generator: Generator, done: float) -> Iterator[Tensor]:
        drawn = draw(recipe, views, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            value = objective(denoiser, done, *(t.to(device, non_blocking=True) for t in drawn))
        yield value

    def save(step: int, elapsed: float) -> None:
        facts = {"recipe": dataclasses.asdict(recipe), "steps": step, "minutes": round(elapsed / 60, 1)}
        facts |= {"device": device.type, "torch": torch.__version__, "bfloat16": bfloat16} | about
        export(denoiser, dict(averaged.net.named_parameters()), facts, path)

    def held_out_loss() -> float:
        assert watched is not None  # else it is not passed on
        return objective(averaged, 1.0, *(t.to(device) for t in watched)).item()

    rates = {"lr": recipe.learning_rate, "betas": (0.9, 0.99), "weight_decay": 0.01}
    training = Training(
        recipe.name,
        recipe.steps,
        recipe.learning_rate,
        recipe.warmup,
        recipe.average,
        recipe.clip,
        denoiser.net,
        averaged.net,
        [torch.optim.AdamW(denoiser.net.parameters(), **rates, fused=device.type in ("cpu", "cuda"))],
        objectives,
        save,
        held_out_loss if watched is not None else None,
    )
    return training, averaged


def train(
    recipe: str | Recipe | None,
    out: Path | str,
    data: Sequence[Path | str] | Path | str = (),
    steps: int | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    seed: int = 0,
    resume: bool = True,
    device: str | torch.device = "cpu",
    checkpoint_minutes: float = 3.0,
    sheet_minutes: float = 15.0,
    tensorboard: bool = False,
    progress: bool = True,
    bfloat16: bool | None = None,
    init: Path | str | None = None,
) -> Path:
    """Trains a prior and returns the path of its weights, OUT/NAME.safetensors (also written at every checkpoint).

    The learning rate warms up, then falls as a cosine to zero as the larger of step/steps and elapsed/minutes goes from 0
    to 1, so either may end the run; the time spent before an interruption counts. Ctrl-C ends the step, saves, and raises
    KeyboardInterrupt with a sentence that says so; a second one ends at once. At every checkpoint OUT/log.csv gets a row:
    the loss, and that of held-out views under the averaged weights. After every epoch (as many views as there are signals)
    that ends `sheet_minutes` or more after the last sheet, and at the end, OUT/samples.png is drawn.
    Several GPUs: `accelerate launch -m invgen train ...`.

    Args:
        recipe: one of `RECIPES`, by name, or None for the one that fits a folder of your own (`folders.recipe_for`).
        out: the folder for weights, checkpoint, log and samples.
        data: folders; docs/data.md lists what a recipe reads.
        steps, minutes: the limits of the run; the recipe's steps by default.
        batch: views a step of each process; the recipe's by default.
        seed: of weights, views and noise.
        resume: whether to continue OUT/checkpoint.pt if there; the result of a run limited by steps is then the same, bit
            for bit on the CPU, as without the interruption.
        device: of torch.
        checkpoint_minutes, sheet_minutes: the least time between checkpoints, and between sheets of samples.
        tensorboard: whether to write logs to OUT/tensorboard as well.
        progress: whether to show a bar.
        bfloat16: whether the network runs in bfloat16 autocast, weights staying float32; by default on CUDA. A CPU with
            AVX512-BF16 or AMX trains 1.7 times faster so, others slower.
        init: a prior whose weights the training starts from (fine-tuning), by its name or file; with its network, at half
            the recipe's rate. Random weights by default.
    """
    folders = [data] if isinstance(data, (str, Path)) else list(data)
    recipe = recipe_for(folders) if recipe is None else chosen(recipe, RECIPES)
    recipe = dataclasses.replace(recipe, steps=steps or recipe.steps, batch=batch or recipe.batch)
    begun = None if init is None else continued(recipe, init)
    recipe = recipe if begun is None else begun[0]
    views, held_out, sources = open_views(recipe, folders)
    workers = Workers(device)
    out, device = Path(out), workers.device
    bfloat16 = device.type == "cuda" if bfloat16 is None else bfloat16
    require_writable(out)
    watch = Watch(out, tensorboard) if workers.rank == 0 else None

    denoiser = build(recipe, views, seed) if begun is None else begun[1]
    path = out / f"{recipe.name}.safetensors"
    facts = {"seed": seed, "sources": sources, "processes": workers.count}
    start = None if init is None else origin(init)
    facts |= {} if start is None else {"init": start}
    if resume and (out / "checkpoint.pt").exists():
        require_same_start(path, start)
    training, averaged = prepared(recipe, denoiser, views, held_out, facts, path, workers, bfloat16)
    signals_trained_on = sum(s["count"] for s in sources if not s["name"].endswith("held out"))
    training = dataclasses.replace(
        training,
        sheet=None if watch is None else lambda step: watch.samples(step, averaged),
        epoch=math.ceil(signals_trained_on / (recipe.batch * workers.count)),
    )
    times = (minutes, seed, resume, checkpoint_minutes, sheet_minutes)
    step = run(training, out / "checkpoint.pt", workers, watch, *times, progress)
    if watch is not None:
        calibrate(path, signals(views, 64, 1))
        watch.samples(step, averaged)
        watch.close()
    return path
