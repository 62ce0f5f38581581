"""Autoregressive priors: p(x) = prod_i p(x_i | x_1, ..., x_{i-1}) over signals whose values are of finitely many levels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invgen.diffusion import Prior
from invgen.errors import OptionError, ShapeError
from invgen.numerics.random import Streams


class Autoregressive(Prior):
    """A prior that gives one value of a signal after the other. A subclass writes `next_logits(prefix)`.

    A signal is a sequence of tokens, one for each site: the values of the signal in raster order, or in `order`. Token k
    has the value levels[k].

    Args:
        shape: of one signal.
        levels: the values that x may take, (V,), different from each other, in the units of x.
        order: a permutation of the positions of the flattened signal: site i is position order[i].
        dtype: of the signals.
        facts: value_range (by default from the lowest to the highest level), data_mean, data_std (those of the levels).
    """

    levels: Tensor
    order: Tensor
    mean: Tensor
    root: Tensor

    def __init__(
        self,
        shape: int | Sequence[int],
        levels: Tensor | Sequence[float],
        *,
        order: Tensor | Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        **facts: Any,
    ) -> None:
        values = torch.as_tensor(levels, dtype=torch.float64)
        if values.ndim != 1 or len(values) < 2 or not torch.isfinite(values).all() or len(values.unique()) < len(values):
            raise OptionError(
                f"levels must be a vector of at least two different finite numbers, got shape {tuple(values.shape)}"
            )
        low, high = values.min().item(), values.max().item()
        spread = values.std(correction=0).item()
        super().__init__(
            shape, **{"value_range": (low, high), "data_mean": values.mean().item(), "data_std": spread, **facts}
        )
        self.sites = self.shape.numel()
        order = torch.arange(self.sites) if order is None else torch.as_tensor(order)
        if order.shape != (self.sites,) or not torch.equal(order.sort().values, torch.arange(self.sites)):
            raise OptionError(f"order must be a permutation of the {self.sites} positions of a signal")
        self.register_buffer("levels", values.to(dtype))
        self.register_buffer("order", order)
        # the Gaussian that stands for what is not known yet: independent values, until `measure_moments`
        self.register_buffer("mean", torch.full((self.sites,), self.data_mean, dtype=torch.float64))
        self.register_buffer("root", self.data_std * torch.eye(self.sites, dtype=torch.float64))

    # -- what a subclass writes ----------------------------------------------------------------------------------

    def next_logits(self, prefix: Tensor) -> Tensor:
        """Returns logits of the token at site i given the tokens before it: (B, i) integers -> (B, V), any i < sites."""
        raise TypeError(f"{type(self).__name__} must define next_logits(self, prefix)")

    def logits(self, tokens: Tensor) -> Tensor:
        """Returns logits of every site given the tokens before it, (B, sites) -> (B, sites, V); a network may do it at
        once."""
        return torch.stack([self(tokens[:, :i]) for i in range(self.sites)], 1)

    def forward(self, prefix: Tensor) -> Tensor:
        """Returns `next_logits(prefix)`: what samplers call, so that evaluations are counted."""
        return self.next_logits(prefix)

    # -- tokens and values ---------------------------------------------------------------------------------------

    def decode(self, tokens: Tensor) -> Tensor:
        """Returns the signal of tokens, (B, i) -> (B, *shape); sites from i on have the value data_mean."""
        values = self.levels.new_full((len(tokens), self.sites), self.data_mean)
        values[:, self.order[: tokens.shape[1]]] = self.levels[tokens]
        return values.reshape(-1, *self.shape)

    def encode(self, x: Tensor) -> Tensor:
        """Returns the tokens of the levels nearest to the values of x, (B, *shape) -> (B, sites)."""
        if x.shape[1:] != self.shape:
            raise ShapeError(f"expected signals of shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        sites = x.flatten(1)[:, self.order]
        levels, rank = self.levels.to(x.dtype).sort()
        return rank[torch.bucketize(sites, (levels[1:] + levels[:-1]) / 2)]

    # -- capabilities --------------------------------------------------------------------------------------------

    def log_prob(self, x: Tensor) -> Tensor:
        """Returns log P(x), (B,): the probability of the levels nearest to x, a probability and not a density."""
        tokens = self.encode(x)
        return self.logits(tokens).log_softmax(-1).gather(-1, tokens[..., None])[..., 0].sum(1)

    def sample(self, num_samples: int = 1, seed: int = 0) -> Tensor:
        """Returns exact samples, (num_samples, *shape); sample i depends on the seed and on i only."""
        randn = Streams(seed, range(num_samples))
        tokens = torch.empty(num_samples, 0, dtype=torch.int64, device=self.device)
        with torch.no_grad():
            for _ in range(self.sites):
                tokens = torch.cat([tokens, draw_token(self(tokens), randn)], 1)
        return self.decode(tokens)

    def measure_moments(self, x: Tensor, shrinkage: float = 0.1) -> "Autoregressive":
        """Returns the mean and covariance of signals x, (B, *shape), which samplers look ahead with; returns self.

        Args:
            shrinkage: weight of the covariance's diagonal, at least the variance of rounding to a level.
        """
        if not 0 < shrinkage <= 1 or len(x) < 2:
            raise OptionError(f"moments need two signals and 0 < shrinkage <= 1, got {len(x)} and {shrinkage!r}")
        if x.shape[1:] != self.shape:
            raise ShapeError(f"expected signals of shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        sites = x.flatten(1)[:, self.order].double()
        gap = self.levels.double().sort().values.diff().min().item()
        covariance = (1 - shrinkage) * torch.cov(sites.T).reshape(self.sites, -1)
        covariance.diagonal().add_(shrinkage * sites.var(0) + gap**2 / 12)
        self.mean, self.root = sites.mean(0), torch.linalg.cholesky(covariance)
        return self


def draw_token(logits: Tensor, randn: Streams) -> Tensor:
    """Returns one token of each row, (B, 1), in proportion to exp(logits), (B, V)."""
    return token_at(logits, randn.uniform(logits.double()[:, :1]))


def token_at(logits: Tensor, uniform: Tensor) -> Tensor:
    """Returns the tokens, (B, 1), at which the cumulated softmax of logits, (B, V), passes `uniform`, (B, 1)."""
    cumulative = logits.double().softmax(1).cumsum(1)
    u = uniform * cumulative[:, -1:]
    return torch.searchsorted(cumulative, u.contiguous(), right=True).clamp(max=logits.shape[1] - 1)
