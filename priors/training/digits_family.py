"""Training of small networks of other kinds: `digits` under a VAE, a GAN, a flow, an autoregressive network, and speech
sample by sample.

train("digits-vae", "runs/digits-vae", data="data/digits", minutes=5)
"""

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from invgen.files.writing import require_writable
from invgen.priors.data.folders import digest
from invgen.priors.data.labelled import LabelledViews, labelled
from invgen.priors.data.speech import WaveViews, read_wave, sentences
from invgen.priors.data.views import Views, signals
from invgen.priors.load import FORMAT, KINDS, load
from invgen.priors.recipes import chosen
from invgen.priors.training.log import Watch
from invgen.priors.training.loop import Training, run
from invgen.priors.training.weights import write
from invgen.priors.training.workers import Workers


@dataclass(frozen=True)
class DigitsRecipe:
    """One training of a small network on pictures of 32 x 32, or on speech. The other fields are as in `recipes.Recipe`."""

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
        DigitsRecipe(
            "speech-ar",
            "WaveNet",
            "speech",
            learning_rate=1e-3,
            batch=4,
            steps=20_000,
            units="waveform of 16 kHz, full scale is 1",
        ),
    )
}


def _digits(recipe: DigitsRecipe, folders: list[Path | str]) -> tuple[Tensor, Views, Tensor]:
    """Returns all pictures, views of them, and pictures held out."""
    images, labels = (torch.cat(part) for part in zip(*map(labelled, folders), strict=True))
    kept = torch.cat([labelled(folder, "test")[0] for folder in folders])[:500]
    return images, LabelledViews(images, labels, recipe.warp), kept


def _sounds(recipe: DigitsRecipe, folders: list[Path | str]) -> tuple[Tensor, Views, Tensor]:
    """Returns 1000 pieces of recordings, views of all, and pieces held out, (N, 1, 4096)."""
    sets = {s: [read_wave(p, 16_000)[0] for f in folders for p in sentences(f, s)] for s in ("train", "validation")}
    views, kept = (WaveViews(recordings, 4096) for recordings in sets.values())
    return signals(views, 1000, 0), views, signals(kept, 4, 1)


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
    recipe = chosen(recipe, FAMILY)
    recipe = dataclasses.replace(recipe, steps=steps or recipe.steps, batch=batch or recipe.batch)
    folders = [data] if isinstance(data, (str, Path)) else list(data)
    images, views, kept = (_sounds if recipe.data == "speech" else _digits)(recipe, folders)
    workers = Workers(device)
    out, device = Path(out), workers.device
    require_writable(out)
    weights, watch = out / f"{recipe.name}.safetensors", Watch(out, tensorboard) if workers.rank == 0 else None

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {"critic": True} if recipe.network == "GAN" else {}
        model = KINDS[recipe.network](**options).to(device)
    shipped = KINDS[recipe.network](**model.options).to(device).requires_grad_(False)
    shipped.load_state_dict(model.state_dict(), strict=False)
    averaged = dict(shipped.named_parameters())
    optimizers = [torch.optim.Adam(group, lr=recipe.learning_rate, betas=recipe.betas) for group in model.groups()]

    def objectives(generator: Generator, _: float) -> Iterator[Tensor]:
        batch = views.batch(recipe.batch, generator)
        return model.objectives((batch[0] if isinstance(batch, tuple) else batch).to(device), generator)

    def save(step: int, elapsed: float) -> None:
        training = {"recipe": dataclasses.asdict(recipe), "steps": step, "minutes": round(elapsed / 60, 1), "seed": seed}
        training |= {"device": device.type, "torch": torch.__version__}
        training["sources"] = [
            {"name": Path(folders[0]).name, "count": len(images), "sha256": digest([images.numpy().tobytes()])}
        ]
        about = {"format": FORMAT, "network": recipe.network, "options": shipped.options, "shape": list(images.shape[1:])}
        about |= {"value_range": [-1.0, 1.0], "data_mean": images.mean().item(), "data_std": images.std().item()}
        about |= {"sampling_rate": 16_000.0} if recipe.data == "speech" else {}
        write(weights, averaged, about | {"units": recipe.units, "training": training})

    def held_out_loss() -> float:
        held_out = copy.deepcopy(model).eval()
        held_out.load_state_dict(shipped.state_dict(), strict=False)
        return next(held_out.objectives(kept.to(device), Generator().manual_seed(1))).item()

    training = Training(
        recipe.name, recipe.steps, recipe.learning_rate, 100, recipe.average, 10.0, model, shipped, optimizers, objectives,
        save, held_out_loss,
    )  # fmt: skip
    step = run(
        training, out / "checkpoint.pt", workers, watch, minutes, seed, resume, checkpoint_minutes, progress=progress
    )
    if watch is not None:
        watch.samples(step, load(weights, (1, 256) if recipe.data == "speech" else None))  # a pass a sample
        watch.close()
    return weights
