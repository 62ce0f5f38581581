"""Patel, Wen, Metaxas & Yang, "Steering rectified flow models in the vector field for controlled image generation" (2024),
Algorithm 1: FlowChef."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, flow_time, step
from invgen.linalg import dot
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.validation.hints import Fraction, Positive


@dataclass(frozen=True)
class FlowChef(Sampler):
    """The flow's ODE steered by the gradient of the data term at D, which skips the network's Jacobian.

    Any differentiable operator, any noise; no gradient of the network. x_t - scale grad mean (y - A(D))^2 at each Euler
    step but the last, for 100 steps and signals in [-1, 1]: a sum over steps that grows with their number and fits the
    noise of y too. `DampedFlowChef` steers as much at whatever number of steps.

    Args:
        scale: of the gradient, 500 in the released code for 64 x 64 images.
    """

    eta: Fraction = 0.0
    schedule: str | Sequence[float] = "flow"
    scale: Positive = 500.0

    counts: ClassVar[bool] = False
    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "flow"

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior = post.prior
        for s, s_next in self.levels(prior):
            x0 = prior(x, s)
            x = step(x, x0, s, s_next, self.eta, randn)
            if s_next > 0:  # in x_t = (1 - t) x
                x = x - self.scale / (1 - flow_time(s_next, prior.data_std)) * _slope(post, x0)
            yield x


def _slope(post: Posterior, u: Tensor) -> Tensor:
    """Returns the gradient of the mean over measured values of (y - A(u))^2, for each sample."""
    with differentiating():
        u = leaf(u)
        r = post.residual(u)
        return torch.autograd.grad(dot(r, r).sum() / max(r[0].numel(), 1), u)[0]
