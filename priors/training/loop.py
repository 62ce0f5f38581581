"""The training loop of all priors: rate, averaged weights, checkpoints that survive a kill, the log."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from invgen.errors import DivergedError
from invgen.files.writing import replace
from invgen.priors.training.log import Watch
from invgen.priors.training.weights import Interruptible, restore, restore_optimizer, restoring
from invgen.priors.training.workers import Workers


@dataclass(frozen=True)
class Training:
    """One training: networks, objectives, and the settings of its loop.

    Attributes:
        name: for the bar and for errors.
        steps: after which it ends.
        learning_rate, warmup: the rate, and the steps in which it rises.
        average: the exponent of the power-law average of the weights.
        clip: the largest norm of the gradient of each optimizer.
        net: what is trained.
        averaged: a copy of it, or of a part of it, that holds the averaged weights.
        optimizers: one or several, which take their steps by turns.
        objectives: one step's objectives, one for each optimizer, given the generator of views and noise, and how much of
            the training is over, from 0 to 1.
        export: writes the weights file, given the step and the seconds.
        held_out: the loss of held-out views under the averaged weights, if there are such views.
        sheet: draws a sheet of samples, given the step; None draws none on the way.
        epoch: after how many steps a sheet may be drawn.
    """

    name: str
    steps: int
    learning_rate: float
    warmup: int
    average: float
    clip: float
    net: nn.Module
    averaged: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    objectives: Callable[[Generator, float], Iterable[Tensor]]
    export: Callable[[int, float], object]
    held_out: Callable[[], float] | None = None
    sheet: Callable[[int], None] | None = None
    epoch: int = 1


def run(
    training: Training,
    checkpoint: Path,
    workers: Workers,
    watch: Watch | None,
    minutes: float | None = None,
    seed: int = 0,
    resume: bool = True,
    checkpoint_minutes: float = 3.0,
    sheet_minutes: float = 15.0,
    progress: bool = True,
) -> int:
    """Trains until the steps or the minutes are over, and returns the number of the last step.

    The rate warms up, then falls as a cosine to zero as the larger of step/steps and elapsed/minutes goes from 0 to 1.

    Args:
        training: networks and objectives.
        checkpoint: the file to resume from, written with the weights file every `checkpoint_minutes`.
        workers: the processes; the first of them writes.
        watch: the log, of the first process.
        minutes: the limit of time; what was spent before an interruption counts.
        seed: of views and noise.
        resume: whether to go on from the checkpoint if it is there, bit for bit on the CPU.
        checkpoint_minutes, sheet_minutes: the least time between checkpoints, and between sheets of samples.
        progress: whether to show a bar.

    Raises:
        DivergedError: the objective is not finite.
        KeyboardInterrupt: Ctrl-C, after everything is saved.
        WeightsError, OptionError: the checkpoint is damaged, or of another training.
    """
    net, averaged, main = training.net, training.averaged, workers.rank == 0
    average, generator = dict(averaged.named_parameters()), Generator().manual_seed(seed)
    step, elapsed = 0, 0.0
    if resume and checkpoint.exists():
        with restoring(checkpoint) as state:
            restore(net, state["net"], checkpoint)
            restore(averaged, state["average"], checkpoint)
            for optimizer, moments in zip(training.optimizers, state["optimizers"], strict=True):
                restore_optimizer(optimizer, moments)
            generator.set_state(state["generator"])
            step, elapsed = state["step"], float(state["elapsed"])
    if not main:  # views and noise of its own
        generator.manual_seed(seed + 1_000_003 * workers.rank + step)

    def save() -> None:
        state = {"net": net.state_dict(), "average": averaged.state_dict(), "step": step, "elapsed": elapsed}
        state |= {"optimizers": [o.state_dict() for o in training.optimizers], "generator": generator.get_state()}
        replace(checkpoint, lambda path: torch.save(state, path))
        training.export(step, elapsed)

    def record() -> None:
        numbers = {"minutes": elapsed / 60, "loss": (losses / (step - since)).item(), "rate": rate}
        if training.held_out is not None:
            with torch.no_grad():
                numbers["held_out_loss"] = training.held_out()
        if watch is not None:
            watch.numbers(step, **numbers)

    def done() -> float:
        return max(step / training.steps, elapsed / 60 / minutes if minutes else 0.0)

    bar = tqdm(total=training.steps, initial=step, disable=not (progress and main), mininterval=5, desc=training.name)
    saved = drawn = elapsed
    clock, since, losses = time.monotonic(), step, torch.zeros((), device=workers.device)
    with Interruptible() as stop, bar:
        while done() < 1:
            falling = 0.5 * (1 + math.cos(math.pi * done()))
            rate = training.learning_rate * min(1.0, (step + 1) / training.warmup) * falling
            for optimizer, objective in zip(training.optimizers, training.objectives(generator, done()), strict=True):
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                objective.backward()
                now = time.monotonic()
                elapsed, clock = workers.average(parameters, elapsed + now - clock), now
                nn.utils.clip_grad_norm_(parameters, training.clip)
                optimizer.step()
            step += 1
            losses += objective.detach()
            # Power-law averaging: the window grows with the step, so the start is forgotten however short the run is.
            keep, current = (1 - 1 / step) ** training.average, dict(net.named_parameters())
            latest = [current[name].detach() for name in average]
            torch._foreach_lerp_(list(average.values()), latest, 1 - keep)  # pyright: ignore[reportPrivateImportUsage]
            if step % 20 == 0 or step == training.steps:
                if not math.isfinite(value := objective.item()):
                    raise DivergedError(f"training of '{training.name}' diverged at step {step}: lower the learning rate")
                bar.set_postfix(loss=f"{value:.4f}", rate=f"{rate:.1e}", refresh=False)
            bar.update()
            if main and elapsed - saved > 60 * checkpoint_minutes:
                save()
                record()
                losses, since, saved = torch.zeros_like(losses), step, elapsed
            if main and training.sheet and step % training.epoch == 0 and elapsed - drawn >= 60 * sheet_minutes:
                training.sheet(step)
                drawn = elapsed
            stop.leave(step, checkpoint, [save] if main else [])
    if main:
        save()
        if step > since:
            record()
    return step
