"""Del Moral, Doucet & Jasra, "Sequential Monte Carlo samplers" (JRSS B, 2006), Section 3.3.2.3, with the temperatures of
Jasra, Stephens, Doucet & Tsagaris, "Inference for Levy-driven stochastic volatility models via adaptive sequential Monte
Carlo" (Scandinavian Journal of Statistics, 2011), Section 2.3."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.forward import per_sample
from invgen.linalg import dot
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Generator, StandardNormal
from invgen.samplers.mcmc.base import choose, metropolis
from invgen.samplers.smc.base import Cloud, ParticleSampler, by_rows, effective_size, resample
from invgen.validation.hints import Count


@dataclass(frozen=True)
class TemperedSMC(ParticleSampler):
    """Particles from the prior of a small latent to its posterior: p(z) p(y | g(z))^t for rising t, resampled and moved.

    Any operator, a black box too, any noise with a density; the prior is a Generator with a standard normal latent of a few
    dozen values: the parameters of a scene, of which some may be discrete. Separate modes keep their share, which no chain
    does. Moves are random walks with the covariance of the particles, accepted by Metropolis' rule. The next temperature
    leaves an effective size of `threshold`. Covariance and temperatures come from the particles, so that samples and
    log_evidence are exact as particles grow, with a bias of the order of 1 / particles.

    Args:
        steps: temperatures; particles that arrive earlier are moved on, those that have not arrived jump in the last step.
        particles, draws: of a chain.
        moves: proposals at each temperature, a decoding each.
    """

    steps: Count = 40
    particles: Count = 256
    moves: Count = 5

    prior: ClassVar[type] = Generator
    gradient: ClassVar[bool] = False
    exact: ClassVar[str] = "as particles grow"

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and not isinstance(post.prior.latent, StandardNormal):
            why = f"needs a standard normal latent, got {type(post.prior.latent).__name__}"
        return why

    def run(self, post: Posterior[Generator], x: Tensor, randn: Streams, cloud: Cloud) -> Iterator[Tensor]:
        of_chain, z = randn.every(self.particles), x
        t = torch.zeros_like(cloud.log_z)[:, None]
        size = torch.full_like(t, 2.38 / math.sqrt(z[0].numel()))  # Roberts, Gelman & Gilks (1997)
        log = self._likelihood(post, z, cloud)
        for k in range(self.steps):
            step = 1 - t if k == self.steps - 1 else self._step(log, 1 - t)
            t, log_w = t + step, step * log
            cloud.log_z = cloud.log_z + log_w.logsumexp(1) - math.log(self.particles)
            cloud.sizes.append(effective_size(log_w))
            chosen = resample(log_w, self.particles, of_chain, self.resampling)
            dead = ~log_w.logsumexp(1, keepdim=True).isfinite()  # no particle has a likelihood: told as a divergence
            z = z[(chosen + self.particles * torch.arange(len(chosen), device=z.device)[:, None]).flatten()]
            log, root = log.gather(1, chosen), self._root(z)
            for _ in range(self.moves):
                walk = self.per_chain(randn(z)).flatten(2) @ root.mT * size[:, :, None].to(z.dtype)
                new = z + walk.reshape(z.shape)
                new_log = self._likelihood(post, new, cloud)
                ratio = t * (new_log - log) + self.per_chain((dot(z, z) - dot(new, new)).flatten() / 2)
                accepted, probability = metropolis(ratio.flatten(), randn)
                (z,) = choose(accepted, (new,), (z,))
                log = torch.where(self.per_chain(accepted), new_log, log)
                size = size * (self.per_chain(probability).mean(1, keepdim=True) - 0.234).exp()
            yield torch.where(per_sample(dead.repeat_interleave(self.particles), z), torch.nan, z)

    def _likelihood(self, post: Posterior[Generator], z: Tensor, cloud: Cloud) -> Tensor:
        """Returns log p(y | g(z)) of all particles, (C, particles); what has no density has no weight."""
        (log,) = by_rows(lambda part, u: (part.log_likelihood(part.prior(u)),), cloud.split, z, post=post)
        return torch.nan_to_num(self.per_chain(log.double()), nan=-math.inf)

    def _step(self, log: Tensor, most: Tensor) -> Tensor:
        """Returns the rise of temperature that leaves an effective size of `threshold`, at most `most`, (C, 1)."""
        low, high = torch.zeros_like(most), most.clone()
        for _ in range(50):
            middle = (low + high) / 2
            fine = (effective_size(middle * log) >= self.threshold * self.particles)[:, None]
            low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
        return torch.where((effective_size(most * log) >= self.threshold * self.particles)[:, None], most, low)

    def _root(self, z: Tensor) -> Tensor:
        """Returns the root of each chain's covariance, shrunk to its diagonal where particles are few, (C, d, d)."""
        u = self.per_chain(z).flatten(2).double()
        u = u - u.mean(1, keepdim=True)
        full = u.mT @ u / len(u[0])
        diagonal = torch.diag_embed(full.diagonal(dim1=1, dim2=2) + 1e-10)
        few = min(1.0, z[0].numel() / self.particles)
        return torch.linalg.cholesky((1 - few) * full + few * diagonal + 1e-9 * diagonal).to(z.dtype)
