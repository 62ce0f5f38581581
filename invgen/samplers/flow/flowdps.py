"""Kim, Kim & Ye, "FlowDPS: flow-driven posterior sampling for inverse problems" (ICCV 2025), Algorithm 1."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, flow_time, noise_levels
from invgen.linalg import norm
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class FlowDPS(Sampler):
    """Flow-driven posterior sampling: a few gradient steps on the data from D, mixed with D, then part of the noise anew.

    Any differentiable operator, any noise; no gradient of the network. x' = (1 - t) D + t D_y + s' (sqrt(t') eps +
    sqrt(1 - t') z) with t = s / (s + d): the weight t of the data falls to zero at the end, so that the last steps belong
    to the prior alone, and a precise measurement is followed less closely than its noise allows.

    D_y by D_y <- D_y - step_size grad |y - A(D_y)|, an un-squared norm, for latents of Stable Diffusion 3 (where the code
    takes the residual through A^+ or A^T first); `DampedFlowDPS` has steps of stable size in any units.

    Args:
        inner: gradient steps at each level.
        shift: of the time, t -> shift t / (1 + (shift - 1) t), which multiplies sigma by it: more steps at noise.
        step_size: of the gradient, in units of the signal.
    """

    steps: Count = 28
    schedule: str | Sequence[float] = "flow"
    inner: Count = 3
    shift: Positive = 4.0
    step_size: Positive = 15.0

    counts: ClassVar[bool] = False
    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "flow"

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        return noise_levels(self.steps, prior.sigma_min, prior.sigma_max, self.schedule, self.shift * prior.data_std)

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, data = post.prior, self.descent(post)
        for s, s_next in self.levels(prior):
            x0 = prior(x, s)
            eps, u = (x - x0) / s, x0
            for _ in range(self.inner):
                u = u + data(u, s)
            t, t_next = flow_time(s, prior.data_std), flow_time(s_next, prior.data_std)
            x = (1 - t) * x0 + t * u
            if s_next > 0:
                x = x + s_next * (math.sqrt(t_next) * eps + math.sqrt(1 - t_next) * randn(x))
            yield x

    def descent(self, post: Posterior[Denoiser]) -> Callable[[Tensor, float], Tensor]:
        """Returns the change of a signal u that one step of the data makes at noise level s, (u, s) -> (B, *shape)."""
        return lambda u, s: -self.step_size * _slope(post, u)


def _slope(post: Posterior, u: Tensor) -> Tensor:
    """Returns the gradient of |y - A(u)|, one norm a sample."""
    with differentiating():
        u = leaf(u)
        return torch.autograd.grad(norm(post.residual(u)).sum(), u)[0]
