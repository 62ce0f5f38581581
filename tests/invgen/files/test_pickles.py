"""The reader of checkpoints: everything harmless comes back, nothing is ever called."""

import argparse
import contextlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch

import invgen
from invgen.files import pickles, torch_files

TENSORS = OrderedDict(
    weight=torch.arange(6.0).reshape(2, 3).t(),
    half=torch.ones(2, dtype=torch.bfloat16),
    steps=torch.tensor(3),
    parameter=torch.nn.Parameter(torch.ones(2, 2)),
)


class Calls:
    """A pickle of it calls what it was given, with these arguments."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle2", "safetensors"])
def test_tensors_come_back(form, tmp_path):
    path = tmp_path / "net.pt"
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file({k: v.detach().contiguous() for k, v in TENSORS.items()}, path)
        found = pickles.read(path)
    else:
        content = {"ema": TENSORS, "step": 3, "names": ["a", ("b", 2.5)], "size": torch.Size([1, 2])}
        if form.startswith("pickle"):
            path.write_bytes(pickle.dumps(content, protocol=2 if form == "pickle2" else 5))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        found = pickles.read(path)
        assert (found["step"], found["names"], found["size"]) == (3, ["a", ("b", 2.5)], torch.Size([1, 2]))
        found = found["ema"]
    assert found.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_pickles_with_arrays(protocol, tmp_path):
    content = {
        "array": np.arange(6, dtype="<f4").reshape(2, 3).T,
        "big": np.arange(3, dtype=">i2"),
        "flags": np.array([True, False]),
        "scalar": np.float64(2.5),
        "more": defaultdict(list, a=[1]),
        "bytes": b"\x80",
        "kinds": {1, 2},
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    found = pickles.read(path)
    for key in ("array", "big", "flags"):
        np.testing.assert_array_equal(found[key], content[key])
    assert [found[k] for k in ("scalar", "more", "bytes", "kinds")] == [2.5, {"a": [1]}, b"\x80", {1, 2}]


def test_arrays_and_settings_beside_the_tensors(tmp_path):
    settings = argparse.Namespace(lr=0.1)
    torch.save({"net": dict(TENSORS), "best": np.float32(0.5), "args": settings}, tmp_path / "net.ckpt")
    found = pickles.read(tmp_path / "net.ckpt")
    assert found["best"] == 0.5 and torch.equal(found["net"]["weight"], TENSORS["weight"])
    assert isinstance(found["args"], pickles.Inert) and found["args"].state == {"lr": 0.1}
    with pytest.raises(invgen.WeightsError, match=r"asks for argparse.Namespace"):
        pickles.read(tmp_path / "net.ckpt", inert=())


def malicious():
    return {
        "system": Calls(os.system, "touch ran"),
        "eval": Calls(eval, "open('ran', 'w')"),
        "exec": Calls(exec, "open('ran', 'w')"),
        "getattr": Calls(getattr, "text", "upper"),
        "open": Calls(open, "ran", "w"),
        "mkdir": Calls(os.mkdir, "ran"),
        "import": Calls(__import__, "antigravity"),
        "torch.load": Calls(torch.load, "ran"),
        "hub": Calls(torch.hub.load, "someone/repo", "net"),
        "objects": np.array([Calls(os.system, "touch ran")], dtype=object),
        "nested": Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(os.system, "touch ran"))),
        "breakpoint": Calls(breakpoint),
    }


@pytest.mark.parametrize("kind", sorted(malicious()))
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_nothing_runs(kind, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pt"
    content = {"ema": TENSORS, "extra": malicious()[kind]}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(invgen.WeightsError) as error:
        pickles.read(path)
    assert sorted(tmp_path.iterdir()) == before
    message = str(error.value)
    assert "\n" not in message and ("could run code" in message or kind == "nested")


def test_inert_objects_do_not_run_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps({"a": Calls(os.system, "touch ran")}))
    found = pickles.read(path, inert=("posix", "nt"))["a"]
    assert isinstance(found, pickles.Inert) and found.args == ("touch ran",) and not (tmp_path / "ran").exists()


def test_a_pickle_cannot_change_the_reader(tmp_path):
    # BUILD with a pair sets attributes on what the list gave out: a function here, then its class
    path = tmp_path / "net.pkl"
    for name in ("torch._utils\n_rebuild_tensor_v2", "numpy\ndtype", "argparse\nNamespace"):
        path.write_bytes(b"\x80\x02c" + name.encode() + b"\n(N}U\x08__call__U\x01xstb.")
        before = dict(vars(pickles._Dtype)), dict(vars(pickles.Inert)), dict(pickles.ALLOWED)
        with contextlib.suppress(invgen.WeightsError):
            pickles.read(path)
        assert (dict(vars(pickles._Dtype)), dict(vars(pickles.Inert)), dict(pickles.ALLOWED)) == before
        assert not hasattr(torch_files.tensor, "__wrapped__") and "__call__" not in vars(torch_files.tensor)


def test_a_tensor_stays_inside_its_storage(tmp_path):
    path = tmp_path / "net.pkl"
    bytes_of = torch.zeros(4).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=bytes_of, dtype=torch.float32, _internal=True)  # as torch's pickles
    for args in [
        (storage, 2, (3,), (1,)),
        (storage, 0, (2, 2), (4, 1)),
        (storage, 0, (2,), (-1,)),
        (storage, -1, (1,), (1,)),
    ]:
        path.write_bytes(pickle.dumps(Calls(torch._utils._rebuild_tensor_v2, *args, False, OrderedDict())))
        with pytest.raises(invgen.WeightsError, match="outside its storage"):
            pickles.read(path)


# an archive of torch's old compiler is among them
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_damaged_files_say_so_in_one_sentence(tmp_path):
    whole = io.BytesIO()
    torch.save(dict(TENSORS), whole)
    legacy = io.BytesIO()
    torch.save(dict(TENSORS), legacy, _use_new_zipfile_serialization=False)
    plain = pickle.dumps({"array": np.arange(100)})
    empty_zip = io.BytesIO()
    with zipfile.ZipFile(empty_zip, "w") as archive:
        archive.writestr("a.txt", "hello")
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), script)
    path = tmp_path / "net.pt"
    files = [b"", b"hello world", plain[:-40], empty_zip.getvalue(), script.getvalue(), b"\x00" * 300]
    for file in (whole.getvalue(), legacy.getvalue()):
        files += [file[: len(file) * part // 10] for part in (1, 5, 9)]
    for content in files:
        path.write_bytes(content)
        with pytest.raises(invgen.WeightsError) as error:
            pickles.read(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)
    with pytest.raises(invgen.WeightsError, match="there is no weights file"):
        pickles.read(tmp_path / "none.pt")
    with pytest.raises(invgen.WeightsError, match="there is no weights file"):
        pickles.read(tmp_path)
