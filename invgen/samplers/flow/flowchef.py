"""Patel, Wen, Metaxas & Yang, "Steering rectified flow models in the vector field for controlled image generation" (2024),
Algorithm 1: FlowChef."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import flow_time, step
from invgen.linalg import dot
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.flow._flow import data_step
from invgen.samplers.guided.base import GuidedSampler
from invgen.validation.hints import Positive, Share


@dataclass(frozen=True)
class FlowChef(GuidedSampler):
    """The flow's ODE steered by the gradient of the data term at D, which skips the network's Jacobian.

    Any differentiable operator, any noise; no gradient of the network.

    form="step" (default): D_y = D + gamma grad log p(y | D) with gamma = 1 / (L + 1 / v), v the variance of the denoiser:
    steered as much at whatever number of steps. On a white Gaussian prior and A A^T ~ I this is the exact guidance.
    form="paper": x_t - scale grad mean (y - A(D))^2 at each Euler step but the last, a sum over steps that grows with
    their number and fits the noise of y too; made for 100 steps and data in [-1, 1].

    Args:
        scale: of form="paper" (500 in the released code for 64 x 64 images).
    """

    eta: Share = 0.0
    schedule: str | Sequence[float] = "flow"
    form: Literal["step", "paper"] = "step"
    scale: Positive = 500.0

    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "flow"
    backprop: ClassVar[bool] = False

    @classmethod
    def paper(cls, scale: float = 500.0, steps: int = 100) -> "FlowChef":
        """The released rule and its scale for images."""
        return cls(steps=steps, form="paper", scale=scale)

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, data = post.prior, data_step(post)
        for s, s_next in self.levels(prior):
            x0 = prior(x, s)
            if self.form == "step":
                x = step(x, x0 + data(x0, prior.variance(s)), s, s_next, self.eta, randn)
            else:
                x = step(x, x0, s, s_next, self.eta, randn)
                if s_next > 0:  # in x_t = (1 - t) x
                    x = x - self.scale / (1 - flow_time(s_next, prior.data_std)) * _slope(post, x0)
            yield x


def _slope(post: Posterior, u: Tensor) -> Tensor:
    """The gradient of the mean over measured values of (y - A(u))^2, for each sample."""
    with differentiating():
        u = leaf(u)
        r = post.residual(u)
        return torch.autograd.grad(dot(r, r).sum() / max(r[0].numel(), 1), u)[0]
