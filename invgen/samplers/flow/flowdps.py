"""Kim, Kim & Ye, "FlowDPS: flow-driven posterior sampling for inverse problems" (ICCV 2025), Algorithm 1."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, flow_time, noise_levels
from invgen.linalg import norm
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.flow._flow import data_step
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class FlowDPS(Sampler):
    """Flow-driven posterior sampling: a few gradient steps on the data from D, mixed with D, then part of the noise anew.

    Any differentiable operator, any noise; no gradient of the network. x' = (1 - t) D + t D_y + s' (sqrt(t') eps +
    sqrt(1 - t') z) with t = s / (s + d): the weight t of the data falls to zero at the end, so that the last steps belong
    to the prior alone, and a precise measurement is followed less closely than its noise allows.

    form="step" (default): D_y by gradient steps of stable size (`data_step`), bounded by the variance of the denoiser.
    form="paper": D_y <- D_y - step_size grad |y - A(D_y)|, an un-squared norm, for latents of Stable Diffusion 3 (where
    the code takes the residual through A^+ or A^T first); its size has the units of x.

    Args:
        inner: gradient steps at each level.
        shift: of the time, t -> shift t / (1 + (shift - 1) t), which multiplies sigma by it: more steps at noise.
        step_size: of form="paper".
    """

    steps: Count = 28
    schedule: str | Sequence[float] = "flow"
    inner: Count = 3
    shift: Positive = 1.0
    form: Literal["step", "paper"] = "step"
    step_size: Positive = 15.0

    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "flow"

    @classmethod
    def paper(cls, step_size: float = 15.0) -> "FlowDPS":
        """The released settings: 28 evaluations, time shifted by 4, 3 inner steps of 15."""
        return cls(steps=28, shift=4.0, form="paper", step_size=step_size)

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        return noise_levels(self.steps, prior.sigma_min, prior.sigma_max, self.schedule, self.shift * prior.data_std)

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, data = post.prior, data_step(post)
        for s, s_next in self.levels(prior):
            x0 = prior(x, s)
            eps, u = (x - x0) / s, x0
            for _ in range(self.inner):
                u = u + data(u, prior.variance(s)) if self.form == "step" else u - self.step_size * _slope(post, u)
            t, t_next = flow_time(s, prior.data_std), flow_time(s_next, prior.data_std)
            x = (1 - t) * x0 + t * u
            if s_next > 0:
                x = x + s_next * (math.sqrt(t_next) * eps + math.sqrt(1 - t_next) * randn(x))
            yield x


def _slope(post: Posterior, u: Tensor) -> Tensor:
    """The gradient of |y - A(u)|, one norm a sample."""
    with differentiating():
        u = leaf(u)
        return torch.autograd.grad(norm(post.residual(u)).sum(), u)[0]
