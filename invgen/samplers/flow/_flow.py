"""A gradient step on the data, as the flow-matching samplers take it."""

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from invgen.forward import LinearOperator
from invgen.noise import Gaussian, Noiseless
from invgen.posterior import Posterior
from invgen.samplers.mcmc.base import curvature, largest_curvature


def data_step(post: Posterior) -> Callable[..., Tensor]:
    """Returns step(u, var, prior=1), the change of u that a stable gradient step on log p(y | u) + prior log N(u; ., var
    I) makes.

    gamma grad log p(y | u) with gamma = 1 / (L + prior / var). L is the curvature of the data term: |A|^2 / sigma_y^2 for a
    linear operator and Gaussian noise, found once, so that the step is affine in u; else that along the gradient. Exact
    measurements count as if their noise were 1, and without the prior.
    """
    exact = isinstance(post.noise, Noiseless)
    if exact:
        post = replace(post, noise=Gaussian(1.0))
    fixed = isinstance(post.A, LinearOperator) and isinstance(post.noise, Gaussian)
    L = largest_curvature(post, post.y.real, 1.0).flatten() if fixed else None

    def step(u: Tensor, var: float, prior: float = 1.0) -> Tensor:
        data = post.near(u, var)
        if data is not post:  # photon counts: as Gaussian noise as they are here
            bound = largest_curvature(data, u, 1.0) if isinstance(data.A, LinearOperator) else curvature(data, u, var**0.5)
        else:
            bound = L.to(u.dtype).reshape(-1, *[1] * (u.ndim - 1)) if L is not None else curvature(post, u, math.sqrt(var))
        return data.likelihood_score(u) / (bound + (0.0 if exact else prior / var)).clamp(min=1e-30)

    return step
