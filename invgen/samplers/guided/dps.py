"""Chung, Kim, Mccann, Klasky & Ye, "Diffusion posterior sampling for general noisy inverse problems" (ICLR 2023),
Algorithm 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.data_term import paper_misfit
from invgen.diffusion import step
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import published
from invgen.samplers.guided.base import GuidedSampler, likelihood_guidance
from invgen.validation.hints import NonNegative, Share

_ZETA = {
    "super-resolution": 0.3,
    "gaussian deblurring": 0.3,
    "motion deblurring": 0.3,
    "nonlinear deblurring": 0.3,
    "random inpainting": 0.5,
    "phase retrieval": 1.0,
}


@dataclass(frozen=True)
class DPS(GuidedSampler):
    """Diffusion posterior sampling, for any differentiable operator.

    form="score" (default): D_y = D + zeta sigma^2 grad_x log N(y; A(D), v), where v is the noise variance plus `share` of
    what the uncertainty of D adds along the residual r: r^T J C J^T r / |r|^2 with J the Jacobian of A and
    C = sigma^2 dD/dx. The guidance is then in the units of the score and depends on neither the number of steps, nor the
    size of the image, nor the units; no product is needed that the gradient has not computed. For a loss
    (`invgen.Energy`) its curvature along the gradient takes the place of 1 / noise variance.

    form="paper": after each ancestral step x' - zeta grad_x |y - A(D)|, one norm per sample, in the paper's
    variance-preserving coordinates, for 1000 steps of DDPM's schedule and data in [-1, 1]: use DPS.paper(). The released
    code and this class take zeta times the gradient of the norm; the paper's text writes a factor of 2 more.

    Args:
        zeta: strength of the guidance; the code's values for form="paper" are 0.3 (super-resolution, deblurring), 0.5
            (random inpainting) and 1 (phase retrieval); see `paper`.
        share: of the uncertainty of D in the likelihood, for form="score". 0 is the paper's point estimate, which
            overshoots without bound where the noise is weak; 1 takes p(x_0 | x_sigma) for a Gaussian, as PiGDM and MMPS do,
            which waits too long to choose between modes. In between, a residual that the noise does not explain is left
            with -(1 - share) / share of itself: it dies out for more than 1/2. All agree once sigma is small.
    """

    zeta: NonNegative = 1.0
    form: Literal["score", "paper"] = "score"
    share: Share = 2 / 3

    noiseless: ClassVar[bool] = True

    @classmethod
    def paper(cls, task: str = "super-resolution", zeta: float | None = None, steps: int = 1000) -> "DPS":
        """The published algorithm with its schedule, and the released zeta of a task unless one is given."""
        zeta = published("DPS", _ZETA, task) if zeta is None else zeta
        return cls(steps=steps, schedule="vp", zeta=zeta, form="paper")

    def guide(self, post: Posterior, x: Tensor, s: float) -> Tensor:
        x0, ascent = likelihood_guidance(post, x, s, self.share)
        return x0 + self.zeta * ascent

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        if self.form == "score":
            yield from super().run(post, x, randn)
            return
        for s, s_next in self.levels(post.prior):
            with differentiating():
                x = leaf(x)
                x0 = post.prior(x, s)
                misfit = paper_misfit(post, x0).sum()  # one norm per sample: their gradients do not mix
            (grad,) = torch.autograd.grad(misfit, x)
            # a step in x / sqrt(1 + sigma^2) before and after, written in x
            scale = math.sqrt((1 + s**2) * (1 + s_next**2))
            x = step(x, x0, s, s_next, self.eta, randn).detach() - self.zeta * scale * grad
            yield x
