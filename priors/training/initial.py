"""The network that a training starts from: untrained, or with the weights of a prior."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from invgen.errors import OptionError
from invgen.priors.checkpoints.networks.unet import EDMDenoiser, UNet, denoiser_around
from invgen.priors.data.views import Views, signals
from invgen.priors.load import load, metadata
from invgen.priors.recipes import Recipe


def build(recipe: Recipe, views: Views, seed: int) -> EDMDenoiser:
    """Returns the untrained denoiser of a recipe, its mean and standard deviation measured on 1000 views."""
    sample = signals(views, 1000, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = (recipe.shape[0], recipe.widths, recipe.blocks, recipe.unshuffle, recipe.embedding)
        net = UNet(*sizes, classes=recipe.classes, dims=len(recipe.shape) - 1, vector=recipe.vector)
    facts = {"data_mean": sample.mean().item(), "data_std": sample.std().item(), "value_range": recipe.value_range}
    facts |= {"sigma_min": recipe.sigma_min, "sigma_max": recipe.sigma_max, "sampling_rate": recipe.sampling_rate}
    if not facts["data_std"] > 0:
        raise OptionError("the training data is constant: there is nothing to learn from it")
    return denoiser_around(net, recipe.shape, **facts)


def from_weights(recipe: Recipe, init: Path | str) -> EDMDenoiser:
    """Returns the denoiser of a weights file, to be trained on at the noise levels of a recipe.

    It keeps its units and its scaling (`data_mean`, `data_std`), which its weights were trained with, and loses the table
    of its errors.

    Args:
        recipe: of the training.
        init: a shipped prior by its name, or a file of `invgen train`.

    Raises:
        OptionError: the prior is no denoiser.
    """
    denoiser = load(init)
    if not isinstance(denoiser, EDMDenoiser) or denoiser.consistency:
        raise OptionError(f"--init takes a denoiser that `invgen train` wrote, '{init}' is a {type(denoiser).__name__}")
    denoiser.sigma_min, denoiser.sigma_max, denoiser.mmse = recipe.sigma_min, recipe.sigma_max, ()
    return denoiser.requires_grad_(True).train()


def continued(recipe: Recipe, init: Path | str) -> tuple[Recipe, EDMDenoiser]:
    """Returns the denoiser of a weights file, to be trained on, and the recipe with its network, shape and half the rate.

    Args:
        recipe: what the data asks for.
        init: as for `from_weights`.

    Raises:
        OptionError: the prior is no denoiser, or has other channels, units, classes or vectors than the data.
    """
    denoiser = from_weights(recipe, init)
    net, shape = denoiser.net, tuple(denoiser.shape)
    data = (len(recipe.shape), recipe.shape[0], recipe.classes, recipe.vector, tuple(recipe.value_range))
    prior = (len(shape), shape[0], net.options["classes"], net.options.get("vector", 0), tuple(denoiser.value_range))
    names = ("number of axes", "number of channels", "number of classes", "size of vectors", "value range", "sampling rate")
    data, prior = (*data, recipe.sampling_rate), (*prior, denoiser.sampling_rate)
    for name, ours, theirs in zip(names, data, prior, strict=True):
        if ours != theirs:
            raise OptionError(f"'{init}' does not fit this data: its {name} is {theirs}, that of the data {ours}")
    sizes = {key: net.options[key] for key in ("blocks", "unshuffle", "embedding")}
    sizes |= {"widths": tuple(net.options["widths"]), "shape": shape}
    return dataclasses.replace(recipe, **sizes, learning_rate=recipe.learning_rate / 2), denoiser


def require_same_start(path: Path, origin: dict[str, str] | None) -> None:
    """Raises where a training that is gone on with started from other weights than are asked for.

    Args:
        path: the weights file of the training, which tells; where there is none, nothing is known.
        origin: of the prior that it has to start from (`load.origin`), None for random weights.

    Raises:
        OptionError: it started from others.
    """
    if not path.exists():
        return
    before: dict[str, Any] | None = metadata(path)["training"].get("init")
    if (before or {}).get("sha256") == (origin or {}).get("sha256"):
        return
    then, now = (f"the weights '{o['name']}' ({o['sha256'][:8]})" if o else "random weights" for o in (before, origin))
    raise OptionError(
        f"the training in {path.parent} started from {then}, not from {now}: go on with the --init that it began with, or "
        "take another folder, or pass resume=False (--no-resume) to begin anew"
    )
