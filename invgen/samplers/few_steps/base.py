"""The base of samplers of a few steps: what they ask of a prior, and the noise levels of a discrete diffusion."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Prior
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.sampler import Sampler


@dataclass(frozen=True)
class FewSteps(Sampler):
    """The base of samplers whose prior is a consistency function: `prior.consistency`, f(x, sigma) in place of D."""

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    consistency: ClassVar[bool] = True
    family: ClassVar[str] = "few-steps"


def denoiser_of(prior: Prior) -> Denoiser:
    """Returns the diffusion prior itself, or the one over the codes of a pushforward prior."""
    denoiser = prior.latent if isinstance(prior, Generator) else prior
    assert isinstance(denoiser, Denoiser)  # `refuses` has seen to it
    return denoiser


def regularised(post: Posterior[Prior, LinearOperator, Gaussian], rows: int) -> Tensor:
    """Returns argmin_x |y - A x|^2 / sigma_y^2 + |x - data_mean|^2 / data_std^2, (rows, *shape): what y tells by itself."""
    prior = post.prior
    mean = torch.full((rows, *prior.shape), prior.data_mean, dtype=prior.dtype, device=prior.device)
    data = post.near(mean, prior.data_std**2)
    return post.A.prox(mean, data.y, prior.data_std**2, data.noise.var)


def ddpm_levels(low: float, high: float, power: float = 1.0) -> Tensor:
    """Returns sigma of the 1000 times of a discrete diffusion whose beta^(1/power) goes evenly from low to high.

    power = 1 is DDPM's linear schedule, 2 Stable Diffusion's "scaled linear" one. float64, (1000,).
    """
    beta = torch.linspace(low ** (1 / power), high ** (1 / power), 1000, dtype=torch.float64) ** power
    kept = torch.cumprod(1 - beta, 0)
    return ((1 - kept) / kept).sqrt()


def decay(variance: float, prior: Denoiser) -> float:
    """Returns a = sqrt(1 - r^2 / v), by which f shrinks a state of a white prior: sqrt(v / (v + sigma^2)) there.

    Args:
        variance: r^2 = Var[x_0 | x_sigma], `prior.variance(sigma)`.
        prior: its variance at sigma_max stands for v.
    """
    return math.sqrt(max(1 - variance / prior.variance(prior.sigma_max), 0.0))
