"""Song, Vahdat, Mardani & Kautz, "Pseudoinverse-guided diffusion models for inverse problems" (ICLR 2023), Section 3."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.forward import LinearOperator
from invgen.guidance import GuidedSampler, bounded_variance
from invgen.noise import Gaussian
from invgen.posterior import Posterior


@dataclass(frozen=True)
class PiGDM(GuidedSampler):
    """Pseudoinverse-guided diffusion: p(x_0 | x_sigma) taken as N(D, r^2 I), so that p(y | x_sigma) is Gaussian.

    Linear operators, Gaussian or no noise. Exact for the prior N(0, data_std^2 I). r^2 = s^2 d^2 / (s^2 + d^2) with the
    prior's data_std d; the paper assumes d = 1. The guidance enters by Tweedie's formula, with weight s^2.
    """

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True

    def guide(self, post: Posterior, x: Tensor, s: float) -> Tensor:
        x0, vjp = post.prior.vjp(x, s)
        r2 = bounded_variance(s, post.prior)
        u = post.A.solve(post.residual(x0), r2, post.noise.var)  # (r^2 A A^T + sigma_y^2 I)^-1 (y - A x0)
        return x0 + s**2 * vjp(post.A.adjoint(u))
