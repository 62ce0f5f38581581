"""Chung, Kim, Mccann, Klasky & Ye, "Diffusion posterior sampling for general noisy inverse problems" (ICLR 2023),
Algorithm 1."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser, step
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import published
from invgen.samplers.data_term import misfit_gradient
from invgen.samplers.guided.base import GradientGuided
from invgen.validation.hints import Count, Fraction, NonNegative

_ZETA = {
    "super-resolution": 0.3,
    "gaussian deblurring": 0.3,
    "motion deblurring": 0.3,
    "nonlinear deblurring": 0.3,
    "random inpainting": 0.5,
    "phase retrieval": 1.0,
}


@dataclass(frozen=True)
class DPS(GradientGuided):
    """Diffusion posterior sampling: after each ancestral step, a step against the gradient of the residual's norm.

    Any differentiable operator, any noise or a loss. x' - zeta grad_x |y - A(D(x))|, one norm a sample, in the paper's
    variance-preserving coordinates x / sqrt(1 + sigma^2). The strength of the guidance is a sum over the steps: zeta
    belongs to 1000 steps of DDPM's schedule and to signals in [-1, 1]. The released code and this class take zeta times the
    gradient of the norm; the paper's text writes a factor of 2 more. `DampedDPS` has guidance that depends on neither the
    number of steps nor the units.

    Args:
        eta: 1 for ancestral steps (DDPM), 0 for the probability-flow ODE (DDIM).
        zeta: length of the guidance step, in units of the signal; the released code has 0.3 for super-resolution and
            deblurring, 0.5 for random inpainting, 1 for phase retrieval; see `paper`.
    """

    steps: Count = 1000
    schedule: str | Sequence[float] = "vp"
    eta: Fraction = 1.0
    zeta: NonNegative = 0.3

    noiseless: ClassVar[bool] = True
    backprop: ClassVar[bool] = True

    @classmethod
    def paper(cls, task: str = "super-resolution") -> "DPS":
        """Returns the released settings of a task."""
        return cls(zeta=published("DPS", _ZETA, task))

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        for s, s_next in self.levels(post.prior):
            with differentiating():
                x = leaf(x)
                x0 = post.prior(x, s)
            grad = misfit_gradient(post, x0, x)
            # a step in x / sqrt(1 + sigma^2) before and after, written in x
            scale = math.sqrt((1 + s**2) * (1 + s_next**2))
            grad = self.within(post.prior, x, s, grad)
            x = step(x, x0, s, s_next, self.eta, randn).detach() - self.zeta * scale * grad
            yield x
