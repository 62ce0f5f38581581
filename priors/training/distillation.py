"""Consistency distillation: a denoiser becomes a network that jumps to the end of its probability flow.

distil("digits-consistency", "runs/digits-consistency", data="data/digits", minutes=40)

Song et al., "Consistency models" (ICML 2023), Algorithm 2, from the teacher's weights, with what Song & Dhariwal (ICLR
2024) found better: the pseudo-Huber loss, the weight 1 / (t - r), no average of the weights in the target, and a number
of noise levels that grows.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from invgen.files.writing import require_writable
from invgen.priors.checkpoints.networks.unet import EDMDenoiser
from invgen.priors.data.views import open_views
from invgen.priors.load import load
from invgen.priors.recipes import DISTILLED, Distillation, chosen
from invgen.priors.training.initial import from_weights
from invgen.priors.training.log import Watch
from invgen.priors.training.loop import run
from invgen.priors.training.train import prepared
from invgen.priors.training.workers import Workers

RHO = 7.0  # levels are even in sigma^(1 / 7) (Karras et al., 2022, equation 5)


def level_below(recipe: Distillation, sigma: Tensor, done: float) -> Tensor:
    """Returns (B,) the level that follows each of `sigma` where the range has N levels; 0 follows the lowest ones.

    N grows from `recipe.levels[0]` to `recipe.levels[1]`, in equal ratios, as `done` goes from 0 to 1.
    """
    first, last = recipe.levels
    count = first * (last / first) ** done
    gap = (recipe.sigma_max ** (1 / RHO) - recipe.sigma_min ** (1 / RHO)) / count
    return (sigma ** (1 / RHO) - gap).clamp_min(0) ** RHO


def loss(
    student: EDMDenoiser, teacher: EDMDenoiser, clean: Tensor, high: Tensor, low: Tensor, noise: Tensor, *label: Tensor
) -> Tensor:
    """Returns the mean of (sqrt(|f(x_t, t) - f(x_r, r)|^2 + c^2) - c) / (t - r), without a gradient through f(x_r, r).

    x_t = x_0 + t noise, and x_r is where one step of Heun's method along the teacher's probability flow leads.
    c = .00054 sqrt(d) for signals of d values (Song & Dhariwal, 2024, section 3.3).

    Args:
        student: f.
        teacher: its denoiser.
        clean: x_0, (B, *shape).
        high, low: t and r, (B,).
        noise: (B, *shape).
        label: the class of each signal, for a conditional denoiser.
    """
    t, r = (s.view(-1, *[1] * (clean.ndim - 1)) for s in (high, low))
    x = clean + t * noise
    with torch.no_grad():
        slope = (x - teacher(x, high, *label)) / t
        x_r = x + (r - t) * slope
        least = r.clamp_min(teacher.sigma_min)  # the slope is not known at 0
        at = x + (least - t) * slope
        second = (at - teacher(at, least.flatten(), *label)) / least
        x_r = torch.where(r > 0, x + (r - t) * (slope + second) / 2, x_r)
        target = student(x_r, low, *label)
    c = 0.00054 * math.sqrt(clean[0].numel())
    distance = ((student(x, high, *label) - target).square().flatten(1).sum(1) + c**2).sqrt() - c
    return (distance / (high - low)).mean()


def distil(
    recipe: str | Distillation,
    out: Path | str,
    data: Sequence[Path | str] | Path | str,
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
) -> Path:
    """Distils a shipped denoiser into a consistency function and returns the path of its weights.

    Files as of `train.train`.

    Args:
        recipe: one of `DISTILLED`, by name.
        out, data, steps, minutes, batch, seed, resume, device, checkpoint_minutes, tensorboard, progress, bfloat16: as for
            `train.train`.
    """
    recipe = chosen(recipe, DISTILLED)
    recipe = dataclasses.replace(recipe, steps=steps or recipe.steps, batch=batch or recipe.batch)
    views, held_out, sources = open_views(recipe, [data] if isinstance(data, (str, Path)) else list(data))
    workers = Workers(device)
    out, device = Path(out), workers.device
    bfloat16 = device.type == "cuda" if bfloat16 is None else bfloat16
    require_writable(out)
    path, watch = out / f"{recipe.name}.safetensors", Watch(out, tensorboard) if workers.rank == 0 else None

    teacher = load(recipe.teacher).to(device)
    student = from_weights(recipe, recipe.teacher)
    student.consistency, student.mmse = True, teacher.mmse

    def objective(f: EDMDenoiser, done: float, clean: Tensor, high: Tensor, noise: Tensor, *label: Tensor) -> Tensor:
        return loss(f, teacher, clean, high, level_below(recipe, high, done), noise, *label)

    facts = {"seed": seed, "sources": sources, "processes": workers.count}
    training, averaged = prepared(recipe, student, views, held_out, facts, path, workers, bfloat16, objective)
    times = (minutes, seed, resume, checkpoint_minutes)
    step = run(training, out / "checkpoint.pt", workers, watch, *times, progress=progress)
    if watch is not None:
        watch.samples(step, averaged)
        watch.close()
    return path
