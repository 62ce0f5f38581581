"""Tang, Xie, Feng, Wang, Zhang & Bai, "Solving general noisy inverse problem via posterior sampling: a policy gradient
viewpoint" (AISTATS 2024), Algorithm 1: diffusion policy gradient."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, step
from invgen.forward import Operator, per_sample
from invgen.linalg import norm
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.derivative_free._candidates import log_likelihoods
from invgen.validation.hints import Count, Fraction, Positive, Range


@dataclass(frozen=True)
class DPG(Sampler):
    """Diffusion policy gradient: the gradient of the likelihood at D from rewarded draws around it, then backpropagation.

    Any operator, no derivative of it, Gaussian noise of one level. Draws u = D + r z have rewards exp(-(|y - A u|^2 -
    |y - A D|^2) / Z) with Z a moving average of |y - A D|^2 and r = sqrt(Z / n) / 2; the gradient is normalised and times
    `scale` beta_t in variance-preserving coordinates, for 1000 steps and signals in [-1, 1]. `draws` evaluations of the
    operator a step, one network evaluation with its gradient. Scale and draws are InverseBench's for Navier-Stokes.
    `DampedDPG` depends on neither the steps nor the units.

    Args:
        draws: signals tried at each step, at least two. All are held in memory at once.
        scale: of the step.
        momentum: fraction of the gradient of the step before, which falls to 0 at the end.
        chunk: how many draws of a sample to give the operator at once; it does not change the result.
    """

    steps: Count = 1000
    schedule: str | Sequence[float] = "vp"
    eta: Fraction = 1.0
    draws: Annotated[int, Range(2)] = 5000
    scale: Positive = 180.0
    momentum: Fraction = 0.1
    chunk: Count = 256

    gradient: ClassVar[bool] = False
    family: ClassVar[str] = "derivative-free"
    backprop: ClassVar[bool] = True

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and not isinstance(getattr(post.noise, "sigma", None), float):
            why = f"needs Gaussian noise of one level, got {post.noise!r}"
        return why

    def run(self, post: Posterior[Denoiser, Operator, Gaussian], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        Z, before = None, None
        for k, (s, s_next) in enumerate(self.levels(post.prior)):
            x0, vjp = post.prior.vjp(x, s)
            loss = norm(post.residual(x0)).flatten() ** 2
            Z = loss if Z is None else 0.9 * Z + 0.1 * loss
            r = per_sample((Z / x[0].numel()).sqrt() / 2, x)
            z = randn(x.new_empty(len(x), self.draws, *x.shape[1:]))
            log = log_likelihoods(post, x0[:, None] + r[:, None] * z, self.chunk)
            gap = 2 * post.noise.var * (log - post.log_likelihood(x0)[:, None])  # back to squares
            reward = (gap / Z[:, None]).exp()
            reward = (reward - reward.mean(1, keepdim=True)) / (self.draws - 1)  # less the mean of the others
            # towards the reward; the paper writes the loss, whose gradient has the other sign
            grad = math.sqrt(1 + s**2) * vjp(torch.einsum("bk,bk...->b...", reward, z) / r)
            decay = self.momentum * (1 - (k + 1) / self.steps)
            smooth = grad if before is None else decay * before + (1 - decay) * grad
            before = grad
            beta = 1 - (1 + s_next**2) / (1 + s**2)
            size = self.scale * beta / math.sqrt(1 - beta) * math.sqrt(1 + 1 / s**2) * math.sqrt(1 + s_next**2)
            x = step(x, x0, s, s_next, self.eta, randn)
            x = x + (size if s_next > 0 else 0.0) * smooth / norm(smooth).clamp(min=1e-30)
            yield x
