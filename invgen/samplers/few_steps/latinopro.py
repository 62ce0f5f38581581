"""Spagnoletti, Prost, Almansa, Papadakis & Pereyra, "LATINO-PRO: latent consistency inverse solver with prompt
optimization" (ICCV 2025), Section 4 and the released code."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invgen.conditional import Conditioned
from invgen.diffusion import Denoiser, Prior, Rescaled
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.gradients import differentiating
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.few_steps.base import denoiser_of
from invgen.samplers.few_steps.latino import LATINO, decoded, encoded
from invgen.validation.hints import Count, NonNegative, Positive


@dataclass(frozen=True)
class LATINOPRO(LATINO):
    """LATINO in rounds, after each of which the condition moves up the likelihood of the states that the data made.

    The prior is `network.condition(c)`, c an embedding, of a consistency function. Each round is LATINO with four levels,
    and begins where the one before ended. The gradient of log p(x_next | x_now; c) = -|x_next - f(x_now, s; c)|^2 /
    (2 s_next^2) in c, of unit length for each row of c, is added up over its levels but the last; c moves by `rate` times
    the sum, less from the eleventh round on, and stays within `radius` of where it began: stochastic approximation of the
    c that makes y most likely. In the released code the sum runs on over the rounds, so that c swings about its goal. Every
    sample has a c of its own. Linear operators, Gaussian noise or none.

    Args:
        steps: evaluations a round.
        rounds: how many.
        rate: of the first ten rounds, in units of the embedding; 0.9 times the one before from there on.
        radius: of the ball about the first embedding.
    """

    steps: Count = 4
    rounds: Count = 15
    rate: NonNegative = 0.08
    radius: Positive = 15.0

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None:
            codes = denoiser_of(post.prior)
            if embedding(codes) is None:
                why = f"needs a prior under an embedding, network.condition(c), got {type(codes).__name__}"
        return why

    def run(self, post: Posterior[Prior, LinearOperator, Gaussian], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        codes, levels = denoiser_of(post.prior), self.levels(post.prior)
        given = embedding(codes)
        assert given is not None  # `refuses` has seen to it
        first = given.expand(len(x), *given.shape)
        c = first
        for j in range(self.rounds):
            total = torch.zeros_like(first)
            state = x + levels[0][0] * randn(x)
            for s, lower in levels:
                with differentiating():
                    c = c.detach().requires_grad_(lower > 0)
                    z = under(codes, state, s, c)
                guess = decoded(post.prior, z.detach())
                x = encoded(post.prior, self.towards(post, guess, self.width(post.prior, s), randn))
                if lower > 0:
                    state = x + lower * randn(x)
                    with differentiating():
                        (grad,) = torch.autograd.grad(-(state - z).square().sum() / (2 * lower**2), c)
                    total = total + grad / grad.norm(dim=-1, keepdim=True).clamp(min=1e-30)
                yield x
            away = c.detach() + self.rate * 0.9 ** max(j - 10, 0) * total - first
            c = first + away * (self.radius / away.norm(dim=-1, keepdim=True).clamp(min=self.radius))


def embedding(codes: Denoiser) -> Tensor | None:
    """Returns the embedding that a prior is conditioned on; None where there is none."""
    if isinstance(codes, Rescaled):
        return embedding(codes.prior)
    given = codes.given if isinstance(codes, Conditioned) else None
    return given if given is not None and given.is_floating_point() else None


def under(codes: Denoiser, x: Tensor, s: float, c: Tensor) -> Tensor:
    """Returns f(x, s; c) of a prior that is conditioned, with an embedding for each sample, (B, *embedding)."""
    if isinstance(codes, Rescaled):
        return under(codes.prior, (x - codes.shift) / codes.scale, s / codes.scale, c) * codes.scale + codes.shift
    assert isinstance(codes, Conditioned)
    return codes.prior(x, s, c)
