"""Bansal, Chu, Schwarzschild, Sengupta, Goldblum, Geiping & Goldstein, "Universal guidance for diffusion models" (CVPR
Workshops 2023), Algorithm 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser, step, travel_back
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.data_term import line_search, local_fit
from invgen.samplers.guided.base import GradientGuided
from invgen.validation.hints import Count, Fraction, Index, NonNegative


@dataclass(frozen=True)
class UniversalGuidance(GradientGuided):
    """Forward guidance through the denoiser, backward guidance on its output, and self-recurrence, for any loss.

    Any differentiable operator, any noise with a density, any loss: `invgen.Energy`. Forward: the likelihood's gradient at
    D through the network; the paper's s(t) = forward sqrt(1 - alpha_bar) on the noise is `forward` sigma^2 on D, so that 1
    is Bayes' rule. Nothing damps it: weights belong to one loss, and one too large diverges; `DampedUniversalGuidance`
    damps it. Backward: gradient steps of the loss from there on the denoised signal, as long as the curvature of the loss
    and the error of the denoiser allow, which use the data again and therefore fit them closer than the posterior does.
    Recurrence: every step is taken `recurrences` times, with the noise put back in between.

    Args:
        eta: 0 for the paper's DDIM steps.
        forward: weight of the forward guidance (constants from 1 to 20000, by loss, in the released scripts).
        backward_steps: the paper's m.
        recurrences: the paper's k, 2 to 10.
    """

    eta: Fraction = 0.0
    forward: NonNegative = 1.0
    backward_steps: Index = 0
    recurrences: Count = 10

    backprop: ClassVar[bool] = True

    def ahead(self, post: Posterior[Denoiser], x: Tensor, s: float) -> tuple[Tensor, Tensor]:
        """Returns D(x, s) and sigma^2 grad_x log p(y | A(D)), both (B, *shape)."""
        x0, vjp = post.prior.vjp(x, s)
        return x0, s**2 * vjp(post.likelihood_score(x0))

    def guide(self, post: Posterior[Denoiser], x: Tensor, s: float) -> Tensor:
        x0, ascent = self.ahead(post, x, s)
        x0 = x0 + self.forward * self.within(post.prior, x, s, ascent)
        var = post.prior.variance(s)
        for _ in range(self.backward_steps):
            slope, curvature = local_fit(post, x0, math.sqrt(var))
            x0 = x0 + line_search(slope, var * slope, curvature) * var * slope
        return x0

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        for s, s_next in self.levels(post.prior):
            for k in range(self.recurrences):
                if k:
                    x = travel_back(x, s, s_next, randn)
                x = step(x, self.guide(post, x, s), s, s_next, self.eta, randn)
            yield x
