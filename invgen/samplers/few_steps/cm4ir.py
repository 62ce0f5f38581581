"""Garber & Tirer, "Zero-shot image restoration using few-step guidance of consistency models (and beyond)" (CVPR 2025),
Algorithm 1."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.noise import Noiseless
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.sampler import published
from invgen.samplers.few_steps.base import FewSteps, ddpm_levels
from invgen.validation.hints import Count, Fraction, NonNegative, Range

# (first, growth, damping) of the released script, for noise of 0.05 in images of [0, 1]
_TASKS = {"super-resolution": (250, 0.2, 0.0), "deblurring": (150, 0.05, 1.0), "inpainting": (150, 0.2, 0.0)}


@dataclass(frozen=True)
class CM4IR(FewSteps):
    """Four evaluations of a consistency model, back-projection on the data, the noise put back with its sign turned.

    Linear operators, Gaussian noise or none; no gradient of the network. x_0 = f(x, s) is moved by the damped
    pseudo-inverse A^T (A A^T + damping sigma_y^2)^-1 (y - A x_0), but for the last step where there is noise. The next
    state adds s' (eta z - sqrt(1 - eta^2) (x - x_0) / s): minus the noise that was found, the paper's noise injection.
    Levels are sqrt(1 - alpha) with alpha of DDPM at step `first`, then alpha times 1 + growth a step: so low that the
    start, the damped pseudo-inverse of y, is kept in part.

    A restoration rather than a sampler: its samples have little of the posterior's variance, and next to none where
    nothing is measured (the start is the prior's mean there).

    Unlike the released code it does not clip f to the range, and starts the unmeasured part at the mean of the prior, where
    the code fills masks with medians of neighbours.

    Args:
        schedule: "paper", or levels as for every sampler.
        first: the paper's i_N, the step of DDPM where it starts.
        growth: the paper's gamma, for 4 steps; with 8, 0.2 reaches the lowest level after the fifth: take 0.03.
        damping: the paper's zeta; 0 is the pseudo-inverse itself.
        eta: share of fresh noise.
        deltas: by how much the level that f is told exceeds the state's, step by step.
    """

    steps: Count = 4
    schedule: str | Sequence[float] = "paper"
    first: Annotated[int, Range(0, 999)] = 250
    growth: NonNegative = 0.2
    damping: NonNegative = 1.0
    eta: Fraction = 0.1
    deltas: tuple[NonNegative, ...] = ()

    @classmethod
    def paper(cls, task: str = "super-resolution") -> "CM4IR":
        """Returns the released settings of a task."""
        first, growth, damping = published("CM4IR", _TASKS, task)
        return cls(first=first, growth=growth, damping=damping)

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        if self.schedule != "paper":
            return super().levels(prior)
        unit = (prior.value_range[1] - prior.value_range[0]) / 2  # published for images in [-1, 1]
        alpha = 1 / (1 + ddpm_levels(1e-4, 0.02)[self.first].item() ** 2)
        levels = [math.sqrt(1 - min(alpha * (1 + self.growth) ** k, 0.9999)) * unit for k in range(self.steps)]
        levels = [min(max(s, prior.sigma_min), prior.sigma_max) for s in levels]
        return list(zip(levels, [*levels[1:], 0.0], strict=True))

    def start(self, post: LinearGaussian, randn: Streams, rows: int) -> Tensor:
        prior = post.prior
        mean = torch.full((rows, *prior.shape), prior.data_mean, dtype=prior.dtype, device=prior.device)
        return mean + self._back(post, mean) + self.levels(prior)[0][0] * randn(mean)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        exact = isinstance(post.noise, Noiseless)
        for (s, s_next), delta in zip(self.levels(post.prior), [*self.deltas, *[0.0] * self.steps], strict=False):
            x0 = post.prior(x, (1 + delta) * s)
            eps = (x - x0) / s
            x = x0 + self._back(post, x0) if s_next > 0 or exact else x0
            if s_next > 0:
                x = x + s_next * (self.eta * randn(x) - math.sqrt(1 - self.eta**2) * eps)
            yield x

    def _back(self, post: LinearGaussian, x: Tensor) -> Tensor:
        """Returns A^T (A A^T + damping sigma_y^2)^-1 (y - A x), in the units of images in [-1, 1]."""
        unit = (post.prior.value_range[1] - post.prior.value_range[0]) / 2
        data = post.near(x, unit**2)
        return post.A.prox(x, data.y, unit**2, self.damping * data.noise.var) - x
