"""Tables of the kernels in two dimensions: which pixels the rays of a view meet in one step, with what weights."""

from typing import TYPE_CHECKING

import numpy as np

from invgen.operators.ct.projectors.vectors import compiled

if TYPE_CHECKING:
    from invgen.operators.ct.projectors.lanes import Geometry

# Loops run over slices from 0 on, where the compiler sees that no index is negative: else it makes no vector instructions.


@compiled
def lines_of(
    view: np.ndarray, rays: np.ndarray, by_row: bool, steps: int, across: int, pixel: float, base: np.ndarray, slope:
    np.ndarray, main: np.ndarray, joseph: np.ndarray,
) -> None:  # fmt: skip
    """Writes where the lines of a view cross step i, base + slope i in pixels of a padded row.

    Beside it the main component of their normals, and the length of a step, mm.

    Args:
        view: cosine and sine of the angle.
        rays: of a `Geometry`, those of the lines.
        by_row: whether steps are rows.
        steps, across: of the whole image, and pixels of a step.
        pixel: size in mm.
        base, slope, main, joseph: what is written, (lines,) each.
    """
    half, middle = (steps - 1) / 2, (across - 1) / 2 + 1
    cosine, sine, distance = rays[0], rays[1], rays[2]
    for l in range(len(base)):
        x = view[0] * cosine[l] + view[1] * sine[l]
        y = view[1] * cosine[l] - view[0] * sine[l]
        a = x if by_row else -y
        b = -y if by_row else x
        slope[l] = -b / a
        base[l] = (distance[l] + b * half) / a + middle
        main[l] = abs(a)
        joseph[l] = pixel / abs(a)


@compiled
def _seen(base: np.ndarray, slope: np.ndarray, i: int, low: float, high: float) -> tuple[int, int]:
    """Returns the range of lines, whose positions rise or fall, that cross step i between low and high."""
    last = len(base) - 1
    sign = 1.0 if base[last] + slope[last] * i >= base[0] + slope[0] * i else -1.0
    first, least = (low, high) if sign > 0 else (-high, -low)
    begin, right = 0, len(base)
    while begin < right:
        middle = (begin + right) // 2
        if sign * (base[middle] + slope[middle] * i) > first:
            right = middle
        else:
            begin = middle + 1
    end, right = begin, len(base)
    while end < right:
        middle = (end + right) // 2
        if sign * (base[middle] + slope[middle] * i) >= least:
            right = middle
        else:
            end = middle + 1
    return begin, end


@compiled
def _linear(
    base: np.ndarray, slope: np.ndarray, joseph: np.ndarray, i: int, index: np.ndarray, left_weight: np.ndarray,
    right_weight: np.ndarray,
) -> None:  # fmt: skip
    """Writes Joseph's two pixels and weights of each ray in step i."""
    for d in range(len(base)):
        p = base[d] + slope[d] * i
        left = np.int32(p)
        f = p - left
        index[d] = left
        left_weight[d] = (1 - f) * joseph[d]
        right_weight[d] = f * joseph[d]


@compiled
def _ramp(u: float) -> float:
    return max(u, 0.0) * max(u, 0.0)


@compiled
def _shadow(u: float, a: float, b: float) -> float:
    """Returns the part of a unit pixel, whose shadow has half-widths a and b, on the lower side of a line at distance u.

    The integral of a trapezoid; of a box where the line is parallel to a side.
    """
    a, b = max(a, b), max(min(a, b), 1e-9 * max(a, b))
    u = min(max(u, -(a + b)), a + b)
    slanted = (_ramp(u + a + b) - _ramp(u + a - b) - _ramp(u - a + b) + _ramp(u - a - b)) / (8 * a * b)
    straight = min(max((u + a) / (2 * a), 0.0), 1.0)
    return straight if b <= 1e-9 * a else slanted


@compiled
def _strip(
    base: np.ndarray, slope: np.ndarray, main: np.ndarray, i: int, across: int, scale: np.ndarray, index: np.ndarray,
    weight: np.ndarray,
) -> None:  # fmt: skip
    """Writes the pixels that the strip between lines d and d + 1 meets in step i, and the area that it shares with each."""
    after, lean, bulk = base[1:], slope[1:], main[1:]
    for d in range(len(index)):
        p, q = base[d] + slope[d] * i, after[d] + lean[d] * i
        first = max(min(p, q) - (1 + max(abs(slope[d]), abs(lean[d]))) / 2, 0.0)
        index[d] = np.int32(min(first, float(across))) + 1  # what lies beyond the last pixel stays within the padded row
    for t in range(len(weight)):
        part = weight[t]
        for d in range(len(index)):
            j = index[d] + t
            p, q = base[d] + slope[d] * i - j, after[d] + lean[d] * i - j
            lower = _shadow(p * main[d], main[d] / 2, abs(slope[d]) * main[d] / 2)
            upper = _shadow(q * bulk[d], bulk[d] / 2, abs(lean[d]) * bulk[d] / 2)
            part[d] = abs(upper - lower) * scale[d] if j <= across else 0.0


@compiled
def table(
    lines: tuple, i: int, steps: int, across: int, scan: "Geometry", lo: int, hi: int, source: float, index: np.ndarray,
    weight: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    """Writes pixels and weights of step i and returns the range of rays that it holds.

    Args:
        lines: what `lines_of` wrote, of the rays lo to hi.
        i: the step, of `steps` with `across` pixels each.
        steps, across: of the whole image.
        scan: the geometry.
        lo, hi: the rays of the job.
        source: the step in which the source lies, from the middle one.
        index, weight: the table, (rays,) and (taps, rays).
    """
    base, slope, main, joseph = lines
    if not scan.strip:
        begin, end = _seen(base, slope, i, 0.0, across + 1.0)
        part = slice(begin, end)
        _linear(base[part], slope[part], joseph[part], i, index[part], weight[0, begin:end], weight[1, begin:end])
        return begin, end
    begin, end = _seen(base, slope, i, -1.0, across + 2.0)
    begin, end = max(begin - 1, 0), min(end, hi - lo)
    scale = np.empty(max(end - begin, 0))
    for d in range(len(scale)):
        scale[d] = scan.gain[lo + begin + d] * scan.pixel * scan.pixel
        if scan.source > 0:
            scale[d] *= (main[begin + d] + main[begin + d + 1]) / (2 * scan.pixel * abs(i - (steps - 1) / 2 - source))
    part = slice(begin, end + 1)
    _strip(base[part], slope[part], main[part], i, across, scale, index[begin:end], weight[:, begin:end])
    return begin, end
