"""Choi, Kim, Jeong, Gwon & Yoon, "ILVR: conditioning method for denoising diffusion probabilistic models" (ICCV 2021),
Algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from invgen.diffusion import step
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.projection.base import Projection, ProjectionSampler
from invgen.validation.hints import Fraction, NonNegative


@dataclass(frozen=True)
class ILVR(ProjectionSampler):
    """After every step the low frequencies are replaced by those of the noised reference, x + phi(y_s) - phi(x).

    Linear operators, Gaussian noise of one level (then with an SVD) or none. The paper's low-pass filter phi, down by N and
    up again, is A^+ A for a block average A; here A is any linear operator and what it measures is replaced. (A bicubic
    filter, as in the released code, is not quite a projection; that code also takes the reference one level too noisy.)
    Biased as ScoreSDE is, of which it is the predictor alone, with a choice of when to stop.

    Args:
        until: the noise level, in units of the prior's data_std, below which the prior goes on alone: 0 keeps to the
            measurement to the end, more leaves the finer details of the measured part to the prior.
    """

    eta: Fraction = 1.0
    until: NonNegative = 0.0

    @classmethod
    def paper(cls) -> "ILVR":
        """Returns the published budget, 250 steps of DDPM's schedule, for data in [-1, 1]."""
        return cls(steps=250, schedule="vp")

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, project = post.prior, Projection(post, randn)
        for s, s_next in self.levels(prior):
            x = step(x, prior(x, s), s, s_next, self.eta, randn)
            if s_next >= self.until * prior.data_std:
                x = project(x, s_next)
            yield x
