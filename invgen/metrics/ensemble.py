"""How good a set of posterior samples is: calibration and sharpness against the truth, and the fit to the data.

Samples are (num_samples, *batch, *shape), the truth (*batch, *shape), results (*batch); `dims` counts the axes of one
signal, 3 for images. Scores are in the units of the signal, and the smaller the better; they are proper, so that no
ensemble does better on average than draws from the true posterior.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.metrics._signals import check_pair, mean_over
from invgen.validation.arguments import checked
from invgen.validation.hints import Index, Level

if TYPE_CHECKING:
    from invgen.posterior import Posterior


@checked
def crps_ensemble(samples: Tensor, truth: Tensor, *, fair: bool = False, dims: Index = 3) -> Tensor:
    """Continuous ranked probability score, averaged over the values of a signal: (*batch); dims=0 keeps every value.

        CRPS = mean_i |x_i - t| - 1/2 mean_ij |x_i - x_j|       (Gneiting & Raftery, JASA 2007, equation 21)

    Args:
        samples: (num_samples, *batch, *shape).
        truth: (*batch, *shape).
        fair: average the pairs over i != j only (Ferro, QJRMS 2014), which removes the penalty on small ensembles: the
            expectation is then that of infinitely many samples. Needs two samples.
    """
    _check_samples("crps_ensemble", samples, truth, dims, 2 if fair else 1)
    n = len(samples)
    error = (samples - truth).abs().mean(0)
    # the sum of |x_i - x_j| over all pairs is a weighted sum of the sorted samples
    rank = torch.arange(1, n + 1, dtype=samples.dtype, device=samples.device)
    pairs = torch.tensordot(2 * rank - n - 1, samples.sort(0).values, 1)
    return mean_over(error - pairs / (n * (n - 1) if fair else n**2), dims)


@checked
def energy_score(samples: Tensor, truth: Tensor, *, fair: bool = False, dims: Index = 3) -> Tensor:
    """Returns the energy score of whole signals (Gneiting & Raftery, JASA 2007, equation 22): (*batch).

        ES = mean_i |x_i - t| - 1/2 mean_ij |x_i - x_j|,  Euclidean norms over one signal

    Args:
        samples: (num_samples, *batch, *shape).
        truth: (*batch, *shape).
        fair: average the pairs over i != j only, as in `crps_ensemble`.
        dims: how many axes a signal has, counted from the last.
    """
    _check_samples("energy_score", samples, truth, dims, 2 if fair else 1)
    n = len(samples)
    x, t = (v.flatten(v.ndim - dims) if dims else v.unsqueeze(-1) for v in (samples, truth))
    error = torch.linalg.vector_norm(x - t, dim=-1).mean(0)
    # one sample against the later ones at a time: memory of one ensemble, and no cancellation as in |a|^2 + |b|^2 - 2ab
    pairs = sum(torch.linalg.vector_norm(x[i + 1 :] - x[i], dim=-1).sum(0) for i in range(n - 1))
    return error - pairs / (n * (n - 1) if fair else n**2)


@checked
def interval_coverage(samples: Tensor, truth: Tensor, level: Level, *, dims: Index = 3) -> Tensor:
    """Returns the fraction of a signal's values that lie in the central interval of the samples at `level`: (*batch).

    About `level` if the truth is distributed like the samples. The interval runs between the quantiles (1 - level)/2 and
    (1 + level)/2 in the definition whose i-th order statistic of n is the quantile i/(n + 1) (type 6 of Hyndman & Fan,
    1996): among n exchangeable samples and the truth, the truth falls below the i-th with that probability, so that few
    samples do not look overconfident, as they do with the usual interpolation.

    Args:
        samples: (num_samples, *batch, *shape).
        truth: (*batch, *shape).
        level: of the interval, between 0 and 1.
        dims: how many axes a signal has, counted from the last.

    Raises:
        OptionError: level is not in (0, 1), or so high that this many samples cannot span it: n of them reach
            (n - 1)/(n + 1), so that 90 % needs 19.
    """
    _check_samples("interval_coverage", samples, truth, dims, 2)
    n = len(samples)
    if not 0 < level < 1:
        raise OptionError(f"interval_coverage: level must be between 0 and 1, such as 0.9, got {level!r}")
    if (n + 1) * (1 - level) / 2 < 1 - 1e-9:
        raise OptionError(
            f"interval_coverage: {n} samples span at most the {(n - 1) / (n + 1):.3f} interval, below level={level}; draw "
            f"{int(2 / (1 - level) - 1e-9)} samples or more, or lower the level"
        )
    low, high = central_interval(samples, level)
    return mean_over(((low <= truth) & (truth <= high)).to(truth.dtype), dims)


def central_interval(samples: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Returns the ends of the interval of `interval_coverage`, (*any) each, for samples (num_samples, *any).

    All that the samples span where they are too few for the level.
    """
    ordered, n = samples.sort(0).values, len(samples)
    return _order_statistic(ordered, (n + 1) * (1 - level) / 2), _order_statistic(ordered, (n + 1) * (1 + level) / 2)


def _order_statistic(ordered: Tensor, position: float) -> Tensor:
    """Between the order statistics (counted from 1) around a position, linearly."""
    below = min(max(int(position), 1), len(ordered) - 1)
    return torch.lerp(ordered[below - 1], ordered[below], min(max(position - below, 0.0), 1.0))


@checked
def residual_over_noise(samples: Tensor, posterior: "Posterior") -> Tensor:
    """Returns the root mean square of (y - A(x)) / noise level for every sample: about 1 where x explains the data, no
    more, no less.

    Args:
        samples: (*any, *batch, *shape), where (*batch, *out_shape) is the shape of posterior.y.

    Returns:
        (*any, *batch).
    """
    shape, batch = posterior.prior.shape, posterior.batch
    if samples.shape[samples.ndim - len(shape) - len(batch) :] != batch + shape or samples.ndim < len(shape + batch):
        raise ShapeError(
            f"residual_over_noise takes samples of shape (*any, {', '.join(map(str, batch + shape))}), got "
            f"{tuple(samples.shape)}"
        )
    flat = samples.reshape(-1, max(batch.numel(), 1), *shape)
    rows = posterior.rows(torch.arange(flat.shape[1]))
    return torch.stack([rows.residual_over_noise(x) for x in flat]).reshape(samples.shape[: samples.ndim - len(shape)])


def _check_samples(name: str, samples: Tensor, truth: Tensor, dims: int, at_least: int) -> None:
    if not isinstance(samples, Tensor) or samples.ndim == 0 or len(samples) < at_least:
        got = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        raise ShapeError(
            f"{name} takes at least {at_least} samples on the first axis, (num_samples, *batch, *shape), got {got}"
        )
    check_pair(name, samples[0], truth, dims, ("samples", "truth"))
    if samples.is_complex() or truth.is_complex():
        raise ShapeError(f"{name}: the signals are complex; compare torch.view_as_real of both")
    if samples[0].ndim < truth.ndim:
        raise ShapeError(
            f"{name}: samples of shape {tuple(samples.shape)} lack the sample axis in front of a truth of "
            f"{tuple(truth.shape)}"
        )
