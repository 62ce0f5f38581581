"""Receive coils in MRI: sensitivity maps, made or estimated, and the combination of coil images."""

import math
from typing import Annotated

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.messages import announced
from invgen.operators.mri.fourier import ifftc
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Fraction, Range
from invgen.validation.limits import check_size

EIGH_ROWS = 8192  # pixels whose small matrices are decomposed at once


@checked
def rss(images: Tensor, dim: int = -3) -> Tensor:
    """Returns the root sum of squares over the coils: complex (..., coils, H, W) -> real (..., H, W) (Roemer et al., MRM
    1990)."""
    return torch.linalg.vector_norm(images, dim=dim)


@checked
def normalise_maps(maps: Tensor) -> Tensor:
    """Maps (..., coils, H, W) scaled so that sum_c |S_c|^2 = 1 at every pixel, zero where all coils are."""
    total = rss(maps).unsqueeze(-3)
    return torch.where(total > 0, maps / total.where(total > 0, 1), 0)


@checked
def birdcage_maps(
    shape: tuple[Count, Count, Count], radius: Annotated[float, Range(math.sqrt(2), above=True)] = 1.5
) -> Tensor:
    """Returns normalised maps of ideal coils on a ring around the image, complex64 (coils, H, W).

    A stand-in where none are measured. Each coil falls off as 1 / distance and has the phase of the direction to it.

    Args:
        shape: (coils, H, W).
        radius: of the ring, in half image sizes; at most sqrt(2) would put a coil into the image.
    """
    coils, height, width = shape
    check_size(16 * coils * height * width, f"maps of {coils} coils on {height} x {width} pixels")
    angle = 2 * math.pi * torch.arange(coils, dtype=torch.float64) / coils
    y, x = (2 * (torch.arange(n, dtype=torch.float64) - n // 2) / n for n in (height, width))
    offset = torch.complex(
        x - radius * angle.cos().reshape(-1, 1, 1).expand(-1, height, 1),
        y[:, None] - radius * angle.sin().reshape(-1, 1, 1).expand(-1, 1, width),
    )
    return normalise_maps(offset / offset.abs().square()).to(torch.complex64)


@checked
def sensitivity_maps(kspace: Tensor, center: tuple[Count, Count], threshold: Fraction = 0.0) -> Tensor:
    """Returns normalised maps from the fully measured centre of k-space, complex (..., coils, H, W).

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


@checked
def espirit_maps(
    kspace: Tensor, center: tuple[Count, Count], kernel: Count = 6, threshold: Fraction = 0.02, crop: Fraction = 0.95
) -> Tensor:
    """Returns normalised maps by ESPIRiT from the fully measured centre of k-space, complex (coils, H, W) (Uecker, MRM
    2014).

    All patches of the centre, of `kernel` x `kernel` samples of all coils, lie near a linear space, because the coils see
    one object. A vector of sensitivities belongs to a pixel where the projection on that space leaves it alone: an
    eigenvector of eigenvalue 1. Better than `sensitivity_maps` at the edge of the object and where it is dark, and zero
    outside of it. As there, the slow phase of the object goes into the maps, so that the image is nearly real.

    Args:
        kspace: complex (coils, H, W), zero frequency at n // 2; only the centre is read.
        center: (height, width) of the fully measured block.
        kernel: side of a patch.
        threshold: singular values of the patches below this fraction of the largest are taken for noise.
        crop: maps are set to zero where the largest eigenvalue is below this.

    Raises:
        ShapeError: not complex (coils, H, W).  OptionError: a centre that is larger than k-space or smaller than a patch.
    """
    low = sensitivity_maps(kspace, center)
    if kspace.ndim != 3:
        raise ShapeError(f"espirit_maps takes one k-space, complex (coils, H, W), got shape {tuple(kspace.shape)}")
    coils, *size = kspace.shape
    if not 1 <= kernel <= min(center):
        raise OptionError(f"the kernel must be between 1 and the centre's {min(center)} samples, got {kernel!r}")
    start = [(n - c + 1) // 2 for n, c in zip(size, center, strict=True)]
    block = kspace[:, start[0] : start[0] + center[0], start[1] : start[1] + center[1]]
    patches = block.unfold(1, kernel, 1).unfold(2, kernel, 1).permute(1, 2, 0, 3, 4).reshape(-1, coils * kernel**2)
    _, singular, space = torch.linalg.svd(patches, full_matrices=False)
    if not bool(singular[0] > 0):
        raise OptionError("espirit_maps needs values in the centre of k-space, which is zero or not finite")
    space = space[singular > threshold * singular[0]].reshape(-1, coils, kernel, kernel)
    filled = space.new_zeros(*space.shape[:2], *size)
    corner = [n // 2 - kernel // 2 for n in size]
    filled[..., corner[0] : corner[0] + kernel, corner[1] : corner[1] + kernel] = space
    # a convolution in k-space is a product in the image: at each pixel a small matrix, (rank, coils)
    small = (ifftc(filled) * (math.sqrt(math.prod(size)) / kernel)).flatten(2).permute(2, 0, 1)
    with announced(f"estimating the sensitivities of {coils} coils"):
        found = [torch.linalg.eigh(g.mT @ g.conj()) for g in small.split(EIGH_ROWS)]
    value = torch.cat([e.eigenvalues[:, -1] for e in found]).reshape(size)
    maps = torch.cat([e.eigenvectors[..., -1] for e in found]).T.reshape(coils, *size)
    phase = (maps.conj() * low).sum(0).angle()  # of an eigenvector is arbitrary
    return torch.where(value > crop, maps * torch.polar(torch.ones_like(phase), phase), 0)
