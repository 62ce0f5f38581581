"""A sparse matrix and its exact transpose."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.messages import announced
from invgen.operators.ct.projectors.product import MatrixLike

Csr = tuple[np.ndarray, np.ndarray, np.ndarray]  # indptr (rows + 1,) int64, indices (nnz,) int32, values (nnz,) float64

# Measured with one thread on AVX2 and AVX-512 cores, 256 x 256 pixels and 20 to 180 angles: one column is a
# matrix-vector product; up to 15 the MKL product of torch.sparse_csr is fastest; from 16 on embedding_bag, whose
# kernel prefetches rows, wins 1.5 to 4 times.
BAG_COLUMNS = 16
BAG_WIDTH = 32  # columns of one embedding_bag call: the rows of wider inputs leave the cache


class SparseMatrix(MatrixLike):
    """An (m, n) matrix that `build` makes in float64 at first use and that is kept per precision and device.

    Single precision takes 8 bytes an entry for the matrix and 8 for its transpose, double 12 and 12. Half-precision
    inputs are multiplied in single precision. A pickled matrix is built anew. On CUDA the product is cuSPARSE's, through
    torch.sparse; only the CPU has been measured.
    """

    def __init__(self, build: Callable[[], Csr], shape: tuple[int, int]) -> None:
        self.build, self.shape = build, shape
        self._kept: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kept": {}}

    def pair(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the matrix and its transpose as sparse CSR tensors."""
        key = (dtype, device)
        if key not in self._kept:
            with announced(f"building a sparse matrix of {self.shape[0]} x {self.shape[1]}"):
                csr = self.build()
                self._kept[key] = (
                    _tensor(csr, self.shape, *key),
                    _tensor(transpose(csr, self.shape[1]), (self.shape[1], self.shape[0]), *key),
                )
        return self._kept[key]

    def apply(self, x: Tensor, turned: bool) -> Tensor:
        wide = x.dtype if x.dtype == torch.float64 else torch.float32
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            matrix = self.pair(wide, x.device)[turned]
            return _multiply(matrix, x.detach().to(wide)).to(x.dtype)


def _multiply(matrix: Tensor, x: Tensor) -> Tensor:
    """Returns x (N, n) -> (N, m) by the kernel that is fastest for N columns."""
    count = len(x)
    if count == 0:
        return x.new_zeros(0, matrix.shape[0])
    if count == 1:
        return (matrix @ x[0])[None]
    if not _bagged(count, x):
        return (matrix @ x.t()).t().contiguous()
    out = torch.empty(count, matrix.shape[0])
    for start in range(0, count, BAG_WIDTH):
        rows = slice(start, start + BAG_WIDTH)
        out[rows] = _bag(matrix, x[rows].t().contiguous()).t()
    return out


def product(matrix: Tensor, columns: Tensor) -> Tensor:
    """Returns matrix @ columns, (n, N) -> (m, N), by the kernel that is fastest for N columns that lie side by side."""
    return _bag(matrix, columns) if _bagged(columns.shape[1], columns) else matrix @ columns


def _bagged(count: int, like: Tensor) -> bool:
    return count >= BAG_COLUMNS and like.device.type == "cpu" and like.dtype == torch.float32


def _bag(matrix: Tensor, columns: Tensor) -> Tensor:
    bag = (matrix.col_indices(), columns, matrix.crow_indices())
    return F.embedding_bag(*bag, mode="sum", per_sample_weights=matrix.values(), include_last_offset=True)


def _tensor(csr: Csr, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    indptr, indices, values = (torch.from_numpy(array) for array in csr)
    parts = indptr.to(torch.int32), indices.to(torch.int32), values.to(dtype)  # MKL is fastest with int32
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(*(part.to(device) for part in parts), size=shape, check_invariants=False)


def transpose(matrix: Csr, columns: int) -> Csr:
    """Returns the transposed matrix of the same numbers, so that the adjoint is exact; the entries of a row are in
    order."""
    import scipy.sparse

    indptr, indices, values = matrix
    turned = scipy.sparse.csr_array((values, indices, indptr), shape=(len(indptr) - 1, columns)).T.tocsr()
    return turned.indptr.astype(np.int64), turned.indices.astype(np.int32), turned.data
