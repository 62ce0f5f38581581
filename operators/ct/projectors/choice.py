"""The projector of a scan: kernels without a matrix, or the matrix where it is small or faster."""

import numpy as np
from torch import Tensor

from invgen.errors import OptionError
from invgen.operators.ct.projectors.matrix_free import MatrixFree
from invgen.operators.ct.projectors.product import MatrixLike
from invgen.operators.ct.projectors.sparse import Csr, SparseMatrix

# Measured by `invgen bench study ct-speed` with one thread: a matrix of a million entries (128 pixels, 23 views) is as fast
# as the kernels for one image and 1.3 times as fast for 8, and is built in half a second; from 16 images on one of seven
# million (256 pixels, 60 views) is 1.4 times as fast forward and 2.5 times backward. Elsewhere the kernels are faster.
SMALL = 1 << 20  # entries
MANY = 16  # images
TINY = 1e-12  # of a pixel's size: smaller weights are the rounding error of a ray through middles of pixels
MATRIX_BYTES = 100 * 2**20  # of a matrix, with its transpose, that is made unasked


class Projector(MatrixLike):
    """The product with the matrix of a scan and with its transpose, by the way that suits the size and the batch.

    Args:
        matrix: the explicit matrix.
        free: the same without it, for the CPU; None where the matrix alone is to be used.
        entries: of the matrix, an estimate.
        max_bytes: what the matrix and its transpose may take in single precision.
    """

    def __init__(self, matrix: SparseMatrix, free: MatrixFree | None, entries: float, max_bytes: int) -> None:
        self.matrix, self.free, self.entries, self.max_bytes = matrix, free, entries, max_bytes
        self.shape = matrix.shape

    def apply(self, x: Tensor, turned: bool) -> Tensor:
        free = self.free if x.device.type == "cpu" else None
        few = len(x) < MANY and self.entries > SMALL
        if free is not None and (few or 16 * self.entries > MATRIX_BYTES):
            return free.apply(x, turned)
        self.check_memory()
        return self.matrix.apply(x, turned)

    def check_memory(self) -> None:
        """Refuses a matrix that would not fit, with the numbers."""
        if 16 * self.entries > self.max_bytes or self.entries >= 2**31:
            raise OptionError(
                f"the sparse matrix of {self.shape[0]} rays and {self.shape[1]} pixels needs about "
                f"{16 * self.entries / 2**30:.1f} GiB, above the limit of {self.max_bytes / 2**30:.1f} GiB; take "
                "backend='auto' on the CPU, which works without it, or raise max_bytes of the operator's class"
            )


def matrix_of(free: MatrixFree) -> Csr:
    """Returns the matrix of a projector, in float64, with the weights of its kernels."""
    from invgen.operators.ct.projectors import kernels

    scan, size, beam = free.plain, free.size, free.beam
    jobs = np.concatenate(list(scan.jobs.values()))
    counts, columns, values = np.zeros(free.shape[0], np.int64), [], []
    for job in jobs[np.lexsort((jobs[:, 1], jobs[:, 0]))]:  # in the order of the rays
        view, lo, hi, by_row = job
        steps, across = size if by_row else size[::-1]
        column, value = (
            np.empty((hi - lo, steps, scan.geometry.taps), np.int32),
            np.zeros((hi - lo, steps, scan.geometry.taps)),
        )
        kernels.entries(steps, across, scan.geometry, job, column, value)
        kept = value > TINY * beam.pixel
        counts[view * beam.det_count + lo : view * beam.det_count + hi] = kept.sum(axis=(1, 2))
        columns.append(column[kept])
        values.append(value[kept])
    return np.concatenate([[0], np.cumsum(counts)]), np.concatenate(columns), np.concatenate(values)
