"""Kernels of the matrix-free projector, compiled by numba at first use and kept on disk by it.

A line crosses the rows of the image at positions that are affine in the row's number, whatever the beam. So for one view
and one row the pixels that its rays meet, and their weights, are a table (`_linear`, `_strip`) that both kernels walk along
the detector: `forward` adds pixels to rays, `adjoint` rays to the pixels of the row. The weights are the same numbers, so
the adjoint is the transpose. A value belongs to one thread, which adds in the order of rows or views: no atomics, and no
result that depends on the number of threads.

Values lie side by side in `lanes`, the images of a batch or the mirror images of one (`_matrix_free`): the table is made
once for all, and its sums are vector instructions.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from invgen.operators.ct._matrix_free import Geometry

_vectors: Any = intrinsic  # what it decorates takes no `typing` when it is called, which type checkers cannot see


def _compiled(function: Any) -> Any:
    """Compiles at the first call, without the interpreter's lock; kept on disk where a folder can be written."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})(function)
    except RuntimeError:  # no folder to keep it in
        return njit(nogil=True, error_model="numpy", fastmath={"contract"})(function)


def _vector(context: Any, builder: Any, kind: Any, array: Any, start: Any, lanes: int, number: int) -> Any:
    """Returns the pointer to the `number`-th vector of `lanes` values from array[start] on."""
    data = context.make_array(kind)(context, builder, array).data
    scalar = context.get_data_type(kind.dtype)
    pointer = builder.gep(data, [builder.add(start, context.get_constant(types.intp, number * lanes))])
    return builder.bitcast(pointer, ir.VectorType(scalar, lanes).as_pointer())


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    vector = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    )


@_vectors
def _collect(typing: Any, out: Any, o: Any, x: Any, k: Any, w0: Any, w1: Any, lanes: Any) -> Any:
    """out[o] += w0 x[k] + w1 x[k + 1], all of them vectors of len(lanes) neighbouring values."""
    signature = types.void(out, types.intp, x, types.intp, out.dtype, out.dtype, lanes)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n, size = len(lanes), out.dtype.bitwidth // 8
        target = _vector(context, builder, out, args[0], args[1], n, 0)
        taps = [builder.load(_vector(context, builder, x, args[2], args[3], n, t), align=size) for t in (0, 1)]
        total = builder.load(target, align=size)
        for tap, weight in zip(taps, args[4:6], strict=True):
            product = builder.fmul(tap, _splat(builder, weight, n), flags=("contract",))
            total = builder.fadd(total, product, flags=("contract",))
        builder.store(total, target, align=size)
        return context.get_dummy_value()

    return signature, generate


@_vectors
def _distribute(typing: Any, x: Any, k: Any, y: Any, o: Any, w0: Any, w1: Any, lanes: Any) -> Any:
    """x[k] += w0 y[o], x[k + 1] += w1 y[o], all of them vectors of len(lanes) neighbouring values."""
    signature = types.void(x, types.intp, y, types.intp, x.dtype, x.dtype, lanes)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n, size = len(lanes), x.dtype.bitwidth // 8
        value = builder.load(_vector(context, builder, y, args[2], args[3], n, 0), align=size)
        targets = [_vector(context, builder, x, args[0], args[1], n, t) for t in (0, 1)]
        old = [builder.load(target, align=size) for target in targets]
        for before, target, weight in zip(old, targets, args[4:6], strict=True):
            product = builder.fmul(value, _splat(builder, weight, n), flags=("contract",))
            builder.store(builder.fadd(before, product, flags=("contract",)), target, align=size)
        return context.get_dummy_value()

    return signature, generate


@_compiled
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


@_compiled
def gather(flat: np.ndarray, sides: np.ndarray, slab: np.ndarray) -> None:
    """Adds the lanes of a slab to rows of images; arguments as of `spread`."""
    for i in range(slab.shape[0]):
        for k in range(len(sides)):
            lane, at, step = slab[i, :, k], sides[k, 0] + i * sides[k, 1], sides[k, 2]
            for j in range(len(lane)):
                flat[at + j * step] += lane[j]


# Loops run over slices from 0 on, where the compiler sees that no index is negative: else it makes no vector instructions.


