"""How far up in noise a denoiser can be trusted, asked of pure noise before its first run.

A trained network errs by a few per cent of the noise at every level, so that D errs by that times sigma: harmless where
sigma is small beside the signals, more than a constant would err where it is large. Of pure noise an exact D makes about
the mean of the data, the closer the more noise there is; values that grow with it are the network's error. With clean
signals `check_prior` measures that error itself, at both ends.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.messages import warn
from invgen.numerics.gradients import running
from invgen.numerics.random import Streams

ROWS = 4  # draws of noise a level
FIRST, FAR = 4.0, 8.0  # in units of data_std: the level to compare with, and the range below which nothing is asked
GROWN = 1.5  # how much larger D of pure noise is at a high level than at the first, where it is the network's error
LARGE = 1.25  # and how large it is then, in units of data_std: no constant errs as much
SHARE = 0.35  # of data_std, the error up to which a level is trusted; on networks known, samplers hold below 0.6

BEYOND, TAIL = 4.0, 12.0  # what samples may leave neither of: times the declared range, and deviations of the data


class PriorWarning(UserWarning):
    """A prior does not behave as its declaration says, or is used where it cannot be trusted."""


@dataclass(frozen=True)
class Asked:
    """Findings from the denoiser's answer to pure noise of a prior.

    Attributes:
        ceiling: the level of noise up to which it does not contradict the prior, None where that is all of its range.
        extent: the least and the largest value, at the lowest level alone where D grows with the noise.
        size: of the values of D about data_mean, where they are not those of the signals that were declared.
    """

    ceiling: float | None = None
    extent: tuple[float, float] | None = None
    size: float | None = None


def asked(prior: Denoiser) -> Asked:
    """Returns D of pure noise: twelve rows of the network, one by one, once for each prior and range.

    Not asked are priors with a density, whose D is exact, those with a measured table `mmse`, and ranges too short to tell.
    """
    known = prior.__dict__.get("_asked")
    if known is None or known[0] != _key(prior):
        known = prior.__dict__["_asked"] = (_key(prior), Asked() if _known(prior) else _ask(prior))
    return known[1]


def ceiling(prior: Denoiser) -> float | None:
    """Returns the level of noise above which the prior is not to be trusted, None where nothing speaks against its
    range."""
    return asked(prior).ceiling


def warn_untrusted(prior: Denoiser) -> None:
    """Warns (PriorWarning), once for each prior, where its range goes beyond what can be trusted."""
    top, size = asked(prior).ceiling, asked(prior).size
    if prior.__dict__.get("_warned"):
        return
    if size is not None:
        prior.__dict__["_warned"] = True
        low, high = prior.value_range
        warn(
            f"of pure noise this {type(prior).__name__} makes signals of size {size:.3g}, where value_range=({low:g}, "
            f"{high:g}), data_mean={prior.data_mean:.3g} and data_std={prior.data_std:.3g} are declared: "
            "samplers go by them; declare those of its signals, and a sigma_max well above data_std",
            PriorWarning,
        )
    if top is not None:
        prior.__dict__["_warned"] = True
        warn(
            f"of pure noise at sigma = {prior.sigma_max:.3g} this {type(prior).__name__} makes values far beyond its "
            f"signals, where an exact denoiser makes their mean: {remedy(top)}",
            PriorWarning,
        )


def remedy(top: float) -> str:
    """Returns what to do about a prior that cannot be trusted above a level, as the end of a sentence."""
    return f"pass sigma_max={top:.2g} to the prior, or clean signals as data= to its loader, which measures the range"


def narrowed(prior: Denoiser, top: float) -> Denoiser:
    """Returns the same prior, sharing all that it has, with noise levels up to `top` only."""
    other = copy.copy(prior)
    other.sigma_max = top
    other.__dict__["_asked"] = (_key(other), Asked(None, asked(prior).extent))
    return other


def _key(prior: Denoiser) -> tuple[float, ...]:
    return prior.sigma_min, prior.sigma_max, prior.data_mean, prior.data_std


def bounds(prior: Denoiser, beyond: float = BEYOND, tail: float = TAIL) -> tuple[float, float]:
    """Returns the interval that no sample may leave: `beyond` value ranges on either side, or `tail` deviations if more.

    The range is the declared one and that of D, which counts where nothing was declared.
    """
    ranges = [r for r in (prior.value_range, asked(prior).extent) if r is not None]
    low = min(least - beyond * (most - least) for least, most in ranges)
    high = max(most + beyond * (most - least) for least, most in ranges)
    return min(low, prior.data_mean - tail * prior.data_std), max(high, prior.data_mean + tail * prior.data_std)


def warn_saturated(prior: Denoiser, x: Tensor, sampler: str) -> None:
    """Warns (PriorWarning) of samples, (B, *shape), many of whose values lie outside of the signals that a prior declares.

    Outside is beyond the declared range by a quarter of it and beyond five deviations; many, more than the 2 in 1000 and 3
    that chance and outliers may bring.
    """
    low, high = prior.value_range
    least, most = bounds(prior, 0.25, 5.0)
    outside = ((x < least) | (x > most)).flatten(1).sum(1)
    broken = int((outside > 3 + 0.002 * x[0].numel()).sum())
    if broken:
        top = ceiling(prior)
        warn(
            f"{broken} of {len(x)} samples of {sampler} are saturated, with values from {x.min():.3g} to {x.max():.3g}, "
            f"where the prior declares value_range=({low:g}, {high:g}); "
            + (remedy(top) if top else "priors.check_prior says at which noise levels its network is good")
            + ", or use more steps",
            PriorWarning,
        )


def _known(prior: Denoiser) -> bool:
    """Tells whether its range has been measured or is exact, its own or that of the prior that it is made of."""
    inner = getattr(prior, "prior", None)
    return bool(prior.mmse) or prior.has_density or (isinstance(inner, Denoiser) and _known(inner))


def _ask(prior: Denoiser) -> Asked:
    first = FIRST * prior.data_std
    if prior.one_level or prior.sigma_max <= FAR * prior.data_std:
        return Asked()
    levels = [first, math.sqrt(first * prior.sigma_max), prior.sigma_max]
    with running(prior):
        z = Streams(0, range(ROWS))(torch.empty(ROWS, *prior.shape, dtype=prior.dtype, device=prior.device))
        # one by one, which takes no more memory than a run needs
        d = [torch.cat([prior(prior.start(row, s), s) for row in z.split(1)]).double() for s in levels]
        low, *high = torch.stack([(x - prior.data_mean).square().mean().sqrt() for x in d]).tolist()
        extents = [(x.min().item(), x.max().item()) for x in d]
    if not all(map(math.isfinite, (low, *high))):  # the run tells
        return Asked()
    limit = max(GROWN * low, LARGE * prior.data_std)
    if all(size <= limit for size in high):
        return Asked(None, extents[0])
    # far slower than the noise: it ends at a mean, which is another than that declared
    if high[1] <= high[0] * math.sqrt(levels[2] / levels[1]) and high[1] > LARGE * max(map(abs, prior.value_range)):
        return Asked(None, (min(e[0] for e in extents), max(e[1] for e in extents)), high[1])
    # the error as a fraction of the noise, from the level where it is plainest
    slope = max(size / s for s, size in zip(levels[1:], high, strict=True) if size > limit)
    return Asked(max(SHARE * prior.data_std / slope, first / 2), extents[0])
