"""The reverse diffusion from a noisy signal on: Song et al., "Score-based generative modeling through SDEs" (ICLR 2021)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Stepper, noise_levels
from invgen.forward import as_svd, has_svd
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian, Posterior
from invgen.samplers.projection.base import Levels, ProjectionSampler
from invgen.validation.hints import Count


@dataclass(frozen=True)
class ReverseDiffusion(ProjectionSampler):
    """Takes a noisy signal for a state of the diffusion at its noise level, and runs the diffusion back from there.

    Denoising alone: orthogonal operators such as `Identity`, white noise of one level within the prior's. Nothing guides,
    so that the samples are wrong by the network and the steps only: calibrated here and not elsewhere, a prior is well and
    the sampler is not; not calibrated here at many steps, the network is not the denoiser of its own samples.

    Args:
        schedule: "early", level k at (k / last)^1.25 of the way down in log sigma: the first steps are shorter, since they
            remember no step before and lack variance. It leaves an error of 3 % in the covariance of a Gaussian at 25
            steps, and of .3 % at 100; "log" leaves 8 and .5 %. Or as for other samplers, from the level of the noise down.
        order: 2 remembers the denoised state before, at no cost; 1 is the ancestral step. See `Stepper`.
    """

    steps: Count = 25
    schedule: str = "early"
    order: Literal[1, 2] = 2

    noiseless: ClassVar[bool] = False
    svd: ClassVar[bool] = True
    exact: ClassVar[str] = "as steps grow"

    def levels(self, prior: Denoiser, highest: float | None = None) -> Levels:
        """Returns the pairs (sigma, next sigma) from the level of the noise down, or from the prior's highest."""
        high, last = highest or prior.sigma_max, max(self.steps - 1, 1)
        if self.schedule != "early":
            return noise_levels(self.steps, prior.sigma_min, high, self.schedule, prior.data_std)
        early = [high * (prior.sigma_min / high) ** ((k / last) ** 1.25) for k in range(self.steps)]
        return list(zip(early, [*early[1:], 0.0], strict=True))

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
        move = Stepper(prior, 1.0, self.order, randn)
        for s, s_next in self.levels(prior, _level(post)):
            x = move(x, prior(x, s), s, s_next)
            yield x


def _level(post: LinearGaussian) -> float:
    """Returns the level of the noise in units of the signal, for an operator whose singular values are equal."""
    return float(post.noise.sigma / as_svd(post.A).s.amax())
