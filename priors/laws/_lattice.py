"""Sums over all walks on a lattice, compiled by numba at first use: a hidden Markov chain forward and backward.

Value i of a walk is seen as x_i = z_i + sigma eps and lies on the points h (centre_i + k), k = -K ... K. `table` has the
probabilities of a step of j points, j = -reach ... reach; `starts` are the differences of centres, the first that from 0.
"""

from typing import Any

import numpy as np
from numba import njit

NEGLIGIBLE = 1e-40  # of a message that sums to one: no likelihood within six standard deviations, 1e-8, makes it matter


def compiled(function: Any) -> Any:
    """Compiles at the first call, without the interpreter's lock; kept on disk where a folder can be written."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})(function)
    except RuntimeError:  # no folder to keep it in
        return njit(nogil=True, error_model="numpy", fastmath={"contract"})(function)


@compiled
def step(message: np.ndarray, table: np.ndarray, start: int, out: np.ndarray) -> None:
    """Adds a message to the points of the next value: out[m] += sum_k table[start + m - k] message[k]."""
    n, reach = len(message), len(table) // 2
    first, last = 0, n
    while first < n and abs(message[first]) < NEGLIGIBLE:
        first += 1
    while last > first and abs(message[last - 1]) < NEGLIGIBLE:
        last -= 1
    for k in range(first, last, 4):  # four at a time: half of the reading and writing
        low, high = max(0, k - start - reach + 3), min(n, k - start + reach + 1)
        if k + 4 <= last and low == 0 and high == n:
            at = reach + start - k
            a, b, c, d = message[k], message[k + 1], message[k + 2], message[k + 3]
            ta, tb = table[at : at + n], table[at - 1 : at - 1 + n]
            tc, td = table[at - 2 : at - 2 + n], table[at - 3 : at - 3 + n]
            for m in range(n):  # over views, which are read as vectors
                out[m] += a * ta[m] + b * tb[m] + c * tc[m] + d * td[m]
        else:
            for j in range(k, min(k + 4, last)):
                low, high = max(0, j - start - reach), min(n, j - start + reach + 1)
                near, steps = out[low:high], table[reach + start - j + low : reach + start - j + high]
                for m in range(len(near)):
                    near[m] += message[j] * steps[m]


@compiled
def likelihoods(x: np.ndarray, centres: np.ndarray, h: float, sigma: float, out: np.ndarray) -> None:
    """Fills exp(-(x_i - z)^2 / (2 sigma^2)) for the points z of every value, one at the best of them.

    Args:
        x: (d,).
        centres: the number of the middle point of each value, (d,).
        h: the distance of points.
        sigma: the noise level.
        out: (d, n), filled.
    """
    d, n = out.shape
    for i in range(d):
        far = (x[i] - h * (centres[i] - n // 2)) / sigma  # of the first point, in standard deviations
        best = min(max(round(far * sigma / h), 0), n - 1)
        least = (far - best * h / sigma) ** 2
        for k in range(n):
            away = far - k * h / sigma
            out[i, k] = np.exp(0.5 * (least - away * away))


@compiled
def denoise(
    x: np.ndarray, centres: np.ndarray, starts: np.ndarray, h: float, sigma: float, half: int, table: np.ndarray,
    means: np.ndarray, log_prob: np.ndarray,
) -> None:  # fmt: skip
    """Fills E[z | x], (B, d), and log p_sigma(x), (B,).

    Args:
        x: (B, d).
        centres, starts: (B, d), in points.
        h, sigma: distance of points, noise level.
        half: K.
        table: of steps, (2 reach + 1,).
        means, log_prob: what is filled.
    """
    rows, d = x.shape
    n = 2 * half + 1
    alpha, seen, beta, new = np.zeros((d, n)), np.zeros((d, n)), np.zeros(n), np.zeros(n)
    origin = np.zeros(n)
    origin[half] = 1.0
    constant = -0.5 * np.log(2 * np.pi) - np.log(sigma)
    for r in range(rows):
        likelihoods(x[r], centres[r], h, sigma, seen)
        log_prob[r] = 0.0
        for i in range(d):
            alpha[i] = 0.0
            step(origin if i == 0 else alpha[i - 1], table, starts[r, i], alpha[i])
            alpha[i] *= seen[i]
            total = alpha[i].sum()
            alpha[i] /= total
            near = x[r, i] - h * min(max(round(x[r, i] / h), centres[r, i] - half), centres[r, i] + half)
            log_prob[r] += np.log(total) + constant - 0.5 * (near / sigma) ** 2
        beta[:] = 1.0 / n
        for i in range(d - 1, -1, -1):
            total = first = 0.0
            for k in range(n):
                weight = alpha[i, k] * beta[k]
                total += weight
                first += weight * (k - half)
            means[r, i] = h * (centres[r, i] + first / total)
            if i:
                new[:] = 0.0
                step(beta * seen[i], table, -starts[r, i], new)
                beta[:] = new / new.sum()


@compiled
def covariance_product(
    x: np.ndarray, centres: np.ndarray, starts: np.ndarray, h: float, sigma: float, half: int, table: np.ndarray,
    v: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Fills Cov[z | x] v, (B, d): the change of E[z | x] where walks are weighed by 1 + sum_i v_i z_i.

    Args:
        x, centres, starts, h, sigma, half, table: as of `denoise`.
        v: (B, d).
        out: what is filled.
    """
    rows, d = x.shape
    n = 2 * half + 1
    alpha, moved, seen = np.zeros((d, n)), np.zeros((d, n)), np.zeros((d, n))
    beta, tilt, new, turned = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    origin, nothing = np.zeros(n), np.zeros(n)
    origin[half] = 1.0
    points = h * (np.arange(n) - half)
    for r in range(rows):
        likelihoods(x[r], centres[r], h, sigma, seen)
        for i in range(d):  # alpha: the law of z_i and of what is seen up to i; moved: that times the sum of v_j z_j so far
            alpha[i] = 0.0
            moved[i] = 0.0
            step(origin if i == 0 else alpha[i - 1], table, starts[r, i], alpha[i])
            step(nothing if i == 0 else moved[i - 1], table, starts[r, i], moved[i])
            alpha[i] *= seen[i]
            moved[i] = moved[i] * seen[i] + v[r, i] * points * alpha[i]
            total = alpha[i].sum()
            alpha[i] /= total
            moved[i] /= total
        beta[:] = 1.0 / n
        tilt[:] = 0.0
        for i in range(d - 1, -1, -1):  # beta, tilt: the same of what comes after i
            total = first = summed = crossed = 0.0
            for k in range(n):
                weight = alpha[i, k] * beta[k]
                change = moved[i, k] * beta[k] + alpha[i, k] * tilt[k]
                total += weight
                first += weight * points[k]
                summed += change
                crossed += change * points[k]
            out[r, i] = crossed / total - first / total * summed / total
            if i:
                new[:] = 0.0
                turned[:] = 0.0
                step(beta * seen[i], table, -starts[r, i], new)
                step((tilt + v[r, i] * points * beta) * seen[i], table, -starts[r, i], turned)
                total = new.sum()
                beta[:] = new / total
                tilt[:] = turned / total


