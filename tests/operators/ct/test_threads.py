"""Work is divided without gaps, by what it takes, and waited for whatever happens."""

import time

import numpy as np
import pytest
import torch

from invgen.operators import FanBeamCT, ParallelBeamCT
from invgen.operators.ct.projectors import matrix_free, threads


def test_parts_cover_everything_with_equal_work():
    assert threads.parts(7, 3) == [(0, 2), (2, 4), (4, 7)]  # a third of 7 is not whole
    assert threads.parts(2, 5) == [(0, 1), (1, 2)] and threads.parts(0, 3) == []
    sizes = np.array([9, 1, 1, 1, 3, 3])
    found = threads.parts(sizes, 2)
    assert found == [(0, 1), (1, 6)]  # 9 of 18 each
    flat = [k for lo, hi in threads.parts(np.array([0, 5, 0, 0, 2, 0]), 3) for k in range(lo, hi)]
    assert flat == list(range(6))  # jobs without rays too


def test_what_fails_raises_after_all_have_ended():
    ended = []

    def work(lo: int, hi: int) -> None:
        if lo < 2:
            raise ValueError(f"part {lo}")
        time.sleep(0.05)
        ended.append(lo)

    for first in (0, 1):
        ended.clear()
        with pytest.raises(ValueError, match=f"part {first}"):
            threads.share(work, [(first, first + 1), (2, 3)])
        assert ended == [2]
    threads.share(work, [])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: ParallelBeamCT((41, 41), 24),  # eight mirrors, half a detector
        lambda: ParallelBeamCT((30, 41), 24),  # four
        lambda: ParallelBeamCT((41, 30), 24, det_offset=1.5),  # none
        lambda: FanBeamCT((32, 32), 20, source_origin=50.0, origin_det=20.0, projector="strip"),
    ],
)
def test_rooms_of_many_threads_do_not_change_a_bit(monkeypatch, make, count):
    # small slabs: several rooms, each with the slabs of several threads
    monkeypatch.setattr(threads, "LEAST", 1)
    monkeypatch.setattr(matrix_free, "SLAB", 1)
    free, before = make().matrix.free, torch.get_num_threads()
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(count, free.shape[1], generator=g), torch.randn(count, free.shape[0], generator=g)
    results = []
    try:
        for number in (1, 2, 7):
            torch.set_num_threads(number)
            results.append((free(x), free(y, turned=True)))
    finally:
        torch.set_num_threads(before)
    assert torch.allclose((results[0][0] * y).sum(), (x * results[0][1]).sum(), rtol=1e-4)  # of sums in single precision
    for forward, adjoint in results[1:]:
        assert torch.equal(forward, results[0][0]) and torch.equal(adjoint, results[0][1])
