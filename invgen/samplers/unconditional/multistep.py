"""Song, Dhariwal, Chen & Sutskever, "Consistency models" (ICML 2023), Algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser, noise_levels
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.unconditional.ancestral import Unconditional
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class MultistepConsistency(Unconditional):
    """Jumps of a consistency function: to the end of the flow from noise, then noise and again, from ever lower levels.

    Args:
        lowest: the last level, in units of the prior's deviation; levels are even in log sigma from the highest.
    """

    steps: Count = 2
    lowest: Positive = 2.0

    consistency: ClassVar[bool] = True
    exact: ClassVar[str] = ""

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        low = min(max(self.lowest * prior.data_std, prior.sigma_min), prior.sigma_max)
        return noise_levels(self.steps, low, prior.sigma_max, "log")

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        for s, s_next in self.levels(post.prior):
            x = post.prior(x, s)
            if s_next > 0:
                x = x + s_next * randn(x)
            yield x
