"""The data term, log p(y | x): its gradient and curvature at a point, and the step that they call for."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from invgen.forward import LinearOperator, per_sample
from invgen.linalg import dot, norm
from invgen.noise import Energy, Noiseless
from invgen.numerics.gradients import differentiating, leaf
from invgen.posterior import Posterior

Bend = Callable[[Tensor], Tensor]


LogPotential = Callable[[Tensor], Tensor]


Pullback = Callable[[Tensor], Tensor]


def local_fit(post: Posterior, u: Tensor, reach: float, whole: bool = False) -> tuple[Tensor, Bend]:
    """The gradient of log p(y | u) at u, (B, *shape), and its curvature along a direction, d -> -d^T H d, (B, 1, ..., 1).

    The curvature is that along the residual r, (r^T J d)^2 / (|r|^2 var), which costs nothing beyond the gradient and is
    the whole of it, |J d|^2 / var, where r alone is pulled at. For a loss, whose noise is not known, it is found by a
    difference of its gradients over `reach` root mean square along d. Counts have the gradient of Fisher scoring,
    residual / variance with the variance kept above one photon's. Exact measurements count as if their noise were 1.

    Args:
        whole: take |J d|^2 / var, for directions that are not C times the gradient; one more application of A.
    """
    post = post.near(u, reach**2)
    A, noise, y = post.A, post.noise, post.y
    if isinstance(noise, Energy):
        pull = post.likelihood_score(u)

        def bend(d: Tensor) -> Tensor:
            h = reach * math.sqrt(d[0].numel()) / norm(d).clamp(min=1e-30)
            return dot(pull - post.likelihood_score(u + h * d), d) / h

        return pull, bend
    if isinstance(A, LinearOperator):
        clean = A(u)
    else:
        with differentiating():
            v = leaf(u)
            outputs = A(v)
        clean = outputs.detach()
    std = 1.0 if isinstance(noise, Noiseless) else noise.std(clean)
    r = (y - clean) / std
    pull = A.adjoint(r / std) if isinstance(A, LinearOperator) else torch.autograd.grad(outputs, v, r / std)[0]
    weight = per_sample(dot(r, r).clamp(min=1e-30), u)

    def along_residual(d: Tensor) -> Tensor:
        return dot(pull, d) ** 2 / weight

    def along_all(d: Tensor) -> Tensor:
        h = 1.0 if isinstance(A, LinearOperator) else reach * math.sqrt(d[0].numel()) / norm(d).clamp(min=1e-30)
        w = (A(d) if isinstance(A, LinearOperator) else A(u + h * d) - clean) / std
        return per_sample(dot(w, w), u) / h**2

    return pull, along_all if whole else along_residual


def line_search(pull: Tensor, d: Tensor, bend: Bend, prior: float = 1.0, share: float = 1.0) -> Tensor:
    """How far to go along d = C pull, (B, 1, ..., 1): to the top of log p(y | u) + log N(u; D, C) on the line from u = D.

    All of d where the data say little beside the prior, the least-squares step where they say much.

    Args:
        prior: weight of log N(u; D, C); 0 for exact measurements.
        share: of the curvature of the data that counts, below 1 to go further.
    """
    slope = dot(pull, d)
    # the Jacobian of a network is not quite positive: where d does not rise, stay
    return torch.where(slope > 0, slope / (prior * slope + share * bend(d).clamp(min=0)).clamp(min=1e-30), 0)


def paper_misfit(post: Posterior, x0: Tensor) -> Tensor:
    """Returns |y - A(x0)|, not squared, which several papers descend, (B, 1, ..., 1); a loss as it is."""
    if isinstance(post.noise, Energy):
        return -post.log_likelihood(x0)
    return norm(post.residual(x0))
