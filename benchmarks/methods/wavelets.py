"""Orthogonal wavelets on a periodic grid, and soft thresholding of images by them."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=8)
def daubechies(moments: int) -> tuple[float, ...]:
    """Returns the low-pass filter of Daubechies' wavelet with that many vanishing moments, 2 * moments taps, of unit norm.

    By the roots of her polynomial, those inside the unit circle ("Ten lectures on wavelets", 1992, section 6.1).
    """
    import numpy as np
    from scipy.special import comb

    polynomial = [comb(moments - 1 + k, k, exact=True) for k in range(moments)]  # in y = (2 - z - 1/z) / 4
    taps = np.ones(1)
    for y in np.roots(np.array(polynomial[::-1])):
        pair = np.roots([1, 4 * y - 2, 1])  # the two z of a y
        taps = np.convolve(taps, [1, -pair[np.argmin(abs(pair))]])
    for _ in range(moments):
        taps = np.convolve(taps, [1, 1])
    taps = np.real(taps)
    return tuple(float(t) for t in taps / np.linalg.norm(taps))


def analyse(x: Tensor, levels: int, moments: int = 4) -> Tensor:
    """Returns the wavelet coefficients of (..., H, W), H and W multiples of 2^levels: the coarse part top left, as in a
    pyramid."""
    out, (rows, columns) = x.clone(), x.shape[-2:]
    for k in range(levels):
        part = out[..., : rows >> k, : columns >> k]
        out[..., : rows >> k, : columns >> k] = _split(_split(part, -1, moments), -2, moments)
    return out


def synthesise(bands: Tensor, levels: int, moments: int = 4) -> Tensor:
    """Returns the inverse, and the transpose, of `analyse`."""
    out, (rows, columns) = bands.clone(), bands.shape[-2:]
    for k in reversed(range(levels)):
        part = out[..., : rows >> k, : columns >> k]
        out[..., : rows >> k, : columns >> k] = _join(_join(part, -2, moments), -1, moments)
    return out


def _split(x: Tensor, axis: int, moments: int) -> Tensor:
    """Low pass and high pass at every second place, one after the other along the axis."""
    x = x.movedim(axis, -1)
    h = daubechies(moments)
    low, high = torch.zeros_like(x[..., ::2]), torch.zeros_like(x[..., ::2])
    for k, tap in enumerate(h):
        shifted = x.roll(-k, -1)[..., ::2]
        low, high = low + tap * shifted, high + (-1) ** k * h[len(h) - 1 - k] * shifted
    return torch.cat([low, high], -1).movedim(-1, axis)


def _join(bands: Tensor, axis: int, moments: int) -> Tensor:
    bands = bands.movedim(axis, -1)
    h = daubechies(moments)
    low, high = bands.chunk(2, -1)
    out = torch.zeros_like(bands)
    for k, tap in enumerate(h):
        sparse = torch.zeros_like(bands)
        sparse[..., ::2] = tap * low + (-1) ** k * h[len(h) - 1 - k] * high
        out = out + sparse.roll(k, -1)
    return out.movedim(-1, axis)


def shrink(
    image: Tensor, threshold: float | Tensor, shift: tuple[int, int] = (0, 0), levels: int = 4, moments: int = 4
) -> Tensor:
    """Soft thresholding of the details of (..., H, W), real or complex, the image shifted around before and back after.

    A complex coefficient keeps its phase. Sides that are no multiple of 2^levels are reflected up to one, and cut after.

    Args:
        image: (..., H, W).
        threshold: in the units of the image.
        shift: of the image, in pixels, before the transform.
        levels: of the transform.
        moments: vanishing moments of the wavelet.
    """
    rows, columns = image.shape[-2:]
    more = [-n % 2**levels for n in (columns, rows)]
    padded = _reflect(image, more) if any(more) else image
    bands = analyse(padded.roll(shift, (-2, -1)), levels, moments)
    size = bands.abs()
    less = bands * ((size - threshold).clamp(min=0) / size.clamp(min=1e-30))
    coarse = tuple(slice(n >> levels) for n in bands.shape[-2:])
    less[..., coarse[0], coarse[1]] = bands[..., coarse[0], coarse[1]]
    return synthesise(less, levels, moments).roll((-shift[0], -shift[1]), (-2, -1))[..., :rows, :columns]


def _reflect(image: Tensor, more: list[int]) -> Tensor:
    if image.is_complex():
        return torch.complex(_reflect(image.real, more), _reflect(image.imag, more))
    flat = image.reshape(1, -1, *image.shape[-2:])
    return F.pad(flat, (0, more[0], 0, more[1]), mode="reflect").reshape(*image.shape[:-2], *_grown(image, more))


def _grown(image: Tensor, more: list[int]) -> tuple[int, int]:
    return image.shape[-2] + more[1], image.shape[-1] + more[0]
