"""Rozet, Andry, Lanusse & Louppe, "Learning diffusion priors from observations by expectation maximization" (NeurIPS 2024),
Section 4.2: moment matching posterior sampling."""

from dataclasses import dataclass
from typing import ClassVar

import torch
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
    quite symmetric, hence GMRES. The solve for a white covariance, which is the guidance of PiGDM, is its preconditioner:
    where C is white one iteration is exact, and three are enough for blurs and tomography, whose own spectrum would take
    many. An operator that solves by plain conjugate gradients (`A.own_solve` is False: several coils, a function of
    yours) is not preconditioned, which would take most of the time.

    Args:
        iterations: of GMRES, each one product with the Jacobian; the paper uses 1 to 5, without a preconditioner. Twice as
            many where there is nothing to precondition with.
        precondition: whether each iteration solves for a white covariance first, `A.weighted_adjoint`, where the
            operator has a solve of its own; without, it applies A and its adjoint once.
    """

    iterations: Count = 3
    precondition: bool = True

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    exact: ClassVar[str] = "for Gaussian priors, as iterations and steps grow"

    @classmethod
    def paper(cls) -> "MMPS":
        """Returns the released form: 1000 ancestral steps of first order on DDPM's schedule, five plain iterations."""
        return cls(steps=1000, schedule="vp", order=1, iterations=5, precondition=False)

    def guide(self, post: LinearGaussian, x: Tensor, s: float) -> Tensor:
        x0, vjp = post.prior.vjp(x, s)
        white = post.prior.variance(s)
        post = post.near(x0, white)
        A, var_y = post.A, post.noise.var

        # u = (var_y I + A C A^T)^-1 (y - A x0), of which only C A^T u is wanted
        def plain(v: Tensor) -> Tensor:
            return s**2 * vjp(A.adjoint(v))

        # u = P v with P = (var_y I + white A A^T)^-1, so that var_y u = v - white A A^T u
        def preconditioned(v: Tensor) -> Tensor:
            w = A.weighted_adjoint(v, white, var_y)
            return torch.stack([s**2 * vjp(w), white * w], 1)

        r, most = post.residual(x0), self.iterations
        if self.precondition and A.own_solve:
            guidance = gmres(lambda v, c: v + A(c[:, 0] - c[:, 1]), r, max_iter=most, along=preconditioned)[:, 0]
        else:
            most *= 2 if self.precondition else 1
            guidance = gmres(lambda v, moved: var_y * v + A(moved), r, max_iter=most, along=plain)
        return x0 + self.within(post.prior, x, s, guidance)
