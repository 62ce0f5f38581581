"""The reverse diffusion from a noisy signal on: Song et al., "Score-based generative modeling through SDEs" (ICLR 2021)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Stepper
from invgen.forward import as_svd, has_svd
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian, Posterior
from invgen.samplers.projection.base import ProjectionSampler
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class ReverseDiffusion(ProjectionSampler):
    """Takes a noisy signal for a state of the diffusion at its noise level, and runs the diffusion back from there.

    Denoising alone: orthogonal operators such as `Identity`, white noise of one level within the prior's. Nothing guides,
    so that the samples are wrong by the network and the steps only: calibrated here and not elsewhere, a prior is well and
    the sampler is not; not calibrated here at many steps, the network is not the denoiser of its own samples.

    Args:
        power: level k lies (k / last)^power of the way down, in log sigma. Above 1 the first steps are shorter: they
            remember no step before, and lack variance. 1.25 leaves an error of 3 % in the covariance of a Gaussian at 25
            steps, and of .3 % at 100; 1 leaves 8 and .5 %.
        order: 2 remembers the denoised state before, at no cost; 1 is the ancestral step. See `Stepper`.
    """

    steps: Count = 25
    power: Positive = 1.25
    order: Literal[1, 2] = 2

    noiseless: ClassVar[bool] = False
    svd: ClassVar[bool] = True
    exact: ClassVar[str] = "as steps grow"

    def refuses(self, post: Posterior) -> str | None:
        if why := super().refuses(post):
            return why
        gains = as_svd(post.A).s if has_svd(post.A) else torch.zeros(1)
        if gains.numel() != post.prior.shape.numel() or gains.amin() < gains.amax() * (1 - 1e-6):
            return f"denoises, with operators such as Identity, got {type(post.A).__name__}"
        level, prior = _level(cast(LinearGaussian, post)), cast(Denoiser, post.prior)
        if not prior.sigma_min <= level <= prior.sigma_max:
            return f"needs noise of a level that the prior knows, {prior.sigma_min:g} to {prior.sigma_max:g}, got {level:g}"
        return None

    def start(self, post: LinearGaussian, randn: Streams, rows: int) -> Tensor:
        A = as_svd(post.A)
        return A.V(A.Ut(post.y)) / A.s.amax()

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior: Denoiser = post.prior
        level, last = _level(post), max(self.steps - 1, 1)
        levels = [level * (prior.sigma_min / level) ** ((k / last) ** self.power) for k in range(self.steps)]
        move = Stepper(prior, 1.0, self.order, randn)
        for s, s_next in zip(levels, [*levels[1:], 0.0], strict=True):
            x = move(x, prior(x, s), s, s_next)
            yield x


def _level(post: LinearGaussian) -> float:
    """Returns the level of the noise in units of the signal, for an operator whose singular values are equal."""
    return float(post.noise.sigma / as_svd(post.A).s.amax())
