"""Menon, Damian, Hu, Ravi & Rudin, "PULSE: self-supervised photo upsampling via latent space exploration of generative
models" (CVPR 2020), Section 3."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.linalg import norm
from invgen.numerics.optimise import minimise, noise_floor
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Generator, StandardNormal
from invgen.sampler import Sampler
from invgen.validation.hints import Count, NonNegative, Positive


@dataclass(frozen=True)
class PULSE(Sampler):
    """Descent on the sphere of radius sqrt(d) in the latent space of a generator, where standard normal codes lie.

    Any differentiable operator, noise with a density, a generator with standard normal codes z. Point estimates, but
    not the posterior's mode: the sphere takes the place of the prior. A start stays once its residual is at the noise
    level. Many end in poor minima, so each sample is the best by residual of `restarts` starts: of 100 samples for 50
    images of the shipped digits-gan, reduced four times, noise 0.02, 99 have a residual of at most 1.1 (9 in the paper's
    form). An image beyond the generator's range has a larger one.

    Args:
        steps: evaluations in each restart, and one more.
        restarts: random starts of a sample (4; 1 in the paper).
        lr: of Adam at its highest, from a tenth and to a thousandth of it; None for L-BFGS.
        stop: the residual at which a start stays, in units of the noise; 0 for never.
    """

    steps: Count = 100
    restarts: Count = 4
    lr: Positive | None = None
    stop: NonNegative = 1.0

    prior: ClassVar[type] = Generator
    family: ClassVar[str] = "latent"
    backprop: ClassVar[bool] = True

    @classmethod
    def paper(cls, steps: int = 100, lr: float = 0.4) -> "PULSE":
        """Returns one start, by the released code's Adam. For StyleGAN that has a sphere for each of 18 vectors, a loss
        for their
        spread, which one z does not have, and for Adam the gradient's part off the sphere too."""
        return cls(steps=steps, restarts=1, lr=lr)

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and not isinstance(post.prior.latent, StandardNormal):
            why = f"needs a generator with standard normal codes, got {type(post.prior.latent).__name__}"
        return why

    def run(self, post: Posterior[Generator], z: Tensor, randn: Streams) -> Iterator[Tensor]:
        codes, floor, radius = post.latent(), noise_floor(post, self.stop), math.sqrt(post.prior.latent_shape.numel())

        def sphere(u: Tensor) -> Tensor:
            return radius * u / norm(u)

        def misfit(u: Tensor) -> tuple[Tensor, Tensor]:
            return -codes.log_likelihood(sphere(u)), sphere(u)

        adam = {} if self.lr is None else {"factor": one_cycle, "project": sphere}
        starts = [sphere(randn(z) if k else z) for k in range(self.restarts)]
        for states in zip(*(minimise(misfit, u, self.steps, self.lr, floor, **adam) for u in starts), strict=True):
            _, misfits, found = (torch.stack(s) for s in zip(*states, strict=True))
            best = misfits.nan_to_num(nan=torch.inf).argmin(0)
            yield found[best, torch.arange(len(z), device=z.device)]


def one_cycle(u: float) -> float:
    """Returns the released code's factor of the learning rate at the fraction u of the steps ("linear1cycledrop")."""
    return (9 * (1 - 2 * abs(u / 0.9 - 0.5)) + 1) / 10 if u < 0.9 else 0.1 - 0.99 * (u - 0.9)
