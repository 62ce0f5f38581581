"""The job of `invgen sample`: the name of a prior in, samples of it, pictures and a sheet out."""

import json
from pathlib import Path
from typing import Any

import torch

from invgen import __version__
from invgen.conditional import ClassifierFree, Conditional
from invgen.diffusion import Prior
from invgen.errors import OptionError, UnsupportedError
from invgen.files.writing import atomic_folder
from invgen.inference.simulation import sample
from invgen.names.prepare import prepared


def generate(
    prior: str,
    *,
    num_samples: int = 16,
    sampler: str | None = None,
    seed: int = 0,
    out: str | Path = "out",
    condition: str | None = None,
    guidance: float | None = None,
    size: tuple[int, ...] | None = None,
    rescale: tuple[float, float] = (1.0, 0.0),
    max_batch: int | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """Draws samples of a prior and writes, all or nothing, into `out`:

    samples.npy (num_samples, *shape) in the units of the prior, sheet.png, sample_000.png ... for pictures, and
    summary.json.

    Args:
        prior, sampler: names with options, as `invgen.names.resolve` reads them.
        num_samples: how many samples to draw.
        seed: of the samples.
        out: the folder.
        condition: a class (a whole number) or a text, for a conditional prior.
        guidance: the scale of classifier-free guidance towards the condition; 1 is none.
        size: shape of the signal, for a prior that knows several.
        rescale: (scale, shift) of the prior's units.
        max_batch: how many signals to work on at once.
        device: of torch, "cpu" or "cuda".
        progress: whether to show a bar.

    Returns:
        The content of summary.json.

    Raises:
        InvgenError: one sentence about what does not fit.
    """
    import numpy as np

    from invgen.plots import as_picture, save_picture, show_samples

    p = conditioned(prepared(prior, size, rescale, device), condition, guidance)
    with atomic_folder(out) as folder:  # before the work, so that a folder that cannot be written is known at once
        x = sample(p, num_samples, seed, sampler=sampler, max_batch=max_batch, progress=progress).cpu()
        np.save(folder / "samples.npy", x.numpy())
        show_samples(x[:64], p.value_range, folder / "sheet.png")
        if as_picture(x[0]).ndim >= 2:
            for k, one in enumerate(x):
                save_picture(one, p.value_range, folder / f"sample_{k:03d}.png")
        summary = {
            "prior": prior,
            "sampler": sampler,
            "condition": condition,
            "guidance": guidance,
            "num_samples": num_samples,
            "seed": seed,
            "shape": list(p.shape),
            "rescale": list(rescale),
            "value_range": list(p.value_range),
            "mean": round(x.mean().item(), 6),
            "std": round(x.std(correction=0).item(), 6),
            "invgen": __version__,
            "torch": torch.__version__,
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def conditioned(prior: Prior, condition: str | None, guidance: float | None) -> Prior:
    """Returns p(x | condition), guided where a scale is given; the prior itself without a condition."""
    if condition is None:
        if guidance is not None:
            raise OptionError("guidance needs a condition to guide towards: pass --condition too")
        return prior
    if not isinstance(prior, Conditional):
        raise UnsupportedError(f"this {type(prior).__name__} knows no conditions; leave out --condition")
    given = int(condition) if condition.isdecimal() else condition
    if guidance is None:
        return prior.condition(given)
    return ClassifierFree.of(prior, given, scale=guidance)
