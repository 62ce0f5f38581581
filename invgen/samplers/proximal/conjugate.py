"""DCPS and MGPS with draws by perturbing and conjugate gradients: our variants, of no paper.

Their papers fit a Gaussian with independent values at each step. From a perturbed start, a few conjugate gradients with a
line search to the top of the posterior of perturbed data draw from it in any units, correlations included (`draw_near`).
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.data_term import Curvature, Pullback, local_fit
from invgen.samplers.proximal._fits import draw_near, perturbed
from invgen.samplers.proximal.dcps import DCPS
from invgen.samplers.proximal.mgps import MGPS
from invgen.validation.hints import Count, Index, Positive, Range


@dataclass(frozen=True)
class ConjugateDCPS(Sampler):
    """DCPS whose draws are found by conjugate gradients, in any units and with the correlations of the signal.

    Any differentiable operator, any noise with a density, any loss. More blocks are shorter, and the bias falls.

    Args:
        blocks, iterations, langevin_steps, gamma: see DCPS.
    """

    blocks: Count = 3
    iterations: Count = 2
    langevin_steps: Index = 5
    gamma: Positive = 1e-3

    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = True

    run, langevin, weight, kept = DCPS.run, DCPS.langevin, DCPS.weight, DCPS.kept

    def draw(
        self, post: Posterior[Denoiser], mean: Tensor, std: float, width: float, s: float, low: float, randn: Streams
    ) -> Tensor:
        """Returns a draw of N(u; mean, std^2 I) g(u), where g is the likelihood after one step from (u, s) to low.

        `width`, of `step_width`, bounds the moves of conjugate gradients.
        """
        prior, weight = post.prior, self.weight(post, low)
        kept, data = self.kept(post, s, low), perturbed(post, randn, weight)

        def fit(u: Tensor) -> tuple[Tensor, Curvature, Pullback]:
            x0, vjp = (u, lambda v: v) if kept == 1 else prior.vjp(u, s)
            slope, curvature = local_fit(data, x0 + kept * (u - x0), math.sqrt(prior.variance(s)), whole=True)
            return weight * slope, lambda d: weight * curvature(d), lambda v: kept * v + (1 - kept) * vjp(v)

        return draw_near(mean, std, fit, self.iterations, randn, width)


@dataclass(frozen=True)
class ConjugateMGPS(Sampler):
    """MGPS whose draws at the midpoint are found by conjugate gradients, in any units.

    Any differentiable operator, any noise with a density, any loss.

    Args:
        alpha: the midpoint is alpha times the next noise level; 1 guides at the next level itself.
        iterations: gradient steps a level, one network evaluation each.
    """

    alpha: Annotated[float, Range(0, 1, above=True)] = 0.75
    iterations: Count = 2

    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = True

    run = MGPS.run

    def midpoint(self, levels: list[tuple[float, float]], k: int) -> float:
        """Returns the level at which step k is guided: alpha times the next one."""
        return max(self.alpha * levels[k][1], levels[-1][0])

    def effort(self, left: int) -> int:
        """Returns the gradient steps of a draw."""
        return self.iterations

    def draw(
        self, post: Posterior[Denoiser], mean: Tensor, std: float, width: float, s: float, iterations: int, randn: Streams
    ) -> Tensor:
        """Returns a draw of N(u; mean, std^2 I) p(y | D(u, s)) by so many iterations; `width` is that of `step_width`."""
        prior = post.prior
        near, data = math.sqrt(prior.variance(s)), perturbed(post, randn)

        def fit(u: Tensor) -> tuple[Tensor, Curvature, Pullback]:
            x0, vjp = prior.vjp(u, s)
            return *local_fit(data, x0, near, whole=True), vjp

        return draw_near(mean, std, fit, iterations, randn, width)
