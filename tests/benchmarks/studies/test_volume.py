"""The study of volumes has its rows; what they say is for people to read."""

import math

import pytest
import torch

from invgen import samplers
from invgen.benchmarks.studies import volume
from invgen.errors import FileError
from invgen.priors import GaussianPrior


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*do not explain the measurement")  # few steps
def test_rows_and_picture(tmp_path):
    g = torch.Generator().manual_seed(0)
    truth, other = (torch.rand(1, 4, 16, 16, generator=g).cumsum(1) / 2 - 1 for _ in range(2))
    A = volume.cone(truth.shape, views=6)
    prior, guided = GaussianPrior((1, 16, 16), 0.0, 0.3), samplers.MMPS(steps=2, iterations=2, precondition=False)
    rows = list(volume.compare(truth, other[None], prior, A, samplers.DDS(steps=3), 5, guided, 2))
    names = [row["method"] for row, _ in rows]
    assert names[-3:-1] == ["MMPS, slices coupled by tv", "MMPS, slices coupled by tv, mean of 2"]
    assert names[0] == "FDK" and "DDS, slices coupled by tv" in names and names[-1] == "total variation in 3-D"
    assert all(math.isfinite(row["psnr"]) and row["peak"] > 0.05 for row, _ in rows)
    volume.draw({row["method"]: x for row, x in rows}, tmp_path / "volume.png")
    assert (tmp_path / "volume.png").stat().st_size > 5000


def test_data_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(FileError, match="invgen data ct"):
        volume.main(["--data", str(tmp_path)])
