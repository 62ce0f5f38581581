"""Priors whose denoiser, density, samples and posteriors are known exactly: the yardstick of every sampler.

All are Gaussian mixtures, with one component (`GaussianPrior`), several (`GaussianMixture`) or zero covariance (`Atoms`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invgen.errors import ShapeError
from invgen.forward import Operator
from invgen.noise import Noise
from invgen.priors.laws.mixture import GaussianMixture, check_one

__all__ = ["Atoms", "GaussianMixture", "GaussianPrior"]


class GaussianPrior(GaussianMixture):
    """N(mean, diag(var)) or N(mean, covariance).

    Args:
        shape: of one signal.
        mean: a number, or a tensor broadcastable to shape.
        var: variance of the entries: a number, or a tensor broadcastable to shape.
        covariance: instead of var, (n, n) with n = prod(shape).
        options: see `GaussianMixture`.
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        mean: float | Tensor = 0.0,
        var: float | Tensor = 1.0,
        covariance: Tensor | None = None,
        **options: Any,
    ) -> None:
        shape = torch.Size([shape] if isinstance(shape, int) else shape)
        tables = [t for t in (mean, var, covariance) if isinstance(t, Tensor)]
        dtype = torch.float64 if any(t.dtype == torch.float64 for t in tables) else torch.float32
        device = tables[0].device if tables else None
        try:
            mean = torch.as_tensor(mean, dtype=dtype, device=device).expand(shape)
            var = torch.as_tensor(var, dtype=dtype, device=device).expand(shape)
        except RuntimeError:
            sizes = [tuple(torch.as_tensor(t).shape) for t in (mean, var)]
            raise ShapeError(
                f"mean and var must broadcast to {tuple(shape)}, got shapes {sizes[0]} and {sizes[1]}"
            ) from None
        super().__init__(mean[None].contiguous(), None, var[None], covariance, **options)

    def variance(self, sigma: float) -> float:
        return (sigma**2 * self.spectrum / (self.spectrum + sigma**2)).mean().item()

    def start(self, z: Tensor, sigma: float) -> Tensor:
        scaled = (self.spectrum.to(z.dtype) + sigma**2).sqrt() * self._rotate(z.flatten(1))
        if self.basis is not None:
            scaled = scaled @ self.basis[0].to(z.dtype).T
        return self.mean.to(z.dtype) + scaled.reshape(z.shape)

    def _family(self, means: Tensor, weights: Tensor, covariances: Tensor) -> "GaussianPrior":
        return GaussianPrior(self.shape, means.reshape(self.shape), covariance=covariances[0])


class Atoms(GaussianMixture):
    """A law on finitely many points: x = points[k] with probability weights[k]. Its denoiser is their softmax average.

    Args:
        points: (K, *shape).
        weights: (K,), non-negative, of any sum; equal by default.
        options: see `GaussianMixture`; sigma_min is 1e-3 of the overall standard deviation by default.
    """

    def __init__(self, points: Tensor, weights: Tensor | Sequence[float] | None = None, **options: Any) -> None:
        super().__init__(points, weights, 0.0, **options)

    def posterior(self, A: Operator, noise: Noise | float, y: Tensor) -> "Atoms":
        """Returns the exact p(x | y), the same points with other weights, for any operator and any noise that has a
        density."""
        post = check_one(self, A, noise, y)
        points = self.means.double().reshape(-1, *self.shape)
        clean = A(points)
        y = y.to(clean.dtype).expand(clean.shape)
        log = self.weights.double().log() + post.noise.log_prob(y, clean)
        out = Atoms(self.means.reshape(-1, *self.shape), log.softmax(0))
        out.log_evidence = log.logsumexp(0).item()
        return out
