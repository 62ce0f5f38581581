"""The store: whole results or none, whatever is cut off, full or in use."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.report.results import read
from invgen.errors import FileError

KEY = "ab" + "0" * 22
CELL = {"problem": "blur", "sampler": "PiGDM", "image": "a", "seed": 0}
RECORD = {"cell": CELL, "metrics": {"psnr": 20.0}, "nfe": 3.0, "seconds": 0.1}
ARRAYS = {"mean": np.arange(4.0)}


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "out")
    found.prepare()
    return found


def test_a_result_comes_back_and_replaces_its_failure(store):
    store.save_failure(KEY, {"cell": CELL, "error": "bad luck"})
    store.save_failure(KEY, {"cell": CELL, "error": "bad luck"})
    assert store.failure(KEY)["attempts"] == 2
    assert store.states([KEY, "cd"]) == {KEY: "failed"}
    (row,) = read(store.folder).rows
    assert (row.key, row.sampler, row.error) == (KEY, "PiGDM", "bad luck")
    store.save(KEY, RECORD, ARRAYS)
    assert store.states([KEY]) == {KEY: "done"} and store.failure(KEY) is None
    (row,) = read(store.folder).rows
    assert (row.values, row.error) == ({"psnr": 20.0, "nfe": 3.0, "seconds": 0.1}, "")
    np.testing.assert_array_equal(store.arrays(KEY)["mean"], ARRAYS["mean"])
    assert store.damaged == {}


def flipped(path, at, bit=0):
    """Changes one bit of one byte, and not the size."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_every_flipped_byte_is_noticed(store, suffix):
    """Of a record all but blanks, whose change a reader of JSON does not see, and of arrays any."""
    store.save(KEY, RECORD, ARRAYS)
    path = store.path(KEY, suffix)
    good = path.read_bytes()
    for at in range(0, len(good), 1 if suffix == ".json" else 7):
        if suffix == ".json" and good[at : at + 1] in b" \n":
            continue
        flipped(path, at)
        assert store.record(KEY) is None and store.states([KEY]) == {}, (at, good[at : at + 1])
        assert path in store.damaged
        path.write_bytes(good)
    assert store.record(KEY) is not None and store.damaged == {}


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"psnr": 20.0', '"psnr": 90.0', "its checksum does not fit"),
        ('"psnr": 20.0', '"psnr": NaN', "its checksum does not fit"),
        ('"version": 2', '"version": 1', "it is of format 1, this version of invgen reads 2"),
        ("{", "[", "it is cut off, or no JSON"),
        (None, "[]", "it holds no record"),
        (None, "[" * 100_000, "it is cut off, or no JSON"),
        (None, "\0", "it is cut off, or no JSON"),
    ],
)
def test_a_record_that_was_changed_is_named_with_what_is_wrong(store, old, new, why):
    store.save(KEY, RECORD, {})
    path = store.path(KEY, ".json")
    path.write_text(new if old is None else path.read_text().replace(old, new, 1))
    assert store.record(KEY) is None and store.damaged == {path: why}


@pytest.mark.parametrize("lost", ["cell", "metrics", "nfe", "seconds", "problem", "sampler", "image", "seed", "psnr"])
def test_a_record_that_lacks_a_field_blocks_nothing(store, lost):
    """Even one whose checksum fits, as another program might write it."""
    record = json.loads(json.dumps(RECORD))
    for part in (record, record.get("cell", {}), record.get("metrics", {})):
        if lost in part:
            part[lost] = "many" if lost == "psnr" else None
    other = KEY[::-1]
    store.save(KEY, record, {})
    store.save(other, RECORD, {})
    assert store.states([KEY, other]) == {other: "done"}
    assert store.damaged[store.path(KEY, ".json")].startswith("it lacks")
    found = read(store.folder)
    assert [row.key for row in found.rows] == [other] and len(found.damaged) == 1
    for broken in ({"error": "bad luck"}, {"cell": CELL}, {"cell": {}, "error": 3}):
        store.save_failure("cd" * 12, broken)
        assert store.states(["cd" * 12]) == {} and len(read(store.folder).rows) == 1


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_file_that_was_cut_off_is_no_result(store, suffix):
    store.save(KEY, RECORD, ARRAYS)
    path = store.path(KEY, suffix)
    path.write_bytes(path.read_bytes()[:-20])
    assert store.record(KEY) is None and store.states([KEY]) == {}
    if suffix == ".npz":
        with pytest.raises(FileError, match="missing or damaged"):
            store.arrays(KEY)


def test_a_cell_is_claimed_by_one(store):
    with store.claim(KEY) as first, Store(store.folder).claim(KEY) as second:
        assert first and not second
    with store.claim(KEY) as third:
        assert third
    assert not store.path(KEY, ".lock").exists()


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="cannot write to .*file/out: Not a directory; choose another --out"):
        Store(tmp_path / "file" / "out").prepare()


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(store):
    """The limit on the size of files stands for a full disk: the system refuses the write in the middle of it."""
    code = f"""
        import resource, numpy as np
        from invgen.benchmarks.engine.store import Store
        from invgen.errors import FileError
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            Store({str(store.folder)!r}).save({KEY!r}, {RECORD!r}, {{"mean": np.zeros(10_000)}})
        except FileError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cannot write") and "File too large" in done.stdout
    assert [p.name for p in store.cells.rglob("*") if p.is_file()] == []
    assert store.states([KEY]) == {}
