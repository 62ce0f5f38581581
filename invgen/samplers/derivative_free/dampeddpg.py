"""DPG in units of the score, damped by what its draws do not see: our variant, of no paper."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Stepper
from invgen.errors import OptionError
from invgen.forward import per_sample
from invgen.linalg import dot
from invgen.noise import Energy
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.derivative_free._candidates import log_likelihoods
from invgen.validation.hints import Count, Fraction, Positive


@dataclass(frozen=True)
class DampedDPG(Sampler):
    """DPG whose guidance is in the units of the score, damped by the uncertainty of D that its draws do not have.

    Any operator, no derivative of it; any noise with a density. Draws u_i = D +- r z_i, in pairs, of weight
    w_i ~ p(y | u_i)^(1 / T) give g = T sum w_i (u_i - D) / r^2, the gradient of T log E p(y | u)^(1 / T).
    D_y = D + s^2 J^T g / (1 + kappa), kappa the variance of the residual that D's uncertainty adds and the draws do not
    have, as in DampedDPS, to which this tends as draws grow. r is `width` times the error of the denoiser, T the standard
    deviation of the log-likelihoods and at least 1. `draws` evaluations of the operator a step, one network evaluation with
    its gradient. The relative error of g is about sqrt(dimension / draws).

    Args:
        eta: 1 for ancestral steps, 0 for the probability-flow ODE.
        order: see `Stepper`.
        draws: signals tried at each step; an even number. All are held in memory at once.
        width: spread of the draws, in units of the error of the denoiser.
        chunk: how many draws of a sample to give the operator at once; it does not change the result.
    """

    schedule: str | Sequence[float] = "log"
    eta: Fraction = 1.0
    order: Literal[1, 2] = 2
    draws: Count = 256
    width: Positive = 0.5
    chunk: Count = 256

    gradient: ClassVar[bool] = False
    family: ClassVar[str] = "derivative-free"
    backprop: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws % 2:
            raise OptionError(f"draws of DampedDPG must be an even number, got {self.draws!r}")

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        move = Stepper(post.prior, self.eta, self.order, randn)
        for s, s_next in self.levels(post.prior):
            x0, vjp = post.prior.vjp(x, s)
            v = post.prior.variance(s)
            gradient, T = policy_gradient(post, x0, self.width * math.sqrt(v), self.draws, self.chunk, randn)
            guidance = s**2 * vjp(gradient)
            missing = 1 - (self.width**2 / T).clamp(max=1)  # fraction of the uncertainty of D that the draws do not have
            kappa = missing * dot(gradient, guidance).flatten() / _square(post, x0).clamp(min=1e-30)
            x = move(x, x0 + guidance / (1 + per_sample(kappa.clamp(min=0), x)), s, s_next)
            yield x


def _square(post: Posterior, u: Tensor) -> Tensor:
    """Returns |(y - A(u)) / noise level|^2, (B,); of a loss the double, as if it were half a square."""
    if isinstance(post.noise, Energy):
        return -2 * post.log_likelihood(u)
    clean = post.A(u)
    r = (post.y - clean) / post.noise.std(clean)
    return dot(r, r).flatten()


def policy_gradient(post: Posterior, u: Tensor, r: float, draws: int, chunk: int, randn: Streams) -> tuple[Tensor, Tensor]:
    """Returns the gradient of T log E p(y | u + r z)^(1 / T) at u, (B, *shape), from pairs +- z of draws, and T, (B,).

    T is the standard deviation of the log-likelihoods, at least 1: many draws have weight. For a linear operator and
    Gaussian noise this tends to A^T (sigma_y^2 + r^2 / T A A^T)^-1 (y - A u).

    Args:
        post: the problem.
        u: the point, (B, *shape).
        r: the width of the draws.
        draws: how many.
        chunk: rows at once.
        randn: the source of noise.
    """
    z = randn(u.new_empty(len(u), draws // 2, *u.shape[1:]))
    log = torch.cat([log_likelihoods(post, torch.add(u[:, None], z, alpha=side * r), chunk) for side in (1, -1)], 1)
    T = (log - log.mean(1, keepdim=True)).square().mean(1).sqrt().clamp(min=1)
    ahead, back = (log / T[:, None]).softmax(1).chunk(2, 1)
    return per_sample(T, u) / r * torch.einsum("bk,bk...->b...", ahead - back, z), T
