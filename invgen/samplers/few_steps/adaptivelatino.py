"""LATINO whose proximal step balances the noise: our variant, of no paper."""

from dataclasses import dataclass

from torch import Tensor

from invgen.diffusion import Prior
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.few_steps.base import decay, denoiser_of
from invgen.samplers.few_steps.latino import LATINO


@dataclass(frozen=True)
class AdaptiveLATINO(LATINO):
    """LATINO with the width that keeps the posterior of a white prior: r^2 / (1 + a), and y with fresh noise of its own.

    Linear operators, Gaussian noise or none; a consistency function over pixels, or over the codes of a decoder with an
    encoder. r^2 is the variance of x_0 given x_s, `prior.variance`, and a = sqrt(1 - r^2 / v) the factor by which f
    shrinks a state. The proximal step is on y + sigma_y z: for a prior N(m, v I) the posterior is then the fixed point
    of every step at every level, and what a single step from a high level gives. Where values tell of others it is no
    faster than LATINO.

    Args:
        delta: times the width; 1 is exact there.
    """

    def width(self, prior: Prior, s: float) -> float:
        codes = denoiser_of(prior)
        variance = codes.variance(s)
        share = variance / codes.variance(codes.sigma_max) * prior.data_std**2 if codes is not prior else variance
        return self.delta * share / (1 + decay(variance, codes))

    def towards(self, post: Posterior[Prior, LinearOperator, Gaussian], x: Tensor, width: float, randn: Streams) -> Tensor:
        data = post.near(x, width)
        return post.A.prox(x, data.y + data.noise.sigma * randn(data.y), width, data.noise.var)
