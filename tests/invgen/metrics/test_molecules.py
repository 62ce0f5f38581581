"""The distance of structures against scipy's best rotation."""

import pytest
import torch
from scipy.spatial.transform import Rotation

from invgen import ShapeError
from invgen.metrics import rmsd

X, Y = (torch.randn(5, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))


def test_it_is_scipys_best_turn_and_knows_mirrors():
    for x, y in zip(X, Y, strict=True):
        a, b = (p - p.mean(0) for p in (x, y))
        want = Rotation.align_vectors(b.numpy(), a.numpy())[1] / 7**0.5  # the root of the sum of squares
        assert float(rmsd(x, y)) == pytest.approx(want, rel=1e-9)
    turn = torch.as_tensor(Rotation.random(rng=0).as_matrix())
    mirror = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    assert rmsd(X @ turn + 3.0, X).max() < 1e-6  # a root of round-off
    assert rmsd(X @ turn * mirror, X).min() > 0.1 and rmsd(X @ turn * mirror, X, mirror=True).max() < 1e-6
    assert rmsd(X[:, None], Y).shape == (5, 5)
    with pytest.raises(ShapeError, match="rmsd compares points"):
        rmsd(X, Y[:, :6])
