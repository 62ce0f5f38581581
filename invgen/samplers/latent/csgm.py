"""Bora, Jalal, Price & Dimakis, "Compressed sensing using generative models" (ICML 2017), Section 2 and equation 2."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.numerics.optimise import minimise
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.sampler import Sampler
from invgen.validation.hints import Count, NonNegative, Positive


@dataclass(frozen=True)
class CSGM(Sampler):
    """The most probable latent code of a generator by descent from several random starts; the best residual is kept.

    Minimises -log p(y | A(g(z))) - lam log p(z). Any differentiable operator, any noise with a density, a generator whose
    latent prior has a density. A point estimate: samples differ where starts end in different optima. Of the restarts of a
    sample the one with the smallest misfit to y is kept, as in the paper; its code keeps the smallest objective.

    Args:
        steps: evaluations in each restart, and one more (the paper's 1000 on MNIST, 500 on CelebA, of Adam).
        lam: weight of -log p(z), 1 for the maximum of the posterior. The paper's 0.1 and 0.001 times |z|^2 beside the
            squared residual are lam sigma_y^2.
        restarts: 10 (MNIST) and 2 (CelebA) in the paper.
        lr: of Adam (0.01 and 0.1); None for L-BFGS, which comes closer in as many steps, but enlarges round-off: until it
            has converged, the code it finds depends on the processor.
    """

    steps: Count = 100
    lam: NonNegative = 1.0
    restarts: Count = 3
    lr: Positive | None = None

    prior: ClassVar[type] = Generator
    family: ClassVar[str] = "latent"
    backprop: ClassVar[bool] = True

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and not hasattr(post.prior.latent, "log_prob"):
            why = f"needs a latent prior with a method log_prob, got {type(post.prior.latent).__name__}"
        return why

    def run(self, post: Posterior[Generator], z: Tensor, randn: Streams) -> Iterator[Tensor]:
        latent = post.prior.latent

        def loss(z: Tensor) -> tuple[Tensor, Tensor]:
            misfit = -post.log_likelihood(post.prior(z))
            return misfit - self.lam * latent.log_prob(z), misfit

        starts = [latent.data_mean + latent.data_std * (randn(z) if k else z) for k in range(self.restarts)]
        for states in zip(*(minimise(loss, z, self.steps, self.lr, size=latent.data_std) for z in starts), strict=True):
            codes, misfits = torch.stack([s[0] for s in states]), torch.stack([s[2] for s in states])
            # a restart that has no misfit to compare is as bad as any
            best = misfits.nan_to_num(nan=torch.inf).argmin(0)
            yield codes[best, torch.arange(len(z), device=z.device)]
