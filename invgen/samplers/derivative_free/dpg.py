"""Tang, Xie, Feng, Wang, Zhang & Bai, "Solving general noisy inverse problem via posterior sampling: a policy gradient
viewpoint" (AISTATS 2024), Algorithm 1: diffusion policy gradient."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import step
from invgen.errors import OptionError
from invgen.forward import per_sample
from invgen.linalg import dot, norm
from invgen.noise import Energy
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.derivative_free._candidates import log_likelihoods
from invgen.validation.hints import Count, NonNegative, Positive, Share


@dataclass(frozen=True)
class DPG(Sampler):
    """Diffusion policy gradient: the gradient of the likelihood at D from rewarded draws around it, then backpropagation.

    Any operator, no derivative of it; any noise with a density.

    form="score" (default): draws u_i = D +- r z_i, in pairs, of weight w_i ~ p(y | u_i)^(1 / T) give the pull g = T sum w_i
    (u_i - D) / r^2, the gradient of T log E p(y | u)^(1 / T). D_y = D + s^2 J^T g / (1 + kappa), kappa the variance of the
    residual that D's uncertainty adds and the draws do not have, as in DPS, to which this tends as draws grow. r is
    `width` times the error of the denoiser, T the standard deviation of the log-likelihoods and at least 1.

    form="paper": Gaussian noise; rewards exp(-(|y - A u|^2 - |y - A D|^2) / Z) with Z a moving average of |y - A D|^2, r =
    sqrt(Z / n) / 2, the gradient normalised and times `scale` beta_t in variance-preserving coordinates, for 1000 steps
    and data in [-1, 1]: use DPG.paper().

    `draws` evaluations of the operator a step, one network evaluation with its gradient. The relative error of the pull is
    about sqrt(dimension / draws).

    Args:
        draws: signals tried at each step; an even number. All are held in memory at once.
        width: of form="score".
        scale, momentum: of form="paper".
        chunk: how many draws of a sample to give the operator at once; it does not change the result.
    """

    eta: Share = 1.0
    draws: Count = 256
    width: Positive = 0.5
    form: Literal["score", "paper"] = "score"
    scale: Positive = 180.0
    momentum: NonNegative = 0.1
    chunk: Count = 256

    gradient: ClassVar[bool] = False
    family: ClassVar[str] = "derivative-free"
    backprop: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws % 2:
            raise OptionError(f"draws of DPG must be an even number, got {self.draws!r}")

    @classmethod
    def paper(cls, scale: float = 180.0, draws: int = 5000) -> "DPG":
        """The published algorithm with its schedule; InverseBench's scale and draws for Navier-Stokes."""
        return cls(steps=1000, schedule="vp", draws=draws, form="paper", scale=scale)

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and self.form == "paper" and not isinstance(getattr(post.noise, "sigma", None), float):
            why = f"needs Gaussian noise of one level for form='paper', got {post.noise!r}"
        return why

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        guided = self._score(post, x, randn) if self.form == "score" else self._paper(post, x, randn)
        yield from guided

    def _score(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        for s, s_next in self.levels(post.prior):
            x0, vjp = post.prior.vjp(x, s)
            v = post.prior.variance(s)
            pull, T = policy_gradient(post, x0, self.width * math.sqrt(v), self.draws, self.chunk, randn)
            guidance = s**2 * vjp(pull)
            missing = 1 - (self.width**2 / T).clamp(max=1)  # share of the uncertainty of D that the draws do not have
            kappa = missing * dot(pull, guidance).flatten() / _square(post, x0).clamp(min=1e-30)
            x = step(x, x0 + guidance / (1 + per_sample(kappa.clamp(min=0), x)), s, s_next, self.eta, randn)
            yield x

    def _paper(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
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


def _square(post: Posterior, u: Tensor) -> Tensor:
    """|(y - A(u)) / noise level|^2, (B,); of a loss the double, as if it were half a square."""
    if isinstance(post.noise, Energy):
        return -2 * post.log_likelihood(u)
    clean = post.A(u)
    r = (post.y - clean) / post.noise.std(clean)
    return dot(r, r).flatten()


def policy_gradient(post: Posterior, u: Tensor, r: float, draws: int, chunk: int, randn: Streams) -> tuple[Tensor, Tensor]:
    """The gradient of T log E p(y | u + r z)^(1 / T) at u, (B, *shape), from `draws` values in pairs +- z, and T, (B,).

    T is the standard deviation of the log-likelihoods, at least 1: many draws have weight. For a linear operator and
    Gaussian noise this tends to A^T (sigma_y^2 + r^2 / T A A^T)^-1 (y - A u).
    """
    z = randn(u.new_empty(len(u), draws // 2, *u.shape[1:]))
    log = torch.cat([log_likelihoods(post, torch.add(u[:, None], z, alpha=side * r), chunk) for side in (1, -1)], 1)
    T = (log - log.mean(1, keepdim=True)).square().mean(1).sqrt().clamp(min=1)
    ahead, back = (log / T[:, None]).softmax(1).chunk(2, 1)
    return per_sample(T, u) / r * torch.einsum("bk,bk...->b...", ahead - back, z), T
