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

Curvature = Callable[[Tensor], Tensor]


LogPotential = Callable[[Tensor], Tensor]


Pullback = Callable[[Tensor], Tensor]


def local_fit(post: Posterior, u: Tensor, width: float, whole: bool = False) -> tuple[Tensor, Curvature]:
    """Returns the gradient of log p(y | u) at u, (B, *shape), and its curvature along d, d -> -d^T H d, (B, 1, ..., 1).

    The curvature is that along the residual r, (r^T J d)^2 / (|r|^2 var), which costs nothing beyond the gradient and is
    the whole of it, |J d|^2 / var, where A has rank one. For a loss, whose noise is not known, it is found by a
    difference of its gradients over `width` root mean square along d. Counts have the gradient of Fisher scoring,
    residual / variance with the variance kept above one photon's. Exact measurements count as if their noise were 1.

    Args:
        post: the problem.
        u: the point, (B, *shape).
        width: a typical distance between u and the signal, for differences.
        whole: take |J d|^2 / var, for directions that are not C times the gradient; one more application of A.
    """
    post = post.near(u, width**2)
    A, noise, y = post.A, post.noise, post.y
    if isinstance(noise, Energy):
        gradient = post.likelihood_score(u)

        def curvature(d: Tensor) -> Tensor:
            h = width * math.sqrt(d[0].numel()) / norm(d).clamp(min=1e-30)
            return dot(gradient - post.likelihood_score(u + h * d), d) / h

        return gradient, curvature
    if isinstance(A, LinearOperator):
        clean = A(u)
    else:
        with differentiating():
            v = leaf(u)
            outputs = A(v)
        clean = outputs.detach()
    std = 1.0 if isinstance(noise, Noiseless) else noise.std(clean)
    r = (y - clean) / std
    gradient = A.adjoint(r / std) if isinstance(A, LinearOperator) else torch.autograd.grad(outputs, v, r / std)[0]
    weight = per_sample(dot(r, r).clamp(min=1e-30), u)

    def along_residual(d: Tensor) -> Tensor:
        return dot(gradient, d) ** 2 / weight

    def along_all(d: Tensor) -> Tensor:
        h = 1.0 if isinstance(A, LinearOperator) else width * math.sqrt(d[0].numel()) / norm(d).clamp(min=1e-30)
        w = (A(d) if isinstance(A, LinearOperator) else A(u + h * d) - clean) / std
        return per_sample(dot(w, w), u) / h**2

    return gradient, along_all if whole else along_residual


def line_search(gradient: Tensor, d: Tensor, curvature: Curvature, prior: float = 1.0, fraction: float = 1.0) -> Tensor:
    """Returns the step along d = C gradient, (B, 1, ..., 1), to the top of log p(y | u) + log N(u; D, C) from u = D.

    It is 1 where the data are weak beside the prior, and the least-squares step where they are strong.

    Args:
        gradient: of log p(y | u) at D, (B, *shape).
        d: the direction, (B, *shape).
        curvature: of the data along a direction, see `local_fit`.
        prior: weight of log N(u; D, C); 0 for exact measurements.
        fraction: of the curvature of the data that counts, below 1 to go further.
    """
    slope = dot(gradient, d)
    # the Jacobian of a network is not quite positive: where d does not rise, stay
    return torch.where(slope > 0, slope / (prior * slope + fraction * curvature(d).clamp(min=0)).clamp(min=1e-30), 0)


def paper_misfit(post: Posterior, x0: Tensor) -> Tensor:
    """Returns |y - A(x0)|, not squared, which several papers descend, (B, 1, ..., 1); a loss as it is."""
    if isinstance(post.noise, Energy):
        return -post.log_likelihood(x0)
    return norm(post.residual(x0))


def misfit_gradient(post: Posterior, x0: Tensor, x: Tensor) -> Tensor:
    """Returns the gradient of `paper_misfit` at x0 with respect to x, of which x0 was made, (B, *shape).

    The norms are one a sample, so that their gradients do not mix. A linear operator gives it by its adjoint, without a
    graph of its own.
    """
    if isinstance(post.A, LinearOperator) and not isinstance(post.noise, Energy):
        r = post.residual(x0.detach())
        size = norm(r)
        return torch.autograd.grad(x0, x, post.A.adjoint(r / -size.where(size > 0, 1)))[0]
    with differentiating():
        return torch.autograd.grad(paper_misfit(post, x0).sum(), x)[0]
