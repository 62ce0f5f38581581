"""A gradient step on the data, as the flow-matching samplers take it."""

import math
from collections.abc import Callable

from torch import Tensor

from invgen.forward import LinearOperator, per_sample
from invgen.guidance import line_search, local_fit
from invgen.noise import Gaussian, Noiseless
from invgen.posterior import Posterior


def data_step(post: Posterior) -> Callable[..., Tensor]:
    """step(u, var, prior=1), the change of u that a stable gradient step of log p(y | u) + prior log N(u; ., var I) makes.

    gamma grad log p(y | u) with gamma = 1 / (prior / var + L). L is |A|^2 / sigma_y^2 for a linear operator and Gaussian
    noise, so that the step is affine in u; else the curvature along the gradient (`line_search`). Exact measurements count
    as if their noise were 1, and without the prior.
    """
    A, noise = post.A, post.noise
    exact = isinstance(noise, Noiseless)
    if not (isinstance(A, LinearOperator) and isinstance(noise, Gaussian)):

        def step(u: Tensor, var: float, prior: float = 1.0) -> Tensor:
            pull, bend = local_fit(post, u, math.sqrt(var))
            return line_search(pull, var * pull, bend, 0.0 if exact else prior) * var * pull

        return step

    L = A.norm() ** 2
    if not exact:  # the most precise detector, of each sample where levels differ
        L = L / (noise.var.flatten(1).amin(1) if isinstance(noise.sigma, Tensor) else noise.var)

    def affine(u: Tensor, var: float, prior: float = 1.0) -> Tensor:
        pull = A.adjoint(post.residual(u)) if exact else post.likelihood_score(u)
        return pull / (per_sample(L, u) + (0.0 if exact else prior / var))

    return affine
