"""Wu, Trippe, Naesseth, Blei & Cunningham, "Practical and asymptotically exact conditional sampling in diffusion models"
(NeurIPS 2023), Algorithm 1: the twisted diffusion sampler."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Prior, step_kernel
from invgen.linalg import dot
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.smc.base import ParticleSampler
from invgen.validation.hints import Count, Fraction


@dataclass(frozen=True)
class TDS(ParticleSampler):
    """Twisted diffusion: steps guided by an estimate of p(y | x_sigma), the twisting function, and corrected by weights.

    Any differentiable operator, any noise with a density. The twisting function is the likelihood of the denoised signal,
    p(y | D), and particles are resampled at every step. Samples are exact for the prior that the unguided steps have (start
    at the highest level, ancestral steps), as particles grow. exp(log_evidence) is an unbiased estimate of p(y) under that
    prior, for every number of particles, every resampling scheme and every threshold. A sample costs particles / draws
    times steps network evaluations. Weak noise makes p(y | D) far too narrow at high levels, and few particles then carry
    all the weight: `LinearisedTDS` widens it by the uncertainty of D.
    """

    particles: Count = 4
    threshold: Fraction = 1.0

    backprop: ClassVar[bool] = True

    def potential(
        self, post: Posterior[Denoiser], x: Tensor, s: float, s_next: float, *before: Tensor
    ) -> tuple[Tensor, ...]:
        x0, vjp = post.prior.vjp(x, s)
        return post.log_likelihood(x0), x0, x0, s**2 * vjp(post.likelihood_score(x0))

    def move(
        self,
        post: Posterior[Denoiser],
        x: Tensor,
        s: float,
        s_next: float,
        randn: Streams,
        potential: Tensor,
        *seen: Tensor,
    ) -> tuple[Tensor, ...]:
        x0, ahead, guidance = seen
        if s_next == 0:
            x, log_w = self.finish(post, x0, post.prior.variance(s), randn)
            return x, log_w - potential
        mean, std = step_kernel(x, ahead, s, s_next)
        shift = (1 - (s_next / s) ** 2) / std * guidance
        z = randn(x)
        log_w = -dot(shift, z + shift / 2).flatten() - potential
        return mean + std * (z + shift), log_w, x0, torch.full_like(log_w, math.log(s / s_next))

    def finish(self, post: Posterior[Denoiser], x0: Tensor, var: float, randn: Streams) -> tuple[Tensor, Tensor]:
        """Returns the last state of the particles, x0 = D, and its log-weight but for the likelihood, (B,).

        `var` is the variance of D's error.
        """
        return x0, x0.new_zeros(len(x0), dtype=torch.float64)

    def advice(self, prior: Prior) -> str:
        """Returns what may help against a divergence, in words."""
        return f"take LinearisedTDS, which widens p(y | D) by the uncertainty of D, or {super().advice(prior)}"
