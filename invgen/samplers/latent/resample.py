"""Song, Kwon, Zhang, Hu, Qu & Shen, "Solving inverse problems with latent diffusion models via hard data consistency"
(ICLR 2024), Algorithm 1: ReSample."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser, step
from invgen.numerics.optimise import minimise, noise_floor
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.sampler import Sampler
from invgen.validation.hints import Count, NonNegative, Positive


@dataclass(frozen=True)
class ReSample(Sampler):
    """Latent diffusion whose clean estimate is now and then optimised until it explains y, then noised back to its level.

    Any differentiable operator, any noise with a density, a generator; the first third of the corrections optimises the
    signal and encodes it where the generator has an encoder, the others optimise the code. Noising back draws from the
    product of N(estimate, s^2 I) and of N(z', width), z' where the unconditional step would have led. The optimisation
    starts from the estimate and stops at the noise level, so that samples spread too little where the data are informative.

    The released code also makes a gradient step of latent DPS at each level, looks five steps ahead before it corrects,
    and stops the optimisation at a squared residual of 1e-6 whatever the noise. The width falls as steps are added;
    `InvariantReSample` has one that does not.

    Args:
        corrections: how many levels correct, evenly spread over the last two thirds.
        inner_steps: evaluations of the decoder in each (up to 2000 on the signal and 500 on the code, of AdamW).
        gamma: width = gamma times the variance of an ancestral step, s'^2 (1 - (s' / s)^2) at the next level s'.
        stop: the residual at which the optimisation stops, in units of the noise; 0 for never.
    """

    steps: Count = 500
    schedule: str | Sequence[float] = "vp"
    corrections: Count = 33
    inner_steps: Count = 500
    gamma: Positive = 40.0
    stop: NonNegative = 1.0

    prior: ClassVar[type] = Generator
    family: ClassVar[str] = "latent"

    def width(self, s: float, s_next: float) -> float:
        """Returns the variance about the unconditional step's end that noising back allows."""
        return self.gamma * s_next**2 * (1 - (s_next / s) ** 2)

    def levels(self, prior: Denoiser | Generator) -> list[tuple[float, float]]:
        return super().levels(prior.latent if isinstance(prior, Generator) else prior)

    def run(self, post: Posterior[Generator], z: Tensor, randn: Streams) -> Iterator[Tensor]:
        latent, levels = post.prior.latent, self.levels(post.prior)
        z = latent.start(z, levels[0][0])
        later = range(len(levels) // 3, len(levels))
        count = min(self.corrections, len(later))
        chosen = [later[-1 - (k * len(later)) // count] for k in range(count)][::-1]  # the last level always
        for k, (s, s_next) in enumerate(levels):
            z0 = latent(z, s)
            if k not in chosen:
                z = step(z, z0, s, s_next, 0.0, randn)
            else:
                onward = step(z, z0, s, s_next, 0.0, randn)
                z = self._consistent(post, z0, signal=post.prior.has_encoder and chosen.index(k) < count // 3)
                if s_next > 0:
                    width, var = self.width(s, s_next), s_next**2
                    z = (width * z + var * onward) / (width + var) + math.sqrt(width * var / (width + var)) * randn(z)
            yield z

    def _consistent(self, post: Posterior[Generator], z: Tensor, signal: bool) -> Tensor:
        """Returns a code near z that explains y, found through the signal or directly."""
        decode, latent = post.prior, post.prior.latent

        def loss(u: Tensor) -> tuple[Tensor, Tensor]:
            return -post.log_likelihood(u if signal else decode(u)), u

        size = decode.data_std if signal else latent.data_std
        floor = noise_floor(post, self.stop) if self.stop > 0 else None
        *_, (u, _, _) = minimise(loss, decode(z) if signal else z, self.inner_steps, floor=floor, size=size)
        return decode.encode(u) if signal else u
