"""Pourya, El Rawas & Unser, "FLOWER: a flow-matching solver for inverse problems" (ICLR 2026), Algorithm 1."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.sampler import Sampler, published
from invgen.validation.hints import Count

_STEPS = {"denoising": 100, "box inpainting": 100, "random inpainting": 200, "deblurring": 500, "super-resolution": 500}


@dataclass(frozen=True)
class Flower(Sampler):
    """Where the flow leads, refined by the data as a Gaussian, then noise afresh: three lines a step, no network gradient.

    Linear operators, Gaussian noise or none. With t = 1 - s / (s + d), the flow's time: D = E[x_0 | x_s]; a point of
    N(x_0; D, r^2 I) p(y | x_0), r^2 = d^2 (1 - t)^2 / (t^2 + (1 - t)^2); x' = x_0 + s' z. The width is that of a prior of
    variance d^2, the paper's 1.

    gamma = 0, the paper's default, takes the mode of that Gaussian: its samples have less than half of the posterior's
    variance. gamma = 1 draws from it, which is exact for a white Gaussian prior at any number of steps; where values
    tell of others it takes 100 steps and more.

    Args:
        gamma: 0 or 1, whether the refined point has its noise.
    """

    schedule: str | Sequence[float] = "flow"
    steps: Count = 100
    gamma: Literal[0, 1] = 0

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "flow"

    @classmethod
    def paper(cls, task: str = "super-resolution") -> "Flower":
        """Returns the steps of a task in the released scripts."""
        return cls(steps=published("Flower", _STEPS, task))

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior = post.prior
        for s, s_next in self.levels(prior):
            width = s**2 * prior.data_std**2 / (s**2 + prior.data_std**2)
            x0 = prior(x, s)
            if self.gamma:
                x0 = post.draw(x0, width, randn)
            else:
                data = post.near(x0, width)
                x0 = post.A.prox(x0, data.y, width, data.noise.var)
            x = x0 + s_next * randn(x0) if s_next > 0 else x0
            yield x
