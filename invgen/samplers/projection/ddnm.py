"""Wang, Yu & Zhang, "Zero-shot image restoration using denoising diffusion null-space model" (ICLR 2023), Algorithms 1
and 2 (time travel) and Section 3.3 (DDNM+, noisy measurements)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from invgen.diffusion import step
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.projection._spectral import SpectralStep
from invgen.samplers.projection.base import ProjectionSampler, with_jumps
from invgen.validation.hints import Count, Fraction


@dataclass(frozen=True)
class DDNM(ProjectionSampler):
    """The range of A from the measurement, its null space from the prior.

    Linear operators. Noiseless: x0 - A^+ (A x0 - y). With Gaussian noise this is DDNM+, which weighs each coordinate of the
    SVD by its noise and therefore needs an SVDOperator; there it coincides with DDRM's step at eta_b = 1.

    The paper travels back by the forward process from the state, as here; the released code renoises the last x0, before
    its correction. In the noiseless case that code renews the fraction eta of all noise, here eta is that of DDIM.

    Args:
        eta: fraction of fresh noise (0.85).
        travel_length, travel_repeat: every travel_length steps go back as many and repeat, travel_repeat times in all, on
            RePaint's schedule; costs about travel_repeat times the network evaluations.
    """

    schedule: str | Sequence[float] = "flow"
    eta: Fraction = 0.85
    travel_length: Count = 1
    travel_repeat: Count = 1

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        A, y, prior = post.A, post.y, post.prior
        plus = SpectralStep(post, self.eta, 1.0, randn) if post.noise.sigma > 0 else None
        for s, s_next, new in with_jumps(self.levels(prior), self.travel_length, self.travel_repeat):
            if s_next > s:  # travel back: q(x_s_next | x_s)
                x = x + math.sqrt(s_next**2 - s**2) * randn(x)
                continue
            x0 = prior(x, s)
            if plus is not None:
                x = plus(x, x0, s, s_next)
            else:
                x = step(x, x0 - A.pinv(A(x0) - y), s, s_next, self.eta, randn, eps=(x - x0) / s)
            if new:
                yield x
