"""Pieces of plug-and-play methods: a denoiser in place of the proximal step of a prior, at one level or a few."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.sampler import Sampler
from invgen.validation.hints import Positive

USUAL = 0.05  # the level taken for a denoiser of many, as a fraction of the value range: about 13 of 255 grey levels


@dataclass(frozen=True)
class PlugAndPlay(Sampler):
    """The base: one point instead of samples, from the same first image for every seed.

    Args:
        sigma: level of the denoiser as a fraction of the width of the prior's value range, within the prior's levels. None:
            the level of a denoiser that has one alone, else 0.05.
    """

    sigma: Positive | None = None

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    many_levels: ClassVar[bool] = False
    point: ClassVar[bool] = True
    family: ClassVar[str] = "plug-and-play"

    def level(self, prior: Denoiser) -> float:
        """Returns the level of the denoiser in units of the signal: its own if it has one alone, else `sigma` within its
        range."""
        if prior.one_level and self.sigma is None:
            return prior.sigma_min
        low, high = prior.value_range
        sigma = (USUAL if self.sigma is None else self.sigma) * (high - low)
        return sigma if prior.one_level else min(max(sigma, prior.sigma_min), prior.sigma_max)

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        level = self.level(prior)
        return self.steps * [(level, level)]

    def start(self, post: LinearGaussian, randn: Streams, rows: int) -> Tensor:
        """Returns the first image: the most likely one for values N(data_mean, data_std^2) that do not depend on each
        other."""
        prior = post.prior
        x = torch.full((rows, *prior.shape), prior.data_mean, dtype=prior.dtype, device=prior.device)
        return post.A.prox(x, post.y, prior.data_std**2, post.noise.var)
