"""Training of the family of `digits`: the same pictures under a VAE, a GAN, a normalising flow, an autoregressive network.

train("digits-vae", "runs/digits-vae", data="data/digits", minutes=5)
"""

import copy
import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator
from tqdm.auto import tqdm

from invgen.errors import DivergedError, OptionError
from invgen.files.writing import replace, require_writable
from invgen.priors.checkpoints.networks.digits import NETWORKS
from invgen.priors.data.folders import digest
from invgen.priors.data.labelled import LabelledViews, labelled
from invgen.priors.load import FORMAT, load
from invgen.priors.training.log import Watch
from invgen.priors.training.weights import Interruptible, restore, restore_optimizer, restoring, write


@dataclass(frozen=True)
class DigitsRecipe:
    """One training of a small network on pictures of 32 x 32. The other fields are as in `recipes.Recipe`."""

    name: str
    network: str
    data: str = "digits"
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.99)
    batch: int = 32
    steps: int = 4000
    warp: float = 0.5
    average: float = 17.0
    units: str = "grey level in [-1, 1], -1 is black"


FAMILY = {
    recipe.name: recipe
    for recipe in (
        DigitsRecipe("digits-vae", "VAE"),
        DigitsRecipe("digits-gan", "GAN", learning_rate=4e-4, betas=(0.0, 0.9)),
        DigitsRecipe("digits-flow", "Flow", learning_rate=1e-3),
        DigitsRecipe("digits-ar", "PixelCNN", batch=16),
    )
}


def train(
    recipe: str | DigitsRecipe,
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
) -> Path:
    """Trains a small model of the digits and returns the path of its weights; files as of `train.train`.

    On CUDA in float32: these networks are small.

    Args:
        recipe: one of the family, by name.
        out, data, steps, minutes, batch, seed, resume, device, checkpoint_minutes, tensorboard, progress: as for
            `train.train`.
    """
    if isinstance(recipe, str) and recipe not in FAMILY:
        raise OptionError(f"unknown recipe '{recipe}'; there are: {', '.join(FAMILY)}")
    recipe = FAMILY[recipe] if isinstance(recipe, str) else recipe
    recipe = dataclasses.replace(recipe, steps=steps or recipe.steps, batch=batch or recipe.batch)
    folders = [data] if isinstance(data, (str, Path)) else list(data)
    images, labels = (torch.cat(part) for part in zip(*map(labelled, folders), strict=True))
    views = LabelledViews(images, labels, recipe.warp)
    kept = torch.cat([labelled(folder, "test")[0] for folder in folders])[:500]
    out, device = Path(out), torch.device(device)
    require_writable(out)
    checkpoint, weights = out / "checkpoint.pt", out / f"{recipe.name}.safetensors"
    watch = Watch(out, tensorboard)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {"critic": True} if recipe.network == "GAN" else {}
        model = NETWORKS[recipe.network](**options).to(device)
    shipped = NETWORKS[recipe.network](**model.options).to(device).requires_grad_(False)
    shipped.load_state_dict(model.state_dict(), strict=False)
    averaged = dict(shipped.named_parameters())
    optimizers = [torch.optim.Adam(group, lr=recipe.learning_rate, betas=recipe.betas) for group in model.groups()]
    generator, step, elapsed = Generator().manual_seed(seed), 0, 0.0
    if resume and checkpoint.exists():
        with restoring(checkpoint) as state:
            restore(model, state["model"], checkpoint)
            restore(shipped, state["shipped"], checkpoint)
            for optimizer, one in zip(optimizers, state["optimizers"], strict=True):
                restore_optimizer(optimizer, one)
            generator.set_state(state["generator"])
            step, elapsed = state["step"], float(state["elapsed"])

    def save() -> None:
        state = {"model": model.state_dict(), "shipped": shipped.state_dict(), "step": step, "elapsed": elapsed}
        state |= {"optimizers": [o.state_dict() for o in optimizers], "generator": generator.get_state()}
        replace(checkpoint, lambda path: torch.save(state, path))
        training = {"recipe": dataclasses.asdict(recipe), "steps": step, "minutes": round(elapsed / 60, 1), "seed": seed}
        training |= {"device": device.type, "torch": torch.__version__}
        training["sources"] = [
            {"name": Path(folders[0]).name, "count": len(images), "sha256": digest([images.numpy().tobytes()])}
        ]
        about = {"format": FORMAT, "network": recipe.network, "options": shipped.options, "shape": list(images.shape[1:])}
        about |= {"value_range": [-1.0, 1.0], "data_mean": images.mean().item(), "data_std": images.std().item()}
        write(weights, averaged, about | {"units": recipe.units, "training": training})

    def record() -> None:
        with torch.no_grad():
            held_out = copy.deepcopy(model).eval()
            held_out.load_state_dict(shipped.state_dict(), strict=False)
            value = next(held_out.objectives(kept.to(device), Generator().manual_seed(1))).item()
        watch.numbers(step, minutes=elapsed / 60, loss=last, held_out_loss=value)

    def done() -> float:
        return max(step / recipe.steps, elapsed / 60 / minutes if minutes else 0.0)

    bar = tqdm(total=recipe.steps, initial=step, disable=not progress, mininterval=5, desc=recipe.name)
    saved, clock, last = elapsed, time.monotonic(), math.nan
    with Interruptible() as stop, bar:
        while done() < 1:
            rate = recipe.learning_rate * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done()))
            x = views.batch(recipe.batch, generator)[0].to(device)
            for optimizer, objective in zip(optimizers, model.objectives(x, generator), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                objective.backward()
                torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 10.0)
                optimizer.step()
            step += 1
            keep, now = (1 - 1 / step) ** recipe.average, dict(model.named_parameters())
            torch._foreach_lerp_(list(averaged.values()), [now[name].detach() for name in averaged], 1 - keep)
            if step % 20 == 0 or step == recipe.steps:
                if not math.isfinite(last := objective.item()):
                    raise DivergedError(f"training of '{recipe.name}' diverged at step {step}: lower the learning rate")
                bar.set_postfix(loss=f"{last:.4f}", refresh=False)
            bar.update()
            elapsed, clock = elapsed + time.monotonic() - clock, time.monotonic()
            if elapsed - saved > 60 * checkpoint_minutes:
                save()
                record()
                saved = elapsed
            stop.leave(step, checkpoint, [save])
    save()
    record()
    watch.samples(step, load(weights))
    watch.close()
    return weights
