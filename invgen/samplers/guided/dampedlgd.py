"""LGD-MC with draws and a step that the data bound: our variant, of no paper."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Stepper
from invgen.linalg import dot
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.data_term import local_fit
from invgen.samplers.guided.base import GuidedSampler
from invgen.samplers.guided.lgd import log_likelihoods
from invgen.validation.hints import Count, Fraction, NonNegative


@dataclass(frozen=True)
class DampedLGD(GuidedSampler):
    """LGD whose draws are narrowed to what so few resolve, and whose step is damped by the curvature of the data.

    Any differentiable operator, any noise with a density, any loss. The width is r^2 = `prior.variance(sigma)`, narrowed
    for each sample to where the spread of log p(y | D + r z) is that whose weights leave sqrt(draws) of them effective; a
    line search over the draws, as that of DampedDPS at D, stands for the width that is left. Without this the gradient is
    that of one draw's noise, and what lies beyond the kink of an operator that saturates never comes back. With one draw
    this is DampedDPS, which it is close to where y is many and exact.

    Args:
        draws: Monte Carlo draws (one gradient of the operator and two evaluations each, no network evaluation).
        zeta: strength of the guidance; 1 is Bayes' rule.
        fraction: of the curvature in the line search; see DampedDPS.
    """

    draws: Count = 10
    zeta: NonNegative = 1.0
    fraction: Fraction = 2 / 3

    exact: ClassVar[str] = "for white Gaussian priors and linear operators, as draws and steps grow"

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        move = Stepper(post.prior, self.eta, self.order, randn)
        for s, s_next in self.levels(post.prior):
            x0, vjp = post.prior.vjp(x, s)
            r = math.sqrt(post.prior.variance(s))
            moves = torch.stack([randn(x0) for _ in range(self.draws)]).mul_(r)
            # centred draws of variance r^2: the mean of a linear function over them is its value at D
            moves.sub_(moves.mean(0)).mul_(math.sqrt(self.draws / max(self.draws - 1, 1)))
            moves.mul_(self.resolved(post, x0, moves))
            weights = log_likelihoods(post, x0, moves).softmax(0)
            fits = [local_fit(post, x0 + move, r) for move in moves]
            slopes = torch.stack([slope for slope, _ in fits])
            slope = (weights * slopes).sum(0)
            ascent = s**2 * vjp(slope)
            curvature = sum((curvature(ascent) for _, curvature in fits), x.new_zeros(())) / self.draws
            rise, cost = dot(slopes.mean(0), ascent), dot(slope, ascent)
            # never further than the weighted draws say: where they resolve all of the width, they are exact
            t = (rise / (cost + self.fraction * curvature.clamp(min=0)).clamp(min=1e-30)).clamp(0, 1)
            ascent = torch.where(cost > 0, t, 0) * ascent
            x = move(x, x0 + self.zeta * self.within(post.prior, x, s, ascent), s, s_next)
            yield x

    def resolved(self, post: Posterior[Denoiser], x0: Tensor, moves: Tensor) -> Tensor:
        """Returns the fraction of the width that the draws resolve, (B, 1, ..., 1), at most 1.

        Log-normal weights of spread c leave n exp(-c^2) of n draws effective; the spread grows with the width at least in
        proportion, so that this is narrow enough.
        """
        log = log_likelihoods(post, x0, moves)
        spread = (log - log.mean(0)).square().mean(0).sqrt()
        return (math.sqrt(0.5 * math.log(self.draws)) / spread.clamp(min=1e-30)).clamp(max=1)
