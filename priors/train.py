"""Training of the shipped priors: EDM's denoising loss, AdamW, averaged weights, checkpoints that survive a kill.

    train("photo", "runs/photo", data=["BSDS500", "wallpapers"], minutes=120)

writes runs/photo/checkpoint.pt (to resume from) and runs/photo/photo.safetensors (to load with `invgen.priors.load`).
"""

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from invgen.errors import DivergedError, OptionError
from invgen.priors.datasets import CTViews, PhotoViews, ct_slices, photographs
from invgen.priors.load import FACTS, FORMAT, load, read
from invgen.priors.network import EDMDenoiser, UNet


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how. ln sigma ~ N(log_sigma_mean, log_sigma_std^2), one in ten uniform over the range."""

    name: str
    shape: tuple[int, int, int]
    widths: tuple[int, ...]
    blocks: int
    unshuffle: int
    units: str
    learning_rate: float = 1.5e-3
    batch: int = 8
    steps: int = 20_000
    warmup: int = 200
    log_sigma_mean: float = -1.2
    log_sigma_std: float = 1.4
    sigma_min: float = 0.005
    sigma_max: float = 80.0
    average: float = (
        17.0  # exponent of the power-law average (Karras et al., 2024, EDM2, section 3.1): the last 5 % of steps
    )
    clip: float = 1.0


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("photo", (3, 64, 64), (64, 96, 128), 2, 2, "RGB in [-1, 1]: value = grey level of 0 to 255 / 127.5 - 1"),
        Recipe("ct", (1, 128, 128), (64, 96, 160), 2, 4, "Hounsfield units / 1000, clipped to [-1, 1]"),
    )
}


def draw_sigma(recipe: Recipe, count: int, generator: Generator) -> Tensor:
    """(count,) noise levels, one from each of `count` equal parts of their distribution, which steadies the gradient."""
    u = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    low, high = math.log(recipe.sigma_min), math.log(recipe.sigma_max)
    normal = recipe.log_sigma_mean + recipe.log_sigma_std * torch.special.ndtri(((u - 0.1) / 0.9).clamp(1e-4, 1 - 1e-4))
    uniform = low + (high - low) * (u / 0.1).clamp(0, 1)
    return torch.where(u < 0.1, uniform, normal.clamp(low, high)).exp()


def loss(denoiser: EDMDenoiser, clean: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Mean of |D(x0 + sigma eps, sigma) - x0|^2 / c_out^2: unit targets for the network (EDM, Table 1)."""
    s = sigma.view(-1, 1, 1, 1)
    error = denoiser(clean + s * noise, sigma) - clean
    return (error.square() * (s**2 + denoiser.data_std**2) / (s * denoiser.data_std) ** 2).mean()


def train(
    recipe: str | Recipe,
    out: Path | str,
    data: Sequence[Path | str] | Path | str = (),
    steps: int | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    seed: int = 0,
    resume: bool = True,
    device: str | torch.device = "cpu",
    checkpoint_minutes: float = 3.0,
    progress: bool = True,
) -> Path:
    """Train a prior and return the path of its weights, OUT/NAME.safetensors (also written at every checkpoint).

    data: folders of photographs (recipe "photo") or of .npz CT slices (recipe "ct"). The learning rate warms up, then
    falls as a cosine to zero as the larger of step/steps and elapsed/minutes goes from 0 to 1, so either may end the run;
    the time spent before an interruption counts. With resume, OUT/checkpoint.pt is continued if there; the result of a run
    limited by steps is then the same, bit for bit on the CPU, as without the interruption. On CUDA the network runs in
    bfloat16 autocast.
    """
    if isinstance(recipe, str) and recipe not in RECIPES:
        raise OptionError(f"unknown recipe '{recipe}'; there are: {', '.join(RECIPES)}")
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    recipe = dataclasses.replace(recipe, steps=steps or recipe.steps, batch=batch or recipe.batch)
    views, sources = open_views(recipe, [data] if isinstance(data, (str, Path)) else list(data))
    out, device = Path(out), torch.device(device)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"

    denoiser = build(recipe, views, seed).to(device, memory_format=torch.channels_last)
    net, generator = denoiser.net, Generator().manual_seed(seed)
    average = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    step, elapsed = 0, 0.0
    if resume and checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        try:
            net.load_state_dict(state["net"])
        except RuntimeError as error:
            raise OptionError(f"{checkpoint} is of another network: pass resume=False or another folder") from error
        average = state["average"]
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"].cpu())
        step, elapsed = state["step"], state["elapsed"]

    def save() -> Path:
        state = {"net": net.state_dict(), "average": average, "optimizer": optimizer.state_dict()}
        state |= {"generator": generator.get_state(), "step": step, "elapsed": elapsed}
        replace(checkpoint, lambda path: torch.save(state, path))
        facts = {"recipe": dataclasses.asdict(recipe), "steps": step, "minutes": round(elapsed / 60, 1), "seed": seed}
        facts |= {"device": device.type, "torch": torch.__version__, "sources": sources}
        return export(denoiser, average, facts, out / f"{recipe.name}.safetensors")

    def done() -> float:
        return max(step / recipe.steps, elapsed / 60 / minutes if minutes else 0.0)

    bar = tqdm(total=recipe.steps, initial=step, disable=not progress, mininterval=5, desc=recipe.name)
    saved, clock = elapsed, time.monotonic()
    while done() < 1:
        rate = recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * done()))
        for group in optimizer.param_groups:
            group["lr"] = rate
        clean = views.batch(recipe.batch, generator)
        noise = torch.randn(clean.shape, generator=generator)
        sigma = draw_sigma(recipe, recipe.batch, generator)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            objective = loss(denoiser, *(t.to(device, non_blocking=True) for t in (clean, sigma, noise)))
        optimizer.zero_grad(set_to_none=True)
        objective.backward()
        nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimizer.step()
        step += 1
        # Power-law averaging: the window grows with the step, so the start is forgotten however short the run is.
        keep = (1 - 1 / step) ** recipe.average
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in net.parameters()], 1 - keep)
        now = time.monotonic()
        elapsed, clock = elapsed + now - clock, now
        if step % 20 == 0:
            if not math.isfinite(value := objective.item()):
                raise DivergedError(f"training of '{recipe.name}' diverged at step {step}: lower the learning rate")
            bar.set_postfix(loss=f"{value:.4f}", rate=f"{rate:.1e}", refresh=False)
        bar.update()
        if elapsed - saved > 60 * checkpoint_minutes:
            save()
            saved = elapsed
    bar.close()
    path = save()
    calibrate(path, views.batch(64, Generator().manual_seed(1)))
    return path


