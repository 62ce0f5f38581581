"""Calibration of one cell: how often the central intervals of its samples hold the true values."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from invgen.inference.solve import Result

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
FEWEST = 4  # samples of which a curve is drawn: two levels


def calibration(result: "Result", truth: "Tensor") -> "dict[str, list[float]] | None":
    """The fraction of a signal's values inside the central interval of the samples, at several levels.

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
