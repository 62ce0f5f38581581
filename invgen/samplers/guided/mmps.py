"""Rozet, Andry, Lanusse & Louppe, "Learning diffusion priors from observations by expectation maximization" (NeurIPS 2024),
Section 4.2: moment matching posterior sampling."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.forward import LinearOperator
from invgen.linalg import gmres
from invgen.noise import Gaussian
from invgen.posterior import LinearGaussian
from invgen.samplers.guided.base import GuidedSampler
from invgen.validation.hints import Count


@dataclass(frozen=True)
class MMPS(GuidedSampler):
    """Moment matching: p(x_0 | x_sigma) taken as N(D, C) with the true covariance C = sigma^2 dD/dx.

    Linear operators, Gaussian noise. Exact for Gaussian priors as the solve converges. The Jacobian of a network is not
    quite symmetric, hence GMRES.

    Args:
        iterations: of GMRES, each one product with the Jacobian; the paper uses 1 to 5.
    """

    iterations: Count = 5

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    exact: ClassVar[str] = "for Gaussian priors, as iterations and steps grow"

    @classmethod
    def paper(cls) -> "MMPS":
        """Returns the released form: 1000 ancestral steps of first order on DDPM's schedule."""
        return cls(steps=1000, schedule="vp", order=1)

    def guide(self, post: LinearGaussian, x: Tensor, s: float) -> Tensor:
        x0, vjp = post.prior.vjp(x, s)
        post = post.near(x0, post.prior.variance(s))
        A, var_y = post.A, post.noise.var
        # u = (var_y I + A C A^T)^-1 (y - A x0), of which only C A^T u is wanted
        guidance = gmres(
            lambda v, moved: var_y * v + A(moved),
            post.residual(x0),
            max_iter=self.iterations,
            along=lambda v: s**2 * vjp(A.adjoint(v)),
        )
        return x0 + self.within(post.prior, x, s, guidance)
