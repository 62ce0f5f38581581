"""Damaged and hostile files of every format: an InvgenError or a signal, never anything else, and never much memory."""

import gzip
import io
import warnings
import wave

import numpy as np
import pytest
from PIL import Image

from invgen.files.reader import Signal, read
from tests import fuzz

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8)


def _saved(save, *args, **options):
    save(stream := io.BytesIO(), *args, **options)
    return stream.getvalue()


def _picture(kind, **options):
    return _saved(lambda out: Image.fromarray(PICTURE).save(out, kind, **options))


def _wav():
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((2, 2, 8000, 0, "NONE", ""))
        file.writeframes(RNG.integers(-999, 999, (60, 2), dtype=np.int16).tobytes())
    return stream.getvalue()


def _hdf5():
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["group/image"] = RNG.random((9, 11))
        file.create_dataset("packed", data=PICTURE, compression="gzip", chunks=(3, 11, 3))
    return stream.getvalue()


def _nifti(packed):
    import nibabel

    image = nibabel.Nifti1Image((RNG.random((5, 6, 3)) * 900).astype(np.int16), np.diag([-1, 2, 3, 1]))
    return gzip.compress(image.to_bytes(), mtime=0) if packed else image.to_bytes()


def _dicom(name):
    from pydicom.examples import get_path

    return get_path(name).read_bytes()


def _tiff(**options):
    import tifffile

    return _saved(tifffile.imwrite, PICTURE, metadata=None, **options)


def _flac():
    import soundfile

    return _saved(soundfile.write, RNG.random(400) - 0.5, 8000, format="FLAC")


GOOD = {
    "a.npy": lambda: _saved(np.save, RNG.random((4, 5))),
    "a.npz": lambda: _saved(np.savez_compressed, image=RNG.random((4, 5)), other=np.arange(3)),
    "a.h5": _hdf5,
    "a.nii": lambda: _nifti(False),
    "a.nii.gz": lambda: _nifti(True),
    "ct.dcm": lambda: _dicom("ct"),
    "colour.dcm": lambda: _dicom("palette_color"),
    "a.png": lambda: _picture("PNG"),
    "a.jpg": lambda: _picture("JPEG"),
    "a.webp": lambda: _picture("WEBP"),
    "a.bmp": lambda: _picture("BMP"),
    "a.tif": lambda: _tiff(photometric="rgb"),
    "packed.tif": lambda: _tiff(photometric="rgb", compression="zlib", predictor=True),
    "a.wav": _wav,
    "a.flac": _flac,
}
PIECES = (b"data\xff\xff\xff\xff", b"'descr': '|O'", b"\x1f\x8b", b"DICM", b"\x7f\xff\xff\xff", b"fLaC")


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_fuzz_files(name, tmp_path):
    pytest.importorskip({"nii": "nibabel", "gz": "nibabel", "flac": "soundfile"}.get(name.rsplit(".", 1)[1], "numpy"))
    good, path = GOOD[name](), tmp_path / name
    path.write_bytes(good)
    assert isinstance(read(path), Signal)
    for case, data in enumerate(fuzz.mutations(good, 40, seed=7, pieces=PIECES)):
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fuzz.only_invgen_errors(read, path, case=f"{name} {case}")
        if isinstance(found, Signal):
            assert found.values.isfinite().all() and found.values.numel()
