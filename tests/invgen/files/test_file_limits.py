"""Files that ask for more than they hold, or for what is not theirs: refused before memory is taken or a file read."""

import gzip
import io
import struct
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest

from invgen.errors import FileError, InvgenError, OptionError
from invgen.files.reader import read, read_npy, slices

LIMIT = 2**20


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setenv("INVGEN_MAX_BYTES", str(LIMIT))


def warm():
    """Imports what readers import, whose memory is no concern here."""
    import PIL.Image  # noqa: F401
    import pydicom.pixels  # noqa: F401
    import scipy.io.wavfile  # noqa: F401
    import tifffile  # noqa: F401
    import torch  # noqa: F401

    for name in ("nibabel", "soundfile"):
        pytest.importorskip(name)


def refused(path, match="INVGEN_MAX_BYTES"):
    """Reads a file that must be refused, and returns the sentence; a few times the limit is allocated at most."""
    warm()
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=match) as error:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * LIMIT, f"{peak} bytes were allocated"  # libraries imported on the way take a few
    return str(error.value)


def nifti_header(shape, code=16, bits=32):
    nibabel = pytest.importorskip("nibabel")
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header["datatype"], header["bitpix"], header["vox_offset"], header["magic"] = code, bits, 352, b"n+1"
    return header.binaryblock + bytes(4)


@pytest.mark.slow
def test_a_nifti_header_of_452_bytes(small, tmp_path):
    pytest.importorskip("nibabel")
    (tmp_path / "a.nii").write_bytes(nifti_header((1000, 900, 1000)) + bytes(100))
    assert "asks for 3.35 GiB" in refused(tmp_path / "a.nii")


def test_a_short_nifti_is_cut_off_before_it_is_allocated(tmp_path):
    (tmp_path / "a.nii").write_bytes(nifti_header((500, 500, 1000)) + bytes(100))  # below the usual limit
    refused(tmp_path / "a.nii", "is cut off")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(nifti_header((500, 500, 1000)) + bytes(100)))
    refused(tmp_path / "a.nii.gz", "is cut off")


@pytest.mark.slow
def test_a_packed_nifti_that_grows(small, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(nifti_header((300, 300, 300)) + bytes(50 * LIMIT)))
    refused(tmp_path / "a.nii.gz")
    # what lies behind the values is not unpacked at all
    (tmp_path / "b.nii.gz").write_bytes(
        gzip.compress(nifti_header((4, 4, 4)) + np.ones(64, "<f4").tobytes() + bytes(50 * LIMIT))
    )
    warm()
    tracemalloc.start()
    assert read(tmp_path / "b.nii.gz").values.shape == (4, 4, 4)
    assert tracemalloc.get_traced_memory()[1] < 8 * LIMIT
    tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_array_headers(small, tmp_path, suffix):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        path.write_bytes(stream.getvalue() + bytes(64))
        with pytest.raises(FileError, match="INVGEN_MAX_BYTES"):
            read_npy(path)
        refused(path)
    else:
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("image.npy", stream.getvalue() + bytes(64))
        refused(path, "damaged or cut off")
        np.savez_compressed(path, image=np.zeros((2000, 2000)))  # 32 kB that unpack to 32 MB
        refused(path)


def test_hdf5_shapes(small, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (10**6, 10**6), np.float32, chunks=(8, 8))
    assert "a.h5:/image asks for 3.73e+03 GiB" in refused(tmp_path / "a.h5")


def test_picture_headers(small, tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))))
    refused(tmp_path / "a.png")


@pytest.mark.slow
def test_tiff_pages_that_grow(small, tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4000, 4000), np.uint8), compression="zlib")
    refused(tmp_path / "a.tif")
    # a small page whose one strip unpacks to far more than the page has
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((64, 64), np.uint8), compression="zlib", metadata=None)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        tag, at = file.pages[0].tags["StripByteCounts"], file.pages[0].tags["StripOffsets"]
    raw, bomb = bytearray((tmp_path / "b.tif").read_bytes()), zlib.compress(bytes(64 * LIMIT))
    raw[tag.valueoffset : tag.valueoffset + 4] = struct.pack("<I", len(bomb))
    raw[at.valueoffset : at.valueoffset + 4] = struct.pack("<I", len(raw))
    (tmp_path / "b.tif").write_bytes(bytes(raw) + bomb)
    refused(tmp_path / "b.tif", "unpack to more than 4096 bytes")


