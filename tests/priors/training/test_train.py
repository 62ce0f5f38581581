import dataclasses
import hashlib
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from invgen.errors import DivergedError, FileError, InvgenError, OptionError
from invgen.files.writing import replace
from invgen.priors.data import fetch
from invgen.priors.data import photographs as datasets
from invgen.priors.data.ct import CTViews, ct_slices, ellipses
from invgen.priors.data.photographs import PhotoViews, photographs
from invgen.priors.load import load, metadata
from invgen.priors.training import train

TINY = train.Recipe("tiny", (3, 16, 16), (4, 6), 1, 2, "RGB in [-1, 1]", batch=4, steps=6, warmup=2)


@pytest.fixture
def photos(tmp_path):
    """A folder with smooth pictures, one of them in a subfolder val."""
    rng = np.random.default_rng(0)
    for name in ("train/a.png", "train/b.png", "test/c.jpg", "val/d.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        small.resize((50, 40), Image.Resampling.BICUBIC).save(path)
    return tmp_path / "photos"


@pytest.fixture
def scans(tmp_path):
    """A folder with CT slices of five made-up patients, two of them held out by name."""
    folder = tmp_path / "scans"
    folder.mkdir()
    rng = np.random.default_rng(0)
    volumes = {n: rng.integers(-1024, 1500, s).astype(np.int16) for n, s in {"A1_1": (32, 32), "A1_2": (32, 32)}.items()}
    volumes |= {"lung1": np.zeros((3, 32, 32), np.int16), "head": np.zeros((90, 32, 32), np.int16)}
    np.savez(folder / "x.npz", **volumes, lung1_spacing_mm=np.ones(3))
    np.savez(folder / "y.npz", A098752_1=np.zeros((32, 32), np.int16), B_1=np.full((2, 64, 64), 40, np.int16))
    return folder


def run(out, photos, recipe=TINY, **options):
    return train.train(recipe, out, photos, progress=False, checkpoint_minutes=0, sheet_minutes=60, **options)


def tensors(path):
    return {name: p.clone() for name, p in load(path).net.state_dict().items()}


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_weights(tmp_path, photos, monkeypatch):
    whole = run(tmp_path / "whole", photos)
    views, calls = PhotoViews.batch, []

    def interrupted(self, count, generator):
        calls.append(count)
        if len(calls) == 5:  # the first call measures the data, the others are steps
            raise KeyboardInterrupt
        return views(self, count, generator)

    monkeypatch.setattr(PhotoViews, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", photos)
    monkeypatch.undo()
    assert metadata(tmp_path / "parts" / "tiny.safetensors")["training"]["steps"] == 3
    parts = run(tmp_path / "parts", photos)
    expected, found = tensors(whole), tensors(parts)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    # and the comparison can fail: another seed gives other weights
    other = tensors(run(tmp_path / "other", photos, seed=1))
    assert not all(torch.equal(expected[name], other[name]) for name in expected)


@pytest.mark.slow  # 150 steps of training
def test_training_learns(tmp_path, photos):
    recipe = dataclasses.replace(TINY, widths=(16, 16), learning_rate=5e-3, batch=8, steps=150)
    views, held_out, _ = train.open_views(recipe, [photos])
    assert held_out is None
    clean = views.batch(32, torch.Generator().manual_seed(5))
    sigma = train.draw_sigma(recipe, 32, torch.Generator().manual_seed(6))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7))
    untrained = train.loss(train.build(recipe, views, 0), clean, sigma, noise).item()
    path = train.train(recipe, tmp_path, photos, progress=False)
    # The untrained net leaves the loss of the Wiener filter for white data, about 1; smooth pictures allow far less.
    assert untrained == pytest.approx(1.0, abs=0.1)
    assert train.loss(load(path), clean, sigma, noise).item() < 0.75


@pytest.mark.slow
def test_a_sheet_of_samples_after_each_epoch(tmp_path, photos, monkeypatch):
    drawn = []
    monkeypatch.setattr(train.Watch, "samples", lambda self, step, prior: drawn.append(step))
    options = {"progress": False, "steps": 5, "batch": 2}  # of three photographs: an epoch is two steps
    train.train(TINY, tmp_path / "each", photos, sheet_minutes=0, **options)
    assert drawn == [2, 4, 5]
    drawn.clear()
    train.train(TINY, tmp_path / "end", photos, sheet_minutes=60, **options)
    assert drawn == [5]


