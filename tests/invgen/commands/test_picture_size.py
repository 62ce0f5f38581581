"""At which size a picture is reconstructed, by which sampler, and what the notes say of it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from invgen.commands import reconstruct as job
from invgen.files.fit import cut, picture_size
from invgen.files.reader import Signal
from invgen.priors import GaussianPrior, load


def picture(rows, columns, channels=3):
    return Signal(torch.rand(channels, rows, columns, generator=torch.Generator().manual_seed(0)), "unit")


def test_a_prior_of_pieces_takes_a_picture_at_its_own_size():
    photo = load("photo")
    assert photo.size_step == photo.net.stride
    signal, size = job.natural_size(picture(512, 512), photo)
    assert size == (512, 512) and signal.notes == ()
    step, whole = photo.size_step, picture(101, 67)
    signal, (rows, columns) = job.natural_size(whole, photo)
    assert (rows, columns) == (101 // step * step, 67 // step * step)
    top, left = (101 - rows) // 2, (67 - columns) // 2
    assert torch.equal(signal.values, whole.values[:, top : top + rows, left : left + columns])
    assert signal.notes == (f"the middle {rows} x {columns} of its 101 x 67 pixels was cut out",)
    assert job.natural_size(whole, photo, resize=False) == (whole, (101, 67))


def test_a_large_picture_is_limited_and_says_so():
    signal, (rows, columns) = job.natural_size(picture(3000, 4000, 1), load("ct"))
    assert 0.95 * job.LARGEST < rows * columns <= job.LARGEST  # up to one step of a side less
    assert abs(rows / columns - 3 / 4) < 0.02
    assert "--size" in signal.notes[0]


def test_a_prior_of_whole_pictures_keeps_its_shape():
    for prior in (load("digits"), load("speech"), GaussianPrior(shape=(1, 12, 12))):
        whole = picture(512, 512, 1)
        assert job.natural_size(whole, prior) == (whole, None)


def test_sizes_of_signals_of_every_layout():
    volume = Signal(torch.zeros(5, 30, 40), "own", volume=True)
    assert picture_size(volume) == (30, 40) and cut(volume, (10, 20)).values.shape == (5, 10, 20)
    last = Signal(torch.arange(7 * 9 * 3.0).reshape(7, 9, 3), "own")
    assert picture_size(last) == (7, 9) and torch.equal(cut(last, (3, 4)).values, last.values[2:5, 2:6])
    assert picture_size(Signal(torch.zeros(1, 800), "own", rate=8000.0)) is None
    assert picture_size(Signal(torch.zeros(800), "own")) is None


@pytest.mark.slow
# a picture of noise, in two steps
@pytest.mark.filterwarnings("ignore:.* not explain the measurement")
def test_the_command_takes_the_size_of_the_picture_and_picks_the_sampler(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    options = {"operator": "Mask.random(keep=0.5)", "prior": "photo", "noise": "0.1", "num_samples": 1}
    summary = job.reconstruct(tmp_path / "a.png", out=tmp_path / "out", sampler="DDNM(steps=2)", **options)
    step = load("photo").size_step
    assert summary["shape"] == [3, 45 // step * step, 50 // step * step]
    assert np.load(tmp_path / "out" / "samples.npy").shape == (1, *summary["shape"])
    saved = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert any("pixels was cut out" in note for note in saved["notes"])
    picked = job.reconstruct(tmp_path / "a.png", out=tmp_path / "out", size=(16, 16), **options)
    assert picked["reason"] and picked["shape"] == [3, 16, 16]
