"""Annealed Langevin dynamics with a likelihood as wide as its level: our variant of ALD, of no paper."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.posterior import LinearGaussian
from invgen.sampler import Sampler
from invgen.samplers.mcmc.ald import ALD
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class WidenedALD(Sampler):
    """ALD whose likelihood is widened by the noise of its level: N(y; A x, sigma_y^2 I + sigma^2 A A^T).

    Linear operators, Gaussian noise. As if x_sigma and its noise were independent; it becomes the true likelihood as sigma
    falls. (The gamma_t^2 of the paper's text is sigma^2 where A A^T is the identity.) The last state is denoised.

    Args:
        steps, iterations, step: see ALD.
    """

    iterations: Count = 3
    step: Positive = 0.5

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    family: ClassVar[str] = "mcmc"
    exact: ClassVar[str] = "as steps grow and the last level falls"

    run = ALD.run

    def likelihood_gradient(self, post: LinearGaussian, x: Tensor, s: float, score: Tensor) -> Tensor:
        """Returns the gradient of the log-likelihood at level s, (B, *shape), whatever the score."""
        post = post.near(x, s**2)
        r, var_y = post.residual(x), post.noise.var
        var_y = var_y[(None,) * (r.ndim - var_y.ndim)] if isinstance(var_y, Tensor) else var_y  # per value, not sample
        return post.A.weighted_adjoint(r, s**2, var_y)
