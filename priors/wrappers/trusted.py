"""The range of noise levels in which a denoiser can be trusted, measured on clean signals.

Three things must hold at a level. D errs no more than one gain for all values would, the best D of the plainest kind. The
noise regresses on the predicted noise with slope 1. And what D adds to the mean of the signals belongs to the signals: an
exact D has E (D - m)(D - x_0) = 0, while a network that errs by e of its own has E e^2 there. At high levels, where even an
exact D knows little, that excess alone tells an honest network from one that makes things up.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Rescaled
from invgen.numerics.gradients import running
from invgen.numerics.random import Streams

MARGIN = 1.5  # how far the error of a trained network may lie above that of the best linear filter of one gain
RELATIVE = 0.05  # how precisely, relative to the noise, a network knows it at least
SLOPE = 0.1  # how far from 1 the regression of the noise on the predicted noise may lie; the shipped priors: 0.02
LEAST = 0.1  # from this noise on, relative to the signals: below, trained networks do not reach that
EXCESS = 0.15  # fraction of the signals' variance that D may add of its own; the shipped priors: 0.05 at most
MIDDLE = (0.3, 1.0)  # levels that a trusted range contains, in standard deviations of the signals
LEVELS = 14


@dataclass(frozen=True)
class Level:
    """The findings at one noise level, means over all values of all signals.

    Attributes:
        error: E (D - x_0)^2.
        linear: sigma^2 v / (sigma^2 + v), the error of one gain for all values, v their variance: the best D errs no more.
        residual: the standard deviation of (x - D) / sigma, the predicted noise: at most 1, and about 1 for large sigma.
        slope: the regression of the noise on the predicted noise: 1 for E[x_0 | x], below 1 if too much is taken away.
        excess: E (D - m)(D - x_0) / v, 0 for E[x_0 | x]: what D makes up, as a fraction of v; chance is the standard error.
    """

    sigma: float
    error: float
    linear: float
    residual: float
    slope: float
    excess: float = 0.0
    chance: float = 0.0


@torch.no_grad()
def measure(prior: Denoiser, x0: Tensor, sigma: float, seed: int = 0) -> Level:
    """Measures one row of the table: x0, (B, *shape), with noise of level sigma from a seed, denoised by the prior."""
    x = x0 + sigma * Streams(seed, list(range(len(x0))))(x0)
    d = prior(x, sigma)
    variance, mean = x0.var().item(), x0.double().mean()
    removed, error = (x - d).double(), (d - x0).double()
    power = removed.square().mean().item()
    excess = ((d.double() - mean) * error).flatten(1).mean(1) / max(variance, 1e-30)
    return Level(
        sigma,
        error.square().mean().item(),
        sigma**2 * variance / (sigma**2 + variance),
        math.sqrt(power) / sigma,
        ((x - x0).double() * removed).mean().item() / max(power, 1e-30),
        excess.mean().item(),
        excess.std().item() / math.sqrt(len(x0)) if len(x0) > 1 else EXCESS,
    )


def errs(level: Level, relative: float = 0.0) -> bool:
    """Tells whether D errs more than one gain for all values, with a margin."""
    return not level.error <= MARGIN * level.linear + (relative * level.sigma) ** 2


def leans(level: Level, x0: Tensor) -> bool:
    """Tells whether the noise is another multiple of the predicted one than 1, by more than two standard errors."""
    slope = SLOPE + 2 / (max(level.residual, 1e-9) * math.sqrt(x0.numel()))
    return not (abs(math.log(max(level.slope, 1e-9))) < math.log1p(slope) or level.sigma < LEAST * x0.std().item())


def invents(level: Level) -> bool:
    """Tells whether D adds to the mean of the signals what is none of theirs, by more than a standard error."""
    return not level.excess <= EXCESS + level.chance


def trusted(level: Level, x0: Tensor) -> bool:
    """Tells whether one level is what a denoiser of these signals shows; at the least ones, to the precision of a
    network."""
    small = level.sigma < MIDDLE[0] * x0.std().item()
    return not (errs(level, RELATIVE if small else 0.0) or leans(level, x0) or invents(level))


def whole_range(prior: Denoiser) -> tuple[float, float]:
    """Returns the noise levels that the network was trained on, as far as its schedule says, at least those declared."""
    low, high = prior.sigma_min, prior.sigma_max
    inner, scale = getattr(prior, "prior", None), prior.scale if isinstance(prior, Rescaled) else 1.0
    schedule: Any = getattr(prior, "schedule", None)
    if isinstance(inner, Denoiser):
        first, last = whole_range(inner)
    elif hasattr(schedule, "sigma_min") and hasattr(schedule, "sigma_max"):
        first, last = schedule.sigma_min, schedule.sigma_max
    else:
        return low, high
    return min(low, scale * first), max(high, scale * last)


def survey(prior: Denoiser, x0: Tensor, seed: int = 0) -> list[Level]:
    """Returns levels over the whole range of the network, from a hundredth of the signals' size on."""
    low, high = whole_range(prior)
    low = min(max(low, 0.01 * x0.std().item()), high)
    count = 1 if low == high else LEVELS
    levels = torch.logspace(math.log10(low), math.log10(high), count, dtype=torch.float64)
    return [measure(prior, x0, s, seed) for s in levels.tolist()]


