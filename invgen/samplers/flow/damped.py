"""FlowChef, FlowDPS and PnP-Flow with a data step that its curvature bounds: our variants, of no paper.

Each step on the data is gamma grad log p(y | u) with gamma = 1 / (L + 1 / v), L the curvature of the data term and v the
variance of what is known of u (`data_step`): stable in any units, for any noise level and any number of steps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Stepper
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.flow._flow import data_step
from invgen.samplers.flow.flowdps import FlowDPS
from invgen.samplers.guided.base import GuidedSampler
from invgen.validation.hints import Count, Fraction, Positive


@dataclass(frozen=True)
class DampedFlowChef(GuidedSampler):
    """FlowChef whose steering is damped: one stable gradient step of the data from D, then a step of the ODE, of order 2.

    Any differentiable operator, any noise; no gradient of the network. On a white Gaussian prior and A A^T ~ I this is the
    exact guidance.
    """

    eta: Fraction = 0.0
    schedule: str | Sequence[float] = "flow"

    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "flow"
    backprop: ClassVar[bool] = False

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, data, move = post.prior, data_step(post), Stepper(post.prior, self.eta, self.order, randn)
        for s, s_next in self.levels(prior):
            x0 = prior(x, s)
            x = move(x, x0 + self.within(prior, x, s, data(x0, prior.variance(s))), s, s_next)
            yield x


@dataclass(frozen=True)
class DampedFlowDPS(FlowDPS):
    """FlowDPS whose gradient steps are damped, bounded by the variance of the denoiser.

    Any differentiable operator, any noise; no gradient of the network. As there, the last steps belong to the prior alone.

    Args:
        inner, shift: see FlowDPS.
        step_size: of the gradient steps, 1 for the stable size.
    """

    shift: Positive = 1.0
    step_size: Positive = 1.0

    counts: ClassVar[bool] = True

    def descent(self, post: Posterior[Denoiser]) -> Callable[[Tensor, float], Tensor]:
        data = data_step(post)
        return lambda u, s: self.step_size * data(u, post.prior.variance(s))


@dataclass(frozen=True)
class DampedPnPFlow(Sampler):
    """PnP-Flow whose data step is damped by the noise of its level, so that it ends at the mode of the posterior.

    Any differentiable operator, any noise; no gradient of the network. A point estimate: it averages over the noise that it
    adds, so that its samples differ little. gamma = 1 / (L + 1 / sigma^2): on a Gaussian prior its fixed point at level
    sigma is the posterior mean for the noise variance sigma_y^2 + sigma^2 |A|^2.

    Args:
        average: denoisings averaged at each step, a network evaluation each.
    """

    schedule: str | Sequence[float] = "flow"
    average: Count = 5

    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "flow"

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, data = post.prior, data_step(post)
        x = torch.full_like(x, prior.data_mean)
        for s, _ in self.levels(prior):
            z = x + data(x, s**2)
            x = sum((prior(z + s * randn(z), s) for _ in range(self.average)), torch.zeros_like(z)) / self.average
            yield x
