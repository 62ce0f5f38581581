"""MCG with the guidance of DampedDPS: our variant, of no paper."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from invgen.diffusion import step
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.guided.base import GradientGuided
from invgen.samplers.guided.damped import DampedDPS
from invgen.samplers.projection.mcg import MCG
from invgen.validation.hints import Count, Fraction


@dataclass(frozen=True)
class DampedMCG(MCG, GradientGuided):
    """MCG whose step is damped by the curvature of the data, in any units and for any number of steps.

    Linear operators, Gaussian noise of one level (then with an SVD) or none.

    Args:
        zeta, fraction: of the guidance, see DampedDPS.
    """

    steps: Count = 100
    schedule: str | Sequence[float] = "edm"
    fraction: Fraction = 2 / 3

    guide = DampedDPS.guide

    def move(self, post: LinearGaussian, x: Tensor, s: float, s_next: float, randn: Streams) -> Tensor:
        return step(x, self.guide(post, x, s), s, s_next, self.eta, randn)
