import dataclasses
import wave

import numpy as np
import pytest
import torch
from PIL import Image

from invgen.errors import InvgenError, OptionError
from invgen.priors.data import folders
from invgen.priors.data.readable import DataError
from invgen.priors.load import load, metadata
from invgen.priors.training import train


def picture(path, shape=(40, 50, 3), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def recording(path, seconds=0.2, rate=8000, channels=1, width=2, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 0.1, (int(seconds * rate), channels)).clip(-1, 1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes((samples * (2 ** (8 * width - 1) - 1)).astype({2: "<i2", 4: "<i4"}[width]).tobytes())
    return samples.T


@pytest.fixture
def narrow(monkeypatch):
    """Trains networks of the same depth that are narrow: what is tested is what is read and written."""

    def recipe(*paths, **options):
        found = folders.recipe_for(*paths, **options)
        return dataclasses.replace(found, widths=tuple(width // 8 for width in found.widths), embedding=8)

    monkeypatch.setattr(train, "recipe_for", recipe)


@pytest.mark.slow
def test_pictures_give_a_prior_of_their_own(tmp_path, narrow):
    for k in range(12):
        picture(tmp_path / "data" / f"{k:02d}.png", seed=k)
    (tmp_path / "data" / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    picture(tmp_path / "data" / "tiny.png", (5, 5, 3))
    with pytest.warns(folders.SkippedFiles, match="2 of 14 files were skipped: .*broken.jpg.*tiny.png: 3 x 5 x 5"):
        path = train.train(None, tmp_path / "run", tmp_path / "data", steps=2, batch=2, progress=False)
    about, prior = metadata(path), load(path)
    assert path.name == "own.safetensors"
    assert prior.shape == (3, 40, 40) and about["units"].startswith("RGB")
    assert [(s["name"], s["count"]) for s in about["training"]["sources"]] == [
        ("images trained on", 11),
        ("images held out", 1),
    ]
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert rows[0] == "step,minutes,loss,rate,held_out_loss"
    assert rows[1].startswith("2,")
    with Image.open(tmp_path / "run" / "samples.png") as sheet:
        assert sheet.width == 10 * 42


def test_what_lies_in_a_folder_val_is_held_out(tmp_path):
    for k in range(4):
        picture(tmp_path / ("val" if k == 3 else "train") / f"{k}.png", (20, 20), seed=k)
    material = folders.read_folders([tmp_path], "images", (1, 16, 16))
    assert [s["count"] for s in material.sources] == [3, 1]
    batch = material.held_out.batch(3, torch.Generator().manual_seed(0))
    assert batch.shape == (3, 1, 16, 16)
    whole = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (20, 20), dtype=np.uint8)) / 127.5 - 1
    views = [whole[a : a + 16, b : b + 16] for a in range(5) for b in range(5)]
    assert any((batch[0, 0] - v).abs().max() < 1e-3 or (batch[0, 0].flip(1) - v).abs().max() < 1e-3 for v in views)


def test_a_single_file_is_trained_on_whole():
    items = [folders.Item("a", [torch.zeros(1, 8, 8)])]
    assert folders.split(items) == (items, [])
    many = [folders.Item(str(k), []) for k in range(50)]
    trained, kept = folders.split(many)
    assert len(kept) == 5 and len(trained) == 45 and not {i.name for i in kept} & {i.name for i in trained}


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        folders.recipe_for([tmp_path / "gone"])
    with pytest.raises(DataError, match=r"nothing to train on .* images \(\.png"):
        folders.recipe_for([tmp_path])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"none of the 1 files can be read: the first, a\.png"):
        folders.recipe_for([tmp_path / "bad"])
    picture(tmp_path / "mixed" / "grey.png", (20, 20))
    picture(tmp_path / "mixed" / "colour.png", (20, 20, 3))
    with pytest.raises(DataError, match=r"number of channels, 1 with 3 \(colour.png ...\), 1 with 1 \(grey.png ...\)"):
        folders.recipe_for([tmp_path / "mixed"])
    picture(tmp_path / "small" / "a.png", (6, 60))
    with pytest.raises(DataError, match="too small to train on"):
        folders.recipe_for([tmp_path / "small"])
    recording(tmp_path / "mixed" / "a.wav")
    with pytest.raises(DataError, match="several kinds"):
        folders.recipe_for([tmp_path / "mixed"])
    recording(tmp_path / "rates" / "a.wav", rate=8000)
    recording(tmp_path / "rates" / "b.wav", rate=16000)
    with pytest.raises(OptionError, match="1 of 8000 Hz, 1 of 16000 Hz"):
        folders.recipe_for([tmp_path / "rates"])
    picture(tmp_path / "flat" / "a.png", (20, 20))
    Image.new("L", (20, 20)).save(tmp_path / "flat" / "a.png")
    with pytest.raises(InvgenError, match="constant"):
        train.train(None, tmp_path / "run", tmp_path / "flat", steps=1, progress=False)


@pytest.mark.slow
def test_recordings_give_a_prior_of_waveforms(tmp_path, narrow):
    for k in range(3):
        recording(tmp_path / "data" / f"{k}.wav", seed=k)
    (tmp_path / "data" / "cut.wav").write_bytes((tmp_path / "data" / "0.wav").read_bytes()[:20])
    with pytest.warns(folders.SkippedFiles, match="cut.wav is not a whole WAV file"):
        path = train.train(None, tmp_path / "run", tmp_path / "data", steps=2, batch=2, progress=False)
    prior = load(path)
    assert prior.shape == (1, 1536)
    assert metadata(path)["units"] == "waveform of 8000 Hz, full scale is 1"
    assert prior(torch.zeros(2, 1, 777), 0.1).shape == (2, 1, 777)
    assert load(path, shape=(1, 1000)).shape == (1, 1000)
    with pytest.raises(OptionError, match=r"takes shapes \(1, L\), got \(2, 1000\)"):
        load(path, shape=(2, 1000))


@pytest.mark.slow
def test_dicom_series_in_their_units(tmp_path):
    from shutil import copyfile

    from pydicom import examples

    (tmp_path / "ct").mkdir()
    copyfile(examples.get_path("ct"), tmp_path / "ct" / "slice")  # without a suffix, as scanners name them
    (tmp_path / "ct" / "broken.dcm").write_bytes(b"\0" * 200)
    recipe = folders.recipe_for([tmp_path / "ct"])
    assert recipe.data == "volumes" and recipe.shape == (1, 128, 128) and recipe.units.startswith("Hounsfield")
    with pytest.warns(folders.SkippedFiles, match="broken.dcm"):
        material = folders.read_folders([tmp_path / "ct"], "volumes", (1, 64, 64))
    batch = material.train.batch(8, torch.Generator().manual_seed(0))
    assert batch.min() >= -1 and batch.max() <= 1
    assert -0.3 < batch.median() < 0.3  # soft tissue
    copyfile(examples.get_path("mr"), tmp_path / "ct" / "mr.dcm")
    with pytest.raises(DataError, match="several modalities"):
        folders.recipe_for([tmp_path / "ct"])


@pytest.mark.slow
def test_nifti_volumes(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = np.random.default_rng(0).gamma(2.0, 100.0, (24, 20, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "head.nii.gz")
    recipe = folders.recipe_for([tmp_path])
    assert recipe.shape == (1, 16, 16) and recipe.value_range == (0.0, 1.0)
    assert "percentile" in recipe.units
    material = folders.read_folders([tmp_path], "volumes", recipe.shape)
    assert material.held_out is None and material.sources[0]["count"] == 1
    batch = material.train.batch(20, torch.Generator().manual_seed(0))
    assert batch.min() >= 0 and batch.max() == 1
