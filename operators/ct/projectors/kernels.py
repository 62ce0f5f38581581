"""Kernels of the matrix-free projector, compiled by numba at first use and kept on disk by it.

A line crosses the rows of the image at positions that are affine in the row's number, whatever the beam. So for one view
and one row the pixels that its rays meet, and their weights, are a table (`tables`) that both kernels walk along
the detector: `forward` adds pixels to rays, `adjoint` rays to the pixels of the row. The weights are the same numbers, so
the adjoint is the transpose. A value belongs to one thread, which adds in the order of rows or views: no atomics, and no
result that depends on the number of threads.

Values lie side by side in `lanes`, the images of a batch or the mirror images of one (`lanes`): the table is made
once for all, and its sums are vector instructions.
"""

from typing import TYPE_CHECKING

import numpy as np

from invgen.operators.ct.projectors.tables import lines_of, table
from invgen.operators.ct.projectors.vectors import collect, compiled, distribute

if TYPE_CHECKING:
    from invgen.operators.ct.projectors.lanes import Geometry


STRIPE = 8  # rows of an image that a thread adds to at a time


@compiled
def spread(
    flat: np.ndarray, places: np.ndarray, slab: np.ndarray, scale: np.ndarray | None, begin: int, end: int
) -> None:  # fmt: skip
    """Writes rows of images or of sinograms to the lanes of a slab.

    Args:
        flat: the images or sinograms.
        places: of each row and lane the place of its first value and the step to the next, (rows, lanes, 2).
        slab: (rows, across, lanes).
        scale: factors of the values, (rows, across), if any.
        begin, end: the rows of this thread.
    """
    for i in range(begin, end):
        for k in range(places.shape[1]):
            lane, at, step = slab[i, :, k], places[i, k, 0], places[i, k, 1]
            for j in range(len(lane)):
                if scale is None:
                    lane[j] = flat[at + j * step]
                else:
                    lane[j] = flat[at + j * step] * scale[i, j]


@compiled
def store(flat: np.ndarray, places: np.ndarray, slab: np.ndarray, begin: int, end: int) -> None:
    """Writes the lanes of a slab to rows of sinograms, of lanes with one place the last.

    Args:
        flat, places, slab, begin, end: as of `spread`.
    """
    for i in range(begin, end):
        for k in range(places.shape[1]):
            lane, at, step = slab[i, :, k], places[i, k, 0], places[i, k, 1]
            for j in range(len(lane)):
                flat[at + j * step] = lane[j]


@compiled
def gather(flat: np.ndarray, places: np.ndarray, slab: np.ndarray, width: int, begin: int, every: int) -> None:
    """Adds the lanes of a slab to rows or columns of images, in the order of the slab's rows, then of lanes.

    Mirror images meet in one pixel, so that a thread owns stripes of the images: number `begin`, and one of each `every`
    that follow.

    Args:
        flat, places, slab: as of `spread`.
        width: of the images.
        begin, every: the stripes of this thread.
    """
    across, height = slab.shape[1], len(flat) // width
    for top in range(begin * STRIPE, height, every * STRIPE):
        bottom = min(top + STRIPE, height)
        for i in range(slab.shape[0]):
            for k in range(places.shape[1]):
                at, step = places[i, k, 0], places[i, k, 1]
                row, lane, lo, hi = at // width, slab[i, :, k], 0, across
                if abs(step) < width:  # a row
                    if row < top or row >= bottom:
                        continue
                elif step > 0:
                    lo, hi = max(top - row, 0), min(bottom - row, across)
                else:
                    lo, hi = max(row - bottom + 1, 0), min(row - top + 1, across)
                for j in range(lo, hi):
                    flat[at + j * step] += lane[j]


@compiled
def _lines(job: np.ndarray, steps: int, across: int, scan: "Geometry", room: np.ndarray) -> tuple:
    """Writes the lines of a job, and returns its view, its rays, the lines, and the step in which the source lies.

    Args:
        job: view, first and last ray, and whether rows are stepped through.
        steps, across: of the whole image.
        scan: the geometry.
        room: for the lines, (4, detector + 1).
    """
    v, lo, hi, by_row = job
    view, last = scan.views[v], hi + scan.strip
    lines = room[0, lo:last], room[1, lo:last], room[2, lo:last], room[3, lo:last]
    lines_of(view, scan.rays[:, lo:last], by_row, steps, across, scan.pixel, *lines)
    return v, lo, hi, lines, scan.source * (view[0] if by_row else view[1])


