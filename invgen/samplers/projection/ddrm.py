"""Kawar, Elad, Ermon & Song, "Denoising diffusion restoration models" (NeurIPS 2022), equations 7 and 8."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.projection._spectral import SpectralStep
from invgen.samplers.projection.base import Levels, ProjectionSampler
from invgen.validation.hints import Count, Share


@dataclass(frozen=True)
class DDRM(ProjectionSampler):
    """Denoising diffusion restoration, coordinate by coordinate in the basis of the operator's SVD.

    Operators with an SVD, Gaussian noise of one level, or none. Coordinates whose noise exceeds three times the prior's
    data_std count as unmeasured. Biased: a measured coordinate is data or noise, never weighed against the prior.

    The paper's levels and its share of fresh noise in the unmeasured coordinates are made for 20 steps and signals of about
    [-1, 1]. Fresh noise lets these coordinates find the modes that fit the measured ones, but each renewal at level s loses
    the variance of x_0 given x_s, and the more often, the more steps there are. By default as much is renewed as loses
    nothing, which depends on neither units nor the number of steps; the paper's form is DDRM.paper().

    Args:
        eta: share of fresh noise where the measurement is noisier than the current level (0.85).
        eta_b: trust in the measurement where it is cleaner than the current level (1).
        schedule: "angle", even in arctan(2 s / data_std), the angle between signal and noise, so that most levels lie where
            the prior decides between signals; or as for other samplers, the paper's is "vp".
        eta_c: share of fresh noise where nothing was measured: a number (the paper's 0.85), or None, the larger of the
            ancestral step's, eta_c^2 = 1 - (s_next / s)^2, and 1 - v / s^2 with v = `prior.variance(s)`.
    """

    steps: Count = 20
    schedule: str | Sequence[float] = "angle"
    eta: Share = 0.85
    eta_b: Share = 1.0
    eta_c: Share | None = None

    svd: ClassVar[bool] = True

    @classmethod
    def paper(cls, steps: int = 20) -> "DDRM":
        """The published settings: DDPM's schedule, eta 0.85 everywhere, eta_b 1, for data in [-1, 1]."""
        return cls(steps=steps, schedule="vp", eta_c=0.85)

    def levels(self, prior: Denoiser) -> Levels:
        if self.schedule != "angle":
            return super().levels(prior)
        unit, last = prior.data_std / 2, max(self.steps - 1, 1)
        high, low = math.atan(prior.sigma_max / unit), math.atan(prior.sigma_min / unit)
        levels = [unit * math.tan(high + (low - high) * k / last) for k in range(self.steps)]
        return list(zip(levels, [*levels[1:], 0.0], strict=True))

    def fresh(self, prior: Denoiser, s: float, s_next: float) -> float:
        """eta_c of this step."""
        if self.eta_c is not None:
            return self.eta_c
        return math.sqrt(max(1 - (s_next / s) ** 2, 1 - prior.variance(s) / s**2))

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels = post.prior, self.levels(post.prior)
        spectral = SpectralStep(post, self.eta, self.eta_b, randn)
        x = spectral.start(x, levels[0][0])
        for s, s_next in levels:
            x = spectral(x, prior(x, s), s, s_next, self.fresh(prior, s, s_next))
            yield x
