"""Menon, Damian, Hu, Ravi & Rudin, "PULSE: self-supervised photo upsampling via latent space exploration of generative
models" (CVPR 2020), Section 3."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.gradients import differentiating, leaf
from invgen.hints import Count, NonNegative, Positive
from invgen.linalg import dot, norm
from invgen.optimise import Adam, noise_floor
from invgen.posterior import Posterior
from invgen.pushforward import Generator, StandardNormal
from invgen.random import Streams
from invgen.sampler import Sampler


@dataclass(frozen=True)
class PULSE(Sampler):
    """Descent on the sphere of radius sqrt(d) in the latent space of a generator, where standard normal codes lie.

    Any differentiable operator, any noise with a density, a generator with standard normal codes z. A point estimate for
    each random start, and not of the posterior's mode: the sphere takes the place of the prior, so that data which call for
    a longer z are not followed. A row stays once its residual is at the noise level, and its best z is kept. The released
    code keeps each of the 18 vectors of StyleGAN's extended latent space on a sphere of its random start's radius and adds
    their spread (GEOCROSS) to the loss; a generator with one z has no such term. It gives Adam the whole gradient, here the
    part along the sphere. A start may end in a poor minimum: with the shipped digits-gan and an image of its own, reduced
    four times, the median residual is 1.65 times the noise and that of the best of eight starts 1.0 to 1.6; so take several
    samples and look at their `Result.residual`.

    Args:
        steps: evaluations (100).
        lr: of Adam at its highest (0.4); it rises from a tenth and falls to a thousandth, a cycle that ends in a drop.
        stop: the residual at which a row stays, in units of the noise; 0 for never.
    """

    steps: Count = 100
    lr: Positive = 0.4
    stop: NonNegative = 1.0

    prior: ClassVar[type] = Generator
    family: ClassVar[str] = "latent"
    backprop: ClassVar[bool] = True

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and not isinstance(post.prior.latent, StandardNormal):
            why = f"needs a generator with standard normal codes, got {type(post.prior.latent).__name__}"
        return why

    def run(self, post: Posterior, z: Tensor, randn: Streams) -> Iterator[Tensor]:
        codes = post.latent()
        radius = math.sqrt(z[0].numel()) if len(z) else 1.0
        z = radius * z / norm(z)
        adam = Adam(self.lr)
        floor = -noise_floor(post, self.stop)
        best, best_fit = z, torch.full(z.shape[:1], -torch.inf, dtype=z.dtype, device=z.device)
        for k in range(self.steps + 1):
            with differentiating():
                z = leaf(z)
                fit = codes.log_likelihood(z)
                (grad,) = torch.autograd.grad(-fit.sum(), z)
            fit, z = fit.detach(), z.detach()
            grad = grad - dot(grad, z) / radius**2 * z  # along the sphere, so that Adam's scale is of what can be used
            better = ~(fit <= best_fit) & ~(best_fit >= floor)  # a fit that is not a number is taken, and seen
            best_fit = torch.where(better, fit, best_fit)
            best = torch.where(better.reshape(-1, *[1] * (z.ndim - 1)), z, best)
            if k > 0:
                yield best
            z = adam.step(z, grad, one_cycle(k / self.steps))
            z = radius * z / norm(z)


def one_cycle(u: float) -> float:
    """The released code's factor of the learning rate at the share u of the steps ("linear1cycledrop")."""
    if u < 0.9:
        return (9 * (1 - 2 * abs(u / 0.9 - 0.5)) + 1) / 10
    return 0.1 + (u - 0.9) / 0.1 * (0.001 - 0.1)
