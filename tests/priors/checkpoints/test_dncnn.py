"""DnCNN against what flax computes with scico's network, on a tiny random one; the real weights where they were fetched."""

import hashlib
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from invgen.errors import MissingWeightsError, WeightsError
from invgen.priors.cards import evaluate
from invgen.priors.cards.baselines import baselines
from invgen.priors.checkpoints.networks import dncnn
from invgen.priors.data import held_out

pytest.importorskip("msgpack")
FIXTURE = Path(__file__).parents[1] / "fixtures" / "dncnn.safetensors"


@pytest.fixture
def fixture():
    return load_file(FIXTURE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where weights are looked for."""
    monkeypatch.delenv("INVGEN_WEIGHTS", raising=False)
    monkeypatch.setenv("INVGEN_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "dncnn").mkdir(parents=True)
    dncnn._weights.cache_clear()
    yield tmp_path / "data" / "dncnn"
    dncnn._weights.cache_clear()


def fill(folder, fixture):
    """Tiny networks under the names of the real ones."""
    for name in dncnn.NETWORKS:
        raw = fixture["2.mpk" if name == "17N" else "1.mpk"].numpy().tobytes()
        save_file(dncnn.tensors_of(dncnn.read_flax(raw)), folder / f"dncnn_{name}.safetensors")


@pytest.mark.parametrize("channels", [1, 2])
def test_equals_the_original(channels, fixture):
    tensors = dncnn.tensors_of(dncnn.read_flax(fixture[f"{channels}.mpk"].numpy().tobytes()))
    x, y = (fixture[f"{channels}.{k}"].permute(0, 3, 1, 2) for k in "xy")
    # single precision, batch normalisation multiplied into the kernels: 2e-7 was measured
    torch.testing.assert_close(dncnn.network(tensors, x), y, rtol=0, atol=2e-6)


def test_levels_and_channels(folder, fixture):
    fill(folder, fixture)
    x = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    known = dncnn.tensors_of(dncnn.read_flax(fixture["1.mpk"].numpy().tobytes()))
    told = dncnn.tensors_of(dncnn.read_flax(fixture["2.mpk"].numpy().tobytes()))
    grey = (x[1, 2][None, None] + 1) / 2
    for sigma in (30 / 255, 0.2, 0.39):  # in [-1, 1], 15/255, 0.1 and nearly 0.2 of the range: networks for the level
        torch.testing.assert_close(dncnn.dncnn(x, sigma)[1, 2], dncnn.network(known, grey)[0, 0] * 2 - 1)
    both = torch.cat([grey, torch.full_like(grey, 0.03)], 1)  # 0.06 of [-1, 1]
    torch.testing.assert_close(dncnn.dncnn(x, 0.06)[1, 2], dncnn.network(told, both)[0, 0] * 2 - 1)
    assert dncnn.dncnn(x, 0.5) is None  # a quarter of the range
    # the same picture in other units
    other = dncnn.dncnn(500 * (x + 1), 100.0, (0.0, 1000.0))
    torch.testing.assert_close(other / 500 - 1, dncnn.dncnn(x, 0.2), rtol=0, atol=1e-5)
    entry = evaluate.evaluate({"DnCNN": dncnn.dncnn}, {"a": [x[0]]}, [0.2, 0.5])["a"]["psnr"]["DnCNN"]
    assert entry[1] is None and isinstance(entry[0], float)


def test_it_is_a_baseline_where_its_weights_are(folder, fixture):
    assert "DnCNN" not in baselines(False, (-1.0, 1.0))
    with pytest.raises(MissingWeightsError, match="run `invgen data dncnn` once"):
        dncnn.dncnn(torch.zeros(1, 1, 8, 8), 0.1)
    fill(folder, fixture)
    assert "DnCNN" in baselines(False, (-1.0, 1.0))
    assert "DnCNN" not in baselines(False, (-1.0, 1.0), count=100)
    assert "DnCNN" not in baselines(True, (-1.0, 1.0))
    (folder / "dncnn_17N.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="run `invgen data dncnn` again"):
        dncnn.dncnn(torch.zeros(1, 1, 8, 8), 0.06)


def test_the_package_is_converted_and_another_one_refused(tmp_path, folder, fixture, monkeypatch):
    raw = {name: fixture["2.mpk" if name == "17N" else "1.mpk"].numpy().tobytes() for name in dncnn.NETWORKS}
    with zipfile.ZipFile(tmp_path / "scico-0.0.7-py3-none-any.whl", "w") as wheel:
        for name, data in raw.items():
            wheel.writestr(f"scico/data/flax/dncnn{name}.mpk", data)
    with pytest.raises(WeightsError, match="checksum differs"):
        dncnn.convert(tmp_path, folder)
    assert not list(folder.iterdir())
    digests = {name: (dncnn.NETWORKS[name][0], hashlib.sha256(data).hexdigest()) for name, data in raw.items()}
    monkeypatch.setattr(dncnn, "NETWORKS", digests | {"17X": (0.5, "")})
    with pytest.raises(WeightsError, match="does not hold"):
        dncnn.convert(tmp_path, folder)
    monkeypatch.setattr(dncnn, "NETWORKS", digests)
    dncnn.convert(tmp_path, folder)
    assert dncnn.at_hand()
    for data in (b"\xc1", raw["17L"][:-3], b"\xc7\x01\x05x", b"\x81\xa1a\xc7\x01\x01x"):
        with pytest.raises(WeightsError, match="is not flax's msgpack"):
            dncnn.read_flax(data)


@pytest.mark.data
@pytest.mark.skipif(not dncnn.at_hand(), reason="invgen data dncnn has not been run")
def test_the_real_networks():
    ((_, images),) = held_out.held_out("photo").items()
    crops = [image.mean(0, keepdim=True)[:, 64:192, 64:192] for image in images]
    # measured on crops of five grey scikit-image pictures, range 1: 32.4, 30.2, 26.8 dB at 0.06, 0.1, 0.2
    for sigma, floor in ((0.12, 31.0), (0.2, 28.5), (0.4, 25.0)):
        assert evaluate.psnr(dncnn.dncnn, crops, sigma) > floor
