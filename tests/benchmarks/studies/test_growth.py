"""The study of growth measures each kind of row; what it says is for people to read."""

import pytest

from invgen.benchmarks.studies import growth

SMALL = (
    ("parallel beam", growth.projection, {"size": 8}, 2.0),
    ("cone beam", growth.cone, {"views": 2}, 1.0),
    ("fan beam", growth.fan, {"size": 8}, 2.0),
    ("stack of slices", growth.stack, {"slices": 2}, 1.0),
    ("prox by CG", growth.iterated, {"size": 8}, 2.0),
    ("prox exact", growth.exact, {"views": 4}, 1.0),
    ("mask, prox", growth.mask, {"size": 8}, 2.0),
    ("downsampling, prox", growth.downsampling, {"size": 8}, 2.0),
    ("blur of a volume, prox", growth.volume_blur, {"size": 8}, 3.0),
    ("MRI of a volume, prox", growth.volume_mri, {"size": 8}, 3.0),
    ("blur, prox", growth.blur, {"size": 8}, 2.0),
    ("MRI of 8 coils", growth.mri, {"size": 16}, 2.0),
    ("DiffPIR", growth.sampler, {"steps": 2}, 1.0),
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*do not explain the measurement")  # few steps
def test_rows(monkeypatch):
    monkeypatch.setattr(growth, "ROWS", SMALL)
    for row in range(len(SMALL)):
        found = growth.measure(row, (1, 2), rounds=1)
        assert [set(one) for one in found] == [{"seconds", "mb"}] * 2
        assert all(0 < one["seconds"] < 60 and 0 <= one["mb"] < 1000 for one in found)
