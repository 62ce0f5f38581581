"""Covariances as eigenvalues and bases: S_k = Q_k diag(l_k) Q_k^T."""

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError


def decompose(means: Tensor, var: float | Tensor, covariances: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Returns eigenvalues (1 or K, n) and bases (1 or K, n, n), None for diagonal covariances, in float64."""
    count, shape, n = len(means), means.shape[1:], means[0].numel()
    if covariances is None:
        var = torch.as_tensor(var, dtype=torch.float64, device=means.device)
        if var.shape not in (torch.Size(), torch.Size([count]), means.shape):
            raise ShapeError(
                f"var must be a number, or of shape ({count},) or {tuple(means.shape)}, got shape {tuple(var.shape)}"
            )
        if not ((var >= 0) & torch.isfinite(var)).all():
            raise OptionError("variances must be finite and not negative")
        spectrum = var.reshape(var.shape + (1,) * (means.ndim - var.ndim)) if var.ndim else var.reshape([1] * means.ndim)
        spectrum = spectrum.expand(-1, *shape).flatten(1)
        return (spectrum[:1] if (spectrum == spectrum[:1]).all() else spectrum), None
    covariances = torch.as_tensor(covariances, device=means.device).double()
    covariances = covariances[None] if covariances.ndim == 2 else covariances
    if covariances.shape[0] not in (1, count) or covariances.shape[1:] != (n, n):
        raise ShapeError(f"covariances must have shape ({count}, {n}, {n}) or ({n}, {n}), got {tuple(covariances.shape)}")
    size = covariances.abs().amax((1, 2)).clamp(min=1e-300)
    if not ((covariances - covariances.mT).abs().amax((1, 2)) <= 1e-5 * size).all():
        raise OptionError("covariances must be finite and symmetric")
    spectrum, basis = torch.linalg.eigh((covariances + covariances.mT) / 2)
    if (spectrum.amin(1) < -1e-5 * size).any():
        raise OptionError(f"covariances must not have negative eigenvalues, got {spectrum.min().item():.3g}")
    return spectrum.clamp(min=0), basis


def dense(spectrum: Tensor, basis: Tensor | None) -> Tensor:
    """Returns the covariances Q_k diag(l_k) Q_k^T, (1 or K, n, n)."""
    return torch.diag_embed(spectrum) if basis is None else basis * spectrum[:, None] @ basis.mT


def root(spectrum: Tensor, basis: Tensor) -> Tensor:
    """Returns S^(1/2), the symmetric root, of one covariance: eigenvalues (n,) and basis (n, n).

    It is unique. The basis is not: it has free signs, and free rotations where eigenvalues are equal, which every processor
    chooses in its own way. A Cholesky factor is unique too, but fails where S is singular.
    """
    return basis * spectrum.sqrt() @ basis.mT
