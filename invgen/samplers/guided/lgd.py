"""Song, Zhang, Yin, Mardani, Liu, Kautz, Chen & Vahdat, "Loss-guided diffusion models for plug-and-play controllable
generation" (ICML 2023), LGD-MC."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.data_term import local_fit
from invgen.diffusion import step
from invgen.forward import per_sample
from invgen.linalg import dot
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.guided.base import GuidedSampler
from invgen.validation.hints import Count, NonNegative, Share


@dataclass(frozen=True)
class LGD(GuidedSampler):
    """Loss guidance averaged over what x_0 may be: sigma^2 grad_x log mean_i p(y | D + r z_i).

    Any differentiable operator, any noise with a density, any loss. p(x_0 | x_sigma) is taken as N(D, r^2 I); as the number
    of draws grows this is the exact guidance for it (PiGDM's, where y is linear and Gaussian).

    A few draws in many dimensions resolve little of that width: one of them takes all the weight, the gradient is that of
    its own noise, and what lies beyond the kink of an operator that saturates never comes back. So r is narrowed, for each
    sample, to what the draws resolve, where the spread of log p(y | D + r z) is that whose weights leave sqrt(draws) of
    them effective; a line search over the draws, as that of DPS at D, stands for the width that is left. With one draw this
    is DPS, which it is close to where y is many and exact.

    Public re-implementations average the gradients of the losses, which is not the gradient of the log of the average.

    Args:
        draws: Monte Carlo draws, the paper's n (one operator gradient and two evaluations each, no network evaluation).
        width: "prior", r^2 = `prior.variance(sigma)`, or "paper", r^2 = s^2 d^2 / (s^2 + d^2) with data_std d (1 there).
        zeta: strength of the guidance.
        damped: whether to narrow and to search; the paper has the width as it is and constants tuned by task instead.
        share: of the curvature in the line search; see DPS.
    """

    draws: Count = 10
    width: Literal["prior", "paper"] = "prior"
    zeta: NonNegative = 1.0
    damped: bool = True
    share: Share = 2 / 3

    exact: ClassVar[str] = "for white Gaussian priors and linear operators, as draws and steps grow"

    @classmethod
    def paper(cls, zeta: float = 1.0, draws: int = 10, steps: int = 1000) -> "LGD":
        """The published form: no damping, its own width; zeta is tuned by task there, and too large it diverges."""
        return cls(steps=steps, schedule="vp", draws=draws, width="paper", zeta=zeta, damped=False)

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        d = post.prior.data_std
        for s, s_next in self.levels(post.prior):
            x0, vjp = post.prior.vjp(x, s)
            r = math.sqrt(post.prior.variance(s)) if self.width == "prior" else s * d / math.hypot(s, d)
            moves = torch.stack([randn(x0) for _ in range(self.draws)]).mul_(r)
            if self.damped:
                # centred draws of variance r^2: the mean of a linear function over them is its value at D
                moves.sub_(moves.mean(0)).mul_(math.sqrt(self.draws / max(self.draws - 1, 1)))
                moves.mul_(self.resolved(post, x0, moves))
            weights = self.log_likelihoods(post, x0, moves).softmax(0)
            if self.damped:
                fits = [local_fit(post, x0 + move, r) for move in moves]
                pulls = torch.stack([pull for pull, _ in fits])
            else:
                pulls = torch.stack([post.likelihood_score(x0 + move) for move in moves])
            pull = (weights * pulls).sum(0)
            ascent = s**2 * vjp(pull)
            if self.damped:
                bend = sum(bend(ascent) for _, bend in fits) / self.draws
                rise, cost = dot(pulls.mean(0), ascent), dot(pull, ascent)
                # never further than the weighted draws say: where they resolve all of the width, they are exact
                t = (rise / (cost + self.share * bend.clamp(min=0)).clamp(min=1e-30)).clamp(0, 1)
                ascent = torch.where(cost > 0, t, 0) * ascent
            x = step(x, x0 + self.zeta * ascent, s, s_next, self.eta, randn)
            yield x

    @staticmethod
    def log_likelihoods(post: Posterior, x0: Tensor, moves: Tensor) -> Tensor:
        """log p(y | x0 + move) for moves (n, B, *shape), (n, B, 1, ..., 1)."""
        return torch.stack([per_sample(post.log_likelihood(x0 + move), x0) for move in moves])

    def resolved(self, post: Posterior, x0: Tensor, moves: Tensor) -> Tensor:
        """The share of the width that the draws resolve, (B, 1, ..., 1), at most 1.

        Log-normal weights of spread c leave n exp(-c^2) of n draws effective; the spread grows with the width at least in
        proportion, so that this is narrow enough.
        """
        log = self.log_likelihoods(post, x0, moves)
        spread = (log - log.mean(0)).square().mean(0).sqrt()
        return (math.sqrt(0.5 * math.log(self.draws)) / spread.clamp(min=1e-30)).clamp(max=1)
