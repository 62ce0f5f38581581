"""The log-density of a diffusion prior, by its probability-flow ODE.

Song et al., "Score-based generative modeling through stochastic differential equations" (ICLR 2021), equations 39 and 40,
with the trace of Hutchinson as in FFJORD (Grathwohl et al., ICLR 2019). In the one noise coordinate dx/dsigma = (x - D) /
sigma. It is solved here in u = log sigma for the standardised state z = (x - m) / sqrt(sigma^2 + s^2), m and s the mean and
standard deviation of the data, for which

    dz/du = (x - D) / sqrt(sigma^2 + s^2) - sigma^2 / (sigma^2 + s^2) z
    d log p(z)/du = tr dD/dx - n s^2 / (sigma^2 + s^2).

Both vanish for values that are independent and Gaussian with that mean and deviation, and at both ends for any smooth
density, so that few steps do.
"""

import math
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Prior
from invgen.errors import DivergedError, MissingExtraError, OptionError, ShapeError, UnsupportedError
from invgen.numerics.gradients import running
from invgen.numerics.random import Streams
from invgen.trust import warn_untrusted
from invgen.validation.arguments import checked

Trace = Literal["auto", "exact", "rademacher", "gaussian"]
Field = Callable[[float, Tensor], Tensor]
Solver = Callable[[Field, Tensor, float, float], Tensor]
EXACT = 256  # values up to which trace="auto" computes the trace exactly
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")


@checked
def log_prob(
    prior: Prior,
    x: Tensor,
    *,
    method: str = "auto",
    steps: int = 64,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    trace: Trace = "auto",
    probes: int = 1,
    seed: int = 0,
    max_batch: int | None = None,
) -> Tensor:
    """Returns log p(x) in nats, (B,), of the density over signals in the units of the prior.

    Args:
        prior: any Denoiser, or any prior with a method log_prob(x) of its own (exact priors, normalising flows).
        x: (B, *shape). The ODE starts at sigma_min: it gives the density of x_0 + sigma_min eps. Data without a density,
            such as pixels of 256 levels, get one by uniform noise over their steps first (see `bits_per_dim`).
        method: "auto", the prior's own log_prob where there is one and else "rk4"; "rk4", `steps` steps of Runge and
            Kutta's classical method, evenly in log sigma, four evaluations each; or an adaptive method of torchdiffeq to
            rtol and atol: "dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun" (needs the extra "ode").
        trace: of dD/dx. "exact" takes a pullback for each value of a signal; "rademacher" (signs) and "gaussian" estimate
            it without bias by v^T (dD/dx) v, over `probes` vectors v a signal, the same along the whole path. "auto" is
            exact up to 256 values, Rademacher's beyond.
        probes, seed: of the estimate; its error falls as 1 / sqrt(probes), and other seeds show how large it is.
        max_batch: signals to work on at once; no effect on the result of "rk4".

    At sigma_max the law is taken for Gaussian with the mean that D has there and the deviation of the data: with sigma_max
    = 100 s right to about 1e-4 nats a value. The solver runs in float64, the network in its own dtype, whose rounding
    bounds the accuracy. An adaptive method takes common steps for a batch, within tolerance for each signal.

    Raises:
        UnsupportedError: a prior that is no Denoiser and has no log_prob.  ShapeError: x is not (B, *shape).
        MissingExtraError: torchdiffeq is needed and not installed.  DivergedError: the result is not finite.
    """
    if method not in ("auto", "rk4", *ADAPTIVE):
        raise OptionError(f"unknown method {method!r}; there are 'auto', 'rk4', {', '.join(map(repr, ADAPTIVE))}")
    if trace not in ("auto", "exact", "rademacher", "gaussian"):
        raise OptionError(f"unknown trace {trace!r}; there are 'auto', 'exact', 'rademacher' and 'gaussian'")
    if steps < 1 or probes < 1:
        raise OptionError(f"log_prob needs at least one step and one probe, got steps={steps!r} and probes={probes!r}")
    if x.shape[1:] != prior.shape or x.is_complex():
        raise ShapeError(f"log_prob takes real signals (B, {', '.join(map(str, prior.shape))}), got {tuple(x.shape)}")
    if method == "auto" and getattr(prior, "has_density", hasattr(prior, "log_prob")):
        return prior.log_prob(x)
    if not isinstance(prior, Denoiser):
        raise UnsupportedError(
            f"{type(prior).__name__} is no Denoiser and has no log_prob: its density is not known; a normalising flow's is"
        )
    prior.require_levels("log_prob by the probability-flow ODE")
    if prior.consistency:
        raise UnsupportedError(
            "a consistency function has no density: log_prob needs the mean of x_0, as the prior has it that was distilled"
        )
    solve = _runge_kutta(steps) if method in ("auto", "rk4") else _adaptive(method, rtol, atol)
    if trace == "auto":
        trace = "exact" if prior.shape.numel() <= EXACT else "rademacher"
    parts = torch.arange(len(x)).split(max_batch or max(len(x), 1))
    warn_untrusted(prior)
    with running(prior):
        out = [_along_the_flow(prior, x[rows], Streams(seed, rows), trace, probes, solve) for rows in parts]
    result = torch.cat(out)
    if not result.isfinite().all():
        raise DivergedError(
            f"the probability-flow ODE of {type(prior).__name__} diverged: log_prob is not finite; check that x is in the "
            "units of the prior, or raise sigma_min"
        )
    return result


