"""The store: whole results or none, whatever is cut off, full or in use."""

import csv
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from invgen.benchmarks.store import Store
from invgen.errors import FileError

KEY = "ab" + "0" * 22
RECORD = {"cell": {"sampler": "PiGDM"}, "metrics": {"psnr": 20.0}, "nfe": 3.0, "seconds": 0.1}
ARRAYS = {"mean": np.arange(4.0)}


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "out")
    found.prepare()
    return found


def test_a_result_comes_back_and_replaces_its_failure(store):
    store.save_failure(KEY, {"cell": {"sampler": "PiGDM"}, "error": "bad luck"})
    store.save_failure(KEY, {"cell": {"sampler": "PiGDM"}, "error": "bad luck"})
    assert store.failure(KEY)["attempts"] == 2
    assert store.states([KEY, "cd"]) == {KEY: "failed"}
    assert store.rows()[0] == {"key": KEY, "sampler": "PiGDM", "error": "bad luck"}
    store.save(KEY, RECORD, ARRAYS)
    assert store.states([KEY]) == {KEY: "done"} and store.failure(KEY) is None
    assert store.rows() == [{"key": KEY, "sampler": "PiGDM", "psnr": 20.0, "nfe": 3.0, "seconds": 0.1, "error": ""}]
    np.testing.assert_array_equal(store.arrays(KEY)["mean"], ARRAYS["mean"])
    assert store.write_csv(store.folder / "results.csv") == 1
    with (store.folder / "results.csv").open() as file:
        assert next(csv.DictReader(file))["psnr"] == "20.0"


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


def test_a_full_disk_leaves_nothing_half_written(store):
    """The limit on the size of files stands for a full disk: the system refuses the write in the middle of it."""
    code = f"""
        import resource, numpy as np
        from invgen.benchmarks.store import Store
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
