"""Bansal, Chu, Schwarzschild, Sengupta, Goldblum, Geiping & Goldstein, "Universal guidance for diffusion models" (CVPR
Workshops 2023), Algorithm 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.data_term import line_search, local_fit
from invgen.diffusion import step, travel_back
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.guided.base import GuidedSampler, likelihood_guidance
from invgen.validation.hints import Count, Index, NonNegative, Share


@dataclass(frozen=True)
class UniversalGuidance(GuidedSampler):
    """Forward guidance through the denoiser, backward guidance on its output, and self-recurrence, for any loss.

    Any differentiable operator, any noise with a density, any loss: `invgen.Energy`. Forward: the likelihood's gradient at
    D through the network; the paper's s(t) = forward sqrt(1 - alpha_bar) on the noise is `forward` sigma^2 on D, so that 1
    is Bayes' rule. Backward: gradient steps of the loss from there on the denoised signal, which use the data again and
    therefore fit them closer than the posterior does. Recurrence: every step is taken `recurrences` times, with the noise
    put back in between.

    The forward step is damped by the curvature of the loss, as in DPS; the backward steps by that and by the error of the
    denoiser; `damped=False` is the paper's undamped forward step.

    Args:
        forward: weight of the forward guidance (constants from 1 to 20000, by loss, in the released scripts).
        backward_steps: the paper's m.
        recurrences: the paper's k (2 to 10 there).
        share: see DPS.
    """

    forward: NonNegative = 1.0
    backward_steps: Index = 0
    recurrences: Count = 2
    share: Share = 2 / 3
    damped: bool = True

    noiseless: ClassVar[bool] = True

    @classmethod
    def paper(cls, forward: float, recurrences: int = 10, backward_steps: int = 0, steps: int = 500) -> "UniversalGuidance":
        """The published form, undamped, with DDIM steps; weights belong to one loss (see the released scripts)."""
        return cls(steps, "vp", 0.0, forward, backward_steps, recurrences, damped=False)

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and not self.damped and not hasattr(post.noise, "loss") and getattr(post.noise, "sigma", 1) == 0:
            why = "needs noise with a density where it is not damped, got a noiseless measurement"
        return why

    def guide(self, post: Posterior, x: Tensor, s: float) -> Tensor:
        x0, ascent = likelihood_guidance(post, x, s, self.share if self.damped else 0.0)
        x0 = x0 + self.forward * ascent
        var = post.prior.variance(s)
        for _ in range(self.backward_steps):
            pull, bend = local_fit(post, x0, math.sqrt(var))
            x0 = x0 + line_search(pull, var * pull, bend) * var * pull
        return x0

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        for s, s_next in self.levels(post.prior):
            for k in range(self.recurrences):
                if k:
                    x = travel_back(x, s, s_next, randn)
                x = step(x, self.guide(post, x, s), s, s_next, self.eta, randn)
            yield x
