"""Texts in one language to what they let expect in another, by a table of words."""

from collections.abc import Sequence

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import Operator


class TranslationTable(Operator):
    """How often each symbol is expected: the sum of the table's rows for the tokens of a text, (length,) -> (U,).

    With noise `Poisson()` on counts of symbols it is IBM's model 1 (Brown et al., Computational Linguistics 1993) with a
    length that is Poisson too: each token makes table[token, symbol] of each symbol on average, in any order.

    Args:
        length: of a text, in tokens.
        levels: the value of each token, (V,).
        table: expected counts, (V, U), not negative; a row of zeros makes nothing, as an end does.

    Raises:
        OptionError: the table has another number of rows than there are levels, or negative entries.
    """

    differentiable = False
    levels: Tensor
    table: Tensor

    def __init__(self, length: int, levels: Tensor | Sequence[float], table: Tensor) -> None:
        super().__init__((length,))
        values = torch.as_tensor(levels, dtype=torch.float64)
        if table.ndim != 2 or len(table) != len(values) or bool((table < 0).any()):
            raise OptionError(f"table must hold counts for {len(values)} tokens, none negative, got {tuple(table.shape)}")
        self.out_shape = (table.shape[1],)
        self.register_buffer("levels", values)
        self.register_buffer("table", table.double())

    def forward(self, x: Tensor) -> Tensor:
        return self.counts_of(x).sum(1)

    def counts_of(self, x: Tensor) -> Tensor:
        """Returns what each value, the nearest level's, makes by itself: (...) -> (..., U)."""
        levels, rank = self.levels.sort()
        index = rank[torch.bucketize(x.double().contiguous(), (levels[1:] + levels[:-1]) / 2)]
        return self.table.to(x.dtype)[index]


def learnt_table(
    texts: Sequence[Tensor],
    counts: Tensor,
    num_tokens: int,
    rounds: int = 12,
    *,
    weight: float = 0.0,
) -> Tensor:
    """Returns the table of expected counts that explains pairs best, (V, U), by expectation maximisation.

    Args:
        texts: of each pair, (n,) tokens.
        counts: of symbols of each pair, (pairs, U).
        num_tokens: V.
        rounds: of expectation and maximisation.
        weight: how many uses of the average token each token has beside its own, so that a word that was seen once is not
            sure of every symbol beside it: the mean of a gamma prior. Tokens that no text uses are such an average.
    """
    uses = torch.stack([torch.bincount(t, minlength=num_tokens) for t in texts]).double()  # (pairs, V)
    counts = counts.double()
    average = weight * counts.sum(0) / uses.sum()
    total = uses.sum(0)[:, None] + weight
    table = torch.ones(num_tokens, counts.shape[1], dtype=torch.float64) / counts.shape[1]
    for _ in range(rounds):  # each symbol is shared among the tokens of its text in proportion to the table
        rate = (uses @ table).clamp(min=1e-300)
        table = (table * (uses.T @ (counts / rate)) + average) / total.clamp(min=1e-300)
    return table
