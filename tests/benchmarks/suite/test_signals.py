"""The true signals of a suite: draws of the prior, shipped sets, folders and addresses of files."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

import invgen
from invgen.benchmarks.suite import signals
from invgen.benchmarks.suite.expand import expand
from invgen.errors import FileError, OptionError
from invgen.inference.simulation import spawn
from invgen.priors import GaussianPrior, load


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder that `invgen data` might have filled, with little in it."""
    monkeypatch.setenv("INVGEN_DATA", str(tmp_path))
    for kind in ("digits", "speech", "mr"):
        (tmp_path / kind).mkdir()
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 7)
    images = rng.integers(0, 256, (21, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "digits" / "digits.npz", test_images=images, test_labels=labels,
             train_images=images[:0], train_labels=labels[:0])  # fmt: skip
    loud = np.zeros(50_000, np.float32)
    loud[30_000:34_000] = 0.5
    wavfile.write(tmp_path / "speech" / "ru_0600.wav", 16000, loud)
    wavfile.write(tmp_path / "speech" / "ru_0001.wav", 16000, loud)  # trained on
    head = rng.random((10, 256, 256), dtype=np.float32)
    head[0] = 0
    np.savez(tmp_path / "mr" / "pyradiomics.npz", brain2=head, brain2_spacing_mm=np.ones(3), brain1=head,
             brain1_spacing_mm=np.ones(3))  # fmt: skip
    return tmp_path


def test_draws_of_an_exact_prior_are_its_own_and_do_not_depend_on_their_number(tmp_path):
    prior = GaussianPrior((2, 3), mean=torch.full((2, 3), 4.0), var=0.25)
    found = signals.sources("prior", tmp_path, 4)
    assert found == [(f"prior/{k}", f"prior:{k}") for k in range(4)]
    assert signals.sources("prior/7", tmp_path) == [("prior/7", "prior:7")]
    x = [signals.truth_of(source, prior) for _, source in found]
    assert torch.equal(x[2], prior.sample(1, spawn(signals.SEED, 2))[0])
    assert not torch.equal(x[0], x[1])
    many = torch.stack([signals.drawn(prior, k) for k in range(200)])
    assert abs(many.mean() - 4) < 4 * 0.5 / 1200**0.5  # four standard errors
    with pytest.raises(OptionError, match="such as prior/0"):
        signals.sources("prior/first", tmp_path)


def test_draws_of_a_network_are_those_of_the_sampler_named(tmp_path):
    prior = GaussianPrior((2,), var=1.0)
    network = prior.rescaled(2.0)  # a Denoiser without `sample`
    assert not hasattr(network, "sample")
    expected = invgen.sample(network, 1, spawn(signals.SEED, 3), sampler="Heun(steps=32)")[0]
    assert torch.equal(signals.drawn(network, 3), expected)


@pytest.mark.slow
def test_a_suite_of_draws(tmp_path):
    suite = {
        "data": {"source": "prior", "limit": 3},
        "priors": "digits",
        "problems": [{"operator": "Mask.random(keep=0.5)", "noise": 0.1}],
        "samplers": ["PiGDM(steps=2)"],
    }
    cells = expand(suite)
    assert [c.image for c in cells] == ["prior/0", "prior/1", "prior/2"]
    prior, _, image = cells[1].is_of
    assert len({c.is_of[2].name for c in cells}) == 3
    again = load("digits")  # another object, as in another process
    assert signals.identity_of("prior:1", again, prior.name) == image


@pytest.mark.slow
def test_shipped_pictures_with_labels_come_by_turns(data):
    found = signals.sources("digits", data, 4)
    assert [name for name, _ in found] == ["digits/0-0", "digits/1-0", "digits/2-0", "digits/0-1"]
    assert len(signals.shipped("digits")) == 15
    x = signals.truth_of(found[3][1], load("digits"))
    stored = np.load(data / "digits" / "digits.npz")["test_images"][1] / 127.5 - 1
    assert np.allclose(x[0, 2:-2, 2:-2].numpy(), stored, atol=1e-6)  # to [0, 1] and back in float32


def test_shipped_recordings_are_cut_around_their_loudest_piece(data):
    (found,) = signals.sources("speech", data)
    assert found == ("speech/ru_0600", "shipped:speech/ru_0600")
    x = signals.truth_of(found[1], load("speech"))
    assert x.shape == (1, 8192)
    assert (x == 0.5).sum() == 4000, "the loud piece is not in the excerpt"


def test_shipped_heads(data):
    found = signals.shipped("mr")
    assert list(found)[:2] == ["s1045", "brain2-1"] and len(found) == 9  # slice 0 is empty
    assert found["brain2-1"].values.shape == (1, 128, 128)
    assert found["s1045"].values.max() <= 1


@pytest.mark.parametrize("kind", ["digits", "clothing", "speech"])
def test_what_was_not_fetched_names_the_command(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("INVGEN_DATA", str(tmp_path))
    with pytest.raises(FileError, match=f"fetch them with `invgen data {kind}`") as error:
        signals.sources(kind, tmp_path)
    assert "\n" not in str(error.value)
    assert list(signals.shipped("mr")) == ["s1045"], "what comes with matplotlib is not there"
    with pytest.raises(OptionError, match=r"unknown image of mr 'brain2-9'.*`invgen data mr` fetches more"):
        signals.sources("mr/brain2-9", tmp_path)


def test_folders_and_addresses(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / "b.png")
    np.save(tmp_path / "images" / "a.npy", np.zeros((8, 8)))
    (tmp_path / "images" / "notes.txt").write_text("no signal")
    assert [n for n, _ in signals.sources("images", tmp_path)] == ["a.npy", "b.png"]
    volume = np.random.default_rng(0).random((6, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "scan.npz", head=volume)
    found = signals.sources("scan.npz:head[1:6:2]", tmp_path)
    assert [n for n, _ in found] == ["scan.npz:head[1]", "scan.npz:head[3]", "scan.npz:head[5]"]
    assert np.array_equal(signals.truth_of(found[1][1], GaussianPrior((1, 8, 8)))[0].numpy(), volume[3])
    assert len(signals.sources("scan.npz:head[1:6:2]", tmp_path, 2)) == 2
    for said, sentence in (("gone", "there is no file or folder"), ("empty", "has no PNG")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(FileError, match=sentence):
            signals.sources(said, tmp_path)


@pytest.mark.parametrize("kind", ["cifar", "spoken-digits"])
def test_a_prior_whose_signals_no_suite_knows_is_told(kind, tmp_path):
    with pytest.raises(FileError, match=f"there is no file or folder .*{kind}; shipped images are photo, ct, mr, digits"):
        signals.sources(kind, tmp_path)
