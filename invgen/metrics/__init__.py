"""Metrics: one number for each signal, never a mean over the batch, in a data range that the caller states."""

from invgen.metrics.audio import log_spectral_distance, snr, spectral_convergence
from invgen.metrics.ensemble import crps_ensemble, energy_score, interval_coverage, residual_over_noise
from invgen.metrics.image import nrmse, psnr, ssim
from invgen.metrics.molecules import rmsd
from invgen.metrics.perceptual import LPIPS, frechet_distance, frechet_feature_distance, lpips
from invgen.metrics.ranks import (
    CoverageCurve,
    RankHistogram,
    coverage_curve,
    rank_histogram,
    region_coverage,
    region_ranks,
    sbc_ranks,
    tarp,
)
from invgen.metrics.roc import AUROC, auroc
from invgen.metrics.stein import kernel_stein_discrepancy, posterior_score
from invgen.metrics.transport import sliced_wasserstein
from invgen.metrics.two_sample import c2st, mmd

__all__ = [
    "AUROC",
    "LPIPS",
    "CoverageCurve",
    "RankHistogram",
    "auroc",
    "c2st",
    "coverage_curve",
    "crps_ensemble",
    "energy_score",
    "frechet_distance",
    "frechet_feature_distance",
    "interval_coverage",
    "kernel_stein_discrepancy",
    "log_spectral_distance",
    "lpips",
    "mmd",
    "nrmse",
    "posterior_score",
    "psnr",
    "rank_histogram",
    "region_coverage",
    "region_ranks",
    "residual_over_noise",
    "rmsd",
    "sbc_ranks",
    "sliced_wasserstein",
    "snr",
    "spectral_convergence",
    "ssim",
    "tarp",
]
