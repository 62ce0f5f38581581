"""`check_prior`: does a network fit the schedule, the prediction and the units that were declared for it?

The best denoiser has the least squared error of all, at every noise level. A wrong declaration feeds the network another
level or reads its output as something else, and shows as excess error or as a residual that is too long or too short.
"""

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Module

from invgen.conditional import Conditioned
from invgen.diffusion import Denoiser
from invgen.errors import ShapeError
from invgen.priors.from_network import NetworkDenoiser
from invgen.priors.schedules import Schedule
from invgen.random import Streams

MARGIN = 1.5  # how far the error of a trained network may lie above that of the best linear filter of one gain
RELATIVE = 0.05  # how precisely, relative to the noise, a network knows it at least
SLOPE = 0.1  # how far from 1 the regression of the noise on the predicted noise may lie; the shipped priors: 0.02
LEAST = 0.1  # from this noise on, relative to the signals: below, trained networks do not reach that
GAIN = 0.03  # the mean drop of the log error from which another declaration is said to fit better


class PriorWarning(UserWarning):
    """A prior does not behave as its declaration says."""


@dataclass(frozen=True)
class Level:
    """What was measured at one noise level, means over all values of all signals.

    Attributes:
        error: E (D - x_0)^2.
        linear: sigma^2 v / (sigma^2 + v), the error of one gain for all values, v their variance: the best D errs no more.
        residual: the standard deviation of (x - D) / sigma, the predicted noise: at most 1, and about 1 for large sigma.
        slope: the regression of the noise on the predicted noise: 1 for E[x_0 | x], below 1 if too much is taken away.
    """

    sigma: float
    error: float
    linear: float
    residual: float
    slope: float


@dataclass
class PriorReport:
    """Print it: one line for each noise level, then what was found."""

    prior: str
    levels: list[Level]
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [f"{self.prior}", "      sigma      error     linear   residual      slope"]
        rows += [f"{x.sigma:11.3g}{x.error:11.2e}{x.linear:11.2e}{x.residual:11.4g}{x.slope:11.3f}" for x in self.levels]
        return "\n".join(rows + (self.findings or ["the declaration fits"]))


def check_prior(prior: Denoiser, x0: Tensor, *, levels: Sequence[float] | None = None, seed: int = 0) -> PriorReport:
    """Measures D on clean signals against what every denoiser must satisfy, and warns, in words, where it does not.

    Tested: D(x, sigma) tends to x at the least level; the error never exceeds min(sigma^2, the variance of the signals) by
    more than a margin; the noise regresses on (x - D) / sigma with slope 1, so that this residual has unit variance at
    large sigma; D of a signal does not depend on the rest of the batch; gradients flow; the signals lie in `value_range`.
    Where a network fails, other predictions, the standard schedules and ranges are tried, and what fits better is named.

    Args:
        prior: any denoiser; for a conditional one prior.condition(c) with signals of that condition.
        x0: (B, *shape), signals that the network did not see in training, of the kind and in the units that it knows;
            ten images suffice.
        levels: noise levels, 8 over the range by default.

    Returns:
        A PriorReport with the table; its `findings` are what was warned of (PriorWarning), empty if the prior fits.
    """
    if x0.ndim != len(prior.shape) + 1 or x0.shape[1] != prior.shape[0] or len(x0) < 1:
        raise ShapeError(f"check_prior takes signals (B, {', '.join(map(str, prior.shape))}), got {tuple(x0.shape)}")
    x0 = x0.to(prior.device, prior.dtype)
    if levels is None:
        size = x0.std().item()
        low, high = max(prior.sigma_min, 0.01 * size), min(prior.sigma_max, 50 * size)
        levels = torch.logspace(math.log10(low), math.log10(max(high, 2 * low)), 8, dtype=torch.float64).tolist()
    measured = [measure(prior, x0, s, seed) for s in sorted(levels)]
    report = PriorReport(f"{type(prior).__name__} on {len(x0)} signals", measured)
    report.findings += _contract(prior, x0, measured)
    report.findings += [*_range(prior, x0), *_misfit(prior, x0, measured, seed)]
    for finding in report.findings:
        warnings.warn(finding, PriorWarning, stacklevel=2)
    return report


@torch.no_grad()
def measure(prior: Denoiser, x0: Tensor, sigma: float, seed: int = 0) -> Level:
    """One row of the table: x0 with noise of one level, denoised."""
    x = x0 + sigma * Streams(seed, list(range(len(x0))))(x0)
    d = prior(x, sigma)
    variance = x0.var().item()
    removed = (x - d).double()
    power = removed.square().mean().item()
    return Level(
        sigma,
        (d - x0).double().square().mean().item(),
        sigma**2 * variance / (sigma**2 + variance),
        math.sqrt(power) / sigma,
        ((x - x0).double() * removed).mean().item() / max(power, 1e-30),
    )


def _fits(level: Level, x0: Tensor) -> bool:
    """Whether one level is what a denoiser can show, within two standard errors of its slope."""
    error = level.error <= MARGIN * level.linear + (RELATIVE * level.sigma) ** 2
    slope = SLOPE + 2 / (max(level.residual, 1e-9) * math.sqrt(x0.numel()))
    return error and (abs(math.log(max(level.slope, 1e-9))) < math.log1p(slope) or level.sigma < LEAST * x0.std().item())


