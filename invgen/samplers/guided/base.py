"""A guided denoiser is a denoiser. Half of the field is a choice of D_y(x) = E[x_0 | x_sigma, y], put through the one step.

D_y = D + C A^T (noise + A C' A^T)^-1 (y - A D). A sampler of this family writes `guide`, the few lines that choose C and
C'; the base class below holds the loop that they share.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from invgen.diffusion import Denoiser, Stepper
from invgen.noise import Noiseless
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.data_term import line_search, local_fit
from invgen.validation.hints import Fraction


@dataclass(frozen=True)
class GuidedSampler(Sampler):
    """Denoise, guide, step.

    Args:
        eta: 1 for ancestral steps (DDPM), 0 for the probability-flow ODE (DDIM).
        order: 2 remembers the guided denoiser of the step before, for the right variance at few steps and at no cost; 1 is
            the plain step. See `Stepper`.
    """

    schedule: str | Sequence[float] = "log"
    eta: Fraction = 1.0
    order: Literal[1, 2] = 2

    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = True

    def guide(self, post: Posterior[Any, Any, Any], x: Tensor, s: float) -> Tensor:
        """Returns D_y, an estimate of E[x_0 | x_sigma = x, y], (B, *shape)."""
        raise TypeError(f"{type(self).__name__} must define guide(self, post, x, s)")

    def run(self, post: Posterior[Denoiser, Any, Any], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        move = Stepper(post.prior, self.eta, self.order, randn)
        for s, s_next in self.levels(post.prior):
            x = move(x, self.guide(post, x, s), s, s_next)
            yield x


def likelihood_guidance(post: Posterior[Denoiser], x: Tensor, s: float, fraction: float) -> tuple[Tensor, Tensor]:
    """Returns D(x, s) and the guidance of the likelihood at D, both (B, *shape): sigma^2 grad_x log p(y | A(D)), damped.

    Damped by 1 + fraction * (the variance of D in the measurement along the residual, over the noise), so that steps do not
    overshoot; fraction = 0 is the plain gradient. Exact measurements are fitted along that line.
    """
    x0, vjp = post.prior.vjp(x, s)
    gradient, curvature = local_fit(post, x0, math.sqrt(post.prior.variance(s)))
    d = s**2 * vjp(gradient)
    exact = isinstance(post.noise, Noiseless)
    return x0, (
        line_search(gradient, d, curvature, 0.0) if exact else line_search(gradient, d, curvature, fraction=fraction)
    ) * d
