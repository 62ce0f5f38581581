"""Held-out digits for the published networks of `invgen.benchmarks.studies.networks`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invgen.benchmarks.studies.networks import ConditionalWGAN, mnist_ddpm, mnist_vae

__all__ = ["ConditionalWGAN", "digits", "mnist_ddpm", "mnist_vae"]


def digits(file: Path, number: int, split: str = "test") -> Tensor:
    """MNIST digits in [-0.5, 0.5], (number, 1, 28, 28), evenly spaced through the file."""
    with np.load(file) as stored:
        images = stored[f"{split}_images"]
    return torch.from_numpy(images[:: len(images) // number][:number]).float()[:, None] / 255 - 0.5
