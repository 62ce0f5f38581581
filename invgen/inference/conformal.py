"""Split conformal prediction: credible intervals of samples, corrected so that they cover as often as they say.

Each of n pairs (truth, samples) has a score: the distance of the truth from the mean of its samples, in their standard
deviations. The score of a further pair of the same law is as likely to be the largest as that of any other, so that the
interval mean +- c standard deviations, c the k-th smallest score for k = ceil((n + 1) level), holds its truth with a
probability of at least `level`, and at most 1 / (n + 1) more where scores do not tie. That is so for any sampler, any
number of samples and any n that is large enough (k <= n). It is marginal, over pairs, not given y; and real signals are
covered as far as they are like those of the pairs.

    Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005 (split conformal prediction);
    Lei, G'Sell, Rinaldo, Tibshirani & Wasserman, Distribution-free predictive inference for regression, JASA 2018 (scores
        over a local spread; those over quantiles, of Romano et al., 2019, gave wider intervals on samples);
    Angelopoulos et al., Image-to-image regression with distribution-free uncertainty quantification, ICML 2022 (intervals
        of pixels; theirs hold a share of the pixels of an image, these hold each pixel);
    Wen, Ahmad & Schniter, Task-driven uncertainty quantification in inverse problems via conformal prediction, ECCV 2024
        (functionals of posterior samples).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.metrics.ensemble import central_interval
from invgen.validation.arguments import checked
from invgen.validation.hints import Level

Functional = Callable[[Tensor], Tensor]

LEVELS = (0.5, 0.8, 0.9, 0.95)
POOLED = 2  # degrees of freedom of the variance of the whole signal in that of a value


@dataclass(frozen=True)
class Correction:
    """Corrects credible intervals of a sampler: `calibrate(...).correct()` makes it, `Result.interval` takes it.

    That one is of simulated pairs; `Correction(samples, x)` of real ones covers signals like those.

    Args:
        samples: of the posterior of each pair, (num_samples, pairs, *shape), independent of each other given the pair.
        x: the truths, (pairs, *shape).
        sampler, problem: those of the pairs, in words; intervals of others are refused. Not compared where empty.
    """

    samples: Tensor = field(repr=False)
    x: Tensor = field(repr=False)
    sampler: str = ""
    problem: str = ""

    def __post_init__(self) -> None:
        if self.samples.ndim < 2 or self.samples.shape[1:] != self.x.shape or len(self.samples) < 2:
            raise ShapeError(
                "a correction takes at least 2 samples of every pair, (num_samples, pairs, *shape), and truths (pairs, "
                f"*shape), got {tuple(self.samples.shape)} and {tuple(self.x.shape)}"
            )

    def factor(self, level: float, num_samples: int, of: Functional | Tensor | None = None, joint: bool = False) -> Tensor:
        """Returns how many standard deviations of the samples intervals reach from their mean: 1.6 of a Gaussian at 0.9.

        One number for each value, () for a number or a joint region.

        Args:
            level, of, joint: as for `Result.interval`.
            num_samples: how many samples the intervals are made of.

        Raises:
            OptionError: pairs or samples are too few.
        """
        if not 2 <= num_samples <= len(self.samples):
            raise OptionError(
                f"the correction is for 2 to {len(self.samples)} samples of a measurement and the result has "
                f"{num_samples}: draw as many, or calibrate with that num_samples"
            )
        return _factor(*self._quantities(num_samples, of), level, joint)

    def interval(
        self, samples: Tensor, level: float, of: Functional | Tensor | None = None, joint: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Returns the ends of corrected intervals, (batch, *values) each.

        Args:
            samples: (num_samples, batch, *shape).
            level, of, joint: as for `Result.interval`.
        """
        return _around(_each(samples, of), self.factor(level, len(samples), of, joint))

    def held_out(
        self, level: float, of: Functional | Tensor | None = None, joint: bool = False
    ) -> tuple[float, float, float, float]:
        """Returns (coverage, width) of the samples' own intervals, then of corrected ones, on pairs held out.

        One half of the pairs corrects the other, and the other way round; widths are averages over values and pairs.
        """
        drawn, truth = self._quantities(len(self.samples), of)
        found = []
        for here, there in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
            factor = _factor(drawn[:, here], truth[here], level, joint)
            for low, high in (central_interval(drawn[:, there], level), _around(drawn[:, there], factor)):
                inside = ((low <= truth[there]) & (truth[there] <= high)).reshape(len(low), -1)
                covered = inside.all(1) if joint else inside
                found.append((covered.double().mean().item(), (high - low).double().mean().item()))
        (a, w), (b, v), (c, x), (d, y) = found
        return (a + c) / 2, (w + x) / 2, (b + d) / 2, (v + y) / 2

    def table(self) -> str:
        """Returns coverage and width of intervals before and after, on pairs held out, as Markdown."""
        lines = ["| intervals | nominal | coverage | corrected | width | corrected |", "| --- " * 6 + "|"]
        kinds = {"single values": {}, "all values at once": {"joint": True}, "mean of a signal": {"of": _mean}}
        for name, options in kinds.items():
            for level in LEVELS:
                if _rank(len(self.x) // 2, level) <= len(self.x) // 2:
                    before, width, after, wider = self.held_out(level, **options)
                    lines.append(f"| {name} | {level:.2f} | {before:.3f} | {after:.3f} | {width:.3g} | {wider:.3g} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        head = f"{self.sampler or 'samples'}{f' on {self.problem}' if self.problem else ''}: split conformal on "
        return f"{head}{len(self.x)} pairs of {len(self.samples)} samples\n\n{self.table()}"

    def _quantities(self, num_samples: int, of: Functional | Tensor | None) -> tuple[Tensor, Tensor]:
        return _each(self.samples[:num_samples], of), _functional(of)(self.x)


@checked
def interval(
    samples: Tensor,
    level: Level,
    of: Functional | Tensor | None = None,
    joint: bool = False,
    correction: Correction | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the ends of credible intervals, (batch, *values) each: the work of `Result.interval`.

    Args:
        samples: (num_samples, batch, *shape).
        level, of, joint, correction: as for `Result.interval`.

    Raises:
        OptionError: too few samples, or pairs of the correction, for the level; a joint region without a correction.
    """
    if correction is not None:
        return correction.interval(samples, level, of, joint)
    if joint:
        raise OptionError("a joint region takes a correction: calibrate(...).correct() makes one")
    if (len(samples) + 1) * (1 - level) / 2 < 1 - 1e-9:
        raise OptionError(
            f"{len(samples)} samples span no interval of level {level:g}: draw {math.ceil(2 / (1 - level) - 1e-9) - 1} or "
            "more, pass a correction (calibrate(...).correct()), or lower the level"
        )
    return central_interval(_each(samples, of), level)


def _factor(drawn: Tensor, truth: Tensor, level: float, joint: bool) -> Tensor:
    """Returns the conformal quantile of scores, (*values): drawn (num_samples, pairs, *values), truth (pairs, *values)."""
    n = len(truth)
    if (k := _rank(n, level)) > n:
        least = math.ceil(level / (1 - level) - 1e-9)
        raise OptionError(
            f"{n} pairs cannot correct intervals of level {level:g}: calibrate with num_simulations={least} or more"
        )
    score = (truth - drawn.mean(0)).abs() / _spread(drawn)
    return (score.reshape(n, -1).amax(1) if joint else score).kthvalue(k, 0).values


def _around(drawn: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    mean, reach = drawn.mean(0), factor * _spread(drawn)
    return mean - reach, mean + reach


def _spread(drawn: Tensor) -> Tensor:
    """Returns the moderated standard deviation of samples, (num_samples, batch, *values) to (batch, *values).

    The variance of a few samples is small by chance in some of many values, whose scores would be huge. Pooled with that of
    the whole signal, as of two samples more, it is not (Smyth, Linear models and empirical Bayes methods, 2004).
    """
    var, free = drawn.var(0), len(drawn) - 1
    whole = var.mean(tuple(range(1, var.ndim)), keepdim=True) if var.ndim > 1 else var
    return ((free * var + POOLED * whole) / (free + POOLED)).sqrt().clamp(min=torch.finfo(var.dtype).tiny ** 0.5)


def _rank(n: int, level: float) -> int:
    return math.ceil((n + 1) * level - 1e-9)


def _each(samples: Tensor, of: Functional | Tensor | None) -> Tensor:
    f = _functional(of)
    return samples if of is None else torch.stack([f(x) for x in samples])


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _functional(of: Functional | Tensor | None) -> Functional:
    """Returns a function of signals (B, *shape): the values themselves, the mean over a mask, or a weighted sum."""
    if of is None:
        return lambda x: x
    if isinstance(of, Tensor):
        return lambda x: _weighted(x, of)

    def f(x: Tensor) -> Tensor:
        value = of(x)
        if not isinstance(value, Tensor) or value.ndim < 1 or len(value) != len(x):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f"a functional must give one row for each of {len(x)} signals, (B, ...), got {got}")
        return value

    return f


def _weighted(x: Tensor, weights: Tensor) -> Tensor:
    try:
        w = weights.to(x.device).expand(x.shape[1:])
    except RuntimeError as error:
        raise ShapeError(
            f"a mask or weights must have the shape of a signal, {tuple(x.shape[1:])}, got {tuple(weights.shape)}"
        ) from error
    if w.dtype == torch.bool:
        if not w.any():
            raise OptionError("the mask of a functional is empty: no value is True")
        return x[:, w].mean(1)
    return (x * w.to(x.dtype)).flatten(1).sum(1)