def _contract(prior: Denoiser, x0: Tensor, measured: list[Level]) -> Iterator[str]:
    """Independence of the batch, and gradients."""
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


def _misfit(prior: Denoiser, x0: Tensor, measured: list[Level], seed: int) -> Iterator[str]:
    """The first level that no denoiser shows, and the declaration that would mend it."""
    wrong = [level for level in measured if not _fits(level, x0)]
    if not wrong:
        return
    first = measured[0]
    if first in wrong and first.error > MARGIN * first.sigma**2:
        what = f"D should tend to x for small noise, but at sigma = {first.sigma:.3g} it errs by {first.error**0.5:.3g}"
    else:
        worst = max(wrong, key=lambda level: level.error / level.linear)
        what = (
            f"at sigma = {worst.sigma:.3g} the error {worst.error:.2e} is {worst.error / worst.linear:.3g} times that of a "
            f"mere gain, and the noise is {worst.slope:.3g} times the predicted one"
        )
    yield f"the network does not fit its declaration: {what}; {_advice(prior, x0, measured, seed)}"


def _advice(prior: Denoiser, x0: Tensor, measured: list[Level], seed: int) -> str:
    """What else the network, or the signals, may be; the likeliest by one signal, then by four."""
    sigmas = [level.sigma for level in measured][1::2]
    candidates = [(words, other, 1.0, 0.0) for words, other in _declarations(prior)]
    candidates += [(words, prior, scale, shift) for scale, shift, words in _units(x0)]

    def cost(candidate: tuple[str, Denoiser, float, float], signals: Tensor, levels: list[float]) -> float:
        _, other, scale, shift = candidate
        return _cost(other, scale * signals + shift, [scale * s for s in levels], seed)

    candidates.sort(key=lambda c: cost(c, x0[:1], sigmas[1:3]))
    declared = _cost(prior, x0[:4], sigmas, seed)
    if candidates:
        best, words = min((cost(c, x0[:4], sigmas), c[0]) for c in candidates[:5])
        if best < declared - GAIN:
            return f"with {words} the error would be {math.exp(declared - best):.3g} times lower"
    return "no other prediction, standard schedule or range fits better: is it trained, on signals like these?"


def _cost(prior: Denoiser, x0: Tensor, sigmas: Sequence[float], seed: int) -> float:
    """The mean log error, relative to that of one gain: least for the right declaration."""
    try:
        levels = [measure(prior, x0, s, seed) for s in sigmas]
    except (RuntimeError, IndexError, ValueError):  # a network that cannot take such times or inputs
        return math.inf
    cost = sum(math.log(max(level.error, 1e-30) / level.linear) for level in levels) / len(levels)
    return cost if math.isfinite(cost) else math.inf


def _declarations(prior: Denoiser) -> Iterator[tuple[str, Denoiser]]:
    """The same network under other declarations, and how they are written."""
    inner = prior.prior if isinstance(prior, Conditioned) else prior
    if not isinstance(inner, NetworkDenoiser):
        return
    preserving, exploding = ("epsilon", "v", "sample", "score"), ("epsilon", "sample", "score")
    schedules = {
        "": (inner.schedule, (*preserving, "velocity", "edm")),
        "Schedule.linear()": (Schedule.linear(), preserving),
        "Schedule.scaled_linear()": (Schedule.scaled_linear(), preserving),
        "Schedule.cosine()": (Schedule.cosine(), preserving),
        "Schedule.sigmoid()": (Schedule.sigmoid(), preserving),
        "Schedule.angle()": (Schedule.angle(), preserving),
        "Schedule.vp(time_scale=1)": (Schedule.vp(time_scale=1.0), preserving),
        "Schedule.ve()": (Schedule.ve(0.002, 1000.0), exploding),
        "Schedule.edm()": (Schedule.edm(), ("edm", "epsilon", "sample")),
        "Schedule.flow()": (Schedule.flow(), ("velocity",)),
        "Schedule.flow(time_scale=1)": (Schedule.flow(time_scale=1.0), ("velocity",)),
        "Schedule.flow(reverse=True)": (Schedule.flow(reverse=True), ("velocity",)),
        "Schedule.flow(time_scale=1, reverse=True)": (Schedule.flow(time_scale=1.0, reverse=True), ("velocity",)),
    }
    for name, (schedule, predictions) in schedules.items():
        for prediction in predictions:
            changed = [f"prediction={prediction!r}"] * (prediction != inner.prediction) + [f"schedule={name}"] * bool(name)
            if changed:
                other = _with(inner, schedule=schedule.to(prior.device))
                other.prediction = prediction
                yield " and ".join(changed), other if prior is inner else _with(prior, prior=other)


def _with(module: Denoiser, **modules: Module) -> Denoiser:
    """A copy that shares everything but these submodules."""
    other = copy.copy(module)
    other.__dict__["_modules"] = {**module._modules, **modules}  # the copy's own dictionary: copy() shares it
    return other


def _units(x0: Tensor) -> Iterator[tuple[float, float, str]]:
    """Maps (scale, shift) of the signals to other usual ranges."""
    least, most = x0.min().item(), x0.max().item()
    for low, high in ((-1.0, 1.0), (0.0, 1.0)):
        if abs(least - low) + abs(most - high) > 0.4 * (high - low) and most > least:
            scale = (high - low) / (most - least)
            yield scale, low - scale * least, f"signals brought to [{low:g}, {high:g}]"
