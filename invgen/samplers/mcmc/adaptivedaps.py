"""DAPS with the width that the denoiser states: our variant, of no paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from invgen.diffusion import Denoiser
from invgen.posterior import Posterior
from invgen.samplers.mcmc.daps import DAPS
from invgen.validation.hints import Count


@dataclass(frozen=True)
class AdaptiveDAPS(DAPS):
    """DAPS whose width is the error of the denoiser, r^2 = `prior.variance(sigma)`, with exact draws where there are any.

    Any operator, any noise with a density; exact measurements of linear operators too.

    Args:
        steps, ode_steps, inner, langevin_steps: see DAPS.
    """

    schedule: str | Sequence[float] = "flow"
    steps: Count = 50
    ode_steps: Count = 2
    inner: Literal["auto", "exact", "langevin"] = "auto"

    def width(self, post: Posterior[Denoiser], s: float) -> float:
        return post.prior.variance(s)