@pytest.mark.slow
def test_bfloat16_is_a_precision_of_the_network_alone(tmp_path, photos):
    exact, rounded = (run(tmp_path / str(on), photos, bfloat16=on) for on in (False, True))
    assert [metadata(path)["training"]["bfloat16"] for path in (exact, rounded)] == [False, True]
    states = [torch.load(path.parent / "checkpoint.pt", weights_only=True) for path in (exact, rounded)]
    pairs = [(a, b) for part in ("net", "average") for a, b in zip(*(s[part].values() for s in states), strict=True)]
    assert all(b.dtype == torch.float32 for _, b in pairs)
    assert any(not torch.equal(a, b) for a, b in pairs)
    # each of Adam's six steps is at most the learning rate, whatever the rounding
    assert all((a - b).abs().max() <= 2 * 6 * TINY.learning_rate for a, b in pairs)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "weights"
    path.write_text("old")

    def half(temporary):
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace(path, half)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_time_ends_a_run(tmp_path, photos):
    path = run(tmp_path, photos, steps=10**9, minutes=1e-9)
    assert metadata(path)["training"]["steps"] == 1


@pytest.mark.slow
def test_a_record_of_the_training_is_in_the_weights(tmp_path, photos):
    about = metadata(run(tmp_path, photos, seed=3))
    assert about["shape"] == [3, 16, 16]
    assert about["units"] == "RGB in [-1, 1]"
    assert about["training"]["seed"] == 3
    (source,) = about["training"]["sources"]
    assert source["name"] == "photos"
    assert source["count"] == 3  # val is left out
    assert len(source["sha256"]) == 64


def test_noise_levels_follow_the_recipe():
    sigma = train.draw_sigma(TINY, 20_000, torch.Generator().manual_seed(0))
    assert TINY.sigma_min * 0.999 <= sigma.min() and sigma.max() <= TINY.sigma_max * 1.001
    for level in (0.02, 0.1, 0.3, 1.0, 10.0):
        normal = torch.special.ndtr((torch.tensor(level).log() - TINY.log_sigma_mean) / TINY.log_sigma_std).item()
        uniform = np.log(level / TINY.sigma_min) / np.log(TINY.sigma_max / TINY.sigma_min)
        # One draw from each of 20,000 equal parts: the empirical distribution errs by that, a little more in the tails.
        assert (sigma < level).double().mean().item() == pytest.approx(0.9 * normal + 0.1 * uniform, abs=3e-4)
    # Stratified: any 16 of one batch cover the whole distribution.
    few = train.draw_sigma(TINY, 16, torch.Generator().manual_seed(0)).log()
    assert (few < -1.2).sum() in (7, 8, 9)


@pytest.mark.slow
def test_bad_input_is_named(tmp_path, photos, monkeypatch):
    with pytest.raises(OptionError, match="unknown recipe 'phoot'; there are: photo, ct"):
        train.train("phoot", tmp_path / "out", photos)
    with pytest.raises(OptionError, match="needs data"):
        train.train("photo", tmp_path / "out")
    with pytest.raises(InvgenError, match="no pictures"):
        train.train("photo", tmp_path / "out", tmp_path / "out")
    with pytest.raises(InvgenError, match="no CT slices"):
        train.train("ct", tmp_path / "out", photos)
    assert not (tmp_path / "out").exists()
    run(tmp_path / "out", photos)
    with pytest.raises(OptionError, match="another network"):
        run(tmp_path / "out", photos, dataclasses.replace(TINY, widths=(4, 8)))
    monkeypatch.setattr(train, "loss", lambda denoiser, *_: denoiser.net.head.bias.sum() * float("nan"))
    with pytest.raises(DivergedError, match="diverged at step 20"):
        run(tmp_path / "nan", photos, steps=30)


def test_photographs_leave_the_validation_set_out(photos):
    assert [p.name for p in photographs(photos)] == ["c.jpg", "a.png", "b.png"]
    assert len(photographs(photos, leave_out=())) == 4
    assert [p.name for p in photographs(photos / "val")] == ["d.png"]  # asked for by name


def test_held_out_patients_never_train(scans):
    assert {name: v.shape for name, v in ct_slices(scans).items()} == {
        "A1": (2, 32, 32),
        "head": (80, 32, 32),
        "B": (2, 64, 64),
    }
    assert set(ct_slices(scans, "test")) == {"lung1", "A098752"}
    assert set(ct_slices(scans, "all")) == {"A1", "head", "B", "lung1", "A098752"}
    with pytest.raises(datasets.DataError, match="'validation', expected 'train', 'test' or 'all'"):
        ct_slices(scans, "validation")


