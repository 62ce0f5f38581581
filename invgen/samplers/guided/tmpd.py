"""Boys, Girolami, Pidstrigach, Reich, Mosca & Akyildiz, "Tweedie moment projected diffusions for inverse problems"
(TMLR 2024), Algorithm 1 with the row-sum approximation of the covariance, equation 17."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.posterior import LinearGaussian
from invgen.samplers.guided.base import GuidedSampler


@dataclass(frozen=True)
class TMPD(GuidedSampler):
    """Moment projection: the covariance A Cov[x_0 | x_sigma] A^T replaced by the diagonal of its row sums.

    Linear operators, Gaussian noise. Exact where A C A^T is diagonal. Two products with the Jacobian a step.
    """

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    exact: ClassVar[str] = "for Gaussian priors with A C A^T diagonal, as steps grow"

    @classmethod
    def paper(cls) -> "TMPD":
        """Returns the released form: 1000 ancestral steps of first order on DDPM's schedule."""
        return cls(steps=1000, schedule="vp", order=1)

    def guide(self, post: LinearGaussian, x: Tensor, s: float) -> Tensor:
        x0, vjp = post.prior.vjp(x, s)
        post = post.near(x0, post.prior.variance(s))
        A, y = post.A, post.y
        rows = s**2 * A(vjp(A.adjoint(torch.ones_like(y))))
        # row sums of a covariance may be negative; below zero the noise alone is the variance
        u = (y - A(x0)) / (post.noise.var + rows.clamp(min=0))
        return x0 + self.within(post.prior, x, s, s**2 * vjp(A.adjoint(u)))
