"""Checkpoints that were made to do harm, or damaged by chance: one sentence, little memory, and soon."""

import functools
import io
import json
import pickle
import resource
import struct
import subprocess
import sys
import zipfile

import pytest
import torch

import invgen
from invgen import priors
from invgen.files import pickles
from tests.fuzz import mutations, only_invgen_errors

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def saved(content=STATE, zipped=True):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def rewritten(change, compression=zipfile.ZIP_STORED):
    """A file of torch.save whose records went through `change(name, bytes)`."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as old, zipfile.ZipFile(out, "w", compression) as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info.filename)))
    return out.getvalue()


def shared_lists(depth=60, reduce=b""):
    """Lists that hold the one before twice: 2^depth in a walk, in a few bytes each."""
    parts = [b"\x80\x02]q\x00"]
    for k in range(depth):
        parts.append(b"]q" + bytes([k + 1]) + b"(h" + bytes([k]) + b"h" + bytes([k]) + b"e")
    return b"".join(parts) + reduce + b"."


def lists_filled_late(depth=60):
    """The same, each filled after it was put into the next, which hides the size from who counts as they come."""
    made = b"".join(b"]q" + bytes([k]) + b"0" for k in range(depth))
    fill = b"".join(b"h%c(h%ch%ce0" % (k, k - 1, k - 1) for k in range(depth - 1, 0, -1))
    return b"\x80\x02" + made + fill + b"h%c." % (depth - 1)


def tuples_as_keys(depth=60):
    parts = [b"\x80\x02)q\x00"] + [b"h" + bytes([k]) + b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(depth)]
    return b"".join(parts) + b"}h" + bytes([depth]) + b"K\x01s."


def nested(data):
    """A plain pickle that holds a file of torch.save, as one of a tensor does."""
    return b"\x80\x04ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(data)) + data + b"\x85R."


HOSTILE = {
    "a slot of the memo, 9 bytes": b"\x80\x02]r\xff\xff\xff\x10.",
    "the same in digits": b"]p999999999\n.",
    "bytes of a number": b"cbuiltins\nbytes\n(I4100000000\ntR.",
    "a long string": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"abc.",
    "text of shared lists": shared_lists(50, b"cbuiltins\nstr\nq\xffh\x32\x85R"),
    "shared lists": shared_lists(),
    "shared tuples as keys": tuples_as_keys(),
    "deep lists": b"\x80\x02" + b"(" * 200_000 + b"l" * 200_000 + b".",
    "an int of many digits": b"I" + b"9" * 100_000 + b"\n.",
    "one number a billion times": saved({"a": torch.zeros(1).expand(2**30)}),
    "files within files": functools.reduce(lambda inner, _: nested(inner), range(12), nested(saved(zipped=False))),
    "no end": b"\x80\x02]",
    "no mark": b"\x80\x02e.",
    "a memo that is empty": b"\x80\x02h\x05.",
    "a NumPy shape": b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I4000000000\ntcnumpy\ndtype\n(S'f4'\ntRI00\nS''\ntb.",
    "storages of the wrong size": rewritten(lambda name, data: data[:4] if "/data/" in name else data),
    "storages that are larger": rewritten(lambda name, data: data + b"1234" if "/data/" in name else data),
    "numbers in another order": rewritten(lambda name, data: b"big" if name.endswith("byteorder") else data),
    "a tensor over the end": rewritten(lambda name, data: data.replace(b"K\x02K\x03\x86", b"K\x20K\x30\x86")),
    "another protocol of torch": saved(zipped=False).replace(b"M\xe9\x03.", b"M\xe8\x03.", 1),
    "a storage of a petabyte": saved(zipped=False).replace(b"K\x06N", b"\x8a\x07" + b"\xff" * 6 + b"\x00N"),
    "safetensors with a long header": struct.pack("<Q", 2**40) + b'{"a":1}',
    "safetensors with a deep header": (h := b'{"a":' + b"[" * 50_000, struct.pack("<Q", len(h)) + h)[1],
    "safetensors of a huge shape": (
        h := json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}).encode(),
        struct.pack("<Q", len(h)) + h + b"1234",
    )[1],
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_ends_in_one_sentence(kind, tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(HOSTILE[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(invgen.InvgenError) as error:
        priors.read_weights(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000  # KiB; the files have at most 400 kB, and ask for up to a petabyte


def test_lists_filled_late_are_walked_once(tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(lists_filled_late())
    found = pickles.read(path)
    for _ in range(58):
        assert len(found) == 2 and found[0] is found[1]
        found = found[0]


def test_one_number_that_stands_for_many_does_not_fill_a_network(tmp_path, monkeypatch):
    path = tmp_path / "net.pt"
    torch.save({"weight": torch.zeros(1).expand(1000, 1000), "bias": torch.zeros(1).expand(1000)}, path)
    net = torch.nn.Linear(1000, 1000, device="meta")
    monkeypatch.setenv("INVGEN_MAX_BYTES", "1000000")
    with pytest.raises(invgen.FileError, match="INVGEN_MAX_BYTES"):
        pickles.fill(net, pickles.read(path), path)
    monkeypatch.delenv("INVGEN_MAX_BYTES")
    assert pickles.fill(net, pickles.read(path), path).weight.sum() == 0


def test_an_archive_that_unpacks_to_much_more(tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_MAX_BYTES", "1000000")
    path = tmp_path / "net.pt"
    bomb = rewritten(lambda name, data: bytes(10**7) if name.endswith("/version") else data, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    path.write_bytes(bomb)
    with pytest.raises(invgen.FileError, match=r"unpacked, asks for 9.54 MiB of memory"):
        pickles.read(path)
    path.write_bytes(saved({"a": torch.zeros(10**6)}))  # what it asks for it has: four megabytes
    assert len(pickles.read(path)["a"]) == 10**6


def test_a_tensor_alone(tmp_path):
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps(torch.arange(3.0)))  # compared with a number, it would be an error
    assert torch.equal(pickles.read(path), torch.arange(3.0))
    with pytest.raises(invgen.WeightsError, match="holds a Tensor; expected a state dict"):
        priors.read_weights(path)


@pytest.mark.parametrize("value", [None, 5, "a\0b", "x" * 5000, ["net.pt"]])
def test_what_is_no_path(value):
    with pytest.raises(invgen.WeightsError):
        pickles.read(value)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "safetensors"])
def test_fuzz(form, tmp_path):
    from safetensors.torch import save

    content = {"ema": STATE, "step": 3, "names": ["a", ("b", 2.5)]}
    good = {
        "zip": saved(content),
        "legacy": saved(content, False),
        "pickle": pickle.dumps(content),
        "safetensors": save(STATE),
    }
    path = tmp_path / "net.pt"
    pieces = (
        b"cbuiltins\nbytes\n",
        b"R",
        b"r\xff\xff\xff\x7f",
        b"\x8e",
        b"h\x00",
        b"q\x00",
        b"\x81",
        b"}",
        b"(",
        b"u",
        b"b",
    )
    for case, data in enumerate(mutations(good[form], 250, 4, pieces)):
        path.write_bytes(data)
        only_invgen_errors(priors.read_weights, path, case=case)


@pytest.mark.slow
def test_memory_and_time_are_bounded_where_the_system_counts(tmp_path):
    for k, kind in enumerate(sorted(HOSTILE)):
        (tmp_path / f"{k}.pt").write_bytes(HOSTILE[kind])
    code = (
        "import resource, sys, pathlib, torch\nfrom invgen import InvgenError\nfrom invgen.priors import read_weights\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))\n"
        "for path in pathlib.Path(sys.argv[1]).glob('*.pt'):\n"
        "    try:\n        read_weights(path)\n    except InvgenError as error:\n"
        "        assert 'allocate' not in str(error) and 'Memory' not in str(error), error\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
