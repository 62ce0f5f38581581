"""How far up in noise a denoiser can be trusted, asked of pure noise before its first run.

A trained network errs by a few per cent of the noise at every level, so that D errs by that times sigma: harmless where
sigma is small beside the signals, more than a constant would err where it is large. Of pure noise an exact D makes about
the mean of the data, the closer the more noise there is; values that grow with it are the network's error. With clean
signals `check_prior` measures that error itself, at both ends.
"""

import copy
import math
import warnings

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.gradients import running
from invgen.random import Streams

ROWS = 4  # draws of noise a level
FIRST, FAR = 4.0, 8.0  # in units of data_std: the level to compare with, and the range below which nothing is asked
GROWN = 1.5  # how much larger D of pure noise is at a high level than at the first, where it is the network's error
LARGE = 1.25  # and how large it is then, in units of data_std: no constant errs as much
SHARE = 0.35  # of data_std, the error up to which a level is trusted; on networks known, samplers hold below 0.6

BEYOND, TAIL = 4.0, 12.0  # what samples may leave neither of: times the declared range, and deviations of the data


class PriorWarning(UserWarning):
    """A prior does not behave as its declaration says, or is used where it cannot be trusted."""


def ceiling(prior: Denoiser) -> float | None:
    """The level of noise up to which D of pure noise does not contradict the prior, None where that is all of its range.

    Twelve rows of the network, once for each prior and range. Not asked are priors with a density, whose D is exact, those
    with a measured table `mmse`, and ranges too short to tell.
    """
    known = prior.__dict__.get("_ceiling")
    if known is None or known[0] != _key(prior):
        known = prior.__dict__["_ceiling"] = (_key(prior), None if _known(prior) else _asked(prior))
    return known[1]


def warn_untrusted(prior: Denoiser) -> None:
    """Warns (PriorWarning), once for each prior, where its range goes beyond what can be trusted."""
    top = ceiling(prior)
    if top is not None and not prior.__dict__.get("_warned"):
        prior.__dict__["_warned"] = True
        warnings.warn(
            f"of pure noise at sigma = {prior.sigma_max:.3g} this {type(prior).__name__} makes values far beyond its "
            f"signals, where an exact denoiser makes their mean: {remedy(top)}",
            PriorWarning,
            stacklevel=4,
        )


def remedy(top: float) -> str:
    """What to do about a prior that is not to be trusted above a level, as the end of a sentence."""
    return f"pass sigma_max={top:.2g} to the prior, or clean signals as data= to its loader, which measures the range"


def narrowed(prior: Denoiser, top: float) -> Denoiser:
    """The same prior, sharing all that it has, with noise levels up to `top` only."""
    other = copy.copy(prior)
    other.sigma_max = top
    other.__dict__["_ceiling"] = (_key(other), None)
    return other


def _key(prior: Denoiser) -> tuple[float, ...]:
    return prior.sigma_min, prior.sigma_max, prior.data_mean, prior.data_std


def bounds(prior: Denoiser) -> tuple[float, float]:
    """What no sample may leave: BEYOND times the declared range on either side, or TAIL deviations if that is more."""
    low, high = prior.value_range
    span, tail = BEYOND * (high - low), TAIL * prior.data_std
    return min(low - span, prior.data_mean - tail), max(high + span, prior.data_mean + tail)


def warn_saturated(prior: Denoiser, x: Tensor, sampler: str) -> None:
    """Warns (PriorWarning) of samples, (B, *shape), many of whose values lie outside of the signals that a prior declares.

    Outside is beyond the declared range by a quarter of it and beyond five deviations; many, more than the 2 in 1000 and 3
    that chance and outliers may bring.
    """
    low, high = prior.value_range
    span, tail = 0.25 * (high - low), 5 * prior.data_std
    least, most = min(low - span, prior.data_mean - tail), max(high + span, prior.data_mean + tail)
    outside = ((x < least) | (x > most)).flatten(1).sum(1)
    broken = int((outside > 3 + 0.002 * x[0].numel()).sum())
    if broken:
        top = ceiling(prior)
        warnings.warn(
            f"{broken} of {len(x)} samples of {sampler} are saturated, with values from {x.min():.3g} to {x.max():.3g}, "
            f"where the prior declares value_range=({low:g}, {high:g}); "
            + (remedy(top) if top else "priors.check_prior says at which noise levels its network is good")
            + ", or use more steps",
            PriorWarning,
            stacklevel=5,
        )


def _known(prior: Denoiser) -> bool:
    """Whether its range has been measured or is exact, its own or that of the prior that it is made of."""
    inner = getattr(prior, "prior", None)
    return bool(prior.mmse) or prior.has_density or (isinstance(inner, Denoiser) and _known(inner))


def _asked(prior: Denoiser) -> float | None:
    first = FIRST * prior.data_std
    if prior.one_level or prior.sigma_max <= FAR * prior.data_std:
        return None
    levels = [first, math.sqrt(first * prior.sigma_max), prior.sigma_max]
    with running(prior):
        z = Streams(0, range(ROWS))(torch.empty(ROWS, *prior.shape, dtype=prior.dtype, device=prior.device))
        sizes = [(prior(prior.start(z, s), s) - prior.data_mean).double().square().mean().sqrt() for s in levels]
        low, *high = torch.stack(sizes).tolist()
    limit = max(GROWN * low, LARGE * prior.data_std)
    if not all(map(math.isfinite, (low, *high))) or all(size <= limit for size in high):  # the run tells what is not finite
        return None
    # the error as a share of the noise, from the level where it is plainest
    slope = max(size / s for s, size in zip(levels[1:], high, strict=True) if size > limit)
    return max(SHARE * prior.data_std / slope, first / 2)
