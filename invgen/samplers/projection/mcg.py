"""Chung, Sim, Ryu & Ye, "Improving diffusion models for inverse problems using manifold constraints" (NeurIPS 2022),
Algorithm 1."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import step
from invgen.linalg import norm
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.projection.base import Projection, ProjectionSampler
from invgen.validation.hints import Count, Fraction, NonNegative


@dataclass(frozen=True)
class MCG(ProjectionSampler):
    """Manifold constrained gradient: a step against the residual, then the measured part replaced by the noised
    measurement.

    Linear operators, Gaussian noise of one level (then with an SVD) or none. x' - zeta grad_x |A^+ (y - A D)|, one norm a
    sample, in the paper's variance-preserving coordinates, for signals in [-1, 1] and DDPM's schedule; then projection on
    the noised measurement. For exact measurements as the paper has it; it fails with noise there, because the measurement
    is taken as exact. Here a measured coordinate is left to the gradient below its own noise level, see `Projection`. The
    released code takes one norm for the whole batch, drops the gradient's measured part, which the projection overwrites,
    and noises the measurement to the level before the step.

    Args:
        eta: 1 for ancestral steps.
        zeta: length of the step, in units of the signal: 1 for inpainting, 0.1 for CT (there in the corrector of a
            variance-exploding model).
    """

    steps: Count = 1000
    schedule: str | Sequence[float] = "vp"
    eta: Fraction = 1.0
    zeta: NonNegative = 1.0

    backprop: ClassVar[bool] = True

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        levels, project = self.levels(post.prior), Projection(post, randn)
        x = project(x, levels[0][0])
        for s, s_next in levels:
            x = project(self.move(post, x, s, s_next, randn), s_next)
            yield x

    def move(self, post: LinearGaussian, x: Tensor, s: float, s_next: float, randn: Streams) -> Tensor:
        """Returns the state after one guided step."""
        with differentiating():
            x = leaf(x)
            x0 = post.prior(x, s)
            misfit = norm(post.A.pinv(post.residual(x0))).sum()
        (grad,) = torch.autograd.grad(misfit, x)
        scale = math.sqrt((1 + s**2) * (1 + s_next**2))  # x / sqrt(1 + sigma^2) before and after, as in DPS
        return step(x, x0, s, s_next, self.eta, randn).detach() - self.zeta * scale * grad