@checked
def bits_per_dim(log_prob: Tensor, num_values: int, bin_width: float) -> Tensor:
    """Returns -log2 of the probability of a signal of discrete values, over their number: (B,).

    Args:
        log_prob: in nats, of signals to which noise uniform over one bin was added (uniform dequantisation: then the mean
            is an upper bound of the bits; Theis et al., ICLR 2016, section 3.1).
        num_values: of a signal, prior.shape.numel().
        bin_width: the distance of two levels in the units of the prior, such as 2 / 255 for bytes mapped on [-1, 1].
    """
    if num_values < 1 or not bin_width > 0:
        raise OptionError(f"bits_per_dim needs num_values >= 1 and bin_width > 0, got {num_values!r} and {bin_width!r}")
    return -(log_prob / num_values + math.log(bin_width)) / math.log(2)


def _along_the_flow(
    prior: Denoiser,
    x: Tensor,
    randn: Streams,
    trace: str,
    probes: int,
    solve: Solver,
) -> Tensor:
    """Solves for z and for the integral of d log p(z)/du, side by side in one tensor (B, n + 1), in float64."""
    rows, n, dtype = len(x), prior.shape.numel(), prior.dtype
    m, s = prior.data_mean, prior.data_std
    size = math.hypot(prior.sigma_min, s)
    vectors = _probes(x, randn, trace, probes, dtype)

    def field(u: float, state: Tensor) -> Tensor:
        sigma = math.exp(u)
        width = math.hypot(sigma, s)
        ratio = (s / width) ** 2
        z = state[:, :n]
        noisy = (m + width * z).to(dtype).reshape(rows, *prior.shape)
        clean, pullback = prior.vjp(noisy, sigma)
        slope = (noisy - clean).flatten(1).double() / width - (1 - ratio) * z
        if trace == "exact":
            total = torch.full((rows,), -n * ratio, dtype=torch.float64, device=x.device)
            for k in range(n):
                unit = torch.zeros_like(noisy).flatten(1)
                unit[:, k] = 1
                total += pullback(unit.reshape(noisy.shape)).flatten(1)[:, k]
        else:
            # of dD/dx - ratio I, which is small: for v from a Gaussian that takes most of the variance away
            terms = ((v * (pullback(v) - ratio * v)).flatten(1).double().sum(1) for v in vectors)
            total = sum(terms, x.new_zeros(rows, dtype=torch.float64)) / probes
        return torch.cat([slope, total[:, None]], 1)

    first = torch.cat([(x.flatten(1).double() - m) / size, x.new_zeros(rows, 1, dtype=torch.float64)], 1)
    last = solve(field, first, math.log(prior.sigma_min), math.log(prior.sigma_max))
    width = math.hypot(prior.sigma_max, s)
    centre = prior(torch.full_like(x[:1], m, dtype=dtype), prior.sigma_max).flatten(1).double()
    error = last[:, :n] - (centre - m) / width
    var = 1 - (centre - m).square().mean() / width**2  # data_std counts the spread of the mean over the values too
    gained = last[:, n]  # by log p(z) on the way from sigma_min to sigma_max
    return -0.5 * (error.square() / var + (2 * math.pi * var).log()).sum(1) - gained - n * math.log(size)


def _probes(x: Tensor, randn: Streams, trace: str, probes: int, dtype: torch.dtype) -> list[Tensor]:
    if trace == "exact":
        return []
    like = torch.empty_like(x, dtype=dtype)
    draws = [randn(like) for _ in range(probes)]
    return [torch.where(z < 0, -1.0, 1.0).to(dtype) for z in draws] if trace == "rademacher" else draws


def _runge_kutta(steps: int) -> Solver:
    def solve(field: Field, y: Tensor, first: float, last: float) -> Tensor:
        h = (last - first) / steps
        for k in range(steps):
            u = first + k * h
            a = field(u, y)
            b = field(u + h / 2, y + h / 2 * a)
            c = field(u + h / 2, y + h / 2 * b)
            y = y + h / 6 * (a + 2 * b + 2 * c + field(u + h, y + h * c))
        return y

    return solve


def _adaptive(method: str, rtol: float, atol: float) -> Solver:
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise MissingExtraError(
            f"method={method!r} needs the package torchdiffeq: pip install 'invgen-solvers[ode]', or take method='rk4'"
        ) from error

    def worst_row(error: Tensor) -> Tensor:  # each signal within tolerance, whatever it is batched with
        return error.square().mean(1).amax().sqrt()

    def solve(field: Field, y: Tensor, first: float, last: float) -> Tensor:
        times = torch.tensor([first, last], dtype=torch.float64, device=y.device)
        # a first step of its own choice may be huge, the field vanishing there; and none may go beyond sigma_max
        options = {"norm": worst_row, "first_step": (last - first) / 64, "step_t": times[1:]}
        path = odeint(lambda u, y: field(u.item(), y), y, times, rtol=rtol, atol=atol, method=method, options=options)
        return cast(Tensor, path)[1]  # torchdiffeq declares no types: a tensor for a tensor

    return solve
