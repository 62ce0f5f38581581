"""Weights files: written whole or not at all, with a description that rebuilds the prior and says how it was made."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invgen.priors.load import FACTS, FORMAT, load, read
from invgen.priors.network import EDMDenoiser


def export(denoiser: EDMDenoiser, average: dict[str, Tensor], training: dict[str, Any], path: Path) -> Path:
    """Write float16 weights; the metadata hold what rebuilds the denoiser, its units, and how it was trained."""
    about = {"format": FORMAT, "network": "UNet", "options": denoiser.net.options, "shape": list(denoiser.shape)}
    about |= {key: getattr(denoiser, key) for key in FACTS} | {"units": training["recipe"]["units"], "training": training}
    write(path, average, about)
    return path


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """A safetensors file of float16 tensors with a description under the key "invgen"."""
    from safetensors.torch import save_file

    half = {name: t.detach().to("cpu", torch.float16).contiguous() for name, t in tensors.items()}
    replace(path, lambda temporary: save_file(half, temporary, metadata={"invgen": json.dumps(about)}))


def calibrate(path: Path, clean: Tensor) -> None:
    """Adds to a weights file the table `mmse` (see `Denoiser.variance`), measured on clean views, (B, *shape).

    sigma_max becomes the highest level up to which the error never exceeds that of the mean of the views by more than 5 %,
    which is the best that is left to a denoiser at the end: above, where little was learnt, samplers had better not start.
    """
    denoiser = load(path)
    high = denoiser.sigma_max
    levels = [high * 2**-k for k in range(16) if high * 2**-k > denoiser.sigma_min]
    table = denoiser.measure_mmse(clean, [*levels, denoiser.sigma_min]).mmse
    worst = 1.05 * clean.var(0).mean().item()
    trusted = [s for k, (s, _) in enumerate(table) if all(e <= worst for _, e in table[: k + 1])] or [table[-1][0]]
    tensors, about = read(path)
    about |= {"mmse": [[s, e] for s, e in table if s <= trusted[-1]], "sigma_max": trusted[-1]}
    write(path, tensors, about)


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write under a temporary name, then rename: a kill leaves the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
