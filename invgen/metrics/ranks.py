"""Calibration: truths ranked among posterior samples, over many simulated pairs (truth, measurement).

If x is drawn from the prior, y from p(y | x) and the samples from p(x | y), then truth and samples are exchangeable given
y, so that the rank of the truth by any quantity is uniform on 0, ..., num_samples (Cook, Gelman & Rubin, JCGS 2006; Talts
et al., "Validating Bayesian inference algorithms with simulation-based calibration", 2018). Samples must be independent of
each other given y. All here is exact for any number of samples and simulations: nothing is asymptotic.

Samples are (num_samples, *batch, *shape), truths (*batch, *shape); `dims` counts the axes of one signal.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.metrics import uniformity
from invgen.metrics.ensemble import _check_samples
from invgen.numerics.random import Streams
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Index, Level, NonNegative, Seed

MAX_POINTS = 200  # levels of a coverage curve: more are thinned out


@checked
def sbc_ranks(samples: Tensor, truth: Tensor, *, seed: Seed = 0, atol: NonNegative = 0.0) -> Tensor:
    """Returns the number of samples below the truth, value by value: integers in 0, ..., num_samples of the shape of the
    truth.

    Args:
        samples: (num_samples, *any), truth: (*any).
        seed: ties are broken at random, so that ranks stay uniform where values repeat.
        atol: values that differ by no more count as ties (rounding errors of exactly measured values).
    """
    _check_samples("sbc_ranks", samples, truth, 0, 1)
    tie = (samples - truth).abs() <= atol
    below, ties = ((samples < truth) & ~tie).sum(0), tie.sum(0)
    # the project's own streams: torch.rand after the same manual_seed repeats the bits of a user's torch.randn
    u = Streams(seed, [ties.numel()]).uniform(ties.reshape(1, -1).double()).reshape(ties.shape)
    return below + (u * (ties + 1)).floor().long()


@checked
def region_ranks(
    samples: Tensor, truth: Tensor, *, scale: bool = True, atol: NonNegative = 0.0, seed: Seed = 0, dims: Index = 3
) -> Tensor:
    """Counts the samples that lie nearer to the centre than the truth, as whole signals: integers, (*batch).

    The centre is the mean of samples and truth together, and so is the standard deviation of each value in which
    distances are measured (scale=True): truth and samples are treated alike, which keeps the rank exactly uniform for a
    calibrated posterior. The ellipsoid around the centre that holds a fraction of the samples is a joint credible region.

    Args:
        samples: (num_samples, *batch, *shape).
        truth: (*batch, *shape).
        scale: measure distances in standard deviations of each value.
        atol: values whose standard deviation is no larger do not count (rounding errors of exactly measured values).
        seed: of the order of equal distances.
        dims: how many axes a signal has, counted from the last.
    """
    _check_samples("region_ranks", samples, truth, dims, 1)
    mean = (samples.sum(0) + truth) / (len(samples) + 1)
    spread = ((samples - mean).square().sum(0) + (truth - mean).square()) / len(samples)
    counts = spread > atol**2
    weight = torch.where(counts, 1 / spread.where(counts, 1), 0) if scale else counts.to(spread.dtype)

    def distance(x: Tensor) -> Tensor:
        square = weight * (x - mean).square()
        return square.sum(tuple(range(-dims, 0))) if dims else square

    return sbc_ranks(torch.stack([distance(x) for x in samples]), distance(truth), seed=seed)


@checked
def region_coverage(samples: Tensor, truth: Tensor, level: Level, *, scale: bool = True, dims: Index = 3) -> Tensor:
    """Tells whether the truth lies in the joint credible region of `region_ranks` at a level: 0 or 1, (*batch).

    The region holds the nearest k = round(level (num_samples + 1)) of samples and truth together: the mean over many
    calibrated posteriors is k / (num_samples + 1).

    Args:
        samples: (num_samples, *batch, *shape).
        truth: (*batch, *shape).
        level: of the region, between 0 and 1.
        scale: measure distances in standard deviations of each value.
        dims: how many axes a signal has, counted from the last.
    """
    if not 0 < level < 1:
        raise OptionError(f"region_coverage: level must be between 0 and 1, such as 0.9, got {level!r}")
    ranks = region_ranks(samples, truth, scale=scale, dims=dims)
    return (ranks < round(level * (len(samples) + 1))).to(truth.dtype)


@dataclass(frozen=True)
class RankHistogram:
    """Counts of ranks in bins, with the simultaneous band in which those of calibrated samples lie.

    Attributes:
        edges: (bins + 1,), bin b holds the ranks edges[b] <= r < edges[b + 1]; counts, expected, low, high: (bins,).
        p_value: how often calibrated samples give a bin as extreme as the most extreme one here.
        inside: whether every count is within the band.
    """

    edges: Tensor
    counts: Tensor
    expected: Tensor
    low: Tensor
    high: Tensor
    p_value: float
    confidence: float

    @property
    def inside(self) -> bool:
        return bool(((self.counts >= self.low) & (self.counts <= self.high)).all())


@checked
def rank_histogram(
    ranks: Tensor, num_samples: Count, *, bins: Count | None = None, confidence: Level = 0.95
) -> RankHistogram:
    """Returns the histogram of ranks, (N,), among num_samples samples, with a band that holds all bins at once.

    A slope says that samples lie too low or too high, a U that they are too narrow, a hump that they are too wide.

    Args:
        bins: at most num_samples + 1; by default between 10 and 20 (fewer if N < 200, 5 at N = 50), the number that divides
            num_samples + 1 most evenly. Expectation and band account for bins that hold unequally many ranks.
        confidence: the probability that a calibrated histogram is within the band, at all bins.
    """
    values = _ranks("rank_histogram", ranks, num_samples, confidence)
    most = num_samples + 1
    if bins is None:
        top = min(20, most, max(5, len(values) // 10))
        bins = min(range(top, max(2, top // 2) - 1, -1), key=lambda b: -(-most // b) / (most // b))
    if not isinstance(bins, int) or not 2 <= bins <= most:
        raise OptionError(f"rank_histogram: bins must be a whole number from 2 to num_samples + 1 = {most}, got {bins!r}")
    edges = np.ceil(np.arange(bins + 1) * most / bins - 1e-9).astype(int)
    probs = np.diff(edges) / most
    counts = np.histogram(values, edges - 0.5)[0]
    low, high = uniformity.band(len(values), probs, confidence, cumulative=False)
    p = uniformity.p_value(counts, probs, cumulative=False)
    arrays = (edges, counts, len(values) * probs, low, high)
    return RankHistogram(*[torch.as_tensor(array) for array in arrays], p_value=p, confidence=confidence)


@dataclass(frozen=True)
class CoverageCurve:
    """The fraction of truths within the credible region of each level, with the simultaneous band of calibrated samples.

    Attributes:
        level, coverage, low, high: (K,), levels from 1 / (num_samples + 1) to 1.
        p_value: how often calibrated samples give a point as extreme as the most extreme one here.
        inside: whether the curve is within the band.
        bootstrap: (2, K), pointwise limits of the curve itself under resampling of the simulations, where asked for.
    """

    level: Tensor
    coverage: Tensor
    low: Tensor
    high: Tensor
    p_value: float
    confidence: float
    bootstrap: Tensor | None = field(default=None, repr=False)

    @property
    def inside(self) -> bool:
        slack = 1e-12
        return bool(((self.coverage >= self.low - slack) & (self.coverage <= self.high + slack)).all())

    def at(self, level: float) -> tuple[float, float, float, float]:
        """Returns (level, coverage, low, high) at the nearest level there is."""
        k = int((self.level - level).abs().argmin())
        return float(self.level[k]), float(self.coverage[k]), float(self.low[k]), float(self.high[k])


@checked
def coverage_curve(
    ranks: Tensor, num_samples: Count, *, confidence: Level = 0.95, bootstrap: Index = 0, seed: Seed = 0
) -> CoverageCurve:
    """Returns the distribution function of ranks, (N,): at level k / (num_samples + 1), the fraction of ranks below k.

    For ranks of `region_ranks` that is the coverage of credible regions; for those of `sbc_ranks` of lower intervals, and
    the test is that of discrete uniformity of Saeilynoja et al. (2022).

    Args:
        confidence: the probability that a calibrated curve is within the band, at all levels.
        bootstrap: number of resamplings of the simulations, for `CoverageCurve.bootstrap`.
        seed: of the resamplings.
    """
    values = _ranks("coverage_curve", ranks, num_samples, confidence)
    n, most = len(values), num_samples + 1
    ends = np.unique(np.round(np.linspace(0, most, min(most, MAX_POINTS) + 1)).astype(int))[1:]
    probs = np.diff(ends, prepend=0) / most
    counts = np.histogram(values, np.concatenate([[0], ends]) - 0.5)[0]
    low, high = uniformity.band(n, probs, confidence, cumulative=True)
    p = uniformity.p_value(counts, probs, cumulative=True)
    limits = None
    if bootstrap:
        drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=bootstrap).cumsum(1) / n
        outside = (1 - confidence) / 2
        limits = torch.as_tensor(np.quantile(drawn, [outside, 1 - outside], axis=0))
    arrays = (ends / most, counts.cumsum() / n, low / n, high / n)
    level, coverage, lower, upper = (torch.as_tensor(array) for array in arrays)
    return CoverageCurve(level, coverage, lower, upper, p, confidence, limits)


@checked
def tarp(
    samples: Tensor,
    truth: Tensor,
    references: Tensor | None = None,
    *,
    confidence: Level = 0.95,
    bootstrap: Index = 200,
    seed: Seed = 0,
    dims: Index = 1,
) -> CoverageCurve:
    """Returns expected coverage of balls around random points, with bootstrap limits: "tests of accuracy with random
    points".

    Lemos, Coogan, Hezaveh & Perreault-Levasseur, "Sampling-based accuracy testing of posterior estimators for general
    inference" (ICML 2023): the fraction of simulations in which fewer than a fraction `level` of the samples lie
    nearer to the reference than the truth. The diagonal if calibrated; an S around it if too narrow or too wide, or
    biased by about their spread. References that do not look at the measurement cannot tell the prior from the posterior:
    `invgen.calibrate` has a quantity that does.

    Args:
        samples: (num_samples, N, *shape), truth: (N, *shape), with `dims` axes of shape.
        references: (N, *shape), drawn without looking at truth and samples of their row; by default uniform in the box
            that the truths span, from `seed`. Distances are Euclidean in units of that box, value by value.
        confidence, bootstrap: as in `coverage_curve`.
    """
    _check_samples("tarp", samples, truth, dims, 1)
    if truth.ndim != dims + 1 or samples.ndim != dims + 2:
        raise ShapeError(
            f"tarp takes samples (num_samples, N, *shape) and truths (N, *shape) with {dims} axes of shape, got "
            f"{tuple(samples.shape)} and {tuple(truth.shape)}; pass dims="
        )
    low, high = truth.amin(0), truth.amax(0)
    width = (high - low).where(high > low, 1)
    if references is None:
        references = low + (high - low) * Streams(seed, torch.arange(len(truth))).uniform(truth)
    if references.shape != truth.shape:
        raise ShapeError(f"tarp: references have shape {tuple(references.shape)} but the truths {tuple(truth.shape)}")

    def distance(x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(((x - references) / width).flatten(1), dim=1)

    ranks = sbc_ranks(torch.stack([distance(x) for x in samples]), distance(truth), seed=seed)
    return coverage_curve(ranks, len(samples), confidence=confidence, bootstrap=bootstrap, seed=seed)


def _ranks(name: str, ranks: Tensor, num_samples: int, confidence: float) -> np.ndarray:
    if not isinstance(ranks, Tensor) or ranks.ndim != 1 or len(ranks) == 0 or ranks.is_floating_point():
        got = f"{ranks.dtype} {tuple(ranks.shape)}" if isinstance(ranks, Tensor) else type(ranks).__name__
        raise ShapeError(f"{name} takes the ranks of one quantity, integers of shape (N,), got {got}")
    values = ranks.cpu().numpy()
    if values.min() < 0 or values.max() > num_samples:
        raise OptionError(
            f"{name}: ranks among num_samples={num_samples} samples lie in 0 to {num_samples}, got {values.min()} to "
            f"{values.max()}"
        )
    if not 0 < confidence < 1:
        raise OptionError(f"{name}: confidence must be between 0 and 1, such as 0.95, got {confidence!r}")
    return values
