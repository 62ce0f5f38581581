"""Autoregressive priors: p(x) = prod_i p(x_i | x_1, ..., x_{i-1}) over signals whose values are of finitely many levels."""

import math
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
        end: the token after which a signal holds nothing but this token, for signals of different lengths.
        dtype: of the signals.
        facts: value_range (by default from the lowest to the highest level), data_mean, data_std (those of the levels).
    """

    levels: Tensor
    order: Tensor
    mean: Tensor
    root: Tensor
    transitions: Tensor | None

    def __init__(
        self,
        shape: int | Sequence[int],
        levels: Tensor | Sequence[float],
        *,
        order: Tensor | Sequence[int] | None = None,
        end: int | None = None,
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
        if end is not None and not 0 <= end < len(values):
            raise OptionError(f"end must be a token, 0 to {len(values) - 1}, got {end!r}")
        self.end = end
        self.register_buffer("levels", values.to(dtype))
        self.register_buffer("order", order)
        # the Gaussian that stands for what is not known yet: independent values, until `measure_moments`
        self.register_buffer("mean", torch.full((self.sites,), self.data_mean, dtype=torch.float64))
        self.register_buffer("root", self.data_std * torch.eye(self.sites, dtype=torch.float64))
        # how one token follows another, log (V, V), once `measure_transitions` has counted it
        self.register_buffer("transitions", None)

    # -- what a subclass writes ----------------------------------------------------------------------------------

    def next_logits(self, prefix: Tensor) -> Tensor:
        """Returns logits of the token at site i given the tokens before it: (B, i) integers -> (B, V), any i < sites."""
        raise TypeError(f"{type(self).__name__} must define next_logits(self, prefix)")

    def logits(self, tokens: Tensor) -> Tensor:
        """Returns logits of every site given the tokens before it, (B, sites) -> (B, sites, V); a network may do it at
        once."""
        return torch.stack([self(tokens[:, :i]) for i in range(self.sites)], 1)

    def step(self, last: Tensor, memory: list[Tensor]) -> Tensor:
        """Returns logits of the token at the next site, (B, V), from the last token, (B, 1), or none at the start, (B, 0).

        A network that keeps what it has computed (keys and values, a hidden state) overrides this, so that a signal costs
        one pass a site. Here the memory is the prefix.

        Args:
            last: the token that was drawn last.
            memory: tensors with B rows, empty at the start; replaced in place. Samplers copy and reorder its rows.
        """
        memory[:] = [torch.cat([*memory, last], 1)]
        return self.next_logits(memory[0])

    def forward(self, prefix: Tensor, memory: list[Tensor] | None = None) -> Tensor:
        """Returns `next_logits(prefix)`, or with a memory `step(prefix, memory)`; after the end, the end.

        What samplers call, so that evaluations are counted.
        """
        logits = self.next_logits(prefix) if memory is None else self.step(prefix, memory)
        return logits if self.end is None else self._ended(logits, prefix[:, -1:])

    def _ended(self, logits: Tensor, last: Tensor) -> Tensor:
        """Returns logits of (B, ..., V) that allow nothing but the end where the token before, (B, ...), is the end."""
        if not last.shape[1]:
            return logits
        over = (last == self.end).reshape(*logits.shape[:-1], 1)
        other = torch.arange(len(self.levels), device=logits.device) != self.end
        return logits.masked_fill(over & other, -torch.inf).masked_fill(over & ~other, 0.0)

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
        logits = self.logits(tokens)
        if self.end is not None:
            logits = torch.cat([logits[:, :1], self._ended(logits[:, 1:], tokens[:, :-1])], 1)
        return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0].sum(1)

    def bits(self, x: Tensor, bin_width: float, *, steps: int = 16, seed: int = 0) -> tuple[Tensor, str]:
        """Returns the bits a value of the levels nearest to x, (B,), whatever the width of a bin, and how many levels.

        Args:
            x, bin_width, steps, seed: as for `Prior.bits`.
        """
        return -self.log_prob(x) / self.sites / math.log(2), f"{len(self.levels)} levels"

    def sample(self, num_samples: int = 1, seed: int = 0) -> Tensor:
        """Returns exact samples, (num_samples, *shape); sample i depends on the seed and on i only."""
        randn = Streams(seed, range(num_samples))
        tokens, last, memory = torch.empty(num_samples, 0, dtype=torch.int64, device=self.device), slice(0), []
        with torch.no_grad():
            for _ in range(self.sites):
                tokens = torch.cat([tokens, draw_token(self(tokens[:, last], memory), randn)], 1)
                last = slice(-1, None)
        return self.decode(tokens)

    def measure_transitions(self, x: Tensor, weight: float = 0.1) -> "Autoregressive":
        """Counts in signals x, (B, *shape), how often one token follows another, to look ahead with; returns self.

        Args:
            weight: that is added to each count, times the share of the token.
        """
        tokens, count = self.encode(x), len(self.levels)
        if self.sites < 2 or not len(x) or not weight > 0:
            raise OptionError(f"transitions need signals of two sites or more and weight > 0, got {len(x)} and {weight!r}")
        pairs = tokens[:, :-1] * count + tokens[:, 1:]
        counts = torch.bincount(pairs.flatten(), minlength=count**2).reshape(count, count).double()
        share = (counts.sum(0) + 1) / (counts.sum() + count)
        self.transitions = ((counts + weight * share) / (counts.sum(1, keepdim=True) + weight)).log()
        return self

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
        covariance = (1 - shrinkage) * torch.cov(sites.T).reshape(self.sites, -1)
        covariance.diagonal().add_(shrinkage * sites.var(0))
        return self._look_ahead(sites.mean(0), covariance)

    def set_moments(self, mean: Tensor, covariance: Tensor) -> "Autoregressive":
        """Takes the mean and covariance of the signals, which samplers look ahead with; returns self.

        Args:
            mean: of the signals, of the prior's shape.
            covariance: of the flattened signals, (n, n), positive semidefinite.

        Raises:
            ShapeError: another shape.  OptionError: no covariance.
        """
        if mean.shape != self.shape or covariance.shape != (self.sites, self.sites):
            raise ShapeError(
                f"expected a mean {tuple(self.shape)} and a covariance ({self.sites}, {self.sites}), got "
                f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
            )
        order = self.order
        return self._look_ahead(mean.flatten().double()[order], covariance.double()[order][:, order].clone())

    def _look_ahead(self, mean: Tensor, covariance: Tensor) -> "Autoregressive":
        gap = self.levels.double().sort().values.diff().min().item()
        covariance.diagonal().add_(gap**2 / 12)  # of rounding to a level
        root, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise OptionError("the covariance of the signals is not positive semidefinite")
        self.mean, self.root = mean, root
        return self


class MarkovChain(Autoregressive):
    """A token depends on the `order` tokens before it, by one table at all sites: what has an exact posterior in a channel.

    Args:
        length: the number of sites.
        levels: as for an `Autoregressive`.
        table: logits of the next token, (V, ..., V): one axis for each of the tokens before it, the oldest first, and the
            last for the next token.
        start: the tokens that stand before the first site, as many as `table` remembers; zeros without it.
        options: end, dtype, value_range, data_mean, data_std.
    """

    table: Tensor
    before: Tensor

    def __init__(
        self,
        length: int,
        levels: Tensor | Sequence[float],
        table: Tensor,
        start: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__((length,), levels, **options)
        count = len(self.levels)
        if table.ndim < 2 or any(side != count for side in table.shape):
            raise ShapeError(f"table must have two axes or more of {count} tokens each, got shape {tuple(table.shape)}")
        start = [0] * (table.ndim - 1) if start is None else list(start)
        if len(start) != table.ndim - 1:
            raise OptionError(f"start must hold {table.ndim - 1} tokens, as many as the table remembers, got {len(start)}")
        table = table.double().log_softmax(-1)
        if self.end is not None:  # the law that follows, as `forward` has it
            table = table.clone()
            table.select(-2, self.end)[...] = -torch.inf
            table.select(-2, self.end)[..., self.end] = 0.0
        self.register_buffer("table", table)
        self.register_buffer("before", torch.tensor(start))

    def next_logits(self, prefix: Tensor) -> Tensor:
        known = torch.cat([self.before.expand(len(prefix), -1), prefix], 1)[:, -len(self.before) :]
        return self.table[known.unbind(1)]

    def messages(self, log_likelihood: Tensor) -> Tensor:
        """Returns log p(what is measured from site i on | the tokens before it), (sites + 1, V, ..., V), backwards.

        Args:
            log_likelihood: of each token at each site, (sites, V), of a channel that sees each site by itself.
        """
        out = [torch.zeros_like(self.table[..., 0])]
        for likelihood in log_likelihood.flip(0):
            # what the next tokens expect is indexed by all but the oldest of these tokens, and the next
            out.append((self.table + likelihood + out[-1]).logsumexp(-1))
        return torch.stack(out[::-1])


def draw_token(logits: Tensor, randn: Streams) -> Tensor:
    """Returns one token of each row, (B, 1), in proportion to exp(logits), (B, V)."""
    return token_at(logits, randn.uniform(logits.double()[:, :1]))


def token_at(logits: Tensor, uniform: Tensor) -> Tensor:
    """Returns the tokens, (B, 1), at which the cumulated softmax of logits, (B, V), passes `uniform`, (B, 1)."""
    cumulative = logits.double().softmax(1).cumsum(1)
    u = uniform * cumulative[:, -1:]
    return torch.searchsorted(cumulative, u.contiguous(), right=True).clamp(max=logits.shape[1] - 1)
