"""Zhu, Zhang, Liang, Cao, Wen, Timofte & Van Gool, "Denoising diffusion models for plug-and-play image restoration"
(CVPR Workshops 2023), Algorithm 1."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.sampler import Sampler, published
from invgen.validation.hints import Fraction, Positive

# (steps, lambda, zeta). The released scripts divide a noise level of images in [0, 1] by levels of images in [-1, 1], which
# makes their lambda four times the one of a single unit: 7 for deblurring, 1 for inpainting there
_TASKS = {"deblurring": (100, 7 / 4, 0.3), "inpainting": (20, 1 / 4, 1.0)}


@dataclass(frozen=True)
class DiffPIR(Sampler):
    """Half-quadratic splitting along the diffusion: denoise, solve the data problem, put noise back. No gradient of the
    network.

    Linear operators, Gaussian noise or none, noise level and prior in the same units. The defaults are between the released
    settings: lambda for deblurring in one unit (7 / 4, where the scripts' 7 mixes two), a fraction of fresh noise between
    those of deblurring and inpainting. For one good image of few steps take zeta = 1, as the paper does for inpainting: it
    forgets the start at once, and the samples spread too little.

    Args:
        lam: weight of the prior, the paper's lambda.
        zeta: fraction of the noise that is fresh (0.3 deblurring, 1 inpainting).
    """

    schedule: str | Sequence[float] = "flow"
    lam: Positive = 1.75
    zeta: Fraction = 0.5

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "guided"

    @classmethod
    def paper(cls, task: str = "deblurring") -> "DiffPIR":
        """Returns the released scripts' settings of a task, on DDPM's schedule, for data in [-1, 1]."""
        steps, lam, zeta = published("DiffPIR", _TASKS, task)
        return cls(steps=steps, schedule="vp", lam=lam, zeta=zeta)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        for s, s_next in self.levels(post.prior):
            x0 = post.prior(x, s)
            data = post.near(x0, post.prior.variance(s))
            x0 = post.A.prox(
                x0, data.y, s**2 / self.lam, data.noise.var
            )  # argmin |y - A u|^2 + lam sigma_y^2/s^2 |u - x0|^2
            eps = (x - x0) / s
            x = x0 + s_next * (math.sqrt(1 - self.zeta) * eps + math.sqrt(self.zeta) * randn(x))
            yield x
