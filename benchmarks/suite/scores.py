"""The metrics of a suite, by name: how far a cell's samples are from the true signal, or from the exact posterior."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from invgen import metrics
from invgen.benchmarks.methods.exact import exact_law
from invgen.errors import MissingExtraError, MissingWeightsError, OptionError
from invgen.inference.solve import Result
from invgen.messages import warn
from invgen.metrics import perceptual
from invgen.names import resolve
from invgen.names.spec import parse
from invgen.names.user_code import origin, returned

# of the curves of calibration; FEWEST samples give two levels
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
FEWEST = 4


def _range(result: Result) -> float:
    low, high = result.posterior.prior.value_range
    return high - low


def _dims(result: Result) -> int:
    return len(result.posterior.prior.shape)


def _psnr(result: Result, truth: Tensor) -> Tensor:
    return metrics.psnr(result.mean, truth, data_range=_range(result), dims=_dims(result))


def _psnr_sample(result: Result, truth: Tensor) -> Tensor:
    return metrics.psnr(result.samples, truth, data_range=_range(result), dims=_dims(result))


def _ssim(result: Result, truth: Tensor) -> Tensor:
    return metrics.ssim(result.mean, truth, value_range=result.posterior.prior.value_range, dims=_dims(result))


def _nrmse(result: Result, truth: Tensor) -> Tensor:
    return metrics.nrmse(result.mean, truth, data_range=None, dims=_dims(result))


def _lpips(result: Result, truth: Tensor, net: Literal["alex", "vgg"] = "alex") -> Tensor:
    return metrics.lpips(result.mean, truth, value_range=result.posterior.prior.value_range, net=net)


def _snr(result: Result, truth: Tensor) -> Tensor:
    return metrics.snr(result.mean, truth, dims=_dims(result))


def _lsd(result: Result, truth: Tensor) -> Tensor:
    return metrics.log_spectral_distance(result.samples, truth, dims=_dims(result))


def _residual(result: Result, truth: Tensor) -> Tensor:
    return result.residual


def _crps(result: Result, truth: Tensor) -> Tensor:
    return metrics.crps_ensemble(result.samples, truth, dims=_dims(result))


def _energy(result: Result, truth: Tensor) -> Tensor:
    return metrics.energy_score(result.samples, truth, dims=_dims(result))


def _coverage(result: Result, truth: Tensor, level: float = 0.5) -> Tensor:
    return metrics.interval_coverage(result.samples, truth, level, dims=_dims(result))


def _distance(result: Result, truth: Tensor, samples: int = 1000, slices: int = 200) -> Tensor:
    """Returns the sliced Wasserstein-1 to exact posterior samples, in units of the signal; the sampler `Exact` shows its
    floor."""
    exact = exact_law(result.posterior).sample(samples, seed=2**62)  # a seed that no cell has
    return metrics.sliced_wasserstein(result.samples.to(exact), exact, p=1, slices=slices, dims=_dims(result))


METRICS: dict[str, Callable[..., Tensor]] = {
    "psnr": _psnr,  # of the mean of the samples, as ssim, nrmse and lpips are
    "psnr_sample": _psnr_sample,  # averaged over the samples, as residual is
    "ssim": _ssim,
    "nrmse": _nrmse,
    "lpips": _lpips,
    "snr": _snr,  # of recordings: of the mean, in dB of the truth
    "lsd": _lsd,  # of recordings: log-spectral distance in dB, averaged over the samples
    "residual": _residual,
    "crps": _crps,
    "energy": _energy,
    "coverage": _coverage,
    "distance": _distance,  # of the samples to the exact posterior, for priors that know it
}
NEEDS: dict[str, Callable[..., object]] = {"lpips": perceptual.find_weights}  # what fails where a metric cannot be computed


def available(specs: Sequence[str]) -> list[str]:
    """Returns the metrics of some specs, once each: one that ends with a question mark only if this machine has what it
    needs.

    Warns of each that is left out, with what would bring it.

    Raises:
        OptionError: there is no such metric or option.
    """
    found = []
    for spec in specs:
        plain = spec.removesuffix("?").strip()
        metric(plain)
        try:
            if plain != spec and (need := NEEDS.get(parse(plain)[1])):
                need(parse(plain)[2].get("net", "alex"))
            found.append(plain)
        except (MissingWeightsError, MissingExtraError) as error:
            warn(f"the metric {plain} is left out: {error}")
    return list(dict.fromkeys(found))


def metric(spec: str) -> Callable[[Result, Tensor], float]:
    """Returns the metric of a spec: a name with options, or a user's `module:function`, called as f(samples, truth,
    posterior).

    Raises:
        OptionError: there is no such metric or option.
    """
    module, name, options = parse(spec)
    if module:
        own = _users(resolve.user_object(module, name), spec)
        return lambda result, truth: float(own(result.samples, truth, result.posterior, **options))
    if name not in METRICS:
        raise resolve.unknown("metric", name, METRICS)
    known = [n for n in resolve.parameters(METRICS[name])[0] if n not in ("result", "truth")]
    for option in options:
        if option not in known:
            raise resolve.unknown(f"option of metric {name}", option, known)
    return lambda result, truth: METRICS[name](result, truth, **options).double().mean().item()


def _users(function: Any, spec: str) -> Callable[..., Any]:
    """Returns a metric of the user's own, or an installed package's function that says that it gives a number."""
    wanted = "expected a function of your own, called as f(samples, truth, posterior), that gives a number"
    if inspect.isclass(function) or not callable(function):
        raise OptionError(f"{spec} is {type(function).__name__}, {wanted}")
    if origin(function) != "own" and not any(issubclass(c, float | int | Tensor) for c in returned(function)):
        raise OptionError(f"{spec} is of an installed package and is not annotated with -> float, {wanted}")
    return function


def calibration(result: Result, truth: Tensor) -> dict[str, list[float]] | None:
    """Returns the fraction of a signal's values inside the central interval of the samples, at several levels.

    Of n samples only the intervals between the i-th smallest and the i-th largest are taken, i = 1, 2, ...: among n samples
    and a truth that are exchangeable, the truth lies inside with probability 1 - 2 i / (n + 1), exactly where values do not
    tie, whatever their law. So nothing is interpolated between samples. The levels are those of the n // 2 possible ones
    that are nearest to `LEVELS`. Values of one signal depend on each other: whether a coverage is off its level is judged
    by the spread over cells, not by the number of values.

    Args:
        result: of one cell, samples (num_samples, *batch, *shape), real or complex (real and imaginary parts are values).
        truth: (*batch, *shape).

    Returns:
        {"levels": [...], "coverage": [...]}, both in [0, 1], ascending; None with fewer than 4 samples, and where all
        samples are one (a point estimate has no intervals).
    """
    samples = result.samples
    n = len(samples)
    if n < FEWEST or bool((samples == samples[:1]).all()):
        return None
    if samples.is_complex():
        samples, truth = torch.view_as_real(samples), torch.view_as_real(truth.to(samples.dtype))
    below, not_above = torch.zeros(truth.shape, dtype=torch.int32), torch.zeros(truth.shape, dtype=torch.int32)
    below, not_above = below.to(samples.device), not_above.to(samples.device)
    for x in samples:  # one at a time: no second copy of all samples
        below += x < truth
        not_above += x <= truth
    possible = [1 - 2 * i / (n + 1) for i in range(n // 2, 0, -1)]
    levels = sorted({min(possible, key=lambda p: abs(p - level)) for level in LEVELS})
    coverage = []
    for level in levels:
        i = round((1 - level) * (n + 1) / 2)
        inside = (not_above >= i) & (below <= n - i)  # the i-th smallest <= truth <= the i-th largest
        coverage.append(inside.double().mean().item())
    return {"levels": levels, "coverage": coverage}
