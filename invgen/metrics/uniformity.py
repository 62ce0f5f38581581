"""Exact tests and bands for counts: is a sample from a law on finitely many classes, such as uniform ranks?

The counts of a multinomial law are independent Poisson counts given their sum, so that the probability that all counts, or
all their partial sums, stay within limits is one product of truncated convolutions (Levin, Ann. Statist. 9, 1981). Hence
simultaneous bands without simulation and without Bonferroni's loss: the widest limits of one common binomial tail
probability that together hold at the stated confidence (for partial sums the band of Saeilynoja, Buerkner & Vehtari,
"Graphical test for discrete uniformity", Stat. Comput. 32, 2022).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Array = np.ndarray


@lru_cache(maxsize=64)
def _increments(n: int, probs: tuple[float, ...]) -> list[tuple[int, Array]]:
    """Returns the Poisson laws of the counts: for each class the first value and the probabilities from there on."""
    from scipy.stats import poisson

    laws: dict[float, tuple[int, Array]] = {}
    for p in set(probs):
        m, spread = n * p, 9 * math.sqrt(n * p)
        begin, end = max(int(m - spread), 0), int(m + spread) + 40  # beyond are less than e^-40 of it (Bernstein)
        laws[p] = begin, poisson.pmf(np.arange(begin, end + 1), m)
    return [laws[p] for p in probs]


def probability_within(n: int, probs: Array | Sequence[float], low: Array, high: Array, cumulative: bool) -> float:
    """Returns P(low_k <= N_k <= high_k for all k) for N ~ Multinomial(n, probs), or its partial sums if `cumulative`.

    Args:
        n: the number of draws.
        probs: of the categories, (K,).
        low, high: the limits, (K,).
        cumulative: whether the limits are those of partial sums.
    """
    first, state = 0, np.ones(1)  # the law of the sum so far, from `first` on
    for (begin, law), lo, hi in zip(_increments(n, tuple(probs)), low.astype(int), high.astype(int), strict=True):
        if not cumulative:
            cut = max(lo - begin, 0)
            law, begin = law[cut : max(hi - begin + 1, cut)], begin + cut
        if not len(law):
            return 0.0
        state, first = np.convolve(state, law), first + begin
        keep_from, keep_to = (lo, min(hi, n)) if cumulative else (0, n)
        cut = max(keep_from - first, 0)
        state, first = state[cut : max(keep_to - first + 1, cut)], first + cut
        if not len(state):
            return 0.0
    if not 0 <= n - first < len(state):
        return 0.0
    log = math.log(max(state[n - first], 1e-300)) + n + math.lgamma(n + 1) - n * math.log(n)
    return math.exp(min(log, 0.0))


def _limits(n: int, totals: Array, tail: float) -> tuple[Array, Array]:
    """Returns the counts c of Binomial(n, totals) with P(C <= c) > tail and P(C >= c) > tail."""
    from scipy.stats import binom

    low = np.maximum(binom.ppf(tail, n, totals), 0)
    low = np.where(binom.cdf(low, n, totals) <= tail, low + 1, low)
    return low, binom.isf(tail, n, totals)


def band(n: int, probs: Array, confidence: float, cumulative: bool) -> tuple[Array, Array]:
    """Returns the narrowest limits (low, high) of one common tail probability that hold all counts with `confidence`.

    Args:
        n: the number of draws.
        probs: of the categories, (K,).
        confidence: the probability that all counts are within the limits.
        cumulative: whether the counts are partial sums.
    """
    return _band(n, tuple(probs), confidence, cumulative)


@lru_cache(maxsize=64)
def _band(n: int, probs: tuple[float, ...], confidence: float, cumulative: bool) -> tuple[Array, Array]:
    totals = np.minimum(np.cumsum(probs), 1.0) if cumulative else np.asarray(probs)
    inside, outside = math.log((1 - confidence) / (2 * len(totals))) - 1, math.log(0.5)
    for _ in range(16):  # log tail to within 2e-4: finer than the steps of a binomial law
        middle = 0.5 * (inside + outside)
        good = probability_within(n, probs, *_limits(n, totals, math.exp(middle)), cumulative) >= confidence
        inside, outside = (middle, outside) if good else (inside, middle)
    return _limits(n, totals, math.exp(inside))


def p_value(counts: Array, probs: Array, cumulative: bool) -> float:
    """Returns the probability that the most extreme count (or partial sum) of n draws is at least as extreme as that of
    `counts`.

    Extreme is what has the smallest binomial tail probability, on either side. Exact down to about 1e-10, below that
    Bonferroni's upper limit.
    """
    from scipy.stats import binom

    n = int(np.sum(counts))
    observed, totals = (np.cumsum(counts), np.minimum(np.cumsum(probs), 1.0)) if cumulative else (counts, np.asarray(probs))
    tails = np.minimum(binom.cdf(observed, n, totals), binom.sf(np.asarray(observed) - 1, n, totals))
    smallest = float(tails.min()) * (1 + 1e-9)  # equal tails, such as the two of a symmetric law, may differ by rounding
    exact = 1 - probability_within(n, probs, *_limits(n, totals, smallest), cumulative)
    return float(exact) if exact > 1e-10 else min(2 * len(totals) * smallest, 1e-10)
