"""Sparse projection matrices of computed tomography, built in float64 with numpy.

A ray is the line ``nx * x + ny * y = s`` with a unit normal ``(nx, ny)``; lengths are in mm. Pixel (row i, column j)
of an H x W image of pixel size p has its centre at x = (j - (W - 1) / 2) p, y = ((H - 1) / 2 - i) p: the origin is
the middle of the image, row 0 is on top, y points up (the convention of the ASTRA toolbox). A matrix has one row per
ray, one column per pixel and entries in mm, so that matrix @ image is a line integral.

:func:`linear` is Joseph's method (IEEE Trans. Med. Imag. 1(3), 1982): one step per image row (or column, whichever
the ray crosses more steeply), linear interpolation across. :func:`strip` averages the line integral over the width of
a detector pixel: the area that the strip shares with each pixel divided by the strip's width (the footprint of a
square pixel is a trapezoid).
"""

import numpy as np

Csr = tuple[np.ndarray, np.ndarray, np.ndarray]  # indptr (rows + 1,) int64, indices (nnz,) int32, values (nnz,) float64
_CHUNK = 1 << 20  # entries made at a time: bounds the temporary memory to some tens of MB
_TINY = 1e-12  # relative weight below which an entry is rounding error of a ray through pixel centres


def linear(normals: np.ndarray, s: np.ndarray, shape: tuple[int, int], pixel_size: float) -> Csr:
    """Returns Joseph's matrix of rays through an image.

    Args:
        normals: of the rays, unit vectors, (R, 2).
        s: signed distances from the origin, (R,), in mm.
        shape: of the image, in pixels.
        pixel_size: in mm.
    """
    height, width = shape
    a = normals * (1.0, -1.0)  # in (x, down) coordinates: a0 x + a1 v = s, so that rows and columns play the same part
    steep = np.abs(a[:, 0]) >= np.abs(a[:, 1])
    counts, indices, values = np.zeros(len(s), np.int64), [], []
    # which component of a is divided by, the other, steps, pixels across, and their strides in the flattened image
    by_row, by_column = (0, 1, height, width, width, 1), (1, 0, width, height, 1, width)
    starts = _run_starts(steep)
    for begin, end in zip(starts[:-1], starts[1:], strict=True):
        main, other, steps, across, step_stride, across_stride = by_row if steep[begin] else by_column
        t = np.arange(steps) - (steps - 1) / 2
        size = max(1, _CHUNK // (2 * steps))
        for lo in range(begin, end, size):
            rays = slice(lo, min(lo + size, end))
            position = (s[rays, None] / pixel_size - a[rays, other, None] * t) / a[rays, main, None] + (across - 1) / 2
            low = np.floor(position)
            frac = position - low
            index = np.stack([low, low + 1], axis=-1)
            weight = np.stack([1 - frac, frac], axis=-1)
            keep = (index >= 0) & (index < across) & (weight > _TINY)
            column = (np.arange(steps) * step_stride)[None, :, None] + index * across_stride
            counts[rays] = keep.sum(axis=(1, 2))
            indices.append(column[keep].astype(np.int32))
            values.append((weight * (pixel_size / np.abs(a[rays, main]))[:, None, None])[keep])
    return _indptr(counts), _join(indices, np.int32), _join(values, np.float64)


def strip(angles: np.ndarray, s: np.ndarray, width: float, shape: tuple[int, int], pixel_size: float) -> Csr:
    """Returns the strip matrix of a parallel beam.

    Args:
        angles: of the views, (A,), in radians.
        s: the centres of the strips at every angle, equidistant, (D,), in mm.
        width: of a strip, in mm.
        shape: of the image, in pixels.
        pixel_size: in mm.
    """
    import scipy.sparse

    height, columns = shape
    x = (np.arange(columns) - (columns - 1) / 2) * pixel_size
    y = ((height - 1) / 2 - np.arange(height)) * pixel_size
    views = []
    for angle in angles:
        c, d = np.cos(angle), np.sin(angle)
        centre = (x * c + (y * d)[:, None]).ravel()
        a, b = pixel_size * max(abs(c), abs(d)) / 2, pixel_size * min(abs(c), abs(d)) / 2
        first = np.floor((centre - (a + b) - s[0]) / width + 0.5).astype(np.int64)
        edges = first[:, None] + np.arange(int(np.ceil(2 * (a + b) / width)) + 2)
        area = np.diff(_footprint_integral(s[0] + (edges - 0.5) * width - centre[:, None], a, b), axis=1) * pixel_size**2
        bins = edges[:, :-1]
        keep = (bins >= 0) & (bins < len(s)) & (area > _TINY * pixel_size**2)
        pixel = np.broadcast_to(np.arange(len(centre))[:, None], bins.shape)[keep]
        size = (len(s), len(centre))
        views.append(scipy.sparse.csr_array((area[keep] / width, (bins[keep], pixel)), shape=size))
    matrix = scipy.sparse.csr_array(scipy.sparse.vstack(views, format="csr"))
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data


def transpose(matrix: Csr, columns: int) -> Csr:
    """Returns the transposed matrix of the same numbers, so that the adjoint is exact; the entries of a row are in
    order."""
    import scipy.sparse

    indptr, indices, values = matrix
    turned = scipy.sparse.csr_array((values, indices, indptr), shape=(len(indptr) - 1, columns)).T.tocsr()
    return turned.indptr.astype(np.int64), turned.indices.astype(np.int32), turned.data


def _footprint_integral(u: np.ndarray, a: float, b: float) -> np.ndarray:
    """Returns the integral from -inf to u of the convolution of two boxes of half-widths a >= b, a trapezoid of mass 1."""
    if b < 1e-9 * a:  # the footprint of an axis-parallel view is a box
        return np.clip((u + a) / (2 * a), 0.0, 1.0)
    u = np.clip(u, -(a + b), a + b)

    def half_square(v: np.ndarray) -> np.ndarray:
        return np.square(np.maximum(v, 0.0)) / 2

    return (half_square(u + a + b) - half_square(u + a - b) - half_square(u - a + b) + half_square(u - a - b)) / (4 * a * b)


def _run_starts(flags: np.ndarray) -> np.ndarray:
    """Returns borders of the runs of equal flags, first 0, last len(flags)."""
    return np.concatenate([[0], np.flatnonzero(np.diff(flags)) + 1, [len(flags)]])


def _indptr(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)])


def _join(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
