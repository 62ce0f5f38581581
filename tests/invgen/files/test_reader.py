"""Reading signals, fitting them to a prior, and writing results whole or not at all."""

import pickle
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from invgen.errors import FileError, OptionError, ShapeError
from invgen.files.reader import Signal, fit, read, read_npy
from invgen.files.writing import atomic_folder, write_text
from invgen.priors import GaussianPrior

RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def prior(*shape, value_range=(-1.0, 1.0)):
    made = GaussianPrior(shape=shape)
    made.value_range = value_range
    return made


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pictures_are_exact(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path)
    signal = read(path)
    assert signal.units == "unit"
    assert torch.equal(signal.values, torch.from_numpy(RGB).permute(2, 0, 1).float() / 255)


def test_jpeg_is_close(tmp_path):
    smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    values = read(tmp_path / "a.jpg").values
    assert values.shape == (1, 64, 64)
    # 95 quantises the lowest frequencies in steps of 2 levels, so no value is off by more than a few of 255
    assert (values[0] * 255 - torch.from_numpy(smooth)).abs().max() < 5


def test_sixteen_bits_and_orientation_and_alpha(tmp_path):
    deep = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert torch.allclose(read(tmp_path / "deep.png").values[0], torch.from_numpy(deep.astype(np.float32)) / 65535)

    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown rotated by 90 degrees clockwise
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    turned = torch.from_numpy(np.rot90(RGB, -1).copy()).permute(2, 0, 1).float() / 255
    assert torch.equal(read(tmp_path / "turned.png").values, turned)

    Image.fromarray(np.dstack([RGB, RGB[..., 0]])).save(tmp_path / "alpha.png")
    signal = read(tmp_path / "alpha.png")
    assert signal.values.shape == (3, 40, 60)
    assert "its transparency was dropped" in signal.notes


def test_npy_keeps_values_and_dtype(tmp_path):
    for array in (np.arange(6.0).reshape(2, 3), np.arange(6, dtype=">f4"), np.arange(3) * 1j, np.array([True, False])):
        np.save(tmp_path / "a.npy", array)
        assert np.array_equal(read_npy(tmp_path / "a.npy").numpy(), array)
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.float64).reshape(1, 2, 3) / 7)
    signal = read(tmp_path / "a.npy")
    assert signal.units == "own"
    assert signal.values.dtype == torch.float32


def test_dicom_in_hounsfield_units_with_spacing():
    import pydicom
    from pydicom.examples import get_path

    dataset = pydicom.dcmread(get_path("ct"))
    expected = dataset.pixel_array.astype(np.float64) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    signal = read(get_path("ct"))
    assert signal.units == "HU"
    assert signal.spacing == tuple(float(s) for s in dataset.PixelSpacing)
    assert np.array_equal(signal.values[0].numpy(), expected.astype(np.float32))
    x, _ = fit(signal, prior(1, 128, 128))
    assert torch.allclose(x[0], torch.from_numpy(expected.clip(-1000, 1000) / 1000).float(), atol=1e-6)


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("gone.png", None, "there is no file"),
        ("empty.png", b"", "is empty"),
        ("text.png", b"not a picture" * 20, "not a PNG, JPEG, TIFF, NPY, NPZ, HDF5, DICOM, NIfTI, WAV or FLAC file"),
        ("text.npy", b"not an array" * 20, "is not an NPY file"),
        ("text.dcm", b"not a slice" * 20, "is not a DICOM file"),
        ("gif.gif", b"GIF89a" + bytes(200), "not a PNG, JPEG, TIFF, NPY, NPZ, HDF5, DICOM, NIfTI, WAV or FLAC file"),
    ],
)
def test_what_is_not_readable(tmp_path, name, content, sentence):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError) as error:
        read(path)
    assert sentence in str(error.value)
    assert str(path) in str(error.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileError, match="is a folder; pass one of its files"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.npy", "a.dcm"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_files(tmp_path, name, part):
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, RGB)
    elif name.endswith("dcm"):
        from pydicom.examples import get_path

        path.write_bytes(get_path("ct").read_bytes())
    else:
        Image.fromarray(RGB).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(FileError, match=r"damaged or cut off|no picture that pydicom can read|is not a"):
        read(path)


class _Evil:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