def calibrate(path: Path, clean: Tensor) -> None:
    """Adds to a weights file the table `mmse` (see `Denoiser.variance`), measured on clean views, (B, C, H, W).

    sigma_max becomes the highest level below which the error never exceeds half the variance of the data: above, where
    little was learnt, samplers had better not start.
    """
    denoiser = load(path)
    high = denoiser.sigma_max
    levels = [high * 2**-k for k in range(14) if high * 2**-k > denoiser.sigma_min]
    table = denoiser.measure_mmse(clean, [*levels, denoiser.sigma_min]).mmse
    trusted = [s for k, (s, _) in enumerate(table) if all(e < 0.5 * denoiser.data_std**2 for _, e in table[: k + 1])]
    tensors, about = read(path)
    about |= {"mmse": [[s, e] for s, e in table if s <= trusted[-1]], "sigma_max": trusted[-1]}
    _write(path, tensors, about)


def build(recipe: Recipe, views: PhotoViews | CTViews, seed: int) -> EDMDenoiser:
    """The untrained denoiser of a recipe, its mean and standard deviation measured on 1000 views."""
    sample = views.batch(1000, Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = UNet(recipe.shape[0], recipe.widths, recipe.blocks, recipe.unshuffle)
    facts = {"data_mean": sample.mean().item(), "data_std": sample.std().item()}
    return EDMDenoiser(net, recipe.shape, sigma_min=recipe.sigma_min, sigma_max=recipe.sigma_max, **facts)


def open_views(recipe: Recipe, folders: Sequence[Path | str]) -> tuple[PhotoViews | CTViews, list[dict[str, str | int]]]:
    """The training data of a recipe and a record of it: names, counts, SHA-256 of the files or of the HU values."""
    if not folders:
        raise OptionError(
            f"recipe '{recipe.name}' needs data: pass folders of photographs or of CT slices; see docs/data.md"
        )
    if recipe.shape[0] == 3:
        paths = {Path(folder): photographs(folder) for folder in folders}
        return PhotoViews([p for part in paths.values() for p in part], recipe.shape[-1]), [
            {"name": folder.name, "count": len(part), "sha256": _digest(path.read_bytes() for path in part)}
            for folder, part in paths.items()
        ]
    slices: dict[str, np.ndarray] = {}
    for folder in folders:
        slices.update(ct_slices(folder, "train"))
    return CTViews(slices, recipe.shape[-1]), [
        {"name": patient, "count": len(volume), "sha256": _digest([volume.tobytes()])} for patient, volume in slices.items()
    ]


def _digest(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def export(denoiser: EDMDenoiser, average: dict[str, Tensor], training: dict[str, Any], path: Path) -> Path:
    """Write float16 weights; the metadata hold what rebuilds the denoiser, its units, and how it was trained."""
    about = {"format": FORMAT, "network": "UNet", "options": denoiser.net.options, "shape": list(denoiser.shape)}
    about |= {key: getattr(denoiser, key) for key in FACTS} | {"units": training["recipe"]["units"], "training": training}
    tensors = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in average.items()}
    _write(path, tensors, about)
    return path


def _write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    replace(path, lambda temporary: save_file(tensors, temporary, metadata={"invgen": json.dumps(about)}))


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write under a temporary name, then rename: a kill leaves the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
