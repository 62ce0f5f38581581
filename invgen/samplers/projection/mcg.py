"""Chung, Sim, Ryu & Ye, "Improving diffusion models for inverse problems using manifold constraints" (NeurIPS 2022),
Algorithm 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import step
from invgen.linalg import norm
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import published
from invgen.samplers.guided.dps import DPS
from invgen.samplers.projection.base import Projection, ProjectionSampler

_ZETA = {"inpainting": 1.0, "ct": 0.1}


@dataclass(frozen=True)
class MCG(DPS, ProjectionSampler):
    """The gradient of DPS and replacement: manifold constrained gradient, then projection on the noised measurement.

    Linear operators, Gaussian noise of one level (then with an SVD) or none. For exact measurements as the paper has it; it
    fails with noise there, because the measurement is taken as exact. Here a measured coordinate is left to the gradient
    below its own noise level, see `Projection`.

    form="score" (default) takes the guidance of DPS. form="paper" subtracts zeta grad_x |A^+ (y - A D)|, one norm a sample,
    in the paper's variance-preserving coordinates, for data in [-1, 1]: use MCG.paper(). The released code takes one norm
    for the whole batch, drops the gradient's measured part, which the projection overwrites, and noises the measurement to
    the level before the step.

    Args:
        zeta: strength of the guidance; for form="paper" see `paper`.
        share: see DPS.
    """

    family: ClassVar[str] = "projection"
    backprop: ClassVar[bool] = True

    @classmethod
    def paper(cls, task: str = "inpainting", zeta: float | None = None, steps: int = 1000) -> "MCG":
        """The published algorithm with DDPM's schedule (CT there: the corrector of a VE model), and the released zeta."""
        zeta = published("MCG", _ZETA, task) if zeta is None else zeta
        return cls(steps=steps, schedule="vp", zeta=zeta, form="paper")

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels, project = post.prior, self.levels(post.prior), Projection(post, randn)
        x = project(x, levels[0][0])
        for s, s_next in levels:
            if self.form == "score":
                x = step(x, self.guide(post, x, s), s, s_next, self.eta, randn)
            else:
                with differentiating():
                    x = leaf(x)
                    x0 = prior(x, s)
                    misfit = norm(post.A.pinv(post.residual(x0))).sum()
                (grad,) = torch.autograd.grad(misfit, x)
                scale = math.sqrt((1 + s**2) * (1 + s_next**2))  # x / sqrt(1 + sigma^2) before and after, as in DPS
                x = step(x, x0, s, s_next, self.eta, randn).detach() - self.zeta * scale * grad
            x = project(x, s_next)
            yield x
