"""The projector of a scan: kernels without a matrix, or the matrix where it is faster, whole or folded by symmetry."""

import numpy as np
from torch import Tensor

from invgen.errors import OptionError
from invgen.operators.ct.projectors.folded import FoldedMatrix
from invgen.operators.ct.projectors.matrix_free import MatrixFree
from invgen.operators.ct.projectors.product import MatrixLike
from invgen.operators.ct.projectors.sparse import Csr, SparseMatrix

# Measured with one thread, alternating medians in milliseconds, forward and adjoint; folded by symmetry, whole, kernels.
# 128 pixels and 60 views: .44 .69, .82 .79, .87 .79 for one image; 1.9 1.7, 2.2 2.1, 3.0 3.2 for 8. 256 and 23: 1.1 1.5,
# 1.8 1.8, 1.9 2.2; 4.9 3.8, 5.7 3.8, 5.8 6.6. 256 and 60, about a million entries kept: 2.1 2.8, 5.6 5.6, 2.2 2.5; 11 7.3,
# 13 8.5, 10 11. Above that the kernels are faster. At 128 and 23 the whole matrix is as fast (.37 .32, folded .30 .44;
# for 8 .83 .83, .90 1.03) and four times as large. Whole ones are for scans without symmetry up to a million entries,
# and for more images than the kernels take at once.
SMALL = 1 << 20  # entries
MANY = 9  # images
TINY = 1e-12  # of a pixel's size: smaller weights are the rounding error of a ray through middles of pixels
MATRIX_BYTES = 100 * 2**20  # of a matrix, with its transpose, that is made unasked
BYTES = 16  # of an entry and its transpose in single precision


class Projector(MatrixLike):
    """The product with the matrix of a scan and with its transpose, by the way that suits the size and the batch.

    Args:
        matrix: the explicit matrix.
        folded: the same, of which the rows are kept that stand for others.
        free: the same without it, for the CPU; None where a matrix alone is to be used.
        entries: of the matrix, an estimate.
        max_bytes: what the matrix and its transpose may take in single precision.
    """

    def __init__(
        self, matrix: SparseMatrix, folded: FoldedMatrix, free: MatrixFree | None, entries: float, max_bytes: int
    ) -> None:
        self.matrix, self.folded, self.free, self.entries, self.max_bytes = matrix, folded, free, entries, max_bytes
        self.shape = matrix.shape

    def apply(self, x: Tensor, turned: bool) -> Tensor:
        return self.way(x).apply(x, turned)

    def way(self, x: Tensor) -> MatrixLike:
        """Returns what multiplies a batch (N, ...) on its device."""
        free = self.free if x.device.type == "cpu" else None
        if free is None:
            self.check_memory()
            whole = self._fits(self.entries, self.max_bytes)
            # on CUDA no product with several columns has been measured: it is folded where it must be
            return self.folded if not whole or (x.device.type == "cpu" and self._folds(x)) else self.matrix
        whole = self._fits(self.entries, MATRIX_BYTES)
        # 8 mirror images at most: larger scans are not searched for them
        if self.entries <= 8 * SMALL and self.entries <= SMALL * self.folded.order and (not whole or self._folds(x)):
            return self.folded
        return self.matrix if whole and (self.entries <= SMALL or len(x) >= MANY) else free

    def _folds(self, x: Tensor) -> bool:
        return self.folded.order > 1 and self.folded.suits(x)

    def _fits(self, entries: float, most: int) -> bool:
        return BYTES * entries <= most and entries < 2**31  # whose places are 32-bit numbers

    def check_memory(self) -> None:
        """Refuses a matrix that fits neither whole nor folded, with the numbers."""
        if self._fits(self.entries, self.max_bytes):
            return
        order = self.folded.order
        if not self._fits(self.entries / order, self.max_bytes):
            needs = f"{BYTES * self.entries / 2**30:.1f} GiB"
            needs += f" ({BYTES * self.entries / order / 2**30:.1f} GiB folded by its symmetry)" if order > 1 else ""
            raise OptionError(
                f"the sparse matrix of {self.shape[0]} rays and {self.shape[1]} pixels needs about {needs}, above the "
                f"limit of {self.max_bytes / 2**30:.1f} GiB; take backend='auto' on the CPU, which works without it, or "
                "raise max_bytes of the operator's class"
            )


def matrix_of(free: MatrixFree, kept: np.ndarray | None = None) -> Csr:
    """Returns the matrix of a projector, in float64, with the weights of its kernels.

    Args:
        free: the projector.
        kept: which rows of it, (rays,); by default all.
    """
    from invgen.operators.ct.projectors import kernels

    scan, size, beam = free.plain, free.size, free.beam
    jobs = np.concatenate(list(scan.jobs.values()))
    counts, columns, values = np.zeros(free.shape[0], np.int64), [], []
    wanted = np.ones(free.shape[0], bool) if kept is None else kept
    for job in jobs[np.lexsort((jobs[:, 1], jobs[:, 0]))]:  # in the order of the rays
        view, lo, hi, by_row = job
        rays = slice(view * beam.det_count + lo, view * beam.det_count + hi)
        if not wanted[rays].any():
            continue
        steps, across = size if by_row else size[::-1]
        column, value = (
            np.empty((hi - lo, steps, scan.geometry.taps), np.int32),
            np.zeros((hi - lo, steps, scan.geometry.taps)),
        )
        kernels.entries(steps, across, scan.geometry, job, column, value)
        met = (value > TINY * beam.pixel) & wanted[rays, None, None]
        counts[rays] = met.sum(axis=(1, 2))
        columns.append(column[met])
        values.append(value[met])
    return np.concatenate([[0], np.cumsum(counts[wanted])]), np.concatenate(columns), np.concatenate(values)
