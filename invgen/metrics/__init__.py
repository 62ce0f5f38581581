"""Metrics: one number for each signal, never a mean over the batch, in a data range that the caller states."""

from invgen.metrics.ensemble import crps_ensemble, energy_score, interval_coverage, residual_over_noise
from invgen.metrics.image import nrmse, psnr, ssim
from invgen.metrics.transport import sliced_wasserstein

__all__ = [
    "crps_ensemble",
    "energy_score",
    "interval_coverage",
    "nrmse",
    "psnr",
    "residual_over_noise",
    "sliced_wasserstein",
    "ssim",
]
