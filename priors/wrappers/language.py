"""Causal language models as priors over token sequences: text in, tokens out, one pass a token."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from invgen.autoregressive import Autoregressive
from invgen.errors import OptionError, ShapeError

BLANK = -1.0  # what stands for a gap among token numbers

# (tokens (B, m), memory) -> logits (B, m, V); the memory is tensors with B rows, empty at the start, replaced in place
Network = Callable[[Tensor, list[Tensor]], Tensor]


class Tokenizer(Protocol):
    """Text to numbers and back."""

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, without a beginning or an end."""
        ...

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of tokens."""
        ...


class LanguageModel(Autoregressive):
    """A causal language model: signals are `length` token numbers. See `from_gguf` and `from_transformers`.

    Args:
        net: the network, with a memory of keys and values.
        length: of a signal, in tokens.
        count: of tokens in the vocabulary.
        begin: the token before the first.
        tokenizer: of its texts.
        end: the token that ends a text; None: texts of one length.
    """

    def __init__(
        self, net: Network, length: int, count: int, begin: int, tokenizer: Tokenizer, end: int | None = None
    ) -> None:
        super().__init__((length,), torch.arange(count), end=end)
        self.net, self.begin, self.tokenizer = net, begin, tokenizer
        if isinstance(net, nn.Module):
            net.eval().requires_grad_(False)

    def step(self, last: Tensor, memory: list[Tensor]) -> Tensor:
        if not last.shape[1]:
            last = last.new_full((len(last), 1), self.begin)
        return self.net(last, memory)[:, -1]

    def next_logits(self, prefix: Tensor) -> Tensor:
        return self.net(self._begun(prefix), [])[:, -1]

    def logits(self, tokens: Tensor) -> Tensor:
        """Returns logits of all sites in one pass: (B, sites) -> (B, sites, V)."""
        return self.net(self._begun(tokens[:, :-1]), [])

    def _begun(self, tokens: Tensor) -> Tensor:
        return torch.cat([tokens.new_full((len(tokens), 1), self.begin), tokens], 1)

    def text(self, x: Tensor) -> list[str]:
        """Returns the texts of signals, (B, length); gaps as "___"."""
        out = []
        for row in x.reshape(-1, self.sites).round().long().tolist():
            row = row[: row.index(self.end)] if self.end in row else row
            pieces, known = [], []
            for token in [*row, None]:
                if token is None or token < 0:
                    pieces += [self.tokenizer.decode(known)] if known else []
                    pieces += [] if token is None else [" ___"]
                    known = []
                else:
                    known.append(token)
            out.append("".join(pieces))
        return out

    def tokens(self, text: str) -> Tensor:
        """Returns a text as a signal, (length,). Each ___ is a gap of one token, -1, to be measured through an `Erasure`.

        A token of a word has the space before it: "hot ___ today" has the gap between "hot" and " today".

        Raises:
            ShapeError: the text has another number of tokens than the prior's signals.
        """
        row: list[float] = []
        for k, piece in enumerate(text.split("___")):
            if k:
                row = [*row, BLANK]
            row += self.tokenizer.encode(piece.rstrip(" ") if k < text.count("___") else piece)
        if len(row) != self.sites:
            raise ShapeError(f"the text has {len(row)} tokens, the prior is over {self.sites}: load one of that length")
        return torch.tensor(row, dtype=self.levels.dtype)


def length_of(text: str, tokenizer: Tokenizer) -> int:
    """Returns how many tokens a text with gaps has."""
    parts = text.split("___")
    return len(parts) - 1 + sum(len(tokenizer.encode(p.rstrip(" ") if p is not parts[-1] else p)) for p in parts)


def sized(length: int | str, tokenizer: Tokenizer) -> int:
    """Returns a length that may be given as a text of that length.

    Raises:
        OptionError: it is no positive number.
    """
    found: Any = length_of(length, tokenizer) if isinstance(length, str) else length
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise OptionError(f"length must be a number of tokens or a text, got {length!r}")
    return found
