"""The noise levels of a sampler: schedules of the one noise coordinate, x_sigma = x_0 + sigma eps."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Positive


@checked
def noise_levels(
    steps: Count, sigma_min: Positive, sigma_max: Positive, schedule: str | Sequence[float] = "edm", scale: Positive = 1.0
) -> list[tuple[float, float]]:
    """Returns the pairs (sigma, next sigma) of a sampler, `steps` of them, the last one ending at 0.

    Args:
        steps: the number of pairs.
        sigma_min, sigma_max: the lowest and the highest noise level, in units of the signal.
        schedule: how the levels lie between them, see below.
        scale: the size of the signal, `data_std` of a prior, which is the unit of the schedule "flow".

    Schedules:
        "edm": Karras et al. (2022), equation 5, with rho = 7.
        "log": evenly spaced in log sigma.
        "vp": evenly spaced in the time of DDPM's linear schedule (1000 steps, beta from 1e-4 to 0.02), within the range;
            its levels are absolute, made for signals of about [-1, 1].
        "amplitude": evenly spaced in alpha = 1 / sqrt(1 + sigma^2), the signal's share in a variance-preserving process:
            dense at sigma of 0.2 to 5, where modes of unit width part; absolute levels. Without its stops at the singular
            values, the grid of MCGDiff's public code (Cardoso et al., 2024).
        "flow": evenly spaced in the time of flow matching, t = sigma / (sigma + scale); see `flow_time`.
        a decreasing sequence of positive numbers: these levels, as they are.
    """
    if not isinstance(schedule, str):
        levels = [float(s) for s in schedule]
        if not levels or any(not 0 < b < a for a, b in zip([math.inf, *levels], levels, strict=False)):
            raise OptionError("a noise schedule must be a decreasing sequence of positive numbers")
        return list(zip(levels, [*levels[1:], 0.0], strict=True))
    u = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    if schedule == "edm":
        levels = (sigma_max ** (1 / 7) + u * (sigma_min ** (1 / 7) - sigma_max ** (1 / 7))) ** 7
    elif schedule == "log":
        levels = sigma_max * (sigma_min / sigma_max) ** u
    elif schedule == "vp":
        alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        table = ((1 - alpha_bar) / alpha_bar).sqrt()
        log = table.log()
        grid = torch.arange(1000, dtype=torch.float64)
        first, last = (interpolate(log, grid, math.log(s)) for s in (sigma_max, sigma_min))
        time = first + u * (last - first)
        low = time.floor().clamp(0, 998).long()
        levels = (log[low] + (time - low) * (log[low + 1] - log[low])).exp()
    elif schedule == "amplitude":
        first, last = (1 / math.sqrt(1 + s**2) for s in (sigma_max, sigma_min))
        levels = (1 / (first + u * (last - first)) ** 2 - 1).sqrt()
    elif schedule == "flow":
        first, last = flow_time(sigma_max, scale), flow_time(sigma_min, scale)
        t = first + u * (last - first)
        levels = scale * t / (1 - t)
    else:
        known = "'edm', 'log', 'vp', 'amplitude', 'flow', or a decreasing sequence"
        raise OptionError(f"unknown noise schedule {schedule!r}; there are {known}")
    levels = levels.tolist()
    return list(zip(levels, [*levels[1:], 0.0], strict=True))


def flow_time(sigma: float, scale: float) -> float:
    """Returns the time t of flow matching, x_t = (1 - t) x_0 + t scale eps (t = 1 is noise), at a noise level sigma.

    x_t / (1 - t) = x_0 + sigma eps with sigma = scale t / (1 - t): a flow prior is a Denoiser, D = x_t - t v for its
    velocity v = scale eps - x_0, and a step of Euler's method in t is `step` with eta = 0.
    """
    return sigma / (sigma + scale)


def interpolate(x: Tensor, y: Tensor, at: float) -> float:
    """Returns y at a place between the rising values x, (n,), linearly, and y at the nearer end outside of them."""
    k = int(torch.searchsorted(x, at).clamp(1, len(x) - 1))
    weight = min(max((at - x[k - 1].item()) / (x[k] - x[k - 1]).item(), 0.0), 1.0)
    return y[k - 1].item() + weight * (y[k] - y[k - 1]).item()
