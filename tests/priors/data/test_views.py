"""The data of the priors mr, digits, clothing and speech: splits, units, reproducible views."""

import gzip
import struct
import wave

import numpy as np
import pytest
import torch

from invgen.errors import FileError, OptionError
from invgen.priors import recipes
from invgen.priors.data import fetch
from invgen.priors.data import views as material
from invgen.priors.data.labelled import LabelledViews, labelled
from invgen.priors.data.mr import MRViews, heads, normalised
from invgen.priors.data.readable import DataError
from invgen.priors.data.speech import WaveViews, read_wave, sentences


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def digits(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}_{what}": rng.integers(0, high, shape).astype(np.uint8)
        for part, n in (("train", 30), ("test", 10))
        for what, high, shape in (("images", 256, (n, 28, 28)), ("labels", 10, (n,)))
    }
    np.savez(tmp_path / "digits.npz", **arrays)
    return tmp_path


def test_labelled_pictures(digits, tmp_path):
    images, labels = labelled(digits)
    assert images.shape == (30, 1, 32, 32) and labels.shape == (30,) and labels.dtype == torch.int64
    assert (images[:, :, :2] == -1).all() and (images[..., -2:] == -1).all()
    with np.load(digits / "digits.npz") as arrays:
        np.testing.assert_allclose((images[:, 0, 2:-2, 2:-2] + 1) * 127.5, arrays["train_images"], atol=1e-4)
    assert len(labelled(digits, "test")[0]) == 10
    with pytest.raises(DataError, match="no pictures with labels"):
        labelled(tmp_path / "gone")
    recipe = recipes.RECIPES["digits"]
    views, watched, (source,) = material.open_views(recipe, [digits])
    assert source["count"] == 30 and len(watched.images) == 10
    assert views.warp == recipe.warp and watched.warp == 0


@pytest.mark.parametrize("warp", [0.0, 1.0])
def test_labelled_views_keep_pictures_and_labels_together(warp):
    # Class k is a bright block in row k of a grid: what the label says must be seen in the picture.
    images = torch.full((10, 1, 32, 32), -1.0)
    for k in range(10):
        images[k, 0, 3 * k + 1 : 3 * k + 4] = 1.0
    views = LabelledViews(images, torch.arange(10), warp)
    first, labels = views.batch(64, seeded(0))
    again = views.batch(64, seeded(0))
    assert torch.equal(first, again[0]) and torch.equal(labels, again[1])
    assert first.min() >= -1 and first.max() <= 1
    rows = ((first + 1).sum((1, 3)) * torch.arange(32)).sum(1) / (first + 1).sum((1, 2, 3))
    assert ((rows - (3 * labels + 2)).abs() < (0.1 if not warp else 5)).all()
    if warp:
        assert not torch.equal(first, images[labels])


@pytest.fixture
def scans(tmp_path):
    rng = np.random.default_rng(0)
    ball = np.hypot(*np.mgrid[-1:1:40j, -1:1:44j]) < 0.8
    volume = (rng.uniform(50, 200, (36, 40, 44)) * ball).astype(np.float32)
    spacing = {"thin_spacing_mm": np.ones(3), "thick_spacing_mm": [1, 1, 6.5], "brain2_spacing_mm": [1, 1, 6.5]}
    np.savez(tmp_path / "x.npz", thin=volume, thick=volume, brain2=volume, **spacing)
    return tmp_path


def test_heads_and_their_split(scans, tmp_path):
    assert set(heads(scans)) == {"thin", "thick"}
    assert set(heads(scans, "test")) == {"brain2"}
    assert set(heads(scans, "all")) == {"thin", "thick", "brain2"}
    assert heads(scans)["thick"][1].tolist() == [6.5, 1, 1]  # slices, rows, columns, as the values
    with pytest.raises(DataError, match="'validation', expected"):
        heads(scans, "validation")
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="no volumes"):
        heads(tmp_path / "other")
    np.savez(tmp_path / "other" / "y.npz", a=np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match="not a volume .* with a_spacing_mm"):
        heads(tmp_path / "other")


def test_views_of_heads(scans):
    volumes = heads(scans)
    views = MRViews(volumes, 32)
    # thin slices along all axes, thick ones along their own alone
    assert len(views.planes) > len(MRViews({"thick": volumes["thick"]}, 32).planes) * 3
    first, again, other = (views.batch(30, seeded(s)) for s in (0, 0, 1))
    assert first.shape == (30, 1, 32, 32) and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert 0.1 < first.mean() < 0.9
    # A share of the views keeps an empty background, the others have Rician noise, which is positive.
    corners = first[:, 0, 0, 0]
    assert (corners == 0).any()
    assert normalised(np.array([0.0, 1.0, 2.0])).max() == 1


