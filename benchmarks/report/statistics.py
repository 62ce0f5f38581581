"""Means with intervals, and paired comparisons, of metrics over the cells of a suite.

The units are images: they are what was drawn independently. Several seeds on one image share its difficulties, so they are
averaged first, and every interval and test runs over images: Student's t for the mean, and the paired t test for the
difference of two rows on the same images and seeds, which has the measurements and their difficulty in common. Where
several differences are judged together, their p values are Holm's (Scandinavian Journal of Statistics 6, 1979).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from invgen.errors import OptionError
from invgen.names.spec import parse

LEVEL = 0.95  # of intervals; 1 - LEVEL is where a difference counts as significant
ROUNDING = 1e-9  # relative: closer means than this are equal

Place = tuple[str, int]  # of a value: its image and its seed
Values = Mapping[Place, float]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over images, and the half width of its 95 % interval.

    Attributes:
        half: nan where there is none: fewer than two images, or values that are not finite.
        images, cells: that it is the mean of.
    """

    mean: float
    half: float
    images: int
    cells: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


@dataclass(frozen=True, slots=True)
class Difference(Interval):
    """The mean paired difference, its interval, and the p value of "no difference" (nan where there is no test)."""

    p: float

    @property
    def significant(self) -> bool:
        return self.p < 1 - LEVEL


def per_image(values: Values) -> dict[str, float]:
    """Returns the mean over the seeds of each image."""
    found: dict[str, list[float]] = {}
    for (image, _), value in values.items():
        found.setdefault(image, []).append(value)
    return {image: sum(of) / len(of) for image, of in found.items()}


def interval(values: Values) -> Interval:
    """Returns the mean over images and its 95 % t interval; nan without values."""
    means = list(per_image(values).values())
    mean, half, _ = _t(means)
    return Interval(mean, half, len(means), len(values))


def paired(a: Values, b: Values) -> Difference:
    """Returns a - b over the images and seeds that both have."""
    shared = a.keys() & b.keys()
    differences = list(per_image({place: a[place] - b[place] for place in sorted(shared)}).values())
    mean, half, p = _t(differences)
    scale = max((abs(v[place]) for v in (a, b) for place in shared), default=0.0)
    if abs(mean) <= ROUNDING * scale:
        p = 1.0 if len(differences) > 1 else p
    return Difference(mean, half, len(differences), len(shared), p)


def _t(means: Sequence[float]) -> tuple[float, float, float]:
    """Returns the mean, half width of its interval, and two-sided p value of a zero mean, by Student's t."""
    from scipy.special import stdtr, stdtrit  # the t distribution's cumulative function and its inverse

    n = len(means)
    if n == 0:
        return math.nan, math.nan, math.nan
    mean = math.fsum(means) / n if all(map(math.isfinite, means)) else sum(means) / n
    if n == 1 or not math.isfinite(mean):
        return mean, math.nan, math.nan
    error = math.sqrt(math.fsum((x - mean) ** 2 for x in means) / (n - 1) / n)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * error
    if error <= ROUNDING * abs(mean):  # the same difference on every image
        return mean, half, 0.0 if mean else 1.0
    return mean, half, 2 * float(stdtr(n - 1, -abs(mean) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns Holm's adjusted p values: rejecting where they are below 5 % errs in any of them with at most that
    probability.

    nan (no test) stays nan and does not count.
    """
    order = sorted((k for k, p in enumerate(p_values) if not math.isnan(p)), key=lambda k: p_values[k])
    adjusted, largest = list(p_values), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min((len(order) - rank) * p_values[k], 1.0))
        adjusted[k] = largest
    return adjusted


# -- which is better -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Direction:
    """The better direction of a metric: "higher", "lower", or "nearest" to a target."""

    better: Literal["higher", "lower", "nearest"]
    target: float = 0.0

    def loss(self, value: float) -> float:
        """Lower is better."""
        if self.better == "nearest":
            return abs(value - self.target)
        return -value if self.better == "higher" else value

    @property
    def sign(self) -> str:
        """For the head of a column."""
        return {"higher": "↑", "lower": "↓"}.get(self.better, f"→\N{NO-BREAK SPACE}{self.target:g}")


HIGHER = ("psnr", "psnr_sample", "ssim", "snr", "si_sdr")
LOWER = ("nrmse", "lpips", "lsd", "crps", "energy", "distance", "nfe", "seconds")


def direction(metric: str) -> Direction | None:
    """Of the spec of a metric; None for a user's own, of which nothing is known."""
    try:
        module, name, options = parse(metric)
    except OptionError:  # a column of a table that somebody else wrote
        return None
    if module:
        return None
    if name in HIGHER or name in LOWER:
        return Direction("higher" if name in HIGHER else "lower")
    if name == "residual":  # over the noise level: below 1 it explains the noise too
        return Direction("nearest", 1.0)
    if name == "coverage":
        level = options.get("level", 0.5)
        return Direction("nearest", float(level)) if isinstance(level, int | float) else None
    return None


Mark = Literal["best", "second", ""]


def marks(rows: Sequence[Values], better: Direction | None) -> list[Mark]:
    """Which of the rows is best, and second best, beyond doubt.

    Best is the row with the best mean that is significantly better than every other one, in pairs on the images and seeds
    that the two have in common, at 5 % with Holm's correction for the number of others; second best the same among those
    that are left. Without a best there is no second. Rows with fewer than two images can neither win nor hinder.
    """
    found: list[Mark] = [""] * len(rows)
    if better is None:
        return found
    losses = [{place: better.loss(v) for place, v in row.items()} for row in rows]
    means = {k: interval(of) for k, of in enumerate(losses)}
    left = sorted((k for k, of in means.items() if of.images > 1 and math.isfinite(of.mean)), key=lambda k: means[k].mean)
    names: tuple[Mark, ...] = ("best", "second")
    for name in names:
        if len(left) < 2:
            break
        first, *others = left
        differences = [paired(losses[first], losses[k]) for k in others]
        adjusted = holm([d.p for d in differences])
        if not all(d.mean < 0 and p < 1 - LEVEL for d, p in zip(differences, adjusted, strict=True)):
            break
        found[first] = name
        left = others
    return found
