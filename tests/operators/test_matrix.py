"""An operator given by its matrix, against that matrix."""

import pytest
import torch

from invgen.checks import check_operator
from invgen.errors import InvgenError
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
