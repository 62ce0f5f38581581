"""MATLAB files of both kinds, written by scipy and h5py: what is read, and one sentence for what cannot be."""

import numpy as np
import pytest

from invgen.errors import FileError, InvgenError
from invgen.files import read, read_matlab


@pytest.fixture
def folder(tmp_path):
    import h5py
    from scipy.io import savemat

    inner = {"angles": np.arange(3.0), "unit": "mm"}
    cell = np.empty(2, object)
    cell[:] = [np.ones((2, 3)), np.zeros(4)]
    for name, packed in (("plain", False), ("packed", True)):
        savemat(tmp_path / f"{name}.mat", {"x": np.arange(6.0).reshape(2, 3), "s": inner, "c": cell}, do_compression=packed)
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        file["x"] = np.arange(6.0).reshape(2, 3).T  # HDF5 has the axes of MATLAB in reverse
        file["s/angles"] = np.arange(3.0)[:, None]
        file["parts/a"], file["parts/b"] = np.ones((3, 2)), np.zeros((4, 1))
        file["c"] = np.array([file["parts/a"].ref, file["parts/b"].ref], dtype=h5py.ref_dtype)
    with (tmp_path / "new.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(126) + b"\x00\x02IM")
    return tmp_path


@pytest.mark.parametrize("name", ["plain", "packed", "new"])
def test_reads_arrays_structures_and_cells(folder, name):
    found = read_matlab(folder / f"{name}.mat")
    np.testing.assert_array_equal(found["x"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(found["s"]["angles"], np.arange(3.0))
    assert [part.shape for part in found["c"]] == [(2, 3), (4,)]
    assert list(read_matlab(folder / f"{name}.mat", "x")) == ["x"]


def test_one_sentence_for_what_cannot_be_read(folder):
    whole = (folder / "packed.mat").read_bytes()
    (folder / "short.mat").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mat").write_text("x = 1")
    (folder / "broken.mat").write_bytes((folder / "new.mat").read_bytes()[:700])
    for name, words in (("none", "no file"), ("short", "damaged"), ("text", "no MATLAB file"), ("broken", "damaged")):
        with pytest.raises(FileError, match=words) as caught:
            read_matlab(folder / f"{name}.mat")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileError, match="has no variable 'y' that can be read"):
        read_matlab(folder / "plain.mat", "y")
    with pytest.raises(InvgenError, match="read_matlab"):
        read(folder / "plain.mat")


def test_a_packed_variable_that_would_fill_the_memory_is_refused(folder, monkeypatch):
    from scipy.io import savemat

    savemat(folder / "zeros.mat", {"x": np.zeros(10**6)}, do_compression=True)
    assert (folder / "zeros.mat").stat().st_size < 20_000
    monkeypatch.setenv("INVGEN_MAX_BYTES", "1000000")
    with pytest.raises(FileError, match="asks for .* of memory"):
        read_matlab(folder / "zeros.mat")
