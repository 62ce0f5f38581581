"""The metrics of a suite, by name: how far a cell's samples are from the true signal, or from the exact posterior."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

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


def _lpips(result: Result, truth: Tensor, net: str = "alex") -> Tensor:
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
    """Sliced Wasserstein-1 to exact posterior samples, in units of the signal; the sampler `Exact` shows its floor."""
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
    """The metrics of some specs, once each: one that ends with a question mark only if this machine has what it needs.

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
    """The metric of a spec: a name with options, or a user's `module:function`, called as f(samples, truth, posterior).

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
    """A metric of the user's own, or an installed package's function that says that it gives a number."""
    wanted = "expected a function of your own, called as f(samples, truth, posterior), that gives a number"
    if inspect.isclass(function) or not callable(function):
        raise OptionError(f"{spec} is {type(function).__name__}, {wanted}")
    if origin(function) != "own" and not any(issubclass(c, float | int | Tensor) for c in returned(function)):
        raise OptionError(f"{spec} is of an installed package and is not annotated with -> float, {wanted}")
    return function
