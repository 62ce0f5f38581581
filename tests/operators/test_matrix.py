"""An operator given by its matrix, against that matrix."""

import pytest
import torch

from invgen.errors import InvgenError
from invgen.inference.checks import check_operator
from invgen.operators import Matrix


@pytest.mark.parametrize(("m", "in_shape"), [(3, (6,)), (6, (2, 3)), (9, (6,)), (4, (1, 2, 3))])
@pytest.mark.parametrize("rank", [2, 9])
def test_matrix(m, in_shape, rank):
    g = torch.Generator().manual_seed(m)
    left = torch.randn(m, rank, dtype=torch.float64, generator=g)
    M = left @ torch.randn(rank, 6, dtype=torch.float64, generator=g)
    A = Matrix(M, in_shape)
    check_operator(A)
    assert A.rank == min(m, 6, rank)
    x, y = (torch.randn(5, *s, dtype=torch.float64, generator=g) for s in (in_shape, (m,)))
    torch.testing.assert_close(A(x), x.flatten(1) @ M.T)
    torch.testing.assert_close(A.pinv(y).flatten(1), y @ torch.linalg.pinv(M).T)
    wanted = torch.linalg.solve(2.0 * M @ M.T + 0.3 * torch.eye(m, dtype=M.dtype), y.T).T
    torch.testing.assert_close(A.solve(y, 2.0, 0.3), wanted)


@pytest.mark.parametrize(("m", "rank"), [(3, 3), (3, 2), (1, 1), (14, 2)])
def test_a_matrix_of_low_rank_has_a_tight_frame(m, rank):
    """The same operator and solves without a basis of the null space; noise in the coordinates gives white noise."""
    g = torch.Generator().manual_seed(m)
    M = torch.randn(m, rank, dtype=torch.float64, generator=g) @ torch.randn(rank, 12, dtype=torch.float64, generator=g)
    A = Matrix(M, (3, 4))
    check_operator(A)
    assert A.framed and A.rank == rank and A.spectral_shape == (rank + 12,)
    x, y = (torch.randn(5, *s, dtype=torch.float64, generator=g) for s in ((3, 4), (m,)))
    torch.testing.assert_close(A.pinv(y).flatten(1), y @ torch.linalg.pinv(M).T)
    wanted = torch.linalg.solve(2.0 * M @ M.T + 0.3 * torch.eye(m, dtype=M.dtype), y.T).T
    torch.testing.assert_close(A.solve(y, 2.0, 0.3), wanted)
    torch.testing.assert_close(A.V(A.Vt(x)), x)
    torch.testing.assert_close(A.Vt(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    V = A.V(torch.eye(rank + 12, dtype=torch.float64)).flatten(1)
    torch.testing.assert_close(V.T @ V, torch.eye(12, dtype=torch.float64))


@pytest.mark.parametrize(
    ("matrix", "in_shape"),
    [
        (torch.ones(3), None),
        (torch.ones(2, 3, dtype=torch.int64), None),
        (torch.full((2, 3), torch.nan), None),
        (torch.ones(2, 3), (2,)),
    ],
)
def test_bad_matrices_are_refused(matrix, in_shape):
    with pytest.raises(InvgenError):
        Matrix(matrix, in_shape)
