"""Cotter, Roberts, Stuart & White, "MCMC methods for functions: modifying old algorithms to make them faster" (Statistical
Science, 2013): the preconditioned Crank-Nicolson proposal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.samplers.mcmc.base import DualAveraging, LatentChain, choose, decode, metropolis
from invgen.validation.hints import Count, Range


@dataclass(frozen=True)
class PCN(LatentChain):
    """Preconditioned Crank-Nicolson in a latent: z' = sqrt(1 - beta^2) z + beta w, accepted by the ratio of likelihoods.

    Any operator, a black box too, any noise with a density; the prior is a Generator with a standard normal latent, or a
    Denoiser (see `ode_steps`). Proposals keep the prior's law, so that the acceptance does not fall with the dimension of
    z; it does with the precision of the data, and then the chain is slow: prefer HMC where there are gradients. Each sample
    is the end of a chain of its own: `steps` is the burn-in.

    Args:
        steps: proposals, a decoding each.
        beta: the first step size, in (0, 1]; that of each chain adapts in the first half of the steps, then stays.
        acceptance: probability of acceptance that it aims at (0.234: Roberts, Gelman & Gilks, 1997).
    """

    steps: Count = 1000
    beta: Annotated[float, Range(0, 1, above=True)] = 0.5
    acceptance: Annotated[float, Range(0, 1, above=True, below=True)] = 0.234

    gradient: ClassVar[bool] = False

    def chain(self, post: Posterior[Generator], z: Tensor, randn: Streams) -> Iterator[tuple[Tensor, Tensor]]:
        x, log = decode(post, z)
        size = DualAveraging(torch.full_like(log, self.beta), self.acceptance, self.steps // 2, largest=1.0)
        for _ in range(self.steps):
            beta = size.value
            new = (1 - beta**2).sqrt() * z + beta * randn(z)
            new_x, new_log = decode(post, new)
            accepted, probability = metropolis(new_log - log, randn)
            z, x, log = choose(accepted, (new, new_x, new_log), (z, x, log))
            size.update(probability)
            yield z, x
