"""Martin, Gagneux, Hagemann & Steidl, "PnP-Flow: plug-and-play image restoration with flow matching" (ICLR 2025),
Algorithm 3."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, flow_time
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler, published
from invgen.samplers.flow._flow import data_step
from invgen.validation.hints import Count, NonNegative

_ALPHAS = {
    "denoising": 0.8,
    "deblurring": 0.01,
    "super-resolution": 0.3,
    "box inpainting": 0.5,
    "random inpainting": 0.01,
}


@dataclass(frozen=True)
class PnPFlow(Sampler):
    """Plug-and-play flow: a gradient step on the data, fresh noise put on the result, the mean of a few denoisings.

    Any differentiable operator, any noise; no gradient of the network. A point estimate: it averages over the noise that it
    adds, so that its samples differ little.

    The step is gamma = t^alpha / L with t = 1 at noise and L the curvature of the data term, in the paper's normalisation
    (|A| = 1) sigma_y^2 t^alpha. The noise level cancels, and alpha takes its place: on a Gaussian prior the fixed point at
    level sigma belongs to the noise variance sigma^2 |A|^2 / t^alpha, whatever the true one. `DampedPnPFlow` knows it.

    Args:
        average: denoisings averaged at each step, a network evaluation each.
        alpha: exponent of the step, by task; see `paper`.
    """

    schedule: str | Sequence[float] = "flow"
    average: Count = 5
    alpha: NonNegative = 0.3

    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "flow"

    @classmethod
    def paper(cls, task: str = "super-resolution") -> "PnPFlow":
        """Returns the published settings of a task (the released test script's)."""
        return cls(alpha=published("PnPFlow", _ALPHAS, task))

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, data = post.prior, data_step(post)
        x = torch.full_like(x, prior.data_mean)
        for s, _ in self.levels(prior):
            z = x + flow_time(s, prior.data_std) ** self.alpha * data(x, prior.data_std**2, 0.0)
            x = sum((prior(z + s * randn(z), s) for _ in range(self.average)), torch.zeros_like(z)) / self.average
            yield x
