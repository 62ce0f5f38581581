"""DPS, FreeDoM and universal guidance with a step that the curvature of the data bounds: our variants, of no paper.

Their guidance is in the units of the score. It depends on neither the number of steps, nor the size of the signal, nor its
units, where the constants of the papers belong to one problem, one number of steps and signals in [-1, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser, step
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.guided.base import GuidedSampler, likelihood_guidance
from invgen.samplers.guided.freedom import FreeDoM
from invgen.samplers.guided.universal import UniversalGuidance
from invgen.validation.hints import Count, Fraction, NonNegative


@dataclass(frozen=True)
class DampedDPS(GuidedSampler):
    """DPS whose step is damped: the gradient of the likelihood, shortened by what the denoiser does not know.

    Any differentiable operator, any noise or none, any loss. D_y = D + zeta sigma^2 grad_x log N(y; A(D), v), where v is
    the noise variance plus `fraction` of the part of the uncertainty of D along the residual r: r^T J C J^T r / |r|^2, J is
    the Jacobian of A and C = sigma^2 dD/dx. No product is needed that the gradient has not computed. For a loss
    (`invgen.Energy`) its curvature along the gradient takes the place of 1 / noise variance.

    Args:
        zeta: strength of the guidance; 1 is Bayes' rule.
        fraction: of the uncertainty of D in the likelihood. 0 is the point estimate of DPS, which overshoots without bound
            where the noise is weak; 1 takes p(x_0 | x_sigma) for a Gaussian, as PiGDM and MMPS do, which waits too long to
            choose between modes. In between, a residual that the noise does not explain keeps -(1 - fraction) / fraction
            of itself: it dies out for more than 1/2. All agree once sigma is small.
    """

    zeta: NonNegative = 1.0
    fraction: Fraction = 2 / 3

    noiseless: ClassVar[bool] = True

    def guide(self, post: Posterior[Denoiser], x: Tensor, s: float) -> Tensor:
        x0, ascent = likelihood_guidance(post, x, s, self.fraction)
        return x0 + self.zeta * self.within(post.prior, x, s, ascent)


@dataclass(frozen=True)
class DampedFreeDoM(FreeDoM):
    """FreeDoM with the guidance of DampedDPS: in the middle of the noise levels each of its steps is taken several times.

    Any differentiable operator, any noise or none, any loss. It has the bias of DampedDPS; repeating a step lets the levels
    at which the content is decided come closer to their own law.

    Args:
        repeats: how often each step within `travel` is taken.
        travel: noise levels, in units of data_std, between which to repeat.
        zeta, fraction: see DampedDPS.
    """

    schedule: str | Sequence[float] = "edm"
    eta: Fraction = 1.0
    repeats: Count = 3
    travel: tuple[NonNegative, NonNegative] = (1.0, 10.0)
    zeta: NonNegative = 1.0
    fraction: Fraction = 2 / 3

    guide = DampedDPS.guide

    def move(self, post: Posterior[Denoiser], x: Tensor, s: float, s_next: float, randn: Streams) -> Tensor:
        return step(x, self.guide(post, x, s), s, s_next, self.eta, randn)


@dataclass(frozen=True)
class DampedUniversalGuidance(UniversalGuidance):
    """Universal guidance whose forward step is that of DampedDPS, with ancestral steps.

    Any differentiable operator, any noise or none, any loss.

    Args:
        forward, backward_steps, recurrences: see UniversalGuidance; forward = 1 is Bayes' rule.
        fraction: see DampedDPS.
    """

    eta: Fraction = 1.0
    recurrences: Count = 2
    fraction: Fraction = 2 / 3

    noiseless: ClassVar[bool] = True

    def ahead(self, post: Posterior[Denoiser], x: Tensor, s: float) -> tuple[Tensor, Tensor]:
        return likelihood_guidance(post, x, s, self.fraction)
