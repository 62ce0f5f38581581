"""MPGD with a step that the curvature of the data bounds: our variant, of no paper."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.posterior import Posterior
from invgen.samplers.data_term import line_search, local_fit
from invgen.samplers.guided.mpgd import MPGD
from invgen.validation.hints import Fraction, NonNegative


@dataclass(frozen=True)
class DampedMPGD(MPGD):
    """MPGD whose step is damped: along the likelihood's gradient as far as its curvature and the denoiser's error allow.

    Any differentiable operator, any noise or none, any loss, in any units and for any number of steps. No backpropagation
    through the network. The bias is that of an isotropic C in the step, as in DiffPIR, and grows with the correlations of
    the signal.

    Args:
        zeta: strength of the guidance; 1 is the top of the posterior on the line.
        autoencoder, projection, between: see MPGD.
    """

    schedule: str | Sequence[float] = "edm"
    eta: Fraction = 1.0
    zeta: NonNegative = 1.0

    counts: ClassVar[bool] = True

    def descend(self, post: Posterior[Denoiser], x0: Tensor, s: float, s_next: float, var: float | None = None) -> Tensor:
        var = post.prior.variance(s) if var is None else var
        slope, curvature = local_fit(post, x0, math.sqrt(var))
        return x0 + self.zeta * line_search(slope, var * slope, curvature) * var * slope
