"""Samples of the prior itself: ancestral steps (Ho et al., 2020), DDIM (Song et al., 2021) and Heun's method (Karras et
al., 2022, Algorithm 1 without churn). `samplers.Heun(steps=18)(prior, num_samples=4)` takes a prior, not a posterior."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, step
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.validation.hints import Count, Fraction


class _Unmeasured(LinearOperator):
    """Measures nothing: one zero, whatever the signal."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * x.flatten(1)[:, :1]


@dataclass(frozen=True)
class Unconditional(Sampler):
    """The base of samplers that draw from a prior; a posterior is refused, because its measurement would be ignored."""

    family: ClassVar[str] = "unconditional"
    exact: ClassVar[str] = "as steps grow"

    def refuses(self, post: Posterior) -> str | None:
        if not isinstance(post.A, _Unmeasured):
            return "draws from the prior and would ignore the measurement"
        return super().refuses(post)

    def __call__(self, prior: Denoiser | Posterior, num_samples: int = 1, seed: int = 0, **kwargs: Any) -> Tensor:
        """Returns samples of the prior, (num_samples, *shape)."""
        if isinstance(prior, Denoiser):
            y = torch.zeros(1, dtype=prior.dtype, device=prior.device)
            prior = Posterior(prior, _Unmeasured(prior.shape), Gaussian(1.0), y)
        return super().__call__(prior, num_samples, seed, **kwargs)


@dataclass(frozen=True)
class Ancestral(Unconditional):
    """DDPM's ancestral steps: the reverse diffusion.

    Args:
        eta: 1 is DDPM, 0 is DDIM.
    """

    eta: Fraction = 1.0

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        for s, s_next in self.levels(post.prior):
            x = step(x, post.prior(x, s), s, s_next, self.eta, randn)
            yield x


@dataclass(frozen=True)
class DDIM(Ancestral):
    """The deterministic steps of DDIM: Euler's method on the probability-flow ODE."""

    eta: Fraction = 0.0


@dataclass(frozen=True)
class Heun(Unconditional):
    """Heun's second-order method on the probability-flow ODE, two network evaluations a step but the last."""

    steps: Count = 18

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        for s, s_next in self.levels(post.prior):
            slope = (x - post.prior(x, s)) / s
            euler = x + (s_next - s) * slope
            if s_next > 0:
                slope = 0.5 * (slope + (euler - post.prior(euler, s_next)) / s_next)
            x = x + (s_next - s) * slope
            yield x
