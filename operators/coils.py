"""Receive coils in MRI: sensitivity maps, made or estimated, and the combination of coil images."""

import math

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.operators.fourier import ifftc


def rss(images: Tensor, dim: int = -3) -> Tensor:
    """Root sum of squares over the coils: complex (..., coils, H, W) -> real (..., H, W) (Roemer et al., MRM 1990)."""
    return torch.linalg.vector_norm(images, dim=dim)


def normalise_maps(maps: Tensor) -> Tensor:
    """Maps (..., coils, H, W) scaled so that sum_c |S_c|^2 = 1 at every pixel, zero where all coils are."""
    total = rss(maps).unsqueeze(-3)
    return torch.where(total > 0, maps / total.where(total > 0, 1), 0)


def birdcage_maps(shape: tuple[int, int, int], radius: float = 1.5) -> Tensor:
    """Normalised maps of ideal coils on a ring around the image, complex64 (coils, H, W).

    A stand-in where none are measured. Each coil falls off as 1 / distance and has the phase of the direction to it.

    Args:
        shape: (coils, H, W).
        radius: of the ring, in half image sizes; at most sqrt(2) would put a coil into the image.
    """
    coils, height, width = shape
    if coils < 1 or not radius > math.sqrt(2):
        raise OptionError(f"birdcage_maps needs at least one coil and a radius above 1.42, got {coils} and {radius!r}")
    angle = 2 * math.pi * torch.arange(coils, dtype=torch.float64) / coils
    y, x = (2 * (torch.arange(n, dtype=torch.float64) - n // 2) / n for n in (height, width))
    offset = torch.complex(
        x - radius * angle.cos().reshape(-1, 1, 1).expand(-1, height, 1),
        y[:, None] - radius * angle.sin().reshape(-1, 1, 1).expand(-1, 1, width),
    )
    return normalise_maps(offset / offset.abs().square()).to(torch.complex64)


def sensitivity_maps(kspace: Tensor, center: tuple[int, int], threshold: float = 0.0) -> Tensor:
    """Normalised maps from the fully measured centre of k-space, complex (..., coils, H, W).

    The images of the centre alone, through a Hann window against ringing, over their root sum of squares: sound where the
    sensitivities are smooth against the window's resolution, and worse than ESPIRiT at the edge of the object. The slow
    phase of the object goes into the maps, so that the reconstructed image is nearly real.

    Args:
        kspace: complex (..., coils, H, W), zero frequency at n // 2; only the centre is read.
        center: (height, width) of the fully measured block, such as (H, number of low-frequency lines).
        threshold: maps are set to zero where the root sum of squares is below this fraction of its maximum.
    """
    if not kspace.is_complex() or kspace.ndim < 3:
        raise ShapeError(
            f"sensitivity_maps takes complex k-space (..., coils, H, W), got {kspace.dtype} {tuple(kspace.shape)}"
        )
    if not all(1 <= c <= n for c, n in zip(center, kspace.shape[-2:], strict=True)):
        raise OptionError(f"center must lie between (1, 1) and {tuple(kspace.shape[-2:])}, got {tuple(center)}")
    low = kspace
    for axis, c in zip((-2, -1), center, strict=True):
        n = kspace.shape[axis]
        window = torch.zeros(n, dtype=kspace.real.dtype, device=kspace.device)
        start = (n - c + 1) // 2  # the centre of kspace_masks
        window[start : start + c] = torch.hann_window(c + 2, False, dtype=window.dtype, device=window.device)[1:-1]
        low = low * (window[:, None] if axis == -2 else window)
    images = ifftc(low)
    total = rss(images).unsqueeze(-3)
    seen = total > threshold * total.amax((-2, -1), keepdim=True)
    return torch.where(seen, normalise_maps(images), 0)
