"""A law of sequences that is counted: each token depends on the few before it (Shannon, 1948)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invgen.autoregressive import Autoregressive
from invgen.errors import OptionError


class NGram(Autoregressive):
    """Shares of tokens after the last `order` tokens, as counted, with shorter contexts mixed in (Witten & Bell, 1991).

    p(v | context) = (count(context v) + kinds p(v | context without its oldest)) / (count(context) + kinds), where kinds is
    how many different tokens followed that context; without any context the rest is uniform.

    Args:
        texts: sequences of tokens to count, (n,) integers each.
        length: of a signal.
        levels: the value of each token.
        order: how many tokens before count.
        start: tokens that stand before the first; then what begins a text is counted too. Without it the first tokens have
            shorter contexts.
        options: end, value_range, data_mean, data_std.
    """

    def __init__(
        self,
        texts: Sequence[Tensor],
        length: int,
        levels: Tensor | Sequence[float],
        order: int = 5,
        start: Sequence[int] = (),
        **options: Any,
    ) -> None:
        super().__init__((length,), levels, **options)
        count = len(self.levels)
        if not order >= 0 or count ** (order + 1) >= 2**62:
            raise OptionError(
                f"order must be 0 or more, and levels ** (order + 1) below 2^62, got {order} and {count} levels"
            )
        if not texts or max((int(t.max()) for t in texts if len(t)), default=count) >= count:
            raise OptionError(f"texts must hold tokens, 0 to {count - 1}")
        self.order_, self.start = order, list(start)[-order:] if order else []
        lead = torch.tensor(self.start, dtype=torch.int64)
        texts = [torch.cat([lead, t.long().cpu()]) for t in texts]
        before = torch.full((1, count), 1 / count, dtype=torch.float64)  # shares after each context, one shorter
        known = torch.zeros(1, dtype=torch.int64)
        for k in range(order + 1):
            grams = [_codes(t, k + 1, count)[max(len(self.start) - k, 0) :] for t in texts if len(t) > k]
            pairs, seen = torch.cat(grams).unique(return_counts=True)
            contexts, place = (pairs // count).unique(return_inverse=True)
            counts = torch.zeros(len(contexts), count, dtype=torch.float64)
            counts[place, pairs % count] = seen.double()
            kinds = (counts > 0).sum(1, keepdim=True)
            parent = torch.searchsorted(known, contexts % count ** max(k - 1, 0)).clamp(max=len(known) - 1)
            before = (counts + kinds * before[parent]) / (counts.sum(1, keepdim=True) + kinds)
            known = contexts
            self.register_buffer(f"contexts{k}", contexts)
            self.register_buffer(f"shares{k}", before.log())

    def next_logits(self, prefix: Tensor) -> Tensor:
        lead = torch.tensor(self.start, dtype=torch.int64, device=prefix.device)
        tokens, count = torch.cat([lead.expand(len(prefix), -1), prefix], 1), len(self.levels)
        out = self.get_buffer("shares0").expand(len(prefix), -1)
        for k in range(1, min(self.order_, tokens.shape[1]) + 1):
            contexts = self.get_buffer(f"contexts{k}")
            code = _codes(tokens[:, -k:], k, count)[:, 0]
            place = torch.searchsorted(contexts, code).clamp(max=len(contexts) - 1)
            out = torch.where((contexts[place] == code)[:, None], self.get_buffer(f"shares{k}")[place], out)
        return out

    def step(self, last: Tensor, memory: list[Tensor]) -> Tensor:
        """Returns logits; the memory is the last `order` tokens."""
        memory[:] = [torch.cat([*memory, last], 1)[:, -max(self.order_, 1) :]]
        return self.next_logits(memory[0])


def _codes(tokens: Tensor, k: int, count: int) -> Tensor:
    """Returns every k neighbouring tokens as one number, (..., n) -> (..., n - k + 1)."""
    if not k:
        return tokens.new_zeros(*tokens.shape[:-1], tokens.shape[-1] + 1)
    powers = count ** torch.arange(k - 1, -1, -1, device=tokens.device)
    return (tokens.unfold(-1, k, 1) * powers).sum(-1)
