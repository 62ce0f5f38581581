"""Arrays, scans and recordings: each format against the library that wrote the file, and damaged files of each."""

import wave

import h5py
import numpy as np
import pytest
import torch
from scipy.io import wavfile

from invgen.errors import FileError, OptionError, ShapeError
from invgen.files.reader import Signal, address, fit, read, slices
from invgen.priors import GaussianPrior

IMAGE = np.random.default_rng(0).random((12, 16), dtype=np.float32)
VOLUME = np.random.default_rng(1).random((5, 12, 16), dtype=np.float32)


def prior(*shape):
    return GaussianPrior(shape=shape)


def sine(length=1600):
    return np.sin(0.05 * np.arange(length)) * 0.5


# -- addresses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, parts",
    [
        ("a.png", ("a.png", None, None)),
        ("f/a.h5:/entry/image", ("f/a.h5", "/entry/image", None)),
        ("a.npz:lung1[3]", ("a.npz", "lung1", "3")),
        ("a.nii.gz[-1]", ("a.nii.gz", None, "-1")),
        ("a.npy[2:8:2]", ("a.npy", None, "2:8:2")),
        ("C:/x/a.h5:image", ("C:/x/a.h5", "image", None)),
    ],
)
def test_addresses(text, parts):
    path, name, index = address(text)
    assert (str(path), name, index) == parts


def test_a_file_with_brackets_in_its_name_is_that_file(tmp_path):
    np.save(tmp_path / "a[1].npy", IMAGE)
    assert read(tmp_path / "a[1].npy").values.shape == (12, 16)


# -- arrays --------------------------------------------------------------------------------------------------------------


