"""Channels: what becomes of values that are names, such as letters, words and classes, each by itself.

A name is a number by its place in a table alone: a channel knows equal and different, and no distance.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.noise.laws import Noise
from invgen.validation.hints import Fraction


class Channel(Noise):
    """p(y | clean) = prod_i P(y_i | clean_i), a probability. A subclass writes `values_log_prob` and `sample`.

    Args:
        levels: the values that `clean` may take, (V,), different from each other.
    """

    def __init__(self, levels: Tensor | Sequence[float]) -> None:
        self.levels = torch.as_tensor(levels, dtype=torch.float64)
        if self.levels.ndim != 1 or len(self.levels) < 2 or len(self.levels.unique()) < len(self.levels):
            raise OptionError(f"levels must be two or more different numbers, got shape {tuple(self.levels.shape)}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.levels)} levels)"

    def values_log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """Returns log P(y_i | clean_i) of each value; y and clean broadcast against each other."""
        raise TypeError(f"{type(self).__name__} must define values_log_prob(self, y, clean)")

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        if y.shape != clean.shape:
            raise ShapeError(f"y has shape {tuple(y.shape)} but the clean measurement {tuple(clean.shape)}")
        return self.values_log_prob(y, clean).flatten(1).sum(1)

    def std(self, clean: Tensor) -> float:
        """Returns 1: the residual of a channel is the distance of two numbers that stand for names, and says little."""
        return max((self.levels.max() - self.levels.min()).item(), 1.0)

    def equal(self, a: Tensor, b: Tensor) -> Tensor:
        """Tells whether two values are the same level: nearer than half the smallest gap between levels."""
        return (a - b).abs() < 0.5 * self.levels.sort().values.diff().min().item()

    def index(self, x: Tensor) -> Tensor:
        """Returns the place of the level nearest to each value."""
        levels, rank = self.levels.to(x.device).sort()
        return rank[torch.bucketize(x.double().contiguous(), (levels[1:] + levels[:-1]) / 2)]


class Equality(Channel):
    """y = clean, exactly, as a likelihood: 1 where all values are equal, 0 else."""

    def values_log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        return _either(self.equal(y, clean), 0.0, -math.inf, clean)

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return clean.clone()


class Substitution(Channel):
    """Each value becomes another with probability `rate`, any of the others alike.

    Args:
        levels: as for `Channel`.
        rate: between 0 and 1.
    """

    def __init__(self, levels: Tensor | Sequence[float], rate: Fraction) -> None:
        super().__init__(levels)
        self.rate = rate

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.levels)} levels, rate={self.rate:g})"

    def values_log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        kept, other = _log(1 - self.rate), _log(self.rate / (len(self.levels) - 1))
        return _either(self.equal(y, clean), kept, other, clean)

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        count = len(self.levels)
        moved = torch.rand(clean.shape, generator=generator, device=clean.device) < self.rate
        by = torch.randint(1, count, clean.shape, generator=generator, device=clean.device)
        other = self.levels.to(clean)[(self.index(clean) + by) % count]
        return torch.where(moved, other, clean)


class Erasure(Channel):
    """Each value becomes `blank` with probability `rate`, and is exact otherwise: a text with gaps.

    Args:
        levels: as for `Channel`.
        rate: between 0 and 1.
        blank: what stands for an erased value: a number that is no level.
    """

    def __init__(self, levels: Tensor | Sequence[float], rate: Fraction, blank: float) -> None:
        super().__init__(levels)
        self.rate, self.blank = rate, float(blank)
        if bool(self.equal(self.levels, torch.tensor(self.blank, dtype=torch.float64)).any()):
            raise OptionError(f"blank must be a number that is no level, got {blank!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.levels)} levels, rate={self.rate:g}, blank={self.blank:g})"

    def values_log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        known = _either(self.equal(y, clean), _log(1 - self.rate), -math.inf, clean)
        erased = self.equal(y, torch.full_like(y, self.blank))
        return torch.where(erased, known.new_tensor(_log(self.rate)), known)

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        gone = torch.rand(clean.shape, generator=generator, device=clean.device) < self.rate
        return torch.where(gone, self.blank, clean)


class Confusion(Channel):
    """Level v is seen as level w with probability table[v, w]: typing errors, optical character recognition.

    Args:
        levels: as for `Channel`; y takes them too.
        table: (V, V), rows that sum to one.
    """

    def __init__(self, levels: Tensor | Sequence[float], table: Tensor) -> None:
        super().__init__(levels)
        self.table = torch.as_tensor(table, dtype=torch.float64)
        count = len(self.levels)
        if self.table.shape != (count, count) or bool((self.table < 0).any()):
            raise OptionError(f"table must hold probabilities, ({count}, {count}), got shape {tuple(self.table.shape)}")
        if not torch.allclose(self.table.sum(1), torch.ones(count, dtype=torch.float64), atol=1e-4):
            sums = self.table.sum(1)
            raise OptionError(f"each row of table must sum to one, got {sums.min():g} to {sums.max():g}")

    def values_log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.table.log().to(y.device)[self.index(clean), self.index(y)]

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        rows = self.table.to(clean.device)[self.index(clean)].flatten(0, -2)
        seen = torch.multinomial(rows, 1, generator=generator).reshape(clean.shape)
        return self.levels.to(clean)[seen]


def _either(choice: Tensor, yes: float, no: float, like: Tensor) -> Tensor:
    """Returns one of two numbers by a choice, in the precision of `like`."""
    return torch.where(choice, like.new_tensor(yes), like.new_tensor(no))


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf
