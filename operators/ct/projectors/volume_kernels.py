"""Kernels of the projector of volumes, compiled by numba at first use and kept on disk by it.

The pixels of a detector column and the source of a view lie in a plane, and their rays cross the planes of the volume, of
the axis along which the column looks, at positions that are affine in the plane's number (`lines_of`). So each plane adds
to each ray what four voxels interpolate (Joseph 1982), and the adjoint hands each voxel the same weights. Where columns lie
along the last axis of a plane, as in every scanner whose detector stands upright, the rays of a column meet a plane
on one line: two rows of voxels become one, and each ray takes two values of it.

A ray belongs to one thread, a plane too, and sums go in the order of planes or views: no atomics, and no result that
depends on the number of threads.
"""

import numpy as np

from invgen.operators.ct.projectors.vectors import compiled


@compiled
def lines_of(
    source: np.ndarray, origin: np.ndarray, step: np.ndarray, axes: tuple, middles: np.ndarray,
    voxel: np.ndarray, room: np.ndarray,
) -> None:  # fmt: skip
    """Writes where the rays of a column cross plane i: base + slope i along both axes of a plane, and the length of a step.

    Args:
        source: where the rays come from, (3,), in voxels along (z, y, x).
        origin, step: the first pixel of the column and the way to the next, likewise.
        axes: the axis from plane to plane, and those of its rows and columns.
        middles: number of the middle plane, row and column, from the first one of a padded plane, (3,).
        voxel: sizes along (z, y, x), mm.
        room: base and slope of rows, of columns, and the length in mm, (5, pixels).
    """
    m, a, b = axes
    for v in range(room.shape[1]):
        pm, pa, pb = origin[m] + v * step[m], origin[a] + v * step[a], origin[b] + v * step[b]
        dm, da, db = pm - source[m], pa - source[a], pb - source[b]
        room[1, v], room[3, v] = da / dm, db / dm
        room[0, v] = pa - da / dm * (pm + middles[0]) + middles[1]
        room[2, v] = pb - db / dm * (pm + middles[0]) + middles[2]
        room[4, v] = np.sqrt((dm * voxel[m]) ** 2 + (da * voxel[a]) ** 2 + (db * voxel[b]) ** 2) / abs(dm)


@compiled
def _inside(base: np.ndarray, slope: np.ndarray, i: int, size: float, lo: int, hi: int) -> tuple[int, int]:
    """Returns the part of lo to hi whose positions in plane i, which rise or fall, lie between 0 and size."""
    while lo < hi and not 0.0 < base[lo] + slope[lo] * i < size:
        lo += 1
    while lo < hi and not 0.0 < base[hi - 1] + slope[hi - 1] * i < size:
        hi -= 1
    return lo, hi


@compiled
def _column(
    view: int, u: int, scan: tuple, axes: tuple, middles: np.ndarray, room: np.ndarray
) -> tuple[bool, float, float]:  # fmt: skip
    """Writes the lines of a column as `lines_of` does, and returns whether all rays have the same row in every plane, and
    base and slope of the first ray's row."""
    sources, origins, steps, voxel = scan
    lines_of(sources[view], origins[view, u], steps[view], axes, middles, voxel, room)
    last = room.shape[1] - 1
    upright = abs(room[0, last] - room[0, 0]) < 1e-9 and abs(room[1, last] - room[1, 0]) < 1e-12
    return upright, room[0, 0], room[1, 0]


@compiled
def forward(
    slab: np.ndarray, first: int, out: np.ndarray, scan: tuple, axes: tuple, middles: np.ndarray, jobs: np.ndarray,
    begin: int, end: int,
) -> None:  # fmt: skip
    """Adds planes of a volume to the rays of jobs begin to end.

    Args:
        slab: the planes from number `first` on, with a border of zeros, (planes, rows + 2, columns + 2).
        first: number of the first plane.
        out: (views, detector columns, detector rows).
        scan: sources (V, 3), column origins (V, U, 3), steps (V, 3), sizes of voxels (3,).
        axes, middles: as of `lines_of`.
        jobs: view and detector column, (J, 2).
        begin, end: those of this thread.
    """
    pixels, rows, columns = out.shape[2], slab.shape[1], slab.shape[2]
    room, line = np.empty((5, pixels)), np.zeros(columns + 1, slab.dtype)
    for job in range(begin, end):
        view, u = jobs[job]
        upright, start, lean = _column(view, u, scan, axes, middles, room)
        ray = out[view, u]
        base, slope, length = room[2], room[3], room[4]
        for i in range(len(slab)):
            lo, hi = _inside(base, slope, first + i, columns - 1.0, 0, pixels)
            if lo >= hi:
                continue
            if upright:
                p = start + lean * (first + i)
                if not 0.0 < p < rows - 1.0:
                    continue
                row = np.int32(p)
                f = slab.dtype.type(p - row)
                near, far = slab[i, row], slab[i, row + 1]
                for k in range(columns):
                    line[k] = near[k] + f * (far[k] - near[k])
                part, p0, p1, weight = ray[lo:hi], base[lo:hi], slope[lo:hi], length[lo:hi]
                for v in range(len(part)):
                    q = p0[v] + p1[v] * (first + i)
                    k = np.uint32(q)
                    g = slab.dtype.type(q - k)
                    part[v] += slab.dtype.type(weight[v]) * (line[k] + g * (line[k + np.uint32(1)] - line[k]))
            else:
                for v in range(lo, hi):
                    p, q = room[0, v] + room[1, v] * (first + i), base[v] + slope[v] * (first + i)
                    if 0.0 < p < rows - 1.0 and 0.0 < q < columns - 1.0:
                        row, k = np.int32(p), np.int32(q)
                        f, g = p - row, q - k
                        near = (1 - g) * slab[i, row, k] + g * slab[i, row, k + 1]
                        far = (1 - g) * slab[i, row + 1, k] + g * slab[i, row + 1, k + 1]
                        ray[v] += length[v] * ((1 - f) * near + f * far)


@compiled
def adjoint(
    slab: np.ndarray, first: int, y: np.ndarray, scan: tuple, axes: tuple, middles: np.ndarray, jobs: np.ndarray,
    begin: int, end: int,
) -> None:  # fmt: skip
    """Writes what the rays of all jobs hand to planes of a slab, the transpose of `forward`.

    Args:
        slab, first, scan, axes, middles, jobs: as of `forward`.
        y: (views, detector columns, detector rows).
        begin, end: the planes of this thread.
    """
    pixels, rows, columns = y.shape[2], slab.shape[1], slab.shape[2]
    room, line = np.empty((5, pixels)), np.zeros(columns + 1, slab.dtype)
    slab[begin:end] = 0
    for job in range(len(jobs)):
        view, u = jobs[job]
        upright, start, lean = _column(view, u, scan, axes, middles, room)
        ray = y[view, u]
        base, slope, length = room[2], room[3], room[4]
        for i in range(begin, end):
            lo, hi = _inside(base, slope, first + i, columns - 1.0, 0, pixels)
            if lo >= hi:
                continue
            if upright:
                p = start + lean * (first + i)
                if not 0.0 < p < rows - 1.0:
                    continue
                row = np.int32(p)
                f = slab.dtype.type(p - row)
                line[:] = 0
                part, p0, p1, weight = ray[lo:hi], base[lo:hi], slope[lo:hi], length[lo:hi]
                for v in range(len(part)):
                    q = p0[v] + p1[v] * (first + i)
                    k = np.uint32(q)
                    g = slab.dtype.type(q - k)
                    value = slab.dtype.type(weight[v]) * part[v]
                    line[k] += value - g * value
                    line[k + np.uint32(1)] += g * value
                near, far = slab[i, row], slab[i, row + 1]
                for k in range(columns):
                    near[k] += line[k] - f * line[k]
                    far[k] += f * line[k]
            else:
                for v in range(lo, hi):
                    p, q = room[0, v] + room[1, v] * (first + i), base[v] + slope[v] * (first + i)
                    if 0.0 < p < rows - 1.0 and 0.0 < q < columns - 1.0:
                        row, k = np.int32(p), np.int32(q)
                        f, g = p - row, q - k
                        near, far = length[v] * ray[v] * (1 - f), length[v] * ray[v] * f
                        slab[i, row, k] += near * (1 - g)
                        slab[i, row, k + 1] += near * g
                        slab[i, row + 1, k] += far * (1 - g)
                        slab[i, row + 1, k + 1] += far * g


@compiled
def backproject(
    q: np.ndarray, columns: np.ndarray, scale: np.ndarray, weight: np.ndarray, offset: float, out: np.ndarray, begin: int,
    end: int,
) -> None:  # fmt: skip
    """Adds one filtered view to voxels: weight times the value where their rays meet the detector, interpolated.

    Args:
        q: (detector columns, detector rows).
        columns: where the ray through each pixel of a slice meets the detector, in columns, (H, W).
        scale: detector rows from slice to slice there, (H, W).
        weight: of each pixel, (H, W).
        offset: the detector row of the plane through the source, in rows.
        out: (H, W, slices), whose rows `begin` to `end` are changed.
        begin, end: those of this thread.
    """
    slices, rows = out.shape[2], q.shape[1]
    line = np.zeros(rows + 2, q.dtype)
    for i in range(begin, end):
        for j in range(out.shape[1]):
            p = columns[i, j]
            c = int(np.floor(p))
            if not -1 <= c < len(q):
                continue
            f = q.dtype.type(p - c)
            near, far = q[max(c, 0)], q[min(c + 1, len(q) - 1)]
            left = q.dtype.type(1) - f if c >= 0 else q.dtype.type(0)
            right = f if c + 1 < len(q) else q.dtype.type(0)
            for r in range(rows):
                line[r + 1] = left * near[r] + right * far[r]
            column = out[i, j]
            for k in range(slices):
                at = offset + (k - (slices - 1) / 2) * scale[i, j] + 1
                if 0 < at < rows + 1:
                    r = np.uint32(at)
                    g = q.dtype.type(at - r)
                    column[k] += q.dtype.type(weight[i, j]) * (line[r] + g * (line[r + np.uint32(1)] - line[r]))
