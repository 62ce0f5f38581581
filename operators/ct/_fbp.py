"""Filtered backprojection: ramp filters and pixel-driven backprojection."""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from invgen.errors import OptionError, UnsupportedError
from invgen.operators.ct.projectors.threads import parts, share, team

if TYPE_CHECKING:
    from invgen.operators.ct.volumes import ConeBeamCT

WINDOWS = {  # on frequencies u in [0, 1], 1 being the Nyquist frequency of the detector
    "ram-lak": lambda u: torch.ones_like(u),
    "shepp-logan": lambda u: torch.sinc(u / 2),
    "cosine": lambda u: torch.cos(math.pi / 2 * u),
    "hamming": lambda u: 0.54 + 0.46 * torch.cos(math.pi * u),
    "hann": lambda u: 0.5 + 0.5 * torch.cos(math.pi * u),
}


def ramp_filter(y: Tensor, spacing: float, filter_name: str, turn: float = 0.0) -> Tensor:
    """Convolves the last axis with the band-limited ramp (Kak & Slaney 1988, eq. 3.29), zero-padded; units of y per mm.

    The kernel is sampled in space, not in frequency: a ramp that is zero at frequency zero would shift the mean of
    the image.

    Args:
        y: (..., D).
        spacing: of its values.
        filter_name: of the window on the ramp.
        turn: angle between neighbouring rays of a curved detector, radians, whose ramp is that times (g / sin g)^2 of the
            angle g between two rays (Kak & Slaney 1988, section 3.4.1).
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
    if turn:
        kernel = kernel / torch.sinc(n.clamp(max=count) * turn / math.pi) ** 2
    response = torch.fft.rfft(kernel).real / spacing
    response = response * WINDOWS[filter_name](torch.linspace(0, 1, padded // 2 + 1, dtype=torch.float64))
    spectrum = torch.fft.rfft(y, padded) * response.to(y)
    return torch.fft.irfft(spectrum, padded)[..., :count]


def angle_weights(angles: np.ndarray, period: float) -> np.ndarray:
    """Returns the part of the circle, in radians, that each view stands for: half the gaps to its neighbours modulo
    `period`.

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


def fan_weights(angles: np.ndarray, gamma: np.ndarray, half_fan: float) -> tuple[np.ndarray, Tensor]:
    """Returns the part of the circle of each view, (A,), and the share of each ray of a fan in its line, (A, 1 or D).

    A full turn sees each line twice; views that leave a part of the circle out count by `parker_weights`.

    Args:
        angles, gamma, half_fan: as of `parker_weights`.
    """
    weight = angle_weights(angles, 2 * math.pi)
    if abs(weight.sum() - 2 * math.pi) <= 1e-6:
        return weight, torch.full((len(angles), 1), 0.5, dtype=torch.float64)
    return weight, torch.from_numpy(parker_weights(angles, gamma, half_fan, float(np.median(weight))))


def parker_weights(angles: np.ndarray, gamma: np.ndarray, half_fan: float, step: float) -> np.ndarray:
    """Returns the weight (A, D) of each ray of a short scan, so that those of the two rays along one line sum to 1.

    The ray at view t and fan angle g is that at t + pi - 2 g and -g. From zero at either end the weight rises as the square
    of a sine (Parker 1982); a scan of more than half a turn and the fan takes all its surplus for that.

    Args:
        angles: of the views, (A,), in radians.
        gamma: the fan angle of each detector pixel, (D,), t - gamma being the direction of a ray's normal.
        half_fan: the largest fan angle of a ray that meets the image.
        step: from view to view, by which a scan may be short of what is needed.

    Raises:
        UnsupportedError: the views cover less than half a turn and twice `half_fan`.
    """
    turned = np.sort(np.mod(angles, 2 * np.pi))
    widest = np.argmax(np.diff(turned, append=turned[0] + 2 * np.pi))
    first = turned[(widest + 1) % len(turned)]
    t = np.mod(angles - first + 1e-9, 2 * np.pi) - 1e-9
    covered, needed = t.max(), np.pi + 2 * half_fan
    if covered < needed - step - 1e-6:
        raise UnsupportedError(
            f"filtered backprojection needs views over {math.degrees(needed):.0f} degrees (half a turn and the opening of "
            f"the fan), these cover {math.degrees(covered):.0f}; use pinv(y), prox(x, y) or a sampler for a limited angle"
        )
    d = max((covered - np.pi) / 2, half_fan)
    t, g = t[:, None], np.clip(gamma, -d, d)
    rise, fall = (t / np.maximum(2 * (d + s * g), 1e-9) for t, s in ((t, 1), (np.pi + 2 * d - t, -1)))
    return np.sin(np.pi / 2 * np.clip(np.minimum(rise, fall), 0, 1)) ** 2


def backproject(q: Tensor, place: Callable[[int], tuple[Tensor, Tensor | float]]) -> Tensor:
    """Returns the sum over the views of q (N, A, D) at a position of each pixel times its weight, (N, P).

    Args:
        q: filtered views.
        place: position (P,), in detector pixels, and weight of each pixel in a view, made when they are needed.
    """
    count, total = q.shape[-1], torch.zeros(())
    for view in range(q.shape[1]):
        at, weight = place(view)
        low = at.floor()
        frac = (at - low).to(q)
        index = low.long().to(q.device) + 1  # one zero on either side: rays that miss the detector see nothing
        padded = torch.nn.functional.pad(q[:, view], (1, 2))
        a, b = padded[:, index.clamp(0, count + 1)], padded[:, (index + 1).clamp(0, count + 1)]
        total = total + torch.as_tensor(weight).to(q) * torch.lerp(a, b, frac)
    return total


def backproject_volume(q: Tensor, scan: "ConeBeamCT", weight: np.ndarray) -> Tensor:
    """Returns the sum over the views of filtered rays where they meet each voxel, times 1 / distance^2, (N, D, H, W).

    Args:
        q: filtered views, (N, rows, views, columns).
        scan: a circular orbit.
        weight: of each view, (views,).
    """
    from invgen.operators.ct.projectors import volume_kernels

    (height, width), (thickness, p, _) = scan.size, scan.voxel_size
    distance, flat = scan.source_origin + scan.origin_det, scan.detector == "flat"
    x = (np.arange(width) - (width - 1) / 2) * p
    y = ((height - 1) / 2 - np.arange(height)[:, None]) * p
    offset = scan.det_offset[0] / scan.det_spacing[0] + (q.shape[1] - 1) / 2
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    filtered = np.ascontiguousarray(q.detach().to("cpu", kind).permute(2, 0, 3, 1).numpy())  # (views, N, columns, rows)
    out = np.zeros((q.shape[0], height, width, scan.in_shape[-3]), filtered.dtype)
    for view, angle, part in zip(filtered, scan.angles, weight, strict=True):
        c, s = math.cos(angle), math.sin(angle)
        depth, aside = scan.source_origin - x * s + y * c, x * c + y * s
        reach = depth if flat else np.hypot(aside, depth)
        along = distance * (aside / depth if flat else np.arctan2(aside, depth))
        columns = (along + scan.det_offset[1]) / scan.det_spacing[1] + (q.shape[3] - 1) / 2
        rows = thickness * distance / reach / scan.det_spacing[0]
        falls = part * ((scan.source_origin / depth) ** 2 if flat else 1 / reach**2)
        for one, volume in zip(view, out, strict=True):
            call = partial(volume_kernels.backproject, one, columns, rows, falls, offset, volume)
            share(call, parts(height, team(volume.size)))
    return torch.from_numpy(out.transpose(0, 3, 1, 2)).to(q.device, q.dtype)
