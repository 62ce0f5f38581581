"""DDRM that renews as much noise as loses nothing: our variant, of no paper."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from invgen.diffusion import Denoiser
from invgen.samplers.projection.base import Levels, ProjectionSampler
from invgen.samplers.projection.ddrm import DDRM
from invgen.validation.hints import Count, Fraction


@dataclass(frozen=True)
class AdaptiveDDRM(ProjectionSampler):
    """DDRM whose fresh noise adapts to the denoiser: unmeasured coordinates renew as much as loses none of their variance.

    Operators with an SVD, Gaussian noise of one level, or none. It depends on neither units nor the number of steps. The
    fraction of a step is the larger of the ancestral step's, eta_c^2 = 1 - (s_next / s)^2, and 1 - v / s^2 with
    v = `prior.variance(s)`.

    Args:
        eta, eta_b: see DDRM.
        schedule: "angle", even in arctan(2 s / data_std), the angle between signal and noise, so that most levels lie where
            the prior decides between signals; or as for other samplers.
    """

    steps: Count = 20
    schedule: str | Sequence[float] = "angle"
    eta: Fraction = 0.85
    eta_b: Fraction = 1.0

    svd: ClassVar[bool] = True

    run = DDRM.run

    def levels(self, prior: Denoiser) -> Levels:
        if self.schedule != "angle":
            return super().levels(prior)
        unit, last = prior.data_std / 2, max(self.steps - 1, 1)
        high, low = math.atan(prior.sigma_max / unit), math.atan(prior.sigma_min / unit)
        levels = [unit * math.tan(high + (low - high) * k / last) for k in range(self.steps)]
        return list(zip(levels, [*levels[1:], 0.0], strict=True))

    def fresh(self, prior: Denoiser, s: float, s_next: float) -> float:
        """Returns the fraction of fresh noise of a step where nothing was measured."""
        return math.sqrt(max(1 - (s_next / s) ** 2, 1 - prior.variance(s) / s**2))
