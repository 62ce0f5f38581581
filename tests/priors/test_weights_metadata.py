"""Descriptions in weights files that are damaged, or made to build more than their file fills: one sentence, at once."""

import json
import time

import pytest
from safetensors.torch import save_file

import invgen
from invgen import priors
from invgen.priors.checkpoints.networks import unet
from invgen.priors.load import metadata
from tests.fuzz import mutations, only_invgen_errors

load = __import__("importlib").import_module("invgen.priors.load")
NET = unet.UNet(1, (4, 6), 1, 2, 8)
ABOUT = {
    "format": 1, "network": "UNet", "options": NET.options, "shape": [1, 16, 16], "sigma_min": 0.01, "sigma_max": 10.0,
    "value_range": [-1.0, 1.0], "data_mean": 0.0, "data_std": 0.5, "units": "grey", "mmse": [[1.0, 0.1]],
}  # fmt: skip


def written(path, text):
    save_file({k: v.half() for k, v in NET.state_dict().items()}, path, metadata={"invgen": text})
    return path


HOSTILE = {
    "a billion blocks": {"options": NET.options | {"blocks": 10**9}},
    "many levels": {"options": NET.options | {"widths": [4] * 10**5}},
    "a width of a trillion": {"options": NET.options | {"widths": [10**12, 6]}},
    "channels of text": {"options": NET.options | {"channels": "one"}},
    "blocks below none": {"options": NET.options | {"blocks": -1}},
    "three dimensions": {"options": NET.options | {"dims": 3}},
    "a fold by nothing": {"options": NET.options | {"unshuffle": 0}},
    "an unknown option": {"options": NET.options | {"eval": 1}},
    "options in a list": {"options": [1]},
    "dilations": {"network": "PixelCNN", "options": {"width": 4, "dilations": [10**6]}},
    "many dilations": {"network": "PixelCNN", "options": {"width": 4, "dilations": [1] * 10**5}},
    "a latent of a trillion": {"network": "VAE", "options": {"latent": 10**12}},
    "a shape of a petabyte": {"shape": [1, 2**30, 2**20]},
    "a shape of text": {"shape": "big"},
    "no shape": {"shape": []},
    "levels out of order": {"sigma_min": 3.0, "sigma_max": 1.0},
    "a level of text": {"sigma_min": "small"},
    "a level that is no number": {"sigma_max": float("nan")},
    "a range of one": {"value_range": [0.0]},
    "a range of text": {"value_range": "ab"},
    "a deviation of none": {"data_std": 0.0},
    "errors that are no pairs": {"mmse": [[1.0, 2.0, 3.0]]},
    "errors of text": {"mmse": "none"},
    "an error that is no number": {"mmse": [[1.0, float("inf")]]},
    "units of numbers": {"units": 5},
    "a network in a list": {"network": ["UNet"]},
    "a rate of text": {"sampling_rate": "fast"},
    "a rate below none": {"sampling_rate": -1.0},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_description_ends_in_one_sentence(kind, tmp_path):
    path = written(tmp_path / "net.safetensors", json.dumps(ABOUT | HOSTILE[kind]))
    began = time.process_time()
    with pytest.raises(invgen.InvgenError) as error:
        priors.load(path)
    assert str(path) in str(error.value) or "sigma" in str(error.value) or "asks for" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 800
    assert time.process_time() - began < 2  # seconds; a billion blocks would take days


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "5", "[]", '{"format": ' + "9" * 5000 + "}", "null"])
def test_what_is_no_description(text, tmp_path):
    with pytest.raises(invgen.WeightsError):
        priors.load(written(tmp_path / "net.safetensors", text))


@pytest.mark.slow
def test_fuzz(tmp_path):
    path = tmp_path / "net.safetensors"
    text = json.dumps(ABOUT).encode()
    for case, data in enumerate(mutations(text, 150, 5, (b"[", b"{", b"null", b"NaN", b"-", b'"blocks"'))):
        written(path, data.decode("latin1"))
        only_invgen_errors(priors.load, path, case=case)
    whole = written(path, json.dumps(ABOUT)).read_bytes()
    for case, data in enumerate(mutations(whole, 100, 6)):
        path.write_bytes(data)
        only_invgen_errors(priors.load, path, case=case)


@pytest.mark.parametrize("value", [None, 5, "a\0b", "x" * 5000, ["ct"]])
def test_what_is_neither_a_name_nor_a_path(value):
    with pytest.raises(invgen.WeightsError if isinstance(value, str) else invgen.OptionError):
        priors.load(value)


def test_shipped_weights_are_those_of_their_card(tmp_path, monkeypatch):
    for kind in ("safetensors", "json"):
        (tmp_path / f"digits.{kind}").write_bytes((load.WEIGHTS / f"digits.{kind}").read_bytes())
    monkeypatch.setattr(load, "WEIGHTS", tmp_path)
    assert priors.load("digits").shape == (1, 32, 32)
    data = bytearray((tmp_path / "digits.safetensors").read_bytes())
    data[-1] ^= 1  # the last bit of a weight: nothing but the checksum can tell
    (tmp_path / "digits.safetensors").write_bytes(data)
    with pytest.raises(invgen.WeightsError, match=r"is not the file that its card digits.json was made for"):
        priors.load("digits")
    assert priors.load(tmp_path / "digits.safetensors").shape == (1, 32, 32)  # a path says that it is meant


def test_the_sampling_rate_is_declared(tmp_path):
    about = ABOUT | {"sampling_rate": 8000}
    assert priors.load(written(tmp_path / "net.safetensors", json.dumps(about))).sampling_rate == 8000
    assert metadata(tmp_path / "net.safetensors")["sampling_rate"] == 8000
    assert priors.load(written(tmp_path / "net.safetensors", json.dumps(ABOUT))).sampling_rate is None
    speech = priors.load("speech")
    assert speech.sampling_rate == speech.rescaled(2.0).sampling_rate == 16000
    digits = priors.load("digits")
    digits.net.rate = 0.1  # of a dropout, say
    assert digits.sampling_rate is digits.condition(3).sampling_rate is digits.rescaled(2.0).sampling_rate is None
    own = priors.from_denoiser(lambda x, sigma: x, (1, 64), sampling_rate=44100)
    assert own.sampling_rate == own.rescaled(0.5, 1.0).sampling_rate == own.condition(1).sampling_rate == 44100
    assert priors.GaussianPrior((1, 8), sampling_rate=8000.0).sampling_rate == 8000
    for wrong in (0, -1.0, float("nan"), float("inf"), "fast"):
        with pytest.raises(invgen.InvgenError):
            priors.from_denoiser(lambda x, sigma: x, (1, 64), sampling_rate=wrong)
