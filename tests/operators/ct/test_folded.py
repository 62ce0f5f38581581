"""The matrix folded by symmetry: against the whole one, for every group of mirrors, either beam and any batch."""

import copy
import pickle

import numpy as np
import pytest
import torch

from invgen.errors import OptionError
from invgen.inference.checks import check_operator
from invgen.operators.ct.geometries import FanBeamCT, ParallelBeamCT
from invgen.operators.ct.projectors import folded

FAN = {"source_origin": 40.0, "origin_det": 25.0}
# turns, and a scan that has them
CASES = {
    "square": (8, lambda: ParallelBeamCT((12, 12), 8)),
    "odd square": (8, lambda: ParallelBeamCT((13, 13), 6)),
    "odd views": (4, lambda: ParallelBeamCT((12, 12), 5)),
    "rectangle": (4, lambda: ParallelBeamCT((12, 9), 6, pixel_size=0.5)),
    "half turn": (2, lambda: ParallelBeamCT((12, 11), angles=[0.1, 0.5, 2.0])),
    "half turn and swap": (4, lambda: ParallelBeamCT((10, 10), angles=[0.1, np.pi / 2 - 0.1, 0.3, np.pi / 2 - 0.3])),
    "one view": (4, lambda: ParallelBeamCT((12, 9), angles=[0.0])),
    "strip": (8, lambda: ParallelBeamCT((9, 9), 6, projector="strip", det_spacing=1.4)),
    "fan": (8, lambda: FanBeamCT((9, 9), 8, **FAN)),
    "fan, odd views": (2, lambda: FanBeamCT((9, 9), 7, **FAN)),
    "fan, half turn": (2, lambda: FanBeamCT((9, 9), angles=[0.1, 0.1 + np.pi], **FAN)),
    "fan, offset": (2, lambda: FanBeamCT((9, 8), 8, det_offset=0.7, **FAN)),
    "curved strip": (8, lambda: FanBeamCT((9, 9), 8, detector="curved", projector="strip", **FAN)),
}


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("name", CASES)
def test_equals_the_whole_matrix(name):
    order, make = CASES[name]
    A = make()
    part, whole = A.matrix.folded, A.matrix.matrix
    assert part.order == order
    g = torch.Generator().manual_seed(0)
    # the weights of mirror images differ by the rounding of a position, 33 * 1.1e-16 a term; sums in float32 by 1e-7 a term
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        for count in (1, 2, 5, 33):  # one column a turn, several, the bag of single precision, more than one product
            x = torch.randn(count, whole.shape[1], generator=g, dtype=dtype)
            y = torch.randn(count, whole.shape[0], generator=g, dtype=dtype)
            assert relative(part(x), whole(x)) < bound
            assert relative(part(y, turned=True), whole(y, turned=True)) < bound
    assert part(x[:0]).shape == (0, whole.shape[0]) and part(y[:0], turned=True).shape == (0, whole.shape[1])
    assert relative(part(x.half()).float(), whole(x)) < 2e-3  # half precision goes in and out rounded to 5e-4


def test_a_row_for_each_orbit_is_kept():
    A = ParallelBeamCT((32, 32), 16)
    kept, whole = (part.build() for part in (A.matrix.folded.rows, A.matrix.matrix))
    # eight turns; the rays of the 4 of 16 views along axes and diagonals have orbits of a half
    assert 6 < len(whole[2]) / len(kept[2]) <= 8


def test_a_scan_without_symmetry_is_not_folded():
    A = ParallelBeamCT((12, 12), angles=[0.1, 0.5, 2.0], det_offset=0.7)
    assert A.matrix.folded.order == 1 and A.matrix.way(torch.zeros(1, 144)) is A.matrix.matrix
    repeated = ParallelBeamCT((12, 12), angles=[0.3, 0.3, 1.0])
    assert repeated.matrix.folded.order == 1


@pytest.mark.parametrize("name", ["square", "fan, odd views"])
def test_contract_and_derivatives(name):
    A = CASES[name][1]()
    assert A.matrix.way(torch.zeros(1, 1, dtype=torch.float64)) is A.matrix.folded
    check_operator(A)
    small = ParallelBeamCT((2, 4, 5), 2) if name == "square" else FanBeamCT((4, 4), 3, source_origin=9.0, origin_det=2.0)
    x = torch.randn(1, *small.in_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(small, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(small, x)


def test_copies_and_pickles():
    A = ParallelBeamCT((12, 12), 8)
    x = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    y = A(x)
    assert torch.equal(copy.deepcopy(A)(x), y) and torch.equal(pickle.loads(pickle.dumps(A))(x), y)


def test_what_fits_folded_alone_is_taken_and_split(monkeypatch):
    whole = ParallelBeamCT((32, 32), 16, backend="sparse")
    monkeypatch.setattr(ParallelBeamCT, "max_bytes", int(16 * whole.matrix.entries / 6))
    A = ParallelBeamCT((32, 32), 16, backend="sparse")
    x = torch.rand(9, 32, 32, generator=torch.Generator().manual_seed(0))
    assert A.matrix.way(x) is A.matrix.folded and not A.matrix.folded.suits(x)
    assert folded.COLUMNS[torch.float32] < 8 * len(x)  # so that it takes two products
    assert relative(A(x), whole(x)) < 1e-6
    monkeypatch.setattr(ParallelBeamCT, "max_bytes", int(16 * whole.matrix.entries / 10))
    with pytest.raises(OptionError, match=r"folded by its symmetry.*max_bytes"):
        ParallelBeamCT((32, 32), 16, backend="sparse")
