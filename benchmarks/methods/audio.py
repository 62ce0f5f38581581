"""Classical restorations of recordings: cubic splines, and a Wiener filter with an autoregressive spectrum."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from invgen.benchmarks.methods.classical import Classical
from invgen.diffusion import Prior
from invgen.forward import LinearOperator, Operator
from invgen.linalg import cg
from invgen.noise import Gaussian
from invgen.operators import HighDynamicRange, LowPassDecimate, Mask
from invgen.posterior import Posterior
from invgen.validation.hints import Count

__all__ = ["AutoregressiveWiener", "CubicSpline"]


@dataclass(frozen=True)
class CubicSpline(Classical):
    """The natural cubic spline through the samples that are known: those of a decimated recording at their times, those
    that a mask keeps, those that are not clipped. Noise stays in it."""

    A: ClassVar[type] = Operator

    def refuses(self, post: Posterior) -> str | None:
        """Why the spline does not fit, as the end of a sentence, or None."""
        why = super().refuses(post)
        if why is None and not (
            isinstance(post.A, LowPassDecimate | Mask | HighDynamicRange) and len(post.A.in_shape) == 2
        ):
            why = f"needs LowPassDecimate, Mask or HighDynamicRange of (channels, length), got {type(post.A).__name__}"
        return why

    def reconstruct(self, post: Posterior[Prior, LowPassDecimate | Mask | HighDynamicRange]) -> Tensor:
        from scipy.interpolate import CubicSpline as Spline

        A, length = post.A, post.A.in_shape[-1]
        values = post.y.double()
        if isinstance(A, LowPassDecimate):
            known = torch.zeros(A.in_shape, dtype=torch.bool)
            known[..., :: A.factor] = True
            known = known.expand(len(values), *A.in_shape)
            full = torch.zeros(len(values), *A.in_shape, dtype=values.dtype)
            full[..., :: A.factor] = values
        elif isinstance(A, Mask):
            known, full = A.image(torch.ones_like(values)) > 0.5, A.image(values)
        else:
            # noise scatters clipped samples around the bounds
            margin = 3 * float(torch.as_tensor(post.noise.std(post.y)).max())
            known, full = (values > A.low + margin) & (values < A.high - margin), values / A.gain
        out = torch.empty(len(values), *A.in_shape)
        times = np.arange(length)
        for row, where, x in zip(out.reshape(-1, length), known.reshape(-1, length), full.reshape(-1, length), strict=True):
            at = times[where.numpy()]
            if len(at) < 4:  # nothing to interpolate
                row.copy_(x)
                continue
            spline = Spline(at, x.numpy()[at], bc_type="natural")
            row.copy_(torch.from_numpy(spline(times.clip(at[0], at[-1]))))  # constant beyond the first and the last
        return out.to(post.y)


@dataclass(frozen=True)
class AutoregressiveWiener(Classical):
    """The posterior mean of a stationary Gaussian signal, whose spectrum is found from the measurement.

    The spectrum is that of an autoregressive process, as linear prediction models speech; it and the signal are found by
    turns (Lim & Oppenheim, IEEE Trans. ASSP 1978, for noise; Janssen et al., 1986, for gaps), from the pseudo-inverse on.
    What no sample tells, such as a band above the Nyquist frequency, has no power in the first signal and little in the
    last.

    Args:
        steps: turns.
        order: of the process.
    """

    steps: Count = 4
    order: Count = 32
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = False
    one_level: ClassVar[bool] = True

    def refuses(self, post: Posterior) -> str | None:
        """Why the filter does not fit, as the end of a sentence, or None."""
        why = super().refuses(post)
        if why is None and (len(post.A.in_shape) != 2 or post.A.in_dtype.is_complex):
            why = f"needs real recordings (channels, length), got {tuple(post.A.in_shape)}"
        return why

    def reconstruct(self, post: Posterior[Prior, LinearOperator, Gaussian]) -> Tensor:
        A, y, var = post.A, post.y, post.noise.var
        x = A.adjoint(y)
        x = x * (y.square().sum() / A(x).square().sum().clamp(min=1e-30)).sqrt()
        for _ in range(self.steps):
            root = autoregressive_spectrum(x, self.order).sqrt()  # of the power of each frequency, a sample's variance

            def colour(u: Tensor, root: Tensor = root) -> Tensor:
                return torch.fft.irfft(torch.fft.rfft(u) * root, u.shape[-1])

            # x = C u with white u: (C A^T A C + var) u = C A^T y; a Wiener filter in the coordinates of u
            def normal(u: Tensor, colour: Callable[[Tensor], Tensor] = colour) -> Tensor:
                return colour(A.adjoint(A(colour(u)))) + var * u

            x = colour(cg(normal, colour(A.adjoint(y)), tol=1e-4, max_iter=300, warn=False))
        return x


def autoregressive_spectrum(x: Tensor, order: int) -> Tensor:
    """Returns the power spectrum of an autoregressive process fitted to x, (..., length): (..., length // 2 + 1), of
    mean about the mean square of x."""
    return _spectrum(x, order, x.shape[-1])


def autoregressive_covariance(x: Tensor, order: int, length: int) -> Tensor:
    """Returns the covariance of `length` samples of an autoregressive process fitted to a recording x: (length, length)."""
    points = 8 * max(length, x.shape[-1])  # so many that the period is not felt
    r = torch.fft.irfft(_spectrum(x.double(), order, points).flatten())[:length]
    return r[(torch.arange(length)[:, None] - torch.arange(length)).abs()]


def _spectrum(x: Tensor, order: int, points: int) -> Tensor:
    """Returns the spectrum on a ring of `points` samples, (..., points // 2 + 1): Yule and Walker's equations, by
    Levinson's recursion (scipy)."""
    from scipy.linalg import solve_toeplitz

    n = x.shape[-1]
    power = torch.fft.rfft(x.double(), 2 * n).abs() ** 2
    correlation = torch.fft.irfft(power)[..., : order + 1] / n
    correlation[..., 0] = correlation[..., 0] * (1 + 1e-6) + 1e-12  # a floor 60 dB below the signal
    out = torch.empty(*x.shape[:-1], points // 2 + 1, dtype=torch.float64)
    for row, r in zip(out.reshape(-1, points // 2 + 1), correlation.reshape(-1, order + 1).numpy(), strict=True):
        a = solve_toeplitz(r[:-1], r[1:])
        gain = r[0] - a @ r[1:]
        response = torch.fft.rfft(torch.from_numpy(np.concatenate([[1.0], -a])), points)
        row.copy_(max(gain, 1e-14) / response.abs() ** 2)
    return out.to(x)
