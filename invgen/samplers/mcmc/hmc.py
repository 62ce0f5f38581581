"""Neal, "MCMC using Hamiltonian dynamics" (Handbook of Markov Chain Monte Carlo, 2011), Section 3, in a latent."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from invgen.linalg import dot
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.samplers.mcmc.base import DualAveraging, LatentChain, choose, curvature, decode_with_gradient, metropolis
from invgen.validation.hints import Count, Range


@dataclass(frozen=True)
class HMC(LatentChain):
    """Hamiltonian Monte Carlo in a latent: trajectories of the leapfrog scheme, each accepted or rejected.

    Any differentiable operator, any noise with a density; the prior is a differentiable Generator with a standard normal
    latent, or a Denoiser (see `ode_steps`), whose network is then differentiated. Each sample is the end of a chain of its
    own: `steps` is the burn-in.

    The samples rely on the decoder. Where it cannot make the signal, they are overconfident and `solve` warns: take a noise
    level of several times the misfit (docs/design.md has an example).

    Args:
        steps: trajectories, of `leapfrogs` decodings with a gradient each.
        leapfrogs: leapfrog steps of a trajectory.
        acceptance: probability of acceptance that each chain's step size aims at in the first half of the steps, before it
            stays (0.8, Stan's; about 0.65 is optimal in many dimensions).
        jitter: each trajectory's step size is drawn within this fraction of it, so that a period of the motion is not hit.
    """

    steps: Count = 50
    leapfrogs: Count = 10
    acceptance: Annotated[float, Range(0, 1, above=True, below=True)] = 0.8
    jitter: Annotated[float, Range(0, 1, below=True)] = 0.2

    backprop: ClassVar[bool] = True

    def chain(self, post: Posterior[Generator], z: Tensor, randn: Streams) -> Iterator[tuple[Tensor, Tensor]]:
        first = 0.5 / (1 + curvature(post.latent(), z, 1.0)).sqrt()
        size = DualAveraging(first, self.acceptance, self.steps // 2)
        x, log, gradient = decode_with_gradient(post, z)
        for _ in range(self.steps):
            h = size.value * (1 + self.jitter * (2 * randn.uniform(size.value) - 1))
            p = momentum = randn(z)
            new, new_gradient = z, gradient
            for _ in range(self.leapfrogs):
                p = p + 0.5 * h * new_gradient
                new = new + h * p
                new_x, new_log, new_gradient = decode_with_gradient(post, new)
                p = p + 0.5 * h * new_gradient
            energy = dot(z, z) / 2 - log + dot(momentum, momentum) / 2
            new_energy = dot(new, new) / 2 - new_log + dot(p, p) / 2
            accepted, probability = metropolis(energy - new_energy, randn)
            z, x, log, gradient = choose(accepted, (new, new_x, new_log, new_gradient), (z, x, log, gradient))
            size.update(probability)
            yield z, x
