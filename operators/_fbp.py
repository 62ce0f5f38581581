"""Filtered backprojection: ramp filters and pixel-driven backprojection."""

import math

import numpy as np
import torch
from torch import Tensor

from invgen.errors import OptionError

WINDOWS = {  # on frequencies u in [0, 1], 1 being the Nyquist frequency of the detector
    "ram-lak": lambda u: torch.ones_like(u),
    "shepp-logan": lambda u: torch.sinc(u / 2),
    "cosine": lambda u: torch.cos(math.pi / 2 * u),
    "hamming": lambda u: 0.54 + 0.46 * torch.cos(math.pi * u),
    "hann": lambda u: 0.5 + 0.5 * torch.cos(math.pi * u),
}


def ramp_filter(y: Tensor, spacing: float, filter_name: str) -> Tensor:
    """Convolves the last axis with the band-limited ramp (Kak & Slaney 1988, eq. 3.29), zero-padded; units of y per mm.

    The kernel is sampled in space, not in frequency: a ramp that is zero at frequency zero would shift the mean of
    the image.
    """
    if filter_name not in WINDOWS:
        raise OptionError(f"filter_name must be one of {', '.join(WINDOWS)}, got {filter_name!r}")
    if not len(y):
        return y  # MKL has no transform of an empty batch
    count = y.shape[-1]
    padded = 1 << (2 * count - 1).bit_length()
    n = torch.arange(padded, dtype=torch.float64)
    n = torch.minimum(n, padded - n)
    kernel = torch.where(n % 2 == 1, -1 / (math.pi * n.clamp(min=1)) ** 2, 0.0)
    kernel[0] = 0.25
    response = torch.fft.rfft(kernel).real / spacing
    response = response * WINDOWS[filter_name](torch.linspace(0, 1, padded // 2 + 1, dtype=torch.float64))
    spectrum = torch.fft.rfft(y, padded) * response.to(y)
    return torch.fft.irfft(spectrum, padded)[..., :count]


def angle_weights(angles: np.ndarray, period: float) -> np.ndarray:
    """The part of the circle, in radians, that each view stands for: half the gaps to its neighbours modulo `period`.

    A gap more than three times as wide as any other is a missing wedge: it counts as the median gap. Equal angles
    share their part.
    """
    order = np.argsort(np.mod(angles, period), kind="stable")
    turned = np.mod(angles, period)[order]
    gaps = np.diff(turned, append=turned[0] + period)
    if len(gaps) > 2:
        widest = np.argmax(gaps)
        if gaps[widest] > 3 * np.delete(gaps, widest).max():
            gaps[widest] = np.median(gaps[gaps > 1e-9])
    weights = np.empty(len(angles))
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights


def backproject(q: Tensor, position: Tensor, weight: Tensor) -> Tensor:
    """Sum over the views of q (N, A, D) at `position` (A, P), in detector pixels, times `weight` (A, P or 1) -> (N, P)."""
    count = q.shape[-1]
    out = q.new_zeros(len(q), position.shape[1])
    for view, (at, w) in enumerate(zip(position, weight, strict=True)):
        low = at.floor()
        frac = (at - low).to(q.dtype)
        index = low.long() + 1  # one zero on either side: rays that miss the detector see nothing
        padded = torch.nn.functional.pad(q[:, view], (1, 2))
        a, b = padded[:, index.clamp(0, count + 1)], padded[:, (index + 1).clamp(0, count + 1)]
        out += w.to(q.dtype) * torch.lerp(a, b, frac)
    return out
