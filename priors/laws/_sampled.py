"""The error of a law's denoiser by level, where it has no closed form: an average over exact samples."""

import math
from typing import Protocol

import torch
from torch import Tensor

from invgen.numerics.random import Streams


class Sampled(Protocol):
    """A denoiser that draws exact samples."""

    sigma_min: float
    sigma_max: float

    def sample(self, num_samples: int = 1, seed: int = 0) -> Tensor: ...

    def forward(self, x: Tensor, sigma: float) -> Tensor: ...


def sampled_errors(prior: Sampled, samples: int, levels: int) -> list[tuple[float, float]]:
    """Returns (level, mean squared error a value), at levels even in log sigma; by `forward`, so that no counter sees it.

    Args:
        prior: the law.
        samples: how many to average over.
        levels: how many.
    """
    x0, randn = prior.sample(samples), Streams(0, torch.arange(samples))
    ends = math.log10(prior.sigma_min), math.log10(prior.sigma_max)
    sigmas = torch.logspace(*ends, levels, dtype=torch.float64).tolist()
    return [(s, (prior.forward(x0 + s * randn(x0), s) - x0).square().mean().item()) for s in sigmas]