def dicom(path, **facts):
    import pydicom

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = facts.pop("syntax", pydicom.uid.ExplicitVRLittleEndian)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    about = {"Rows": 8, "Columns": 8, "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
    about |= {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelData": bytes(128), "Modality": "CT"}
    for key, value in (about | facts).items():
        setattr(dataset, key, value)
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of pydicom, which writes what it should not
def test_dicom_headers_and_deflated_files(small, tmp_path):
    import pydicom

    dicom(tmp_path / "a.dcm", Rows=60000, Columns=60000)
    refused(tmp_path / "a.dcm")
    dicom(tmp_path / "b.dcm", NumberOfFrames=2**31 - 1)
    refused(tmp_path / "b.dcm")
    dicom(tmp_path / "c.dcm", syntax=pydicom.uid.DeflatedExplicitVRLittleEndian, PatientComments="x" * 64 * LIMIT)
    assert (tmp_path / "c.dcm").stat().st_size < LIMIT
    refused(tmp_path / "c.dcm")
    dicom(tmp_path / "d.dcm", syntax=pydicom.uid.DeflatedExplicitVRLittleEndian)
    assert read(tmp_path / "d.dcm").values.shape == (1, 8, 8), "a deflated file of honest size is read"


def test_recordings(small, tmp_path):
    head = b"RIFF" + struct.pack("<I", 2**31) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    (tmp_path / "a.wav").write_bytes(head + b"data" + struct.pack("<I", 2**30) + bytes(40))
    refused(tmp_path / "a.wav", r"is cut off \(it has 40 of 1073741824 bytes")
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.flac", np.zeros(8000), 8000)
    raw = bytearray((tmp_path / "a.flac").read_bytes())
    raw[21:26] = bytes([raw[21] | 0x0F, 255, 255, 255, 255])  # the number of samples in STREAMINFO, 36 bits
    (tmp_path / "a.flac").write_bytes(bytes(raw))
    refused(tmp_path / "a.flac")


def test_hdf5_does_not_reach_other_files(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(64, dtype=np.float32).tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.ones((8, 8))
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("outside", (8, 8), np.float32, external=[(str(secret), 0, 256)])
        layout = h5py.VirtualLayout((8, 8), np.float64)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "image", (8, 8))
        file.create_virtual_dataset("virtual", layout)
        file["linked"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/image")
        file["soft"] = h5py.SoftLink("/outside")
    for name in ("outside", "virtual"):
        with pytest.raises(FileError, match=f"a.h5:/{name} keeps its values in other files"):
            read(f"{path}:{name}")
    for name in ("linked", "soft"):
        with pytest.raises(FileError, match="has no array"):
            read(f"{path}:{name}")
    with pytest.raises(FileError, match="keeps its values in other files"):
        read(path)


def test_an_hdf5_filter_that_is_not_there_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("image", (8, 8), np.float32, chunks=(8, 8))
        dcpl = dataset.id.get_create_plist()
        dcpl.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # zstd, which comes with hdf5plugin
        space, kind = h5py.h5s.create_simple((8, 8)), h5py.h5t.py_create(np.dtype("f4"))
        h5py.h5d.create(file.id, b"packed", kind, space, dcpl)
    if not h5py.h5z.filter_avail(32015):
        with pytest.raises(FileError, match="HDF5 filter 32015, which is not here"):
            read(f"{tmp_path}/a.h5:packed")


@pytest.mark.parametrize("call", [read, slices, read_npy])
def test_paths_that_no_file_can_have(call):
    for path in ("a" * 5000, "a\0b.npy", "x" * 300 + ".npy[3]"):
        with pytest.raises(FileError):
            call(path)
    for path in (None, 5, b"a.npy"):
        with pytest.raises(InvgenError):
            call(path)


def test_an_unknown_modality():
    with pytest.raises(OptionError, match="unknown modality 'US'"):
        read("a.nii", modality="US")
