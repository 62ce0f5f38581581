"""Evaluates many candidates for each sample in chunks, for the derivative-free samplers."""

from collections.abc import Callable

import torch
from torch import Tensor

from invgen.posterior import Posterior


def of_candidates(f: Callable[[Posterior, Tensor], Tensor], post: Posterior, u: Tensor, chunk: int) -> Tensor:
    """Returns f(post, u) for K candidates of each of B samples, `chunk` of them at once: u (B, K, *shape) -> (B, K,
    ...)."""
    rows = torch.arange(len(u), device=post.y.device)
    parts = [
        f(post.rows(rows.repeat_interleave(k.shape[1])), k.flatten(0, 1)).unflatten(0, k.shape[:2])
        for k in u.split(chunk, 1)
    ]
    return torch.cat(parts, 1)


def log_likelihoods(post: Posterior, u: Tensor, chunk: int) -> Tensor:
    """Returns log p(y | u) of candidates u, (B, K, *shape) -> (B, K), with K evaluations of the operator a sample."""
    with torch.no_grad():
        return of_candidates(lambda p, v: p.log_likelihood(v), post, u, chunk)