def test_pickles_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("evil.npy", np.array([_Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(FileError, match="holds Python objects, which could run code"):
        read("evil.npy")
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(FileError, match="is not an NPY file"):
        read("bare.npy")
    assert not (tmp_path / "pwned").exists()


def test_values_that_are_not_finite(tmp_path):
    array = np.ones((4, 4), dtype=np.float32)
    array[1, 1], array[2, 2] = np.nan, np.inf
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(FileError, match="has 2 of 16 values not finite"):
        read(tmp_path / "a.npy")
    Image.fromarray(array).save(tmp_path / "a.tif")
    with pytest.raises(FileError, match="not finite"):
        read(tmp_path / "a.tif")


def test_arrays_that_are_no_signal(tmp_path):
    for array, sentence in (
        (np.array(["a"]), "expected numbers"),
        (np.zeros((0, 3)), "empty array"),
    ):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(FileError, match=sentence):
            read(tmp_path / "a.npy")


def test_a_picture_bomb_is_refused(tmp_path):
    import struct

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(FileError, match="too large"):
        read(tmp_path / "bomb.png")


def test_fit_maps_units():
    grey = Signal(torch.linspace(0, 1, 16).reshape(1, 4, 4), "unit")
    x, signal = fit(grey, prior(1, 4, 4, value_range=(-2.0, 6.0)))
    assert torch.allclose(x, grey.values * 8 - 2)
    assert "became the prior's -2 to 6" in signal.notes[0]
    own = Signal(torch.randn(1, 4, 4), "own")
    x, signal = fit(own, prior(1, 4, 4))
    assert torch.equal(x, own.values)
    assert signal.notes == ()
    hounsfield = Signal(torch.tensor([-3000.0, -160.0, 40.0, 240.0]).reshape(1, 2, 2), "HU")
    x, _ = fit(hounsfield, prior(1, 2, 2), window=(-160.0, 240.0))
    assert torch.allclose(x.flatten(), torch.tensor([-1.0, -1.0, 0.0, 1.0]))
    with pytest.raises(OptionError, match="low < high"):
        fit(hounsfield, prior(1, 2, 2), window=(1.0, -1.0))


def test_fit_channels():
    colour = Signal(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)), "own")
    x, signal = fit(colour, prior(1, 8, 8))
    r, g, b = colour.values
    assert torch.allclose(x[0], 0.2126 * r + 0.7152 * g + 0.0722 * b)
    assert "grey" in signal.notes[0]
    x, _ = fit(Signal(torch.rand(8, 8), "own"), prior(3, 8, 8))
    assert torch.equal(x[0], x[2])
    x, signal = fit(Signal(colour.values.movedim(0, -1), "own"), prior(3, 8, 8))
    assert torch.equal(x, colour.values)
    assert "last axis" in signal.notes[0]


def test_fit_complex():
    z = torch.randn(4, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    for signal in (z, z[None]):
        x, fitted = fit(Signal(signal, "own"), prior(2, 4, 6))
        assert torch.equal(x, torch.stack([z.real, z.imag]))
        assert "two channels" in fitted.notes[0]
    with pytest.raises(ShapeError, match=r"the prior is over \(3, 4, 6\)"):
        fit(Signal(z, "own"), prior(3, 4, 6))


def test_fit_sizes():
    ramp = torch.linspace(0, 1, 64).expand(1, 32, 64).clone()
    x, signal = fit(Signal(ramp, "own", spacing=(0.5, 0.5)), prior(1, 16, 16))
    assert x.shape == (1, 16, 16)
    assert signal.spacing == (1.0, 1.0)
    assert any("middle 32 x 32 of its 32 x 64" in note for note in signal.notes)
    assert any("resampled to 16 x 16" in note for note in signal.notes)
    # a symmetric filter leaves a ramp a ramp: away from the edges a pixel is the mean of the two that it covers
    expected = ramp[0, 0, 16:48].reshape(16, 2).mean(1)
    assert torch.allclose(x[0, 8, 3:-3], expected[3:-3], atol=1e-5)
    same, signal = fit(Signal(ramp, "own"), prior(1, 32, 64), resize=False)
    assert torch.equal(same, ramp)
    with pytest.raises(ShapeError, match="32 x 64 pixels, the prior is over 16 x 16"):
        fit(Signal(ramp, "own"), prior(1, 16, 16), resize=False)
    with pytest.raises(ShapeError, match=r"shape \(5, 8, 8\), the prior is over \(3, 8, 8\)"):
        fit(Signal(torch.zeros(5, 8, 8), "own"), prior(3, 8, 8))


def test_a_folder_of_results_comes_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError), atomic_folder(out) as work:
        (work / "a.npy").write_bytes(b"half")
        raise RuntimeError
    assert not (tmp_path / "deep").exists(), "a failed run leaves folders behind"
    with atomic_folder(out) as work:
        (work / "a.npy").write_bytes(b"whole")
        assert not (out / "a.npy").exists()
    assert [p.name for p in out.iterdir()] == ["a.npy"]
    with pytest.raises(KeyboardInterrupt), atomic_folder(out) as work:
        (work / "a.npy").write_bytes(b"half")
        raise KeyboardInterrupt
    assert (out / "a.npy").read_bytes() == b"whole"
    assert [p.name for p in out.iterdir()] == ["a.npy"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(FileError, match="cannot write to"), atomic_folder(tmp_path / "file" / "out"):
        pytest.fail("the block must not start")
    with pytest.raises(FileError, match="cannot write to"), atomic_folder(tmp_path / "file"):
        pytest.fail("the block must not start")
    with pytest.raises(FileError, match="cannot write"):
        write_text(tmp_path / "file" / "page.md", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "here"
