"""`check_prior`: does a network fit the schedule, the prediction and the units that were declared for it, and how far?

The best denoiser has the least squared error of all, at every noise level. A wrong declaration feeds the network another
level or reads its output as something else, and shows as excess error or as a residual that is too long or too short. A
right one shows where the network itself is good: `invgen.priors.wrappers.trusted`.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.errors import OptionError, ShapeError
from invgen.messages import warn
from invgen.numerics.gradients import running
from invgen.numerics.random import Streams
from invgen.priors.wrappers.declarations import better
from invgen.priors.wrappers.from_network import FunctionDenoiser
from invgen.priors.wrappers.trusted import (
    LEAST,
    Level,
    errs,
    fit_facts,
    leans,
    measure,
    plain,
    survey,
    trusted,
    trusted_range,
)
from invgen.trust import PriorWarning
from invgen.validation.arguments import checked

NEAR = 3.0  # in units of the signals: the levels above are the network's to know, a declaration shows below
COARSE = 0.2  # in units of the signals, the lowest level from which on samples keep an error that is seen
SIGNALS = 32  # as many are looked at; more cost time and tell little


@dataclass
class PriorReport:
    """Print it: one line for each noise level, the range that can be trusted, then what was found.

    Attributes:
        trusted: (sigma_min, sigma_max) between which the prior can be trusted, None if that was not asked or is nowhere.
    """

    prior: str
    levels: list[Level]
    findings: list[str] = field(default_factory=list)
    trusted: tuple[float, float] | None = None

    def __str__(self) -> str:
        rows = [f"{self.prior}", "      sigma      error     linear   residual      slope     excess"]
        rows += [
            f"{x.sigma:11.3g}{x.error:11.2e}{x.linear:11.2e}{x.residual:11.4g}{x.slope:11.3f}{x.excess:11.3f}"
            for x in self.levels
        ]
        if self.trusted is not None:
            low, high = self.trusted
            rows.append(f"good from sigma = {plain(low, up=True):g} to {plain(high):g}")
        return "\n".join(rows + (self.findings or ["the declaration fits"]))


@checked
def check_prior(prior: Denoiser, x0: Tensor, *, levels: Sequence[float] | None = None, seed: int = 0) -> PriorReport:
    """Measures D on clean signals against what every denoiser must satisfy, and warns, in words, where it does not.

    Tested: D(x, sigma) tends to x at the least level; the error never exceeds min(sigma^2, the variance of the signals) by
    more than a margin; the noise regresses on (x - D) / sigma with slope 1, so that this residual has unit variance at
    large sigma; what D adds to the mean of the signals is theirs; D of a signal does not depend on the rest of the batch;
    gradients flow; the signals lie in `value_range`. The levels run over the whole schedule of the network, and the range
    in which it can be trusted is named. Where a network fails in the middle of it, other predictions, the standard
    schedules and ranges are tried, and what fits better is named; not for a function f(x, sigma) of signals that lie in
    `value_range`, whose units are certain.

    Args:
        prior: any denoiser; for a conditional one prior.condition(c) with signals of that condition.
        x0: (B, *shape), signals that the network did not see in training, of the kind and in the units that it knows;
            ten images suffice, and the first 32 are taken. It takes about 20 evaluations of the network a signal, and 160
            in all where a declaration is looked for.
        levels: noise levels, 14 over the range of the schedule by default; without them no range is named.
        seed: of the noise.

    Returns:
        A PriorReport with the table; its `findings` are what was warned of (PriorWarning), empty if the prior fits.
    """
    x0 = _signals(prior, x0)
    with running(prior):
        measured = survey(prior, x0, seed) if levels is None else [measure(prior, x0, s, seed) for s in sorted(levels)]
        found = trusted_range(prior, x0, measured, seed) if levels is None else None
        report = _report(prior, x0, measured, found, _away(prior, x0, measured, seed))
    return _told(report)


def declare(prior: Denoiser, data: Tensor, given: Collection[str]) -> None:
    """Sets from clean signals what the declaration of a loader left open, and warns of what does not fit.

    From the signals come sigma_min and sigma_max, the range in which the network can be trusted; data_mean, data_std and,
    where the signals do not fill it, value_range; and the table `mmse`.

    Args:
        given: the names of the facts that were declared, which stay.
    """
    x0 = _signals(prior, data)
    with running(prior):
        measured = survey(prior, x0)
        found = trusted_range(prior, x0, measured)
        away = _away(prior, x0, measured, 0)
        if prior.consistency:  # its D is a sample, which errs as one at any level
            given = {*given, "sigma_min", "sigma_max"}
        if found is not None and away is None:
            fit_facts(prior, x0, found, given)
        report = _report(prior, x0, measured, found, away)
    _told(report)


def _signals(prior: Denoiser, x0: Tensor) -> Tensor:
    """Returns the first signals, where the prior computes.

    Raises:
        ShapeError: they are no signals of this prior.  OptionError: they are not finite, or all their values are one.
    """
    given: Any = x0  # users hand arrays over as well
    if isinstance(given, np.ndarray) and given.dtype.kind in "biufc":
        x0 = torch.as_tensor(given)
    if not isinstance(x0, Tensor) or x0.ndim != len(prior.shape) + 1 or x0.shape[1] != prior.shape[0] or len(x0) < 1:
        got = tuple(x0.shape) if isinstance(x0, Tensor) else type(x0).__name__
        raise ShapeError(f"check_prior takes signals (B, {', '.join(map(str, prior.shape))}), got {got}")
    x0 = x0[:SIGNALS].to(prior.device, prior.dtype)
    if not x0.isfinite().all() or x0.min() == x0.max():
        what = f"all are {x0.min().item():g}" if x0.min() == x0.max() else "some are not finite"
        raise OptionError(f"check_prior needs clean signals whose values differ and are finite: {what}")
    return x0


def _report(
    prior: Denoiser, x0: Tensor, measured: list[Level], found: tuple[float, float] | None, away: str | None
) -> PriorReport:
    """Returns the table and all findings. found: the range that can be trusted; away: another declaration that fits, in
    words."""
    report = PriorReport(f"{type(prior).__name__} on {len(x0)} signals", measured, trusted=found)
    report.findings += _contract(prior, x0, measured)
    report.findings += _range(prior, x0)
    if found is None or away is not None:
        report.findings += _misfit(prior, x0, measured, away)
    else:
        report.findings += _reach(prior, x0, measured, found)
    return report


def _told(report: PriorReport) -> PriorReport:
    for finding in report.findings:
        warn(finding, PriorWarning)
    return report


def _reach(prior: Denoiser, x0: Tensor, measured: list[Level], found: tuple[float, float]) -> Iterator[str]:
    """Tells whether the declared range is the one in which the network is good."""
    low, high = found
    if prior.sigma_max > 1.02 * high or prior.sigma_min < 0.98 * low:
        worst = measured[-1] if prior.sigma_max > 1.02 * high else measured[0]
        constant = f", where the constant mean errs by {x0.std().item():.2g}" if worst is measured[-1] else ""
        yield (
            f"the network is good from sigma = {plain(low, up=True):g} to {plain(high):g}, of {prior.sigma_min:.3g} to "
            f"{prior.sigma_max:.3g} that are declared (it errs by {worst.error**0.5:.2g} at sigma = {worst.sigma:.3g}"
            f"{constant}): pass sigma_min={plain(low, up=True):g}, sigma_max={plain(high):g}"
        )
    size = x0.std().item()
    if COARSE * size < prior.sigma_min < prior.sigma_max:
        lower = (
            f"pass sigma_min={plain(low, up=True):g}" if low < 0.9 * prior.sigma_min else "declare lower ones if it has any"
        )
        yield (
            f"the noise levels end at sigma_min={prior.sigma_min:.3g}, {prior.sigma_min / size:.2g} times the deviation of "
            f"the signals, and samples keep the error that the network has there; {lower}"
        )


def _contract(prior: Denoiser, x0: Tensor, measured: list[Level]) -> Iterator[str]:
    """Yields the independence of the batch, and gradients."""
    sigma = measured[len(measured) // 2].sigma
    x = x0 + sigma * Streams(1, list(range(len(x0))))(x0)
    if len(x0) > 1:
        with torch.no_grad():
            together, alone = prior(x, sigma)[:1], prior(x[:1], sigma)
        if (together - alone).abs().max() > 0.02 * alone.abs().max():
            yield (
                "the denoised signal depends on the others in its batch: does the network normalise over the batch? "
                "Put it into eval mode"
            )
    try:
        gradient = prior.vjp(x[:1], sigma)[1](torch.ones_like(x[:1]))
        flows = bool(gradient.isfinite().all() and gradient.any())
    except RuntimeError:  # what autograd raises where there is no graph
        flows = False
    if not flows:
        yield (
            "no gradient flows through the network, so that samplers that differentiate it (DPS, PiGDM, ...) cannot run: "
            "is it called under torch.no_grad() or detached?"
        )


def _range(prior: Denoiser, x0: Tensor) -> Iterator[str]:
    low, high = prior.value_range
    least, most = x0.min().item(), x0.max().item()
    span = high - low
    # what fills the lower half alone may well be right (CT scaled by its densest metal), the upper half alone hardly is
    if least > low + 0.4 * span or least < low - 0.2 * span or most > high + 0.2 * span:
        yield (
            f"the signals have values from {least:.3g} to {most:.3g} but the prior declares value_range=({low:g}, "
            f"{high:g}): bring them to its units, or prior.rescaled(scale, shift) to theirs"
        )


def _away(prior: Denoiser, x0: Tensor, measured: list[Level], seed: int) -> str | None:
    """Returns another declaration that is right where this one fails at levels that a declaration shows at, in words."""
    size = x0.std().item()
    if all(trusted(level, x0) for level in measured if LEAST * size <= level.sigma <= NEAR * size):
        return None
    units = not isinstance(prior, FunctionDenoiser) or any(_range(prior, x0))  # those of a function f(x, sigma) are certain
    return better(prior, x0, measured, seed, units)


def _misfit(prior: Denoiser, x0: Tensor, measured: list[Level], advice: str | None) -> Iterator[str]:
    """Yields the first level that no denoiser shows, and the declaration that would mend it."""
    wrong = [level for level in measured if not trusted(level, x0)]
    if not wrong:
        return
    first, worst = measured[0], max(wrong, key=lambda level: level.error / level.linear)
    at = f"at sigma = {worst.sigma:.3g} "
    if first in wrong and errs(first):
        what = f"D should tend to x for small noise, but at sigma = {first.sigma:.3g} it errs by {first.error**0.5:.3g}"
    elif errs(worst):
        what = f"{at}the error {worst.error:.2e} is {worst.error / worst.linear:.3g} times that of a mere gain"
        what += f", and the noise is {worst.slope:.3g} times the predicted one" * leans(worst, x0)
    elif leans(worst, x0):
        what = f"{at}the noise is {worst.slope:.3g} times the predicted one"
    else:
        what = f"{at}it adds to the mean what is not of the signals, {worst.excess:.2g} of their variance"
    advice = advice or "no other prediction, standard schedule or range fits better: is it trained, on signals like these?"
    yield f"the network does not fit its declaration: {what}; {advice}"
