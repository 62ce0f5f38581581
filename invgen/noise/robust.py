"""Noise that is not known well: heavy tails, and a level that is inferred. A renderer is never exact, nor is a sensor."""

import math
from typing import Annotated

import torch
from torch import Tensor

from invgen.noise.laws import Noise, _normal
from invgen.validation.hints import Count, Positive, Range


def _chi_square(df: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Returns draws of chi-square over its degrees of freedom, of the shape of `like`."""
    return _normal(like.new_empty(df, *like.shape), generator).square().mean(0)


class StudentT(Noise):
    """y = clean + scale * t, t of Student's law with `df` degrees of freedom for each value: heavy tails, for outliers.

    Args:
        scale: in the units of y.
        df: degrees of freedom; 1 is Cauchy's law, many are Gaussian noise.
    """

    def __init__(self, scale: Positive, df: Count = 3) -> None:
        self.scale, self.df = float(scale), int(df)

    def __repr__(self) -> str:
        return f"StudentT(scale={self.scale:g}, df={self.df})"

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return clean + self.scale * _normal(clean, generator) / _chi_square(self.df, clean, generator).sqrt()

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        n, half = self.df, (self.df + 1) / 2
        constant = math.lgamma(half) - math.lgamma(n / 2) - 0.5 * math.log(n * math.pi) - math.log(self.scale)
        return (constant - half * torch.log1p(((y - clean) / self.scale).square() / n)).flatten(1).sum(1)

    def std(self, clean: Tensor) -> float:
        return self.scale


class InferredLevel(Noise):
    """y = clean + sigma * eps where sigma is not known: sigma^2 ~ df * guess^2 / chi-square(df), and is integrated out.

    The law of y is Student's in all values at once, log p = -(df + n) / 2 log(1 + |y - clean|^2 / (df guess^2)) + const, so
    that a sampler needs no step for sigma. `level` gives what a signal leaves for it.

    Args:
        guess: of sigma, in the units of y.
        df: how many values the guess is worth; 1 says little.
        patch: how many neighbouring values share one error. The misfit of a renderer is smooth, and counting every value as
            new evidence makes samples too sure: n is the number of values over `patch`, and |y - clean|^2 counts by it.
    """

    def __init__(self, guess: Positive, df: Count = 1, patch: Annotated[float, Range(1)] = 1.0) -> None:
        self.guess, self.df, self.patch = float(guess), int(df), float(patch)

    def __repr__(self) -> str:
        return f"InferredLevel(guess={self.guess:g}, df={self.df}, patch={self.patch:g})"

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        one = clean.new_empty(len(clean), *[1] * (clean.ndim - 1))
        return clean + self.guess / _chi_square(self.df, one, generator).sqrt() * _normal(clean, generator)

    def _squares(self, y: Tensor, clean: Tensor) -> tuple[Tensor, float]:
        return (y - clean).square().flatten(1).sum(1) / self.patch, y[0].numel() / self.patch

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        square, n = self._squares(y, clean)
        spread = self.df * self.guess**2
        constant = math.lgamma((self.df + n) / 2) - math.lgamma(self.df / 2) - n / 2 * math.log(math.pi * spread)
        return constant - (self.df + n) / 2 * torch.log1p(square / spread)

    def level(self, y: Tensor, clean: Tensor) -> Tensor:
        """Returns the root of the posterior mean of 1 / sigma^2, inverted: the level that a signal leaves, (B,)."""
        square, n = self._squares(y, clean)
        return ((self.df * self.guess**2 + square) / (self.df + n)).sqrt()

    def std(self, clean: Tensor) -> float:
        return self.guess

    @classmethod
    def of_residual(cls, residual: Tensor, axes: int = 2, df: int = 1) -> "InferredLevel":
        """Returns the law whose guess is the size of a residual, and whose patch is the size of its correlated spots.

        The patch is the product over the last axes of 1 + 2 (sum of the correlations between values 1, 2, ... apart, up to
        the first that is negative), averaged over the batch: about 1 for white noise.

        Args:
            residual: y - A(x) of a first fit, (B, *out_shape).
            axes: how many of the last axes are of space or time.
            df: how many values the guess is worth.
        """
        patch, power = 1.0, residual.square().mean().clamp(min=1e-30)
        for axis in range(-axes, 0):
            size, sum_ = residual.shape[axis], 1.0
            for lag in range(1, size):
                pair = residual.narrow(axis, lag, size - lag) * residual.narrow(axis, 0, size - lag)
                correlation = float(pair.mean() / power)
                if correlation <= 0:
                    break
                sum_ += 2 * correlation
            patch *= sum_
        return cls(float(power.sqrt()), df, patch)
