"""NIfTI, TIFF, pictures and recordings of many kinds against other readings of the same file."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from invgen.errors import FileError, InvgenError, MissingExtraError, UnitsWarning
from invgen.files.nifti import looks_like_hounsfield
from invgen.files.reader import Signal, fit, read
from invgen.priors import GaussianPrior
from invgen.priors.data import folders

RNG = np.random.default_rng(0)
VOLUME = (RNG.random((6, 5, 4)) * 900 + 1).astype(np.int16)  # x, y, z


def noted(signal, part):
    return any(part in note for note in signal.notes)


# -- NIfTI ---------------------------------------------------------------------------------------------------------------


def nifti(path, values, affine=None, code=2, **facts):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(values, np.diag([1.0, 2, 3, 1]) if affine is None else affine)
    image.set_sform(image.affine, code)
    image.set_qform(image.affine if code else None, code)
    for key, value in facts.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("codes", ["LAS", "LPS", "ASR", "SRA", "IPL", "RSA"])
def test_every_orientation_is_the_same_volume(tmp_path, codes):
    nibabel = pytest.importorskip("nibabel")
    plain = nibabel.load(nifti(tmp_path / "a.nii", VOLUME))
    to = nibabel.orientations.axcodes2ornt(codes)
    turned = plain.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(plain.affine), to))
    nibabel.save(turned, tmp_path / "b.nii.gz")
    one, two = read(tmp_path / "a.nii"), read(tmp_path / "b.nii.gz")
    assert torch.equal(one.values, two.values) and one.spacing == two.spacing == (2.0, 1.0)
    assert noted(two, f"its axes {codes} were turned to RAS")
    trained = [folders._volumes([tmp_path / name])[0][0].values for name in ("a.nii", "b.nii.gz")]
    assert torch.equal(torch.stack(trained[0]), torch.stack(trained[1]))


def test_nifti_without_or_with_an_odd_orientation(tmp_path):
    unknown = read(nifti(tmp_path / "a.nii", VOLUME, code=0))
    assert torch.equal(unknown.values, read(nifti(tmp_path / "b.nii", VOLUME)).values)
    assert noted(unknown, "it does not say how it lies")
    angle = np.deg2rad(20)
    tilted = np.array(
        [[np.cos(angle), -np.sin(angle), 0, 0], [np.sin(angle), np.cos(angle), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    oblique = read(nifti(tmp_path / "c.nii", VOLUME, tilted))
    assert torch.equal(oblique.values, unknown.values) and noted(oblique, "oblique by 20.0 degrees")


def test_nifti_scales_of_zero_and_types(tmp_path):
    plain = read(nifti(tmp_path / "a.nii", VOLUME)).values
    for slope in (0.0, np.nan):  # no scaling, says the standard
        raw = bytearray((tmp_path / "a.nii").read_bytes())
        raw[112:120] = struct.pack("<2f", slope, 0.0 if slope == 0 else np.nan)
        (tmp_path / "b.nii").write_bytes(raw)
        assert torch.equal(read(tmp_path / "b.nii").values, plain)
    z = (RNG.random((6, 5, 4)) + 1j * RNG.random((6, 5, 4))).astype(np.complex64)
    signal = read(nifti(tmp_path / "c.nii", z))
    assert signal.units == "own" and np.array_equal(signal.values[2].numpy(), z[:, ::-1, 2].T)
    x, _ = fit(signal, GaussianPrior(shape=(2, 5, 6)))
    assert np.array_equal(x.numpy(), np.stack([z.real[:, ::-1, 2].T, z.imag[:, ::-1, 2].T]))
    colours = np.zeros((6, 5, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(FileError, match="holds colours"):
        read(nifti(tmp_path / "d.nii", colours))


def test_what_is_taken_for_hounsfield_units(tmp_path):
    ct = np.full((20, 20, 5), -1000.0)
    ct[5:15, 5:15], ct[8:10, 8:10] = 40, 900
    assert looks_like_hounsfield(ct)
    padded = ct.copy()
    padded[:3] = -3024  # padding outside of the field of view
    assert looks_like_hounsfield(padded)
    assert not looks_like_hounsfield(RNG.uniform(-4096, 4094, (20, 20, 20))), "phase"
    assert not looks_like_hounsfield(RNG.normal(0, 1, (20, 20, 20))), "standardised MR"
    assert not looks_like_hounsfield(VOLUME)
    path = nifti(tmp_path / "a.nii", ct.astype(np.float32))
    assert read(path).units == "HU" and read(path, modality="MR").units == "unit"
    path = nifti(tmp_path / "b.nii", VOLUME)
    assert read(path).units == "unit" and read(path, modality="CT").units == "HU"
    x, _ = fit(read(path, modality="CT"), GaussianPrior(shape=(1, 5, 6)), window=(0.0, 900.0))
    assert x.max() > 0.5
    with pytest.raises(InvgenError, match="a window is for Hounsfield units"):
        fit(read(path), GaussianPrior(shape=(1, 5, 6)), window=(0.0, 900.0))


# -- TIFF and pictures ---------------------------------------------------------------------------------------------------

GREY = RNG.integers(0, 65536, (7, 9), dtype=np.uint16)


@pytest.mark.parametrize(
    "options", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib"}, {"tile": (16, 16)}]
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float16", "float32", "float64", "uint32", "complex64"])
def test_tiff_of_every_kind(tmp_path, dtype, options):
    import tifffile

    stored = (GREY >> 8 if dtype == "uint8" else GREY / 7 if dtype[0] in "fc" else GREY >> 1).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", **options)
    signal = read(tmp_path / "a.tif")
    full = {"uint8": 255, "uint16": 65535}.get(dtype)
    assert signal.units == ("unit" if full else "own")
    single = np.complex64 if dtype == "complex64" else np.float32
    assert np.array_equal(signal.values[0].numpy(), stored.astype(single) / np.float32(full or 1))
    assert full or noted(signal, f"its {dtype} values were taken for those of the prior")


def test_tiff_layouts(tmp_path):
    import tifffile

    path, colours = tmp_path / "a.tif", RNG.integers(0, 65536, (7, 9, 3), dtype=np.uint16)
    for planar, stored in (("contig", colours), ("separate", colours.transpose(2, 0, 1))):
        tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar)
        assert np.array_equal(read(path).values.numpy(), colours.transpose(2, 0, 1) / np.float32(65535))
    tifffile.imwrite(path, np.dstack([colours, GREY]), photometric="rgb", extrasamples=["unassalpha"])
    signal = read(path)
    assert signal.values.shape == (3, 7, 9) and "its transparency was dropped" in signal.notes
    table = RNG.integers(0, 65536, (3, 256), dtype=np.uint16)
    tifffile.imwrite(path, (GREY >> 8).astype(np.uint8), photometric="palette", colormap=table)
    assert np.array_equal(read(path).values.numpy(), table[:, GREY >> 8] / np.float32(65535))
    tifffile.imwrite(path, GREY >> 4, photometric="minisblack")
    assert noted(read(path), "its values use 12 of their 16 bits")
    for orientation, expected in ((3, GREY[::-1, ::-1]), (6, np.rot90(GREY, -1)), (8, np.rot90(GREY)), (5, GREY.T)):
        tifffile.imwrite(path, GREY, photometric="minisblack", extratags=[(274, 3, 1, orientation, True)])
        signal = read(path)
        assert np.array_equal(signal.values[0].numpy(), expected / np.float32(65535)), orientation
        assert noted(signal, f"orientation {orientation}")
    tifffile.imwrite(path, np.dstack([colours, GREY]).astype(np.uint8), photometric="separated")
    with pytest.raises(FileError, match="colours of kind SEPARATED, expected grey, RGB or a palette"):
        read(path)
    with tifffile.TiffWriter(path) as file:
        file.write(GREY, photometric="minisblack", metadata=None)
        file.write(GREY[:3], photometric="minisblack", metadata=None)
    signal = read(path)
    assert signal.values.shape == (1, 7, 9) and noted(signal, "1 of its pages are of another size")


def test_tiff_of_other_compressions(tmp_path):
    eight = (GREY >> 8).astype(np.uint8)
    for compression in ("tiff_lzw", "packbits"):
        Image.fromarray(eight).save(tmp_path / "a.tif", compression=compression)
        assert np.array_equal(read(tmp_path / "a.tif").values[0].numpy() * 255, eight)
    Image.fromarray(GREY).save(tmp_path / "a.tif", compression="tiff_lzw")
    try:
        assert np.allclose(read(tmp_path / "a.tif").values[0].numpy(), GREY / 65535, atol=1e-7)
    except MissingExtraError as error:
        assert "pip install imagecodecs" in str(error)
    one = eight > 127
    Image.fromarray(one).save(tmp_path / "a.tif")
    assert np.array_equal(read(tmp_path / "a.tif").values[0].numpy(), one)


def test_pictures_say_what_was_not_applied(tmp_path):
    eight = np.dstack([(GREY >> 8).astype(np.uint8)] * 3)
    Image.fromarray(eight).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(FileError, match="values of kind CMYK, expected grey or RGB"):
        read(tmp_path / "a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(eight).save(tmp_path / "b.png", exif=exif)
    assert noted(read(tmp_path / "b.png"), "EXIF orientation 6")
    Image.fromarray(GREY >> 4).save(tmp_path / "c.png")
    assert noted(read(tmp_path / "c.png"), "its values use 12 of their 16 bits")
    Image.fromarray(eight[..., 0] > 127).save(tmp_path / "d.png")
    assert np.array_equal(read(tmp_path / "d.png").values[0].numpy(), eight[..., 0] > 127)


def test_arrays_of_every_type(tmp_path):
    for dtype in ("bool", "uint8", "uint16", "int16", "uint32", "int64", "float16", "float64", ">f4", "complex128"):
        stored = np.asfortranarray((GREY % 100).astype(dtype))
        np.save(tmp_path / "a.npy", stored)
        np.savez(tmp_path / "a.npz", image=stored)
        full = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
        for name in ("a.npy", "a.npz"):
            signal = read(tmp_path / name)
            assert np.array_equal(signal.values.numpy(), (stored.astype(signal.values.numpy().dtype) / np.float32(full)))
    np.save(tmp_path / "a.npy", np.zeros(3, dtype=[("a", "f4"), ("b", "i4")]))
    with pytest.raises(FileError, match="expected numbers"):
        read(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.full((3, 3), 1e300))
    with pytest.raises(FileError, match="too large for single precision"):
        read(tmp_path / "a.npy")


def test_values_in_other_units_are_warned_of():
    hounsfield = Signal(torch.full((1, 4, 4), -1000.0), "own")
    with pytest.warns(UnitsWarning, match="they may be in other units"):
        fit(hounsfield, GaussianPrior(shape=(1, 4, 4)))


# -- HDF5 layouts --------------------------------------------------------------------------------------------------------


def test_raw_data_is_named_and_no_picture(tmp_path):
    import h5py

    kspace = np.ones((2, 4, 4), np.complex64)
    layouts = {
        "fastmri.h5": {"kspace": kspace, "mask": np.ones(4)},
        "exchange.h5": {"exchange/data": np.ones((3, 2, 4), np.uint16), "exchange/theta": np.arange(3.0)},
        "nexus.h5": {"entry/data/data": np.ones((3, 2, 4)), "entry/data/rotation_angle": np.arange(3.0)},
        "ismrmrd.h5": {"dataset/data": np.zeros(2, [("head", "f4"), ("data", "f4")]), "dataset/xml": "x"},
        "minc.h5": {"minc-2.0/image/0/image": np.ones((3, 4, 4))},
    }
    for name, arrays in layouts.items():
        with h5py.File(tmp_path / name, "w") as file:
            for key, value in arrays.items():
                file[key] = value
        with pytest.raises(FileError, match="no picture|MINC"):
            read(tmp_path / name)
    assert torch.equal(read(f"{tmp_path}/fastmri.h5:kspace").values, torch.from_numpy(kspace))
    np.savez(tmp_path / "a.npz", sinogram=np.ones((3, 4)))
    with pytest.raises(FileError, match="holds measurements"):
        read(tmp_path / "a.npz")
    with h5py.File(tmp_path / "parts.h5", "w") as file:
        parts = np.zeros((4, 4), [("real", "f4"), ("imag", "f4")])
        parts["real"], parts["imag"] = 1, 2
        file["image"] = parts
    assert torch.equal(read(tmp_path / "parts.h5").values, torch.full((4, 4), 1 + 2j))


# -- recordings ----------------------------------------------------------------------------------------------------------

SINE = np.sin(0.05 * np.arange(3200)) * 0.5


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "PCM_24", "FLOAT", "DOUBLE", "PCM_U8"])
def test_wav_of_every_coding(tmp_path, subtype):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "a.wav"
    soundfile.write(path, SINE, 16000, subtype=subtype)
    expected, _ = soundfile.read(path, dtype="float32")
    signal = read(path)
    assert signal.rate == 16000
    assert np.abs(signal.values[0].numpy() - expected).max() <= 2**-15  # soundfile rounds some integers of its own


@pytest.mark.parametrize(
    "kind, form", [("mp3", "MP3"), ("ogg", "OGG"), ("flac", "FLAC"), ("aiff", "AIFF"), ("au", "AU"), ("wav", "RF64")]
)
def test_other_recordings(tmp_path, kind, form):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, SINE, 16000, format=form)
    expected, _ = soundfile.read(path, dtype="float32")
    named = read(path).values[0].numpy()
    assert np.allclose(named, expected, atol=1e-6)  # the decoder of MP3 rounds otherwise by where its buffers lie
    nameless = read(path.rename(tmp_path / "nameless")).values[0].numpy()
    assert np.allclose(nameless, expected, atol=1e-6)


@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW"])
@pytest.mark.parametrize("whole, length", [(2**32 - 1, 2**32 - 1), (0x7FFFFFFF, 0x7FFFFFDB), (0, 0)])
def test_lengths_that_were_never_written(tmp_path, whole, length, subtype):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", SINE, 16000, subtype=subtype)
    expected = read(tmp_path / "a.wav").values
    raw = bytearray((tmp_path / "a.wav").read_bytes())
    at = raw.index(b"data")
    raw[4:8], raw[at + 4 : at + 8] = struct.pack("<I", whole), struct.pack("<I", length)
    (tmp_path / "b.wav").write_bytes(raw)
    signal = read(tmp_path / "b.wav")
    assert torch.equal(signal.values, expected) and noted(signal, "from a pipe")


def test_a_recording_that_is_cut_off_is_told_from_one_of_a_pipe(tmp_path):
    wavfile.write(tmp_path / "a.wav", 8000, (SINE * 30000).astype(np.int16))
    raw = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(raw[:-100])
    with pytest.raises(FileError, match="is cut off"):
        read(tmp_path / "a.wav")


def test_mu_law_without_soundfile_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("soundfile").write(tmp_path / "a.wav", SINE, 16000, subtype="ULAW")
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(MissingExtraError, match="needs soundfile"):
        read(tmp_path / "a.wav")