@compiled
def forward(
    x: np.ndarray, first: int, chunk: int, steps: int, across: int, out: np.ndarray, scan: "Geometry", jobs: np.ndarray,
    lanes: tuple, begin_job: int, end_job: int,
) -> None:  # fmt: skip
    """Adds steps of an image to the rays of jobs begin_job to end_job.

    Args:
        x: the steps from number `first` on, (rows, padded row, lanes), flat.
        first: number of the first step in x.
        chunk: steps to go through at a time, which stay in the cache of a core.
        steps, across: of the whole image.
        out: (views, detector, lanes), flat.
        scan: a `Geometry`.
        jobs: view, first and last ray, and whether rows are stepped through, (J, 4).
        lanes: a tuple as long as the lanes are many, so that its type tells.
        begin_job, end_job: those of this thread.
    """
    n, count, width = len(lanes), len(scan.gain), across + 1 + scan.taps
    room, last = np.empty((4, count + 1)), first + len(x) // (width * n)
    indices, weights = np.empty(count, np.int32), np.empty((scan.taps, count), x.dtype)
    for low in range(first, last, chunk):
        for job in range(begin_job, end_job):
            v, lo, hi, lines, source = _lines(jobs[job], steps, across, scan, room)
            for i in range(low, min(low + chunk, last)):
                begin, end = table(lines, i, steps, across, scan, lo, hi, source, indices, weights)
                row, ray = (i - first) * width, (v * count + lo + begin) * n
                index = indices[begin:end]
                for t in range(0, scan.taps, 2):
                    left, right = weights[t, begin:end], weights[t + 1, begin:end]
                    for d in range(len(index)):
                        collect(out, ray + d * n, x, (row + index[d] + t) * n, left[d], right[d], lanes)


@compiled
def adjoint(
    x: np.ndarray, first: int, steps: int, across: int, y: np.ndarray, scan: "Geometry", jobs: np.ndarray, lanes: tuple,
    begin_row: int, end_row: int,
) -> None:  # fmt: skip
    """Writes what the rays of all jobs hand to the rows begin_row to end_row of some steps of an image.

    Args:
        x: the steps from number `first` on, (rows, padded row, lanes), flat.
        first: number of the first step in x.
        steps, across: of the whole image.
        y: (views, detector, lanes), flat.
        scan: a `Geometry`.
        jobs: view, first and last ray, and whether rows are stepped through, (J, 4).
        lanes: a tuple as long as the lanes are many.
        begin_row, end_row: those of this thread.
    """
    n, count, width = len(lanes), len(scan.gain), across + 1 + scan.taps
    x[begin_row * width * n : end_row * width * n] = 0
    room = np.empty((4, count + 1))
    indices, weights = np.empty(count, np.int32), np.empty((scan.taps, count), x.dtype)
    for job in range(len(jobs)):
        v, lo, hi, lines, source = _lines(jobs[job], steps, across, scan, room)
        for i in range(first + begin_row, first + end_row):
            begin, end = table(lines, i, steps, across, scan, lo, hi, source, indices, weights)
            row, ray = (i - first) * width, (v * count + lo + begin) * n
            index = indices[begin:end]
            for t in range(0, scan.taps, 2):
                left, right = weights[t, begin:end], weights[t + 1, begin:end]
                for d in range(len(index)):
                    distribute(x, (row + index[d] + t) * n, y, ray + d * n, left[d], right[d], lanes)


@compiled
def entries(steps: int, across: int, scan: "Geometry", job: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
    """Writes pixels and weights of the rays of one job.

    Args:
        steps, across: of the image.
        scan: a `Geometry`.
        job: as of `forward`.
        columns, values: numbers of the pixels and weights, (rays, steps, taps); weights of no pixel stay as they are.
    """
    count = len(scan.gain)
    indices, weights = np.empty(count, np.int32), np.empty((scan.taps, count))
    _, lo, hi, lines, source = _lines(job, steps, across, scan, np.empty((4, count + 1)))
    by_row = job[3]
    along, aside = (across, 1) if by_row else (1, steps)
    for i in range(steps):
        begin, end = table(lines, i, steps, across, scan, lo, hi, source, indices, weights)
        for d in range(begin, end):
            for t in range(scan.taps):
                j = indices[d] + t - 1
                if 0 <= j < across:
                    columns[d, i, t] = i * along + j * aside
                    values[d, i, t] = weights[t, d]