@pytest.mark.parametrize("kind", ["photo", "ct"])
def test_views(kind, photos, scans):
    views = PhotoViews(photographs(photos), 16) if kind == "photo" else CTViews(ct_slices(scans), 32)
    shape = (3, 16, 16) if kind == "photo" else (1, 32, 32)
    first, again, other = (views.batch(40, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert first.shape == (40, *shape) and first.dtype == torch.float32
    assert first.min() >= -1 and first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_ct_views_are_in_thousands_of_hounsfield_units():
    views = CTViews({"water": np.full((2, 64, 64), 40, np.int16)}, 32, phantoms=0.0)
    batch = views.batch(30, torch.Generator().manual_seed(0))
    # Inside the slice 40 HU, also after averaging and bicubic interpolation; outside it air.
    assert batch[..., 14:18, 14:18].sub(0.04).abs().max() < 1e-3
    assert batch.amin() >= -1
    assert (batch.amin(dim=(1, 2, 3)) < -0.99).any()


def test_phantoms_are_bodies_in_air():
    for seed in range(5):
        image = ellipses(64, torch.Generator().manual_seed(seed))
        assert image.shape == (1, 1, 64, 64)
        assert image[0, 0, 0, 0] == -1  # a corner
        assert -0.2 < image[image > -0.5].median() < 0.2  # soft tissue
        assert image.max() < 1


def test_fetching_says_what_went_wrong(tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="unknown data 'cats'; there are: ct, photo"):
        fetch.fetch("cats", tmp_path)

    def offline(command, **_):
        raise subprocess.CalledProcessError(1, command, "", "WARNING: retrying\nERROR: no connection\nnote: see above")

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(
        FileError, match=r"pyradiomics==3.0.1 could not be fetched \(ERROR: no connection\): check the network"
    ):
        fetch.fetch("ct", tmp_path)
    assert list((tmp_path / "ct").iterdir()) == []


def test_a_training_starts_from_a_prior(tmp_path, photos):
    first = run(tmp_path / "first", photos)
    # One step of a rate near zero: the weights are those of the prior, in the float16 of its file, and so is its scaling.
    slow = dataclasses.replace(TINY, widths=(8, 8), learning_rate=1e-12, steps=1)
    second = run(tmp_path / "second", photos, slow, init=str(first))
    before, after = tensors(first), tensors(second)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (load(second).data_mean, load(second).data_std) == (load(first).data_mean, load(first).data_std)
    record = metadata(second)["training"]
    assert record["init"] == {"name": "tiny", "sha256": hashlib.sha256(first.read_bytes()).hexdigest()}
    assert record["recipe"]["widths"] == [4, 6] and record["recipe"]["learning_rate"] == 5e-13


def test_a_training_goes_on_from_the_start_that_it_had(tmp_path, photos):
    """Another start would be ignored without a word, since the weights are those of the checkpoint."""
    first, second = tmp_path / "first", tmp_path / "second"
    path = run(first, photos)
    other = run(tmp_path / "other", photos, seed=1)
    with pytest.raises(OptionError, match=r"first started from random weights, not from the weights 'tiny' \(\w{8}\)"):
        run(first, photos, init=path)
    run(second, photos, init=path, steps=2)
    for init, now in ((other, r"the weights 'tiny' \(\w{8}\)"), (None, "random weights")):
        with pytest.raises(OptionError, match=rf"second started from the weights 'tiny' \(\w{{8}}\), not from {now}"):
            run(second, photos, init=init)
    renamed = path.rename(tmp_path / "renamed.safetensors")  # the weights count, not their name
    assert metadata(run(second, photos, init=renamed, steps=4))["training"]["steps"] == 4
    assert metadata(run(second, photos, init=other, steps=1, resume=False))["training"]["steps"] == 1


def test_a_training_starts_from_a_prior_that_fits_alone(tmp_path, photos):
    with pytest.raises(OptionError, match="'digits' does not fit .* its number of channels is 1, that of the data 3"):
        run(tmp_path, photos, init="digits")
    with pytest.raises(OptionError, match="takes a denoiser that `invgen train` wrote, 'digits-vae' is a VAE"):
        run(tmp_path, photos, init="digits-vae")