@compiled
def flip(
    present: np.ndarray, w: np.ndarray, y: np.ndarray, columns: np.ndarray, inverse: np.ndarray, odds: float, u: np.ndarray
) -> None:
    """Draws in turn which steps of a walk are there, given their variances and y = H (present u) + noise, u summed out.

    Args:
        present: (B, d), zeros and ones, changed in place.
        w: variances of the steps that are there, (B, d).
        y: (B, m).
        columns: of H, (d, m).
        inverse: of Cov[y | present, w], (B, m, m), changed in place.
        odds: log(rate / (1 - rate)).
        u: uniform numbers, (B, d).
    """
    rows, d = present.shape
    for r in range(rows):
        B = inverse[r]
        for k in range(d):
            t = B @ columns[k]
            own, beta, there = columns[k] @ t, y[r] @ t, present[r, k] > 0
            tau = own
            if there:  # of the others alone
                left = 1.0 - w[r, k] * tau
                tau, beta = tau / left, beta / left
            grown = 1.0 + w[r, k] * tau
            log_odds = odds - 0.5 * np.log(grown) + 0.5 * w[r, k] * beta * beta / grown
            wanted = u[r, k] * (1.0 + np.exp(-log_odds)) < 1.0
            if wanted != there:
                factor = -w[r, k] / (1.0 + w[r, k] * own) if wanted else w[r, k] / (1.0 - w[r, k] * own)
                for i in range(len(t)):
                    B[i] += factor * t[i] * t
                present[r, k] = 1.0 if wanted else 0.0
