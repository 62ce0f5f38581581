"""Chung, Lee & Ye, "Decomposed diffusion sampler for accelerating large-scale inverse problems" (ICLR 2024),
Algorithm 1."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import step
from invgen.forward import LinearOperator
from invgen.linalg import cg
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.sampler import Sampler
from invgen.validation.hints import Count, Fraction, Positive


@dataclass(frozen=True)
class DDS(Sampler):
    """A few steps of conjugate gradients from the denoised image towards the data, then DDIM with the unconditional noise.

    Linear operators. Made for weak noise: gamma is independent of the noise level, and the few iterations regularise. The
    levels are DDPM's, as published, for signals in [-1, 1].

    Args:
        gamma: weight of the data in (I + gamma A^T A) u = x0 + gamma A^T y, in units of 1 / |A|^2. The paper's 1 for a CT
            geometry in pixel units, where |A|^2 is about the number of angles times the width, is of the order of 1000.
        iterations: of CG, the paper's 5.
    """

    schedule: str | Sequence[float] = "vp"
    eta: Fraction = 0.85
    gamma: Positive = 1000.0
    iterations: Count = 5

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "guided"

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        A = post.A
        gamma = self.gamma / A.norm() ** 2
        back = gamma * A.adjoint(post.y)
        for s, s_next in self.levels(post.prior):
            x0 = post.prior(x, s)
            u = cg(lambda v: v + gamma * A.adjoint(A(v)), x0 + back, x0, max_iter=self.iterations, warn=False)
            x = step(x, u, s, s_next, self.eta, randn, eps=(x - x0) / s)
            yield x
