"""Distances between points against scipy, and what they do not see."""

import pytest
import torch
from scipy.spatial.distance import pdist

from invgen import OptionError, check_operator
from invgen.operators import Distances

X = torch.randn(4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_all_pairs_are_scipys_and_mirrors_are_not_seen():
    A = Distances((6, 3), torch.triu_indices(6, 6, 1).T)
    torch.testing.assert_close(A(X), torch.stack([torch.as_tensor(pdist(x.numpy())) for x in X]))
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    torch.testing.assert_close(A(X @ turn + 5.0), A(X))
    check_operator(A)


def test_random_pairs_are_apart_and_wrong_ones_are_refused():
    A = Distances.random((16, 3), 91, apart=3)
    assert A.out_shape == (91,) and (A.pairs[:, 1] - A.pairs[:, 0]).min() == 3 and len(A.pairs.unique(dim=0)) == 91
    with pytest.raises(OptionError, match="there are 91 pairs at least 3 apart, and 92 were asked for"):
        Distances.random((16, 3), 92, apart=3)
    for pairs in ([[0, 0]], [[0, 6]], [[-1, 2]], [[0.0, 1.0]], [0, 1]):
        with pytest.raises(OptionError, match="pairs are two different points each, whole numbers from 0 to 5"):
            Distances((6, 3), pairs)