@_compiled
def _lines(
    view: np.ndarray, rays: np.ndarray, by_row: bool, steps: int, across: int, pixel: float, base: np.ndarray, slope:
    np.ndarray, main: np.ndarray, joseph: np.ndarray,
) -> None:  # fmt: skip
    """Writes where the lines of a view cross step i, base + slope i in pixels of a padded row.

    Beside it the main component of their normals, and the length of a step, mm.
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


@_compiled
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


@_compiled
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


@_compiled
def _ramp(u: float) -> float:
    return max(u, 0.0) * max(u, 0.0)


@_compiled
def _shadow(u: float, a: float, b: float) -> float:
    """Returns the part of a unit pixel, whose shadow has half-widths a and b, on the lower side of a line at distance u.

    The integral of a trapezoid; of a box where the line is parallel to a side.
    """
    a, b = max(a, b), max(min(a, b), 1e-9 * max(a, b))
    u = min(max(u, -(a + b)), a + b)
    slanted = (_ramp(u + a + b) - _ramp(u + a - b) - _ramp(u - a + b) + _ramp(u - a - b)) / (8 * a * b)
    straight = min(max((u + a) / (2 * a), 0.0), 1.0)
    return straight if b <= 1e-9 * a else slanted


@_compiled
def _strip(
    base: np.ndarray, slope: np.ndarray, main: np.ndarray, i: int, across: int, scale: np.ndarray, index: np.ndarray,
    weight: np.ndarray,
) -> None:  # fmt: skip
    """Writes the pixels that the strip between lines d and d + 1 meets in step i, and the area that it shares with each."""
    after, lean, bulk = base[1:], slope[1:], main[1:]
    for d in range(len(index)):
        p, q = base[d] + slope[d] * i, after[d] + lean[d] * i
        index[d] = np.int32(max(min(p, q) - (1 + max(abs(slope[d]), abs(lean[d]))) / 2, 0.0)) + 1
    for t in range(len(weight)):
        part = weight[t]
        for d in range(len(index)):
            j = index[d] + t
            p, q = base[d] + slope[d] * i - j, after[d] + lean[d] * i - j
            lower = _shadow(p * main[d], main[d] / 2, abs(slope[d]) * main[d] / 2)
            upper = _shadow(q * bulk[d], bulk[d] / 2, abs(lean[d]) * bulk[d] / 2)
            part[d] = abs(upper - lower) * scale[d] if j <= across else 0.0


@_compiled
def _table(
    lines: tuple, i: int, steps: int, across: int, scan: "Geometry", lo: int, hi: int, source: float, index: np.ndarray,
    weight: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    """Writes pixels and weights of step i and returns the range of rays that it holds.

    Args:
        lines: what `_lines` wrote, of the rays lo to hi.
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


@_compiled
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
        _lines(view, scan.rays[:, lo:last], by_row, steps, across, scan.pixel, *lines)
        source = scan.source * (view[0] if by_row else view[1])
        for i in range(first, first + len(x) // (width * n)):
            begin, end = _table(lines, i, steps, across, scan, lo, hi, source, indices, weights)
            row, ray = (i - first) * width, (v * count + lo + begin) * n
            index = indices[begin:end]
            for t in range(0, scan.taps, 2):
                left, right = weights[t, begin:end], weights[t + 1, begin:end]
                for d in range(len(index)):
                    _collect(out, ray + d * n, x, (row + index[d] + t) * n, left[d], right[d], lanes)


@_compiled
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
        _lines(view, scan.rays[:, lo:last], by_row, steps, across, scan.pixel, *lines)
        source = scan.source * (view[0] if by_row else view[1])
        for i in range(begin_step, end_step):
            begin, end = _table(lines, i, steps, across, scan, lo, hi, source, indices, weights)
            row, ray = (i - first) * width, (v * count + lo + begin) * n
            index = indices[begin:end]
            for t in range(0, scan.taps, 2):
                left, right = weights[t, begin:end], weights[t + 1, begin:end]
                for d in range(len(index)):
                    _distribute(x, (row + index[d] + t) * n, y, ray + d * n, left[d], right[d], lanes)


@_compiled
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
    _lines(view, scan.rays[:, lo:last], by_row, steps, across, scan.pixel, *lines)
    source = scan.source * (view[0] if by_row else view[1])
    along, aside = (across, 1) if by_row else (1, steps)
    for i in range(steps):
        begin, end = _table(lines, i, steps, across, scan, lo, hi, source, indices, weights)
        for d in range(begin, end):
            for t in range(scan.taps):
                j = indices[d] + t - 1
                if 0 <= j < across:
                    columns[d, i, t] = i * along + j * aside
                    values[d, i, t] = weights[t, d]
