"""Song, Zhang, Yin, Mardani, Liu, Kautz, Chen & Vahdat, "Loss-guided diffusion models for plug-and-play controllable
generation" (ICML 2023), LGD-MC."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Stepper
from invgen.forward import per_sample
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.guided.base import GuidedSampler
from invgen.samplers.guided.pigdm import PiGDM
from invgen.validation.hints import Count, NonNegative, Positive


@dataclass(frozen=True)
class LGD(GuidedSampler):
    """Loss guidance averaged over what x_0 may be: sigma^2 grad_x log mean_i p(y | D + r z_i).

    Any differentiable operator, any noise with a density, any loss. p(x_0 | x_sigma) is taken as N(D, r^2 I) with the
    paper's r^2 = sigma^2 / (1 + sigma^2); as the number of draws grows this is the exact guidance for it (PiGDM's, where y
    is linear and Gaussian). A few draws in many dimensions resolve little of that width: one of them takes all the weight
    and the gradient is that of its own noise, so that the paper tunes zeta by task, and one too large diverges;
    `DampedLGD` needs no such constant. Public re-implementations average the gradients of the losses, which is not the
    gradient of the log of the average.

    Args:
        order: 1 is the paper's step; see `GuidedSampler`.
        draws: Monte Carlo draws, the paper's n, 3 to 10 (one gradient of the operator each, no network evaluation).
        data_std: standard deviation d of the signal that the width assumes, r^2 = sigma^2 d^2 / (sigma^2 + d^2), in units
            of the signal; 1 in the paper, None for the prior's own `data_std`.
        zeta: strength of the guidance; 1 is Bayes' rule.
    """

    schedule: str | Sequence[float] = "edm"
    order: Literal[1, 2] = 1
    draws: Count = 10
    data_std: Positive | None = 1.0
    zeta: NonNegative = 1.0

    exact: ClassVar[str] = "for white Gaussian priors and linear operators, as draws and steps grow"

    width = PiGDM.width

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        move = Stepper(post.prior, self.eta, self.order, randn)
        for s, s_next in self.levels(post.prior):
            x0, vjp = post.prior.vjp(x, s)
            r = math.sqrt(self.width(post, s))
            moves = torch.stack([randn(x0) for _ in range(self.draws)]).mul_(r)
            weights = log_likelihoods(post, x0, moves).softmax(0)
            slope = (weights * torch.stack([post.likelihood_score(x0 + move) for move in moves])).sum(0)
            x = move(x, x0 + self.zeta * self.within(post.prior, x, s, s**2 * vjp(slope)), s, s_next)
            yield x


def log_likelihoods(post: Posterior, x0: Tensor, moves: Tensor) -> Tensor:
    """Returns log p(y | x0 + move) for moves (n, B, *shape), (n, B, 1, ..., 1)."""
    return torch.stack([per_sample(post.log_likelihood(x0 + move), x0) for move in moves])
