"""How well one number tells two sets apart: the area under the receiver operating characteristic."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invgen.errors import ShapeError
from invgen.validation.arguments import checked
from invgen.validation.hints import Level


@dataclass(frozen=True)
class AUROC:
    """The area under the curve and its confidence interval.

    Attributes:
        value: the chance that a member of the second set has the larger number, ties counted as half.
        low, high: the ends of the interval.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@checked
def auroc(inside: Tensor, outside: Tensor, *, level: Level = 0.95) -> AUROC:
    """Returns the area under the curve of a number that should be larger in the second set, with its interval.

    The interval is of the normal law of the logit with the variance of DeLong, DeLong & Clarke-Pearson (Biometrics 1988),
    so that it stays within 0 and 1. Where all pairs are in order, that variance is zero, and the open end is the chance at
    which no pair of min(n, m) independent ones would be out of order with probability 1 - level.

    Args:
        inside: numbers of the first set, (n,).
        outside: of the second, (m,).
        level: of the interval.

    Raises:
        ShapeError: one of them is no vector, has no values, or has values that are not numbers.
    """
    for name, x in (("inside", inside), ("outside", outside)):
        if x.ndim != 1 or not len(x) or bool(x.isnan().any()):
            raise ShapeError(f"auroc: {name} must be a vector of numbers, got shape {tuple(x.shape)} or values of nan")
    a, b = inside.double().cpu(), outside.double().cpu()
    wins = (b[None] > a[:, None]).double() + 0.5 * (b[None] == a[:, None]).double()
    value, open_end = wins.mean().item(), (1 - level) ** (1 / min(len(a), len(b)))
    if value in (0.0, 1.0):
        return AUROC(value, open_end if value else 0.0, 1.0 if value else 1 - open_end)
    var = sum(side.var(correction=min(1, len(side) - 1)).item() / len(side) for side in (wins.mean(0), wins.mean(1)))
    width = math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=torch.float64)).item() * math.sqrt(var)
    logit, slope = math.log(value / (1 - value)), 1 / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(logit + sign * slope * width))) for sign in (-1, 1))
    return AUROC(value, low, high)
