"""Which other declaration of a network would fit better: predictions, the standard schedules, units of the signals."""

import copy
import math
from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn import Module

from invgen.conditional import Conditioned
from invgen.diffusion import Denoiser
from invgen.priors.wrappers.from_network import NetworkDenoiser
from invgen.priors.wrappers.schedules import Schedule
from invgen.priors.wrappers.trusted import Level, measure

GAIN = 0.03  # the mean drop of the log error from which another declaration is said to fit better
TRAINED = 0.2  # and how far its log error lies below that of a mere gain, which an untrained network may be taken for


def better(prior: Denoiser, x0: Tensor, measured: list[Level], seed: int, units: bool = True) -> str | None:
    """Returns in words what else the network, or the signals, may be: the likeliest by one signal, then by four, or None.

    Args:
        prior: the denoiser as declared.
        x0: clean signals, (B, *shape).
        seed: of the noise.
        measured: the levels of the declaration that fails.
        units: whether the signals may be in other units than those of the network.
    """
    sigmas = [level.sigma for level in measured if level.sigma <= 30 * x0.std().item()] or [measured[0].sigma]
    sigmas = sigmas[1::2] or sigmas
    candidates = [(words, other, 1.0, 0.0) for words, other in _declarations(prior)]
    if units:
        candidates += [(words, prior, scale, shift) for scale, shift, words in _units(x0)]

    def cost(candidate: tuple[str, Denoiser, float, float], signals: Tensor, levels: list[float]) -> float:
        _, other, scale, shift = candidate
        return _cost(other, scale * signals + shift, [scale * s for s in levels], seed)

    candidates.sort(key=lambda c: cost(c, x0[:1], sigmas[1:3] or sigmas))
    declared = _cost(prior, x0[:4], sigmas, seed)
    if candidates:
        best, words = min((cost(c, x0[:4], sigmas), c[0]) for c in candidates[:5])
        # an untrained network is a mere gain under some declaration, and nearer to one under another
        if best < declared - GAIN and best < -TRAINED:
            return f"with {words} the error would be {math.exp(declared - best):.3g} times lower"
    return None


def _cost(prior: Denoiser, x0: Tensor, sigmas: Sequence[float], seed: int) -> float:
    """Returns the mean log error, relative to that of one gain: least for the right declaration."""
    try:
        levels = [measure(prior, x0, s, seed) for s in sigmas]
    except (RuntimeError, IndexError, ValueError):  # a network that cannot take such times or inputs
        return math.inf
    cost = sum(math.log(max(level.error, 1e-30) / level.linear) for level in levels) / len(levels)
    return cost if math.isfinite(cost) else math.inf


def _declarations(prior: Denoiser) -> Iterator[tuple[str, Denoiser]]:
    """Yields the same network under other declarations, and how they are written."""
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
    """Returns a copy that shares everything but these submodules."""
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
