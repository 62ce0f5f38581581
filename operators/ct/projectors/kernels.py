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


@compiled
def spread(flat: np.ndarray, sides: np.ndarray, slab: np.ndarray) -> None:
    """Writes rows of images to the lanes of a slab; row i of lane k begins at sides[k, 0] + i sides[k, 1] of `flat`.

    Args:
        flat: the images.
        sides: of each lane the place of its first value and the steps to the next row and to the next value, (lanes, 3).
        slab: (rows, across, lanes).
    """
    for i in range(slab.shape[0]):
        for k in range(len(sides)):
            lane, at, step = slab[i, :, k], sides[k, 0] + i * sides[k, 1], sides[k, 2]
            for j in range(len(lane)):
                lane[j] = flat[at + j * step]


@compiled
def gather(flat: np.ndarray, sides: np.ndarray, slab: np.ndarray) -> None:
    """Adds the lanes of a slab to rows of images; arguments as of `spread`."""
    for i in range(slab.shape[0]):
        for k in range(len(sides)):
            lane, at, step = slab[i, :, k], sides[k, 0] + i * sides[k, 1], sides[k, 2]
            for j in range(len(lane)):
                flat[at + j * step] += lane[j]


@compiled
def forward(
    x: np.ndarray, first: int, steps: int, across: int, out: np.ndarray, scan: "Geometry", jobs: np.ndarray, begin_job: int,
    end_job: int, lanes: tuple,
) -> None:  # fmt: skip
    """Adds steps of an image to the rays of jobs begin_job to end_job.

    Args:
        x: the steps from number `first` on, (rows, padded row, lanes), flat.
        first: number of the first step in x.
        steps, across: of the whole image.
        out: (views, detector, lanes), flat.
        scan: a `Geometry`.
        jobs: view, first and last ray, and whether rows are stepped through, (J, 4).
        begin_job, end_job: those of this thread.
        lanes: a tuple as long as the lanes are many, so that its type tells.
    """
    n, count, width = len(lanes), len(scan.gain), across + 1 + scan.taps
    room = np.empty((4, count + 1))
    indices, weights = np.empty(count, np.int32), np.empty((scan.taps, count), x.dtype)
    for job in range(begin_job, end_job):
        v, lo, hi, by_row = jobs[job]
        view, last = scan.views[v], hi + scan.strip
        lines = room[0, lo:last], room[1, lo:last], room[2, lo:last], room[3, lo:last]
        lines_of(view, scan.rays[:, lo:last], by_row, steps, across, scan.pixel, *lines)
        source = scan.source * (view[0] if by_row else view[1])
        for i in range(first, first + len(x) // (width * n)):
            begin, end = table(lines, i, steps, across, scan, lo, hi, source, indices, weights)
            row, ray = (i - first) * width, (v * count + lo + begin) * n
            index = indices[begin:end]
            for t in range(0, scan.taps, 2):
                left, right = weights[t, begin:end], weights[t + 1, begin:end]
                for d in range(len(index)):
                    collect(out, ray + d * n, x, (row + index[d] + t) * n, left[d], right[d], lanes)


@compiled
def adjoint(
    x: np.ndarray, first: int, steps: int, across: int, y: np.ndarray, scan: "Geometry", jobs: np.ndarray, begin_step: int,
    end_step: int, lanes: tuple,
) -> None:  # fmt: skip
    """Adds the rays of all jobs to the steps begin_step to end_step of an image.

    Args:
        x: the steps from number `first` on, (rows, padded row, lanes), flat.
        first: number of the first step in x.
        steps, across: of the whole image.
        y: (views, detector, lanes), flat.
        scan: a `Geometry`.
        jobs: view, first and last ray, and whether rows are stepped through, (J, 4).
        begin_step, end_step: those of this thread.
        lanes: a tuple as long as the lanes are many.
    """
    n, count, width = len(lanes), len(scan.gain), across + 1 + scan.taps
    room = np.empty((4, count + 1))
    indices, weights = np.empty(count, np.int32), np.empty((scan.taps, count), x.dtype)
    for job in range(len(jobs)):
        v, lo, hi, by_row = jobs[job]
        view, last = scan.views[v], hi + scan.strip
        lines = room[0, lo:last], room[1, lo:last], room[2, lo:last], room[3, lo:last]
        lines_of(view, scan.rays[:, lo:last], by_row, steps, across, scan.pixel, *lines)
        source = scan.source * (view[0] if by_row else view[1])
        for i in range(begin_step, end_step):
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
    v, lo, hi, by_row = job
    view, last = scan.views[v], hi + scan.strip
    indices, weights, room = np.empty(count, np.int32), np.empty((scan.taps, count)), np.empty((4, last - lo))
    lines = room[0], room[1], room[2], room[3]
    lines_of(view, scan.rays[:, lo:last], by_row, steps, across, scan.pixel, *lines)
    source = scan.source * (view[0] if by_row else view[1])
    along, aside = (across, 1) if by_row else (1, steps)
    for i in range(steps):
        begin, end = table(lines, i, steps, across, scan, lo, hi, source, indices, weights)
        for d in range(begin, end):
            for t in range(scan.taps):
                j = indices[d] + t - 1
                if 0 <= j < across:
                    columns[d, i, t] = i * along + j * aside
                    values[d, i, t] = weights[t, d]
