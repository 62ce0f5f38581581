"""Laws for the suite `exact`, whose posteriors are known. The mixture of `invgen.benchmarks.studies.mixture` is another."""

import torch

from invgen.priors import GaussianMixture, GaussianPrior


def smooth(size: int = 12, length: float = 2.0) -> GaussianPrior:
    """Returns Gaussian images (1, size, size) of variance 1, correlated over `length` pixels: exp(-distance^2 / (2
    length^2))."""
    grid = torch.cartesian_prod(*2 * [torch.arange(size, dtype=torch.float64)])
    covariance = torch.exp(-(torch.cdist(grid, grid) ** 2) / (2 * length**2))
    # a floor under the variance of its roughest patterns, as every sensor has one
    return GaussianPrior((1, size, size), covariance=covariance + 1e-3 * torch.eye(size**2, dtype=torch.float64))


def two_modes(size: int = 8) -> GaussianMixture:
    """Returns images (1, size, size) of one of two kinds: bright on the left or on the right half, with small
    variations."""
    half = torch.ones(1, size, size, dtype=torch.float64)
    half[..., size // 2 :] = -1
    return GaussianMixture(torch.stack([half, -half]), torch.tensor([0.5, 0.5], dtype=torch.float64), 0.1)
