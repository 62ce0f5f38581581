"""The test quantities of simulation-based calibration, and the ranks of truths among samples by each of them."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from invgen.diffusion import Prior
from invgen.errors import OptionError, ShapeError
from invgen.metrics.ranks import region_ranks, sbc_ranks
from invgen.noise import Noiseless
from invgen.posterior import Posterior

Quantity = Callable[[Tensor, Tensor], Tensor]
JOINT, RANDOM_POINTS, LIKELIHOOD = "joint region", "random points (TARP)", "log-likelihood"


def ranked(
    post: Posterior, x: Tensor, samples: Tensor, more: Mapping[str, Quantity], seed: int, max_batch: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Returns ranks of the truths by every quantity, (N,) each, and by single values, (N, values).

    Args:
        post: the posterior of all simulated measurements.
        x: the truths, (N, *shape).
        samples: of each of them, (num_samples, N, *shape).
        more: further quantities, by name.
        seed: of directions, places and ties.
        max_batch: how many signals to work on at once.
    """
    functions = _quantities(post.prior, seed)
    if not isinstance(post.noise, Noiseless):
        functions = {LIKELIHOOD: Posterior.log_likelihood} | functions
    for name, f in more.items():
        if name in functions or name in (JOINT, RANDOM_POINTS):
            raise OptionError(f"there is a test quantity {name!r} already; choose another name")
        functions[name] = lambda rows, v, f=f: f(v, rows.y)
    # what rounding alone separates is a tie: values that the sampler takes over from an exact measurement
    rounding = 100 * torch.finfo(x.dtype).eps
    ranks = {}
    for name, f in functions.items():
        truth = by_rows(f, post, x, max_batch)
        if truth.shape != (len(x),):
            raise ShapeError(f"the quantity {name!r} must return one number a signal, (B,), got {tuple(truth.shape)}")
        drawn = torch.stack([by_rows(f, post, s, max_batch) for s in samples])
        ranks[name] = sbc_ranks(drawn, truth, seed=seed, atol=rounding * truth.abs().amax().item()).cpu()
    atol = rounding * x.abs().amax().item()
    ranks[JOINT] = region_ranks(samples, x, atol=atol, seed=seed, dims=x.ndim - 1).cpu()
    distance = [torch.linalg.vector_norm((s - x.roll(1, 0)).flatten(1), dim=1) for s in (x, *samples)]
    ranks[RANDOM_POINTS] = sbc_ranks(torch.stack(distance[1:]), distance[0], seed=seed).cpu()
    some = _places(math.prod(post.prior.shape), 64, seed).to(x.device)
    values = sbc_ranks(samples.flatten(2)[..., some], x.flatten(1)[:, some], seed=seed, atol=atol).cpu()
    return ranks, values


def _quantities(prior: Prior, seed: int) -> dict[str, Callable[[Posterior, Tensor], Tensor]]:
    """Returns the test quantities that look at the signal alone."""
    shape, size = tuple(prior.shape), math.prod(prior.shape)
    functions: dict[str, Callable[[Posterior, Tensor], Tensor]] = {}
    if size > 1:
        functions["mean"] = lambda rows, v: v.flatten(1).mean(1)
        functions["size"] = lambda rows, v: torch.linalg.vector_norm(v.flatten(1) - prior.data_mean, dim=1)
        u = torch.randn(4, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        u = u / torch.linalg.vector_norm(u, dim=1, keepdim=True)
        for k in range(4):
            functions[f"projection {k + 1}"] = lambda rows, v, k=k: (v.flatten(1) - prior.data_mean) @ u[k].to(v)
    for place in _places(size, 4, seed).tolist():
        at, rest = [], place
        for n in reversed(shape):
            at.insert(0, rest % n)
            rest //= n
        label = f"value {at[0]}" if len(at) == 1 else f"value {tuple(at)}"
        functions[label] = lambda rows, v, place=place: v.flatten(1)[:, place]
    return functions


def by_rows(function: Callable[[Posterior, Tensor], Tensor], post: Posterior, x: Tensor, max_batch: int) -> Tensor:
    """Returns function(posterior of the rows, x of the rows), part by part: (N,) for x of shape (N, *shape)."""
    parts = torch.arange(len(x)).split(max_batch)
    with torch.no_grad():
        return torch.cat([function(post.rows(rows), x[rows]) for rows in parts])


def _places(size: int, count: int, seed: int) -> Tensor:
    """Returns `count` places of `size` at random, in order, or all of them."""
    if size <= count:
        return torch.arange(size)
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].sort().values
