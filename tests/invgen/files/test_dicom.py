"""DICOM of many kinds against what the header means: frames, units, white and black, padding, places, colours."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.examples import get_path

from invgen.errors import FileError
from invgen.files.reader import read

PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100 + 24
ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"


def items(**facts):
    item = Dataset()
    for key, value in facts.items():
        setattr(item, key, value)
    return [item]


def written(path, pixels=PIXELS, **facts):
    """A DICOM file of (rows, columns) or (frames, rows, columns) or (rows, columns, 3) pixels."""
    dataset = Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    about = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": "1.2.3", "Modality": "CT"}
    colour = pixels.shape[-1] == 3
    if colour:
        about |= {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    else:
        about |= {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    if pixels.ndim == 3 and not colour:
        about["NumberOfFrames"] = len(pixels)
    bits = 8 * pixels.dtype.itemsize
    about |= {"Rows": pixels.shape[-2 - colour], "Columns": pixels.shape[-1 - colour], "BitsAllocated": bits}
    about |= {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(pixels.dtype.kind == "i")}
    for key, value in (about | facts).items():
        setattr(dataset, key, value)
    dataset.add_new(0x7FE00010, "OW" if bits > 8 else "OB", pixels.tobytes())
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def transform(slope=1, intercept=-1024, kind="HU"):
    return items(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType=kind)


def test_each_frame_has_its_own_slope_and_place(tmp_path):
    stack = np.stack([PIXELS, PIXELS, PIXELS])
    frames = []
    for k, height in enumerate((20, 0, 10)):  # stored out of order
        frame = items(PixelValueTransformationSequence=transform(slope=k + 1, intercept=-1000 - k))
        frame[0].PlanePositionSequence = items(ImagePositionPatient=[0, 0, height])
        frames += frame
    shared = items(
        PixelMeasuresSequence=items(PixelSpacing=[0.5, 0.25]),
        PlaneOrientationSequence=items(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    )
    facts = {"SharedFunctionalGroupsSequence": shared, "PerFrameFunctionalGroupsSequence": frames, "SOPClassUID": ENHANCED}
    signal = read(written(tmp_path / "a.dcm", stack, **facts))
    expected = [PIXELS * (k + 1.0) - 1000 - k for k in (1, 2, 0)]  # from the feet to the head
    assert np.array_equal(signal.values.numpy(), np.array(expected, np.float32))
    assert (signal.units, signal.spacing, signal.volume) == ("HU", (0.5, 0.25), True)
    assert any("slope 1 to 3 and intercept -1002 to -1000" in note for note in signal.notes)
    assert "its frames were put in the order of their places" in signal.notes


def test_functional_groups_win_over_the_top_of_the_file(tmp_path):
    shared = items(PixelValueTransformationSequence=transform(2, -1000))
    facts = {"SharedFunctionalGroupsSequence": shared, "RescaleSlope": 1, "RescaleIntercept": 0}
    signal = read(written(tmp_path / "a.dcm", np.stack([PIXELS, PIXELS]), **facts))
    assert np.array_equal(signal.values[1].numpy(), 2.0 * PIXELS - 1000)


@pytest.mark.parametrize(
    "facts",
    [
        {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "US"},
        {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "Z_EFF"},
        {"RescaleIntercept": -1024},
        {"RescaleSlope": 1, "RescaleIntercept": 0, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},  # a screenshot
        {"SharedFunctionalGroupsSequence": items(PixelValueTransformationSequence=transform(kind="OD"))},
    ],
)
def test_a_ct_whose_values_are_no_hounsfield_units(tmp_path, facts):
    signal = read(written(tmp_path / "a.dcm", **facts))
    assert signal.units == "unit"
    assert any("it is a CT, not in Hounsfield units" in note for note in signal.notes)


@pytest.mark.parametrize("kind", [None, "HU"])
def test_a_slope_without_a_type_gives_hounsfield_units(tmp_path, kind):
    """PS3.3, C.8.2.1: the type may be left out where it is HU."""
    facts = {"RescaleSlope": 1, "RescaleIntercept": -1024} | ({"RescaleType": kind} if kind else {})
    assert read(written(tmp_path / "a.dcm", **facts)).units == "HU"


def test_signed_pixels_and_padding(tmp_path):
    pixels = PIXELS.astype(np.int16) - 1124
    pixels[0] = -2000
    facts = {"RescaleSlope": 1, "RescaleIntercept": 0}
    for said in (-2000, 63536):  # the second: written as unsigned, which some scanners do
        signal = read(written(tmp_path / "a.dcm", pixels, PixelPaddingValue=said if said < 0 else said - 2**16, **facts))
        assert (signal.values[0, 0] == -1000).all() and signal.values[0, 1, 0] == -700
        assert "4 pixels of padding became -1000" in signal.notes
    unsigned = PIXELS.copy()
    unsigned[0] = 65535
    signal = read(written(tmp_path / "b.dcm", unsigned, Modality="MR", PixelPaddingValue=65535))
    assert signal.values.max() == 1 and (signal.values[0, 0] == 0).all()


def test_black_and_white(tmp_path):
    facts = {"Modality": "DX"}
    plain = read(written(tmp_path / "a.dcm", **facts)).values
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    assert np.allclose(read(written(tmp_path / "b.dcm", 65535 - PIXELS, **facts, **inverted)).values, plain, atol=1e-4)
    shape = {"PresentationLUTShape": "INVERSE"}
    assert np.allclose(read(written(tmp_path / "c.dcm", 4095 - PIXELS, **facts, **shape)).values, plain, atol=1e-4)
    both = read(written(tmp_path / "d.dcm", 4095 - PIXELS, **facts, **shape, **inverted)).values
    assert np.allclose(both, plain, atol=1e-4), "MONOCHROME1 and INVERSE say the same thing, once"
    ct = read(written(tmp_path / "e.dcm", RescaleSlope=1, RescaleIntercept=-1024, **inverted))
    assert np.array_equal(ct.values[0].numpy(), PIXELS - 1024.0), "Hounsfield units are not inverted"
    pet = read(written(tmp_path / "f.dcm", Modality="PT", Units="BQML", **inverted))
    assert pet.values[0, -1, -1] == 1 and any("BQML were kept" in note for note in pet.notes)


def test_planes_are_turned_to_the_standard_view(tmp_path):
    facts = {"RescaleSlope": 1, "RescaleIntercept": 0, "PixelSpacing": [0.5, 0.25]}
    prone = read(written(tmp_path / "a.dcm", ImageOrientationPatient=[-1, 0, 0, 0, -1, 0], **facts))
    assert np.array_equal(prone.values[0].numpy(), PIXELS[::-1, ::-1])
    assert any("turned to the standard axial view" in note for note in prone.notes)
    lying = read(written(tmp_path / "b.dcm", ImageOrientationPatient=[0, 1, 0, 1, 0, 0], **facts))
    assert np.array_equal(lying.values[0].numpy(), PIXELS.T) and lying.spacing == (0.25, 0.5)
    for lies in ([1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1], [0.98, 0.199, 0, -0.199, 0.98, 0]):
        signal = read(written(tmp_path / "c.dcm", ImageOrientationPatient=lies, **facts))
        assert np.array_equal(signal.values[0].numpy(), PIXELS) and not any("turned" in note for note in signal.notes)


def test_colours(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    signal = read(written(tmp_path / "a.dcm", colours, Modality="US"))
    assert signal.units == "unit" and np.array_equal(signal.values.numpy() * 255, colours.transpose(2, 0, 1))
    grey = np.dstack([np.arange(30).reshape(5, 6) * 8, *[np.full((5, 6), 128)] * 2]).astype(np.uint8)
    signal = read(written(tmp_path / "b.dcm", grey, Modality="US", PhotometricInterpretation="YBR_FULL"))
    assert np.abs(signal.values.numpy() * 255 - grey[..., 0]).max() <= 1  # Y alone is grey; YBR is rounded
    with pytest.raises(FileError, match="in CMYK, expected RGB"):
        read(written(tmp_path / "c.dcm", colours, PhotometricInterpretation="CMYK"))
    pixels = pydicom.dcmread(get_path("palette_color"))
    signal = read(get_path("palette_color"))
    expected = pydicom.pixels.apply_color_lut(pixels.pixel_array, pixels)
    assert np.allclose(signal.values.numpy().transpose(1, 2, 0), expected / np.iinfo(expected.dtype).max, atol=1e-6)
    assert "its palette was applied" in signal.notes


@pytest.mark.parametrize(
    "facts",
    [
        {"RescaleSlope": 0, "RescaleIntercept": 0},
        {"Rows": 0},
        {"BitsAllocated": 13},
        {"Rows": 60},  # more than there is
    ],
)
def test_headers_that_cannot_be_right(tmp_path, facts):
    with pytest.raises(FileError) as error:
        read(written(tmp_path / "a.dcm", **facts))
    assert str(tmp_path / "a.dcm") in str(error.value) and "\n" not in str(error.value)