def test_sentences_are_split_by_number(tmp_path):
    for number in (1, 560, 561, 590, 591, 620, 700):
        (tmp_path / f"ru_{number:04d}.wav").write_bytes(b"")
    (tmp_path / "mine.wav").write_bytes(b"")
    assert [p.stem for p in sentences(tmp_path)] == ["mine", "ru_0001", "ru_0560", "ru_0700"]
    assert [p.stem for p in sentences(tmp_path, "validation")] == ["ru_0561", "ru_0590"]
    assert [p.stem for p in sentences(tmp_path, "test")] == ["ru_0591", "ru_0620"]
    with pytest.raises(DataError, match="no recordings"):
        sentences(tmp_path / "gone")


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_waves_of_every_width(tmp_path, width):
    samples = np.array([[0.0, 0.5, -0.5, 0.25], [0.1, -0.1, 0.9, -0.9]])
    whole = np.round(samples.T * 2 ** (8 * width - 1)).astype(np.int64)
    if width == 1:
        raw = (whole + 128).astype(np.uint8).tobytes()
    else:
        raw = b"".join(int(v).to_bytes(width, "little", signed=True) for v in whole.ravel())
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(raw)
    read, rate = read_wave(tmp_path / "a.wav")
    assert rate == 8000 and read.dtype == np.float32
    np.testing.assert_allclose(read, samples, atol=2.0 ** (1 - 8 * width))
    faster, rate = read_wave(tmp_path / "a.wav", 16000)
    assert rate == 16000 and faster.shape == (2, 8)


def test_views_of_waves():
    ramp = (np.arange(1000) / 2000).astype(np.float32)[None]
    views = WaveViews([ramp, ramp[:, :5]], 100)  # the second is too short
    assert len(views.recordings) == 1
    batch = views.batch(50, seeded(0))
    assert batch.shape == (50, 1, 100)
    assert torch.equal(batch, views.batch(50, seeded(0)))
    slope = batch.diff(dim=2).mean((1, 2)) * 2000  # gain and polarity
    assert (slope > 0).any() and (slope < 0).any()
    assert 0.15 < slope.abs().log().std() < 0.6
    with pytest.raises(DataError, match="no recording has 2000 samples"):
        WaveViews([ramp], 2000)


def nifti(values, slope=1.0, order="<"):
    header = bytearray(352)
    header[0:4] = struct.pack(f"{order}i", 348)
    header[40:56] = struct.pack(f"{order}8h", 3, *values.shape, 1, 1, 1, 1)
    kind = {"u1": 2, "i2": 4, "f4": 16}[values.dtype.str[1:]]
    header[70:72] = struct.pack(f"{order}h", kind)
    header[76:108] = struct.pack(f"{order}8f", 1, 0.5, 1.0, 2.0, 0, 0, 0, 0)
    header[108:120] = struct.pack(f"{order}3f", 352, slope, 3.0 if slope != 1 else 0.0)
    header[344:348] = b"n+1\0"
    return bytes(header) + values.astype(values.dtype.newbyteorder(order)).tobytes(order="F")


def test_plain_nifti_files(tmp_path):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for order in "<>":
        path = tmp_path / "x.nii.gz"
        path.write_bytes(gzip.compress(nifti(values, order=order)))
        read, spacing = fetch.read_nifti(path)
        assert np.array_equal(read, values) and spacing == (0.5, 1.0, 2.0)
    (tmp_path / "y.nii").write_bytes(nifti(values, slope=2.0))
    np.testing.assert_allclose(fetch.read_nifti(tmp_path / "y.nii")[0], 2 * values + 3)
    (tmp_path / "z.nii").write_bytes(b"no")
    with pytest.raises(FileError, match="not a plain NIfTI-1 file"):
        fetch.read_nifti(tmp_path / "z.nii")


def test_every_recipe_says_what_it_reads():
    for name, recipe in recipes.RECIPES.items():
        assert recipe.name == name and recipe.data in material.READERS
        assert name in fetch.FETCHERS or name in fetch.BROUGHT
    with pytest.raises(OptionError, match="recipe 'mr' needs data"):
        material.open_views(recipes.RECIPES["mr"], [])
