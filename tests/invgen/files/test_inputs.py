"""Small files whose right values are known (data/README.md): each is read as it should be, or says why not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from invgen.files.reader import fit, read
from invgen.priors import GaussianPrior
from invgen.priors.data import folders

HERE = Path(__file__).parent / "data"


def prior(*shape, value_range=(-1.0, 1.0)):
    made = GaussianPrior(shape=shape)
    made.value_range = value_range
    return made


def levels(name):
    return np.unique(read(HERE / name).values.numpy()).tolist()


@pytest.mark.parametrize("name, spacing", [("ct_plain.dcm", (0.5, 0.8)), ("enhanced_ct.dcm", (0.7, 0.7))])
def test_ct_in_hounsfield_units_wherever_the_header_keeps_them(name, spacing):
    signal = read(HERE / name)
    assert (signal.units, signal.spacing) == ("HU", spacing)
    assert levels(name) == [-1000, 0]  # air and water
    assert any("slope 1 and intercept -1024" in note for note in signal.notes)


def test_training_reads_the_same_hounsfield_units():
    for name in ("ct_plain.dcm", "enhanced_ct.dcm", "ct_hu.nii.gz"):
        items, skipped, about = folders._volumes([HERE / name])
        assert skipped == [] and about["units"].startswith("Hounsfield")
        values = torch.stack(items[0].values).float()
        x, _ = fit(read(HERE / name), prior(1, 32, 32))
        assert any(torch.allclose(plane, x, atol=1e-3) for plane in values)  # half precision is kept in training


def test_a_ct_without_slope_and_intercept_is_not_in_hounsfield_units():
    signal = read(HERE / "ct_no_rescale.dcm")
    assert signal.units == "unit"
    assert "it is a CT, not in Hounsfield units: it has no slope and intercept for them" in signal.notes
    assert not folders._volumes([HERE / "ct_no_rescale.dcm"])[2]["units"].startswith("Hounsfield")


def test_a_radiograph_is_bright_at_the_bone_however_it_is_stored():
    one, two = read(HERE / "cr_monochrome1.dcm"), read(HERE / "cr_monochrome2.dcm")
    assert torch.equal(one.values, two.values)
    assert one.values[0, 16, 16] == 1 and one.values[0, 0, 0] == 0
    assert any("MONOCHROME1" in note for note in one.notes) and not any("MONOCHROME1" in note for note in two.notes)
    a, b = (folders._volumes([HERE / f"cr_monochrome{k}.dcm"])[0][0].values[0] for k in (1, 2))
    assert torch.equal(a, b)


def test_one_hot_pixel_does_not_darken_an_mr_slice():
    values = read(HERE / "mr_spike.dcm").values
    assert values[0, 16, 16] == 1  # the disc: the 99.5th percentile of the positive values
    trained = folders._volumes([HERE / "mr_spike.dcm"])[0][0].values[0]
    assert torch.equal(trained.float(), values.half().float())


def test_a_volume_is_the_same_picture_in_either_orientation():
    ras, las = read(HERE / "head_ras.nii.gz"), read(HERE / "head_las.nii.gz")
    assert torch.equal(ras.values, las.values)
    assert ras.spacing == las.spacing == (2.0, 1.0)  # rows are 2 mm apart, columns 1 mm
    assert "its axes LAS were turned to RAS (right, anterior, superior)" in las.notes
    assert not any("turned" in note for note in ras.notes)


def test_ct_in_nifti_keeps_its_hounsfield_units():
    signal = read(HERE / "ct_hu.nii.gz")
    assert (signal.units, levels("ct_hu.nii.gz")) == ("HU", [-1000, 40, 900])
    x, _ = fit(signal, prior(1, 32, 32))
    # what the prior `ct` knows them as; float32 keeps seven digits of sums near 1
    assert np.allclose(np.unique(x.numpy()), [-1, 0.04, 0.9], atol=1e-6)
    x, fitted = fit(signal, prior(1, 32, 32), window=(-160, 240))
    assert np.allclose(np.unique(x.numpy()), [-1, 0, 1], atol=1e-6)
    assert "Hounsfield units of -160 to 240 became the prior's -1 to 1, others were clipped" in fitted.notes


def test_a_complex_volume_gives_the_real_and_imaginary_parts_of_its_middle_slice():
    stored = np.load(HERE / "complex_volume.npy")
    x, fitted = fit(read(HERE / "complex_volume.npy"), prior(2, 64, 48, value_range=(-3.0, 3.0)))
    assert np.array_equal(x.numpy(), np.stack([stored[2].real, stored[2].imag]))
    assert fitted.notes == (
        "of its 5 slices number 2, the middle, was read",
        "its real and imaginary parts became two channels",
    )


def test_of_a_fastmri_file_the_reconstruction_is_read():
    import h5py

    signal = read(HERE / "fastmri_singlecoil.h5")
    with h5py.File(HERE / "fastmri_singlecoil.h5") as file:
        stored = file["reconstruction_esc"][()]
    top = np.percentile(stored[stored > 0], 99.5)
    assert np.allclose(signal.values.numpy(), (stored / top).clip(0, 1), atol=1e-6)  # one division in float32
    assert any("/reconstruction_esc was read, not /kspace" in note for note in signal.notes)
    x, _ = fit(signal, prior(1, 64, 48, value_range=(0.0, 1.0)))
    assert torch.equal(x[0], signal.values[2])


def test_sixteen_bits_of_colour_are_kept_or_said_to_be_lost():
    assert len(levels("rgb16.tif")) == 256
    png = read(HERE / "rgb16.png")
    assert len(levels("rgb16.png")) == 256 or any("upper 8 were read" in note for note in png.notes)


def test_tiffs_of_other_kinds():
    import tifffile

    for name in ("i16.tif", "f64.tif"):
        signal = read(HERE / name)
        assert signal.units == "own" and "were taken for those of the prior" in signal.notes[0]
        assert np.array_equal(signal.values[0].numpy(), tifffile.imread(HERE / name).astype(np.float32))
    stack = tifffile.imread(HERE / "stack_u16.tif")
    page = read(f"{HERE / 'stack_u16.tif'}[3]").values
    assert np.array_equal(page[0].numpy(), stack[3].astype(np.float32) / 65535)


def test_white_is_zero_in_sixteen_bits_as_in_eight(tmp_path):
    """TIFF 6.0, section 3: WhiteIsZero images 0 as white. Pillow, which reads 8 bits, agrees."""
    import tifffile
    from PIL import Image

    stored = tifffile.imread(HERE / "miniswhite16.tif")
    tifffile.imwrite(tmp_path / "a.tif", (stored >> 8).astype(np.uint8), photometric="miniswhite")
    eight, sixteen = read(tmp_path / "a.tif"), read(HERE / "miniswhite16.tif")
    assert torch.equal(eight.values, sixteen.values)
    assert np.array_equal(eight.values[0].numpy() * 255, np.asarray(Image.open(tmp_path / "a.tif").convert("L")))
    assert np.array_equal(sixteen.values[0].numpy(), 1 - stored / np.float32(65535))
    assert "it stores white as 0: its values were inverted" in sixteen.notes


def test_unsigned_arrays_are_grey_levels():
    signal = read(HERE / "u16.npy")
    assert signal.units == "unit"
    assert np.array_equal(signal.values.numpy(), np.load(HERE / "u16.npy").astype(np.float32) / 65535)


def test_a_recording_from_a_pipe_is_read_to_its_end():
    raw = (HERE / "pipe.wav").read_bytes()
    signal = read(HERE / "pipe.wav")
    assert np.array_equal(signal.values[0].numpy(), np.frombuffer(raw[44:], "<i2") / np.float32(32768))
    assert "from a pipe" in signal.notes[0]
