"""Exact tests and bands for counts: is a sample from a law on finitely many classes, such as uniform ranks?

The counts of a multinomial law are independent Poisson counts given their sum, so that the probability that all counts, or
all their partial sums, stay within limits is one product of truncated convolutions (Levin, Ann. Statist. 9, 1981). Hence
simultaneous bands without simulation and without Bonferroni's loss: the widest limits of one common binomial tail
probability that together hold at the stated confidence (for partial sums the band of Saeilynoja, Buerkner & Vehtari,
"Graphical test for discrete uniformity", Stat. Comput. 32, 2022).
"""

import math

import numpy as np

Array = np.ndarray


def probability_within(n: int, probs: Array, low: Array, high: Array, cumulative: bool) -> float:
    """P(low_k <= N_k <= high_k for all k) for N ~ Multinomial(n, probs), or for its partial sums if `cumulative`."""
    from scipy.stats import poisson

    first, state = 0, np.ones(1)  # the law of the sum so far, from `first` on
    for p, lo, hi in zip(probs, low, high, strict=True):
        m, spread = n * p, 9 * math.sqrt(n * p)
        begin, end = max(int(m - spread), 0), int(m + spread) + 40  # beyond are less than e^-40 of it (Bernstein)
        if not cumulative:
            begin, end = max(begin, int(lo)), min(end, int(hi))
        if end < begin:
            return 0.0
        state, first = np.convolve(state, poisson.pmf(np.arange(begin, end + 1), m)), first + begin
        keep_from, keep_to = (int(lo), int(hi)) if cumulative else (0, n)
        cut = max(keep_from - first, 0)
        state, first = state[cut : max(min(keep_to, n) - first + 1, cut)], first + cut
        if not len(state):
            return 0.0
    return float(min(state[n - first] / poisson.pmf(n, n), 1.0)) if 0 <= n - first < len(state) else 0.0


def _limits(n: int, totals: Array, tail: float) -> tuple[Array, Array]:
    """The counts c of Binomial(n, totals) with P(C <= c) > tail and P(C >= c) > tail."""
    from scipy.stats import binom

    low = np.maximum(binom.ppf(tail, n, totals), 0)
    low = np.where(binom.cdf(low, n, totals) <= tail, low + 1, low)
    return low, binom.isf(tail, n, totals)


def band(n: int, probs: Array, confidence: float, cumulative: bool) -> tuple[Array, Array]:
    """The narrowest limits (low, high) of one common tail probability that hold all counts with this probability."""
    totals = np.minimum(np.cumsum(probs), 1.0) if cumulative else np.asarray(probs)
    inside, outside = np.log((1 - confidence) / (2 * len(totals))) - 1, np.log(0.5)
    for _ in range(25):  # log tail to within 1e-6: far finer than the steps of a binomial law
        middle = 0.5 * (inside + outside)
        good = probability_within(n, probs, *_limits(n, totals, np.exp(middle)), cumulative) >= confidence
        inside, outside = (middle, outside) if good else (inside, middle)
    return _limits(n, totals, np.exp(inside))


def p_value(counts: Array, probs: Array, cumulative: bool) -> float:
    """The probability that the most extreme count (or partial sum) of n draws is at least as extreme as that of `counts`.

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