def trusted_range(
    prior: Denoiser, x0: Tensor, levels: Sequence[Level] | None = None, seed: int = 0
) -> tuple[float, float] | None:
    """Returns the noise levels (lowest, highest) between which the denoiser can be trusted on such signals; None if
    there are none.

    Both ends are found to a sixth of the ratio of two levels of the survey. The lowest level is that of the schedule where
    nothing speaks against it.

    Args:
        prior: any denoiser.
        x0: (B, *shape), clean signals.
        levels: what `survey` has measured.
        seed: of the noise.
    """
    with running(prior):
        levels = survey(prior, x0, seed) if levels is None else list(levels)
        size = x0.std().item()
        core = [k for k, level in enumerate(levels) if MIDDLE[0] * size <= level.sigma <= MIDDLE[1] * size]
        if not core:  # a short range, or one beside the size of the signals: all of it or nothing
            core = list(range(len(levels)))
        good = [trusted(level, x0) for level in levels]
        if not all(good[k] for k in core):
            return None
        first = next((k + 1 for k in range(core[0], -1, -1) if not good[k]), 0)
        last = next((k - 1 for k in range(core[-1], len(levels)) if not good[k]), len(levels) - 1)
        low, high = levels[first].sigma, levels[last].sigma
        if first > 0:
            low = _edge(prior, x0, low, levels[first - 1].sigma, seed)
        elif low > whole_range(prior)[0]:
            low = whole_range(prior)[0]
        if last < len(levels) - 1:
            high = _edge(prior, x0, high, levels[last + 1].sigma, seed)
    return low, high


def _edge(prior: Denoiser, x0: Tensor, good: float, bad: float, seed: int, halvings: int = 3) -> float:
    """Returns the level nearest to `bad` that can be trusted, between a good and a bad one."""
    for _ in range(halvings):
        middle = math.sqrt(good * bad)
        if trusted(measure(prior, x0, middle, seed), x0):
            good = middle
        else:
            bad = middle
    return good


def plain(value: float, up: bool = False) -> float:
    """Returns a number with two digits, rounded towards the inside of a range: up for its lower end, down for its upper."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round((math.ceil(value / unit - 1e-9) if up else math.floor(value / unit + 1e-9)) * unit, 12)


def fit_facts(prior: Denoiser, x0: Tensor, found: tuple[float, float], given: Collection[str]) -> None:
    """Sets what the declaration left open from clean signals: range, mean, deviation, values, and the table `mmse`.

    Args:
        prior: the denoiser.
        x0: clean signals, (B, *shape).
        found: what `trusted_range` gave.
        given: the names of the facts that were declared, which stay.
    """
    low, high = max(prior.sigma_min, found[0]), min(prior.sigma_max, found[1])
    if low < high:
        prior.sigma_min = prior.sigma_min if "sigma_min" in given else low
        prior.sigma_max = prior.sigma_max if "sigma_max" in given else high
    if "data_mean" not in given:
        prior.data_mean = x0.mean().item()
    if "data_std" not in given:
        prior.data_std = x0.std().item()
    least, most = x0.min().item(), x0.max().item()
    low, high = prior.value_range
    if "value_range" not in given and abs(least - low) + abs(most - high) > 0.1 * (high - low):
        prior.value_range = (least, most)
    if prior.sigma_min < prior.sigma_max:
        prior.measure_mmse(x0)
