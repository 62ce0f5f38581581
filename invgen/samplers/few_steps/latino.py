"""Spagnoletti, Prost, Almansa, Papadakis & Pereyra, "LATINO-PRO: latent consistency inverse solver with prompt
optimization" (ICCV 2025), Algorithm 1."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser, Prior
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.samplers.few_steps.base import FewSteps, ddpm_levels, denoiser_of, regularised
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class LATINO(FewSteps):
    """Noise a code, jump to the end of its flow, decode, a proximal step on the data, encode: eight evaluations.

    Linear operators, Gaussian noise or none; a consistency function over pixels, or over the codes of a decoder with an
    encoder (latent consistency models), which no gradient passes. The proximal step x = argmin |y - A x|^2 / sigma_y^2 +
    |x - f|^2 / w has w = delta d^2 s^2 / (1 + s^2) for the noise level s of codes in units of their deviation, d that of a
    pixel. The start is the regularised solution of y = A x, noised.

    Noising and jumping keep the law of the prior, so that the chain is Langevin's with an implicit step for the data.
    The steps are large, and samples too narrow, which `AdaptiveLATINO` mends. Where values tell of others both take
    many steps.

    Levels are even times of Stable Diffusion's schedule, times the deviation of the codes. In the released code delta is 1
    for inpainting (1 / 2 in the second half); for other tasks it scales with the norm of the residual, by constants for
    images of 1024 x 1024, which are not taken here.

    Args:
        schedule: "paper", or levels as for every sampler.
        delta: size of the proximal step.
    """

    steps: Count = 8
    schedule: str | Sequence[float] = "paper"
    delta: Positive = 1.0

    prior: ClassVar[type] = Prior

    def refuses(self, post: Posterior) -> str | None:
        if isinstance(post.prior, Generator):
            if not post.prior.has_encoder:
                return f"needs a decoder with an encoder, and {type(post.prior).__name__} has none"
        elif not isinstance(post.prior, Denoiser):
            return f"needs a Denoiser prior, or a Generator over one, got {type(post.prior).__name__}"
        return super().refuses(post)

    def levels(self, prior: Prior) -> list[tuple[float, float]]:
        codes = denoiser_of(prior)
        if self.schedule != "paper":
            return super().levels(codes)
        times = [999 - 1000 * k // self.steps for k in range(self.steps)]
        levels = [s * codes.data_std for s in ddpm_levels(0.00085, 0.012, 2.0)[times].tolist()]
        levels = [min(max(s, codes.sigma_min), codes.sigma_max) for s in levels]
        return list(zip(levels, [*levels[1:], 0.0], strict=True))

    def start(self, post: Posterior[Prior, LinearOperator, Gaussian], randn: Streams, rows: int) -> Tensor:
        return encoded(post.prior, regularised(post, rows))

    def run(self, post: Posterior[Prior, LinearOperator, Gaussian], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        codes = denoiser_of(post.prior)
        for s, _ in self.levels(post.prior):
            z = codes(x + s * randn(x), s)
            x = encoded(post.prior, self.towards(post, decoded(post.prior, z), self.width(post.prior, s), randn))
            yield x

    def width(self, prior: Prior, s: float) -> float:
        """Returns w, the variance of a pixel around f(z, s) in the proximal step."""
        s = s / denoiser_of(prior).data_std
        return self.delta * prior.data_std**2 * s**2 / (1 + s**2)

    def towards(self, post: Posterior[Prior, LinearOperator, Gaussian], x: Tensor, width: float, randn: Streams) -> Tensor:
        """Returns argmin_u |y - A u|^2 / sigma_y^2 + |u - x|^2 / width."""
        data = post.near(x, width)
        return post.A.prox(x, data.y, width, data.noise.var)


def decoded(prior: Prior, z: Tensor) -> Tensor:
    """Returns the signal of a code; the code itself where the prior is over signals."""
    return prior(z) if isinstance(prior, Generator) else z


def encoded(prior: Prior, x: Tensor) -> Tensor:
    """Returns the code of a signal; the signal itself where the prior is over signals."""
    return prior.encode(x) if isinstance(prior, Generator) else x
