"""Small programs as signals: expressions in postfix notation, with the shares of operations that real code has."""

import torch
from torch import Tensor

from invgen.autoregressive import Autoregressive
from invgen.validation.hints import Count, Level

# token: how many values it takes from the stack, and how often CPython's library has it
SHARES = {
    "x": (0, 1900.0), "1": (0, 2400.0), "2": (0, 700.0), "10": (0, 130.0), "abs": (1, 60.0), "neg": (1, 500.0),
    "+": (2, 2300.0), "-": (2, 900.0), "*": (2, 500.0), "//": (2, 150.0), "%": (2, 900.0), "max": (2, 110.0),
    "min": (2, 130.0),
}  # fmt: skip
TOKENS = ("end", *SHARES)
TAKEN = (0, *(count for count, _ in SHARES.values()))
LARGEST = 1e3  # of a result; what has no value (a division by zero) is this, too


class Programs(Autoregressive):
    """Programs of one variable in postfix notation: "x x *" is x squared. Every draw is a valid program.

    Tokens that would leave the stack empty, or more on it than can be used up, have probability zero; the others are drawn
    by the square roots of their shares.

    Args:
        length: the most tokens of a program.
        stop: the probability that a program ends where it may.
    """

    weights: Tensor
    taken: Tensor

    def __init__(self, length: Count = 7, stop: Level = 0.3) -> None:
        super().__init__((length,), list(range(len(TOKENS))), end=0)
        self.stop = stop
        shares = torch.tensor([0.0, *(share for _, share in SHARES.values())], dtype=torch.float64)
        self.register_buffer("weights", shares.sqrt())
        self.register_buffer("taken", torch.tensor(TAKEN))

    def step(self, last: Tensor, memory: list[Tensor]) -> Tensor:
        """Returns logits; the memory is the height of the stack and the number of tokens, (B, 2)."""
        state = memory[0] if memory else last.new_zeros(len(last), 2)
        if last.shape[1]:
            grown = torch.where(last[:, 0] == 0, 0, 1 - self.taken[last[:, 0]])
            state = state + torch.stack([grown, torch.ones_like(grown)], 1)
        memory[:] = [state]
        height, left = state[:, :1], self.sites - state[:, 1:]
        after = height + 1 - self.taken  # and what is left must be able to bring it down to one value
        fits = (height >= self.taken) & (after - 1 <= left - 1)
        fits[:, 0] = False
        p = torch.where(fits, self.weights, 0.0)
        p = p / p.sum(1, keepdim=True).clamp(min=1e-300)
        whole = (height[:, 0] == 1).double()[:, None]
        stop = torch.where(fits.any(1, keepdim=True), self.stop, 1.0) * whole
        p = p * (1 - stop)
        p[:, :1] = stop
        return p.log()

    def next_logits(self, prefix: Tensor) -> Tensor:
        memory: list[Tensor] = []
        for i in range(prefix.shape[1] + 1):
            logits = self.step(prefix[:, max(i - 1, 0) : i], memory)
        return logits

    def text(self, x: Tensor) -> list[str]:
        """Returns programs in words, (B, length) -> "x x *"."""
        return [" ".join(TOKENS[t] for t in row if t) for row in x.round().long().tolist()]


def execute(x: Tensor, values: Tensor) -> Tensor:
    """Runs programs, (B, length), on values of the variable, (n,): the results, (B, n), all programs at once.

    Results are limited to +-1000; a division by zero gives 1000.
    """
    tokens, count = x.round().long(), len(values)
    stack = values.new_zeros(len(x), x.shape[1] + 2, count)
    height = tokens.new_zeros(len(x))
    rows = torch.arange(len(x), device=x.device)
    constants = torch.stack([values, *(torch.full_like(values, float(c)) for c in (1, 2, 10))])
    for token in tokens.T:
        b = stack[rows, (height - 1).clamp(min=0)]
        a = stack[rows, (height - 2).clamp(min=0)]
        whole = torch.where(b == 0, torch.nan, b)
        every = [b.abs(), -b, a + b, a - b, a * b, (a / whole).floor(), a - whole * (a / whole).floor()]
        every = torch.stack([*every, torch.maximum(a, b), torch.minimum(a, b)])
        result = torch.where(
            (token < 5)[:, None], constants[(token - 1).clamp(0, 3)], every[(token - 5).clamp(min=0), rows]
        )
        taken = torch.tensor(TAKEN, device=x.device)[token]
        at = (height - taken).clamp(min=0)
        live = token > 0
        stack[rows[live], at[live]] = result[live]
        height = torch.where(live, at + 1, height)
    return stack[:, 0].nan_to_num(LARGEST, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)


def all_programs(prior: Programs) -> Tensor:
    """Returns every program of a prior, (N, length): a few ten thousand of up to 5 tokens."""
    tokens, memory = torch.empty(1, 0, dtype=torch.int64), []
    for _ in range(prior.sites):
        logits = prior(tokens[:, -1:], memory)
        row, token = logits.isfinite().nonzero(as_tuple=True)
        tokens, memory = torch.cat([tokens[row], token[:, None]], 1), [memory[0][row]]
    return prior.decode(tokens)
