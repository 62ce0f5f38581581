"""Wu, Trippe, Naesseth, Blei & Cunningham, "Practical and asymptotically exact conditional sampling in diffusion models"
(NeurIPS 2023), Algorithm 1: the twisted diffusion sampler."""

from dataclasses import dataclass

import torch
from torch import Tensor

from invgen.diffusion import step_kernel
from invgen.linalg import dot
from invgen.particles import ParticleSampler
from invgen.posterior import Posterior
from invgen.random import Streams


@dataclass(frozen=True)
class TDS(ParticleSampler):
    """Twisted diffusion: guided steps as proposals, corrected by weights.

    Any differentiable operator, any noise with a density.
    """

    backprop = True

    def look(self, post: Posterior, x: Tensor, s: float, s_next: float) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0 = post.prior(x, s)
            r = post.residual(x0)
            r2 = post.prior.variance(s)
            twist = -0.5 * dot(r, post.A.solve(r, r2, post.noise.var)).flatten()
            (score,) = torch.autograd.grad(twist.sum(), x)
        return twist.detach(), x0.detach(), s**2 * score

    def move(
        self, post: Posterior, x: Tensor, s: float, s_next: float, randn: Streams, potential: Tensor, *seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        x0, guidance = seen
        mean, std = step_kernel(x, x0, s, s_next)
        guided, _ = step_kernel(x, x0 + guidance, s, s_next)
        if s_next == 0:
            return mean, -potential
        z = randn(x)
        x_next = guided + std * z
        gap = (x_next - mean) / std
        return x_next, 0.5 * (dot(z, z) - dot(gap, gap)).flatten() - potential
