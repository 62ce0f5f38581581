"""A guided denoiser is a denoiser. Half of the field is a choice of D_y(x) = E[x_0 | x_sigma, y], put through the one step.

D_y = D + C A^T (noise + A C' A^T)^-1 (y - A D). A sampler of this family writes `guide`, the few lines that choose C and
C'; the base class below holds the loop that they share.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invgen.diffusion import step
from invgen.posterior import Posterior
from invgen.random import Streams
from invgen.sampler import Sampler


@dataclass(frozen=True)
class GuidedSampler(Sampler):
    """Denoise, guide, step.

    Args:
        eta: 1 for ancestral steps (DDPM), 0 for the probability-flow ODE (DDIM).
    """

    eta: float = 1.0

    def guide(self, post: Posterior, x: Tensor, s: float) -> Tensor:
        """D_y, an estimate of E[x_0 | x_sigma = x, y], (B, *shape)."""
        raise TypeError(f"{type(self).__name__} must define guide(self, post, x, s)")

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        for s, s_next in self.levels(post.prior):
            x = step(x, self.guide(post, x, s), s, s_next, self.eta, randn)
            yield x


def langevin(x: Tensor, score: object, h: float | Tensor, iterations: int, randn: Streams) -> Tensor:
    """Unadjusted Langevin steps x <- x + h score(x) + sqrt(2 h) z on a log-density with gradient `score`."""
    root = h.mul(2).sqrt() if isinstance(h, Tensor) else math.sqrt(2 * h)
    for _ in range(iterations):
        x = x + h * score(x) + root * randn(x)
    return x


def local_step(post: Posterior, x: Tensor, var_x: float) -> float | Tensor:
    """A stable Langevin step for N(u; x, var_x I) p(y | u) around u = x, per sample, (B, 1, ..., 1).

    The inverse of the curvature 1 / var_x + |J v|^2 / noise variance along the direction v in which the data pull, found
    with products J v by finite differences: exact for a linear operator. For another it is the larger of the slope at x and
    the slope over a standard deviation sqrt(var_x), because an operator that is flat at x (a square at zero) may be steep
    where the steps lead. 0.1 of it keeps the discretisation bias of the stationary variance below about 5 per cent.
    """
    from invgen.linalg import norm

    v = post.likelihood_score(x)
    v = v / norm(v).clamp(min=1e-30)
    clean = post.A(x)
    std, reach = post.noise.std(clean), math.sqrt(var_x)
    near, far = (norm((post.A(x + h * v) - clean) / std) / h for h in (1e-2 * reach, reach))
    return 0.1 / (1 / var_x + torch.maximum(near, far) ** 2)