def test_hdf5_by_name_and_without(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/angles"] = np.arange(7.0)
        file["entry/image"] = IMAGE
        file["entry/photo"] = (IMAGE * 255).astype(np.uint8)
        file["note"] = "text"
    signal = read(tmp_path / "a.h5")
    assert torch.equal(signal.values, torch.from_numpy(IMAGE)), "the first array with two axes is not what was read"
    assert signal.notes == ("of its 3 arrays /entry/image was read",)
    assert torch.equal(read(f"{tmp_path}/a.h5:entry/image").values, torch.from_numpy(IMAGE))
    assert read(f"{tmp_path}/a.h5:/entry/photo").units == "unit"
    with pytest.raises(FileError, match="has no array '/entry/imgae'; it holds /entry/angles, /entry/image"):
        read(f"{tmp_path}/a.h5:entry/imgae")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["angles"] = np.arange(7.0)
    with pytest.raises(FileError, match="no array with two axes or more"):
        read(tmp_path / "b.h5")


def test_hdf5_complex(tmp_path):
    z = (IMAGE + 1j * IMAGE[::-1]).astype(np.complex64)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["z"] = z
    x, _ = fit(read(tmp_path / "a.h5"), prior(2, 12, 16))
    assert np.array_equal(x.numpy(), np.stack([z.real, z.imag]))


def test_npz_by_name_and_without(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, spacing_mm=np.ones(3), head=VOLUME, other=IMAGE, hu=np.ones((3, 4), np.int16))
    assert torch.equal(read(path).values, torch.from_numpy(VOLUME))
    assert torch.equal(read(f"{path}:other").values, torch.from_numpy(IMAGE))
    with pytest.raises(FileError, match="has no array 'haed'; it holds spacing_mm, head, other, hu"):
        read(f"{path}:haed")
    assert "its int16 values were taken for those of the prior" in read(f"{path}:hu").notes
    assert read(f"{path}:hu", modality="CT").units == "HU"


def test_npz_holding_objects_is_not_run(tmp_path):
    np.savez(tmp_path / "evil.npz", a=np.array([print], dtype=object))
    with pytest.raises(FileError, match="holds no array with two axes"):
        read(tmp_path / "evil.npz")
    with pytest.raises(FileError, match="holds no numbers"):
        read(f"{tmp_path}/evil.npz:a")


def test_slices_of_a_volume(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, VOLUME)
    assert torch.equal(read(f"{path}[1]").values[0], torch.from_numpy(VOLUME[1]))
    assert torch.equal(read(f"{path}[-1]").values[0], torch.from_numpy(VOLUME[4]))
    x, signal = fit(read(path), prior(1, 12, 16))
    assert np.array_equal(x[0].numpy(), VOLUME[2])
    assert signal.notes == ("of its 5 slices number 2, the middle, was read",)
    assert slices(f"{path}[::2]") == [f"{path}[0]", f"{path}[2]", f"{path}[4]"]
    assert slices(f"{path}[3]") == [f"{path}[3]"]
    with pytest.raises(FileError, match="has 5 slices, there is no slice 5"):
        read(f"{path}[5]")
    with pytest.raises(FileError, match="leaves none of the 5 slices"):
        slices(f"{path}[7:]")
    with pytest.raises(FileError, match="cannot read the slice"):
        read(f"{path}[two]")
    np.save(path, IMAGE)
    with pytest.raises(FileError, match="has no slices"):
        read(f"{path}[0]")


# -- scans ---------------------------------------------------------------------------------------------------------------


def nifti(path, volume, spacing=(0.5, 0.75, 2.0)):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([*spacing, 1.0])), path)
    return np.asarray(nibabel.load(path).dataobj, dtype=np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti(tmp_path, suffix):
    path = tmp_path / f"head.{suffix}"
    stored = nifti(path, (np.random.default_rng(0).random((16, 12, 5)) * 900).astype(np.int16))
    signal = read(path)
    assert (signal.units, signal.spacing, signal.values.shape) == ("unit", (0.75, 0.5), (5, 12, 16))
    top = np.percentile(stored[stored > 0], 99.5)
    expected = (stored[:, ::-1, 3].T / top).clip(0, 1)  # the second axis points up, rows go down
    assert np.allclose(signal.values[3].numpy(), expected, atol=1e-6)  # one division in float32
    assert np.array_equal(read(f"{path}[3]").values[0].numpy(), signal.values[3].numpy())
    x, fitted = fit(signal, prior(1, 12, 16))
    assert x.shape == (1, 12, 16)
    assert any("the middle, was read" in note for note in fitted.notes)
    whole, _ = fit(signal, prior(1, 5, 12, 16))
    assert whole.shape == (1, 5, 12, 16), "a prior over volumes gets the volume"


def test_nifti_series_and_a_volume_without_values(tmp_path):
    nifti(tmp_path / "t.nii", np.random.default_rng(0).random((16, 12, 5, 3)).astype(np.float32))
    signal = read(tmp_path / "t.nii")
    assert signal.values.shape == (5, 12, 16)
    assert "of its 3 volumes the first was read" in signal.notes
    nifti(tmp_path / "zero.nii", np.zeros((4, 4, 4), np.float32))
    with pytest.raises(FileError, match="no positive values"):
        read(tmp_path / "zero.nii")


# -- recordings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width, step", [(1, 2**-7), (2, 2**-15), (3, 2**-23), (4, 2**-24)])
def test_pcm_of_every_width_against_the_wave_module(tmp_path, width, step):
    path, x = tmp_path / "a.wav", sine()
    whole = np.round(x * (2.0 ** (8 * width - 1) - 1)).astype(np.int64)
    raw = (whole + 128).astype(np.uint8) if width == 1 else whole.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, width, 16000, 0, "NONE", ""))
        file.writeframes(raw.tobytes())
    signal = read(path)
    assert (signal.rate, signal.values.shape, signal.units) == (16000, (1, 1600), "own")
    # full scale is 2^(bits - 1), one step more than the largest value; and float32 has 24 bits
    assert np.abs(signal.values[0].numpy() - x).max() <= 1.5 * step


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_wav_in_stereo(tmp_path, dtype):
    stereo = np.stack([sine(), -sine()], 1).astype(dtype)
    wavfile.write(tmp_path / "a.wav", 16000, stereo)
    signal = read(tmp_path / "a.wav")
    assert np.array_equal(signal.values.numpy(), stereo.T.astype(np.float32))
    x, fitted = fit(signal, prior(1, 1600))
    assert x.abs().max() == 0
    assert "its 2 channels were averaged" in fitted.notes


