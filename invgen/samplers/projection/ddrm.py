"""Kawar, Elad, Ermon & Song, "Denoising diffusion restoration models" (NeurIPS 2022), equations 7 and 8."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.projection._spectral import SpectralStep
from invgen.samplers.projection.base import ProjectionSampler
from invgen.validation.hints import Count, Fraction


@dataclass(frozen=True)
class DDRM(ProjectionSampler):
    """Denoising diffusion restoration, coordinate by coordinate in the basis of the operator's SVD.

    Operators with an SVD, Gaussian noise of one level, or none. Coordinates whose noise exceeds three times the prior's
    data_std count as unmeasured. Biased: a measured coordinate is data or noise, never weighed against the prior.

    The levels and the fraction of fresh noise in the unmeasured coordinates are made for 20 steps and signals of about [-1,
    1]. Fresh noise lets these coordinates find the modes that fit the measured ones, but each renewal at level s loses the
    variance of x_0 given x_s, and the more often, the more steps there are: `AdaptiveDDRM` renews what loses nothing.

    Args:
        eta: fraction of fresh noise where the measurement is noisier than the current level.
        eta_b: trust in the measurement where it is cleaner than the current level.
        eta_c: fraction of fresh noise where nothing was measured.
    """

    steps: Count = 20
    schedule: str | Sequence[float] = "vp"
    eta: Fraction = 0.85
    eta_b: Fraction = 1.0
    eta_c: Fraction = 0.85

    svd: ClassVar[bool] = True

    def fresh(self, prior: Denoiser, s: float, s_next: float) -> float:
        """Returns the fraction of fresh noise of a step where nothing was measured."""
        return self.eta_c

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels = post.prior, self.levels(post.prior)
        spectral = SpectralStep(post, self.eta, self.eta_b, randn)
        x = spectral.start(x, levels[0][0])
        for s, s_next in levels:
            x = spectral(x, prior(x, s), s, s_next, self.fresh(prior, s, s_next))
            yield x