@pytest.mark.parametrize("kind", ["FLAC", "WAV", "AIFF"])
def test_against_soundfile(tmp_path, kind):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, np.stack([sine(), sine() ** 2], 1), 16000, format=kind, subtype="PCM_16")
    expected, rate = soundfile.read(path, dtype="float32")
    signal = read(path)
    assert np.array_equal(signal.values.numpy(), expected.T)
    assert signal.rate == rate


def test_an_excerpt_from_the_middle_at_the_rate_of_the_prior(tmp_path):
    wavfile.write(tmp_path / "a.wav", 16000, sine().astype(np.float32))
    speech = prior(1, 256)
    speech.sampling_rate = 16000.0
    x, signal = fit(read(tmp_path / "a.wav"), speech)
    assert np.array_equal(x[0].numpy(), sine()[672:928].astype(np.float32))
    assert signal.notes == ("of its 1600 samples 672 to 927, the middle, were cut out",)
    speech.sampling_rate = 8000.0
    with pytest.raises(OptionError, match="has 16000 samples a second, the prior is over 8000; resample it first"):
        fit(read(tmp_path / "a.wav"), speech)
    with pytest.raises(ShapeError, match=r"shape \(1, 1600\), the prior is over \(1, 4096\)"):
        fit(read(tmp_path / "a.wav"), prior(1, 4096))
    with pytest.raises(ShapeError):
        fit(read(tmp_path / "a.wav"), prior(1, 16, 16))


def test_the_shipped_prior_of_speech_knows_its_rate():
    from invgen.priors import load

    assert load("speech").rescaled(2.0).sampling_rate == 16000
    with pytest.raises(OptionError, match="has 44100 samples a second, the prior is over 16000"):
        fit(Signal(torch.zeros(1, 9000), "own", rate=44100), load("speech").rescaled(2.0))
    assert load("digits-vae").value_range  # a prior of pictures has none, and needs none


# -- damaged files -------------------------------------------------------------------------------------------------------


def written(path):
    """A file of its suffix, large enough that a cut falls into its values."""
    values = np.random.default_rng(2).random((40, 60, 8), dtype=np.float32)
    end = path.name.split(".", 1)[1]
    if end == "h5":
        with h5py.File(path, "w") as file:
            file["image"] = values
    elif end == "npz":
        np.savez(path, image=values)
    elif end.startswith("nii"):
        nifti(path, values)
    elif end == "flac":
        pytest.importorskip("soundfile").write(path, sine(40000), 16000)
    else:
        wavfile.write(path, 16000, (sine(4000) * 30000).astype(np.int16))
    return path


NAMES = ["a.h5", "a.npz", "a.nii", "a.nii.gz", "a.wav", "a.flac"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
def test_cut_files(tmp_path, name, part):
    path = written(tmp_path / name)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(5, int(part * len(whole)))])
    with pytest.raises(FileError, match=r"damaged or cut off|is cut off|is not a whole") as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_not_what_their_name_says(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"this is no data of that kind " * 40)
    with pytest.raises(FileError):
        read(path)
    path.unlink()
    with pytest.raises(FileError, match="there is no file"):
        read(path)


def test_damaged_values_inside_an_archive(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", image=VOLUME)
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(bytes(raw))
    with pytest.raises(FileError, match="damaged or cut off"):
        read(tmp_path / "a.npz")


def test_recordings_and_arrays_that_are_not_finite(tmp_path):
    bad = sine().astype(np.float32)
    bad[3] = np.nan
    wavfile.write(tmp_path / "a.wav", 16000, bad)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = bad.reshape(40, 40)
    for name in ("a.wav", "a.h5"):
        with pytest.raises(FileError, match="not finite"):
            read(tmp_path / name)
