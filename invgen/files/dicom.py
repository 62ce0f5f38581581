"""DICOM files: classic and enhanced (multi-frame), grey and colour. Rows and columns as the standard views show them."""

import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from invgen.errors import FileError, InvgenError, MissingExtraError
from invgen.files.scans import Scan
from invgen.validation.limits import check_size, max_bytes

DEFLATED = "1.2.840.10008.1.2.1.99"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture: a screenshot, whatever its modality
ZERO_MEANS_NOTHING = ("MR", "PT", "NM")  # modalities whose value 0 is no signal
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
AIR = -1000.0  # HU, what padding outside of the field of view becomes
# by the axis that slices are stacked along: in which direction a row and a column run, in the axes left, posterior, head
STANDARD = {
    0: ("sagittal", (0, 1, 0), (0, 0, -1)),
    1: ("coronal", (1, 0, 0), (0, 0, -1)),
    2: ("axial", (1, 0, 0), (0, 1, 0)),
}


def read_dicom(path: Path, modality: str | None = None) -> Scan:
    """Reads the frames of a DICOM file, with slope, intercept and spacing of each where its functional groups have them.

    Raises:
        FileError: damaged, cut off, without pixels, not finite, or too large.  MissingExtraError: pydicom is not installed.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise MissingExtraError("reading DICOM files needs pydicom: pip install pydicom") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of private tags and non-conformant headers, which do not matter here
            _check_deflated(path)
            dataset = pydicom.dcmread(path)
            count = math.prod(
                int(dataset.get(key) or 1) for key in ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel")
            )
            check_size(4 * count, str(path))
            scan = _scan(dataset, modality)
    except InvalidDicomError:
        raise FileError(f"{path} is not a DICOM file, though its name says so") from None
    except FileNotFoundError:
        raise FileError(f"there is no file {path}; pass a scan that exists") from None
    except InvgenError as error:
        raise error if str(path) in str(error) else FileError(f"{path} {error}") from None
    except Exception as error:  # pydicom raises many kinds, for missing elements, codecs and short data
        reason = " ".join(str(error).split())[:300]
        raise FileError(f"{path} has no picture that pydicom can read ({reason}); export it whole, uncompressed") from error
    if scan.values.size == 0 or not np.isfinite(scan.values).all():
        raise FileError(f"{path} has no values, or some that are not finite (NaN or infinite); expected slices")
    return scan


def _scan(dataset: Any, modality: str | None) -> Scan:
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    frames = int(dataset.get("NumberOfFrames") or 1)
    named = dataset.get("PatientID") or dataset.get("SeriesInstanceUID")
    facts: dict[str, Any] = {"volume": frames > 1, "patient": str(named) if named else None}
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or photometric == "PALETTE COLOR":
        values, note = _coloured(dataset, photometric)
        spacing, notes = _spacing(dataset, frames)
        return _upright(dataset, frames, values, spacing, [*notes, note], "unit", facts)
    kind = modality or str(dataset.get("Modality", ""))
    stored = dataset.pixel_array
    if stored.ndim not in (2, 3):
        raise FileError(f"holds pixels of shape {stored.shape}, expected slices")
    stored = stored.reshape(-1, *stored.shape[-2:])
    spacing, notes = _spacing(dataset, frames)
    values, rescaled, hounsfield = _rescaled(dataset, stored, notes)
    padding = _padding(dataset, stored)
    if kind == "CT" and (hounsfield or modality == "CT"):
        scale = "HU"
    else:
        scale = "magnitude" if kind in ZERO_MEANS_NOTHING else "grey"
        if kind == "CT":
            what = "it is a screenshot" if _is_capture(dataset) else "it has no slope and intercept for them"
            what = f"its values are {rescaled}" if rescaled else what
            notes.append(f"it is a CT, not in Hounsfield units: {what}")
        if photometric == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE":
            values = _inverted(dataset, values, padding, notes)
    if padding.any():
        rest = values[~padding]
        fill = {"HU": AIR, "magnitude": 0.0}.get(scale, float(rest.min()) if rest.size else 0.0)
        values[padding] = fill
        notes.append(f"{int(padding.sum())} pixels of padding became {fill:g}")
    return _upright(dataset, frames, values, spacing, notes, scale, facts)


# -- values --------------------------------------------------------------------------------------------------------------


def _coloured(dataset: Any, photometric: str) -> tuple[np.ndarray, str]:
    """Returns (frames, 3, rows, columns) of 0 to 1, and what was done."""
    pixels = dataset.pixel_array  # pydicom turns YBR into RGB
    if photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        pixels = apply_color_lut(pixels, dataset)
        full, note = float(np.iinfo(pixels.dtype).max), "its palette was applied"
    elif photometric in COLOURS and pixels.shape[-1] == 3:
        full, note = 2.0 ** int(dataset.BitsStored) - 1, f"its colours ({photometric}) were read as red, green and blue"
    else:
        raise FileError(f"is a colour DICOM file in {photometric}, expected {', '.join(COLOURS)} or PALETTE COLOR")
    pixels = pixels.reshape(-1, *pixels.shape[-3:])[..., :3]
    return np.moveaxis(pixels.astype(np.float32) / np.float32(full), -1, 1), note


def _rescaled(dataset: Any, stored: np.ndarray, notes: list[str]) -> tuple[np.ndarray, str, bool]:
    """Returns the values after each frame's modality transform, their type in words, and whether they are Hounsfield
    units."""
    from pydicom.pixels.processing import apply_modality_lut

    if dataset.get("ModalityLUTSequence"):
        notes.append("its modality table was applied")
        kind = str(dataset.ModalityLUTSequence[0].get("ModalityLUTType", "US"))
        return np.asarray(apply_modality_lut(stored, dataset), dtype=np.float32), kind, kind == "HU"
    each = _each(dataset, len(stored))
    found = [one for k in each if (one := _transform(dataset, k)) is not None]
    if not found:
        return stored.astype(np.float32), "", False
    if len(found) < len(each):
        raise FileError("has slope and intercept for some of its frames alone; export it again")
    values = np.empty(stored.shape, np.float32)
    for k, (slope, intercept, _) in enumerate(found if len(found) > 1 else found * len(stored)):
        if not (math.isfinite(slope) and math.isfinite(intercept) and slope):
            raise FileError(
                f"has a slope of {slope:g} and an intercept of {intercept:g}, expected finite numbers, no slope of 0"
            )
        values[k] = stored[k] * slope + intercept  # in float64
    kinds = {kind for *_, kind in found}
    hounsfield = kinds == {"HU"} and not _is_capture(dataset)
    slopes, intercepts = {slope for slope, *_ in found}, {intercept for _, intercept, _ in found}
    rescale = f"slope {_range(slopes)} and intercept {_range(intercepts)}"
    notes.append(f"its {rescale} were applied" + (", which gives Hounsfield units" if hounsfield else ""))
    return values, "" if kinds == {"HU"} else "/".join(sorted(kinds)), hounsfield


def _range(numbers: set[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _transform(dataset: Any, frame: int) -> tuple[float, float, str] | None:
    """Returns the slope, intercept and type of a frame; "HU" where none is given, as the standard says."""
    item = _group(dataset, frame, "PixelValueTransformationSequence") or dataset
    if item.get("RescaleSlope") is None or item.get("RescaleIntercept") is None:
        return None
    return float(item.RescaleSlope), float(item.RescaleIntercept), str(item.get("RescaleType") or "HU").strip().upper()


def _is_capture(dataset: Any) -> bool:
    return str(dataset.get("SOPClassUID", "")).startswith(CAPTURE)


def _padding(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Which pixels the file calls padding."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None or stored.dtype.kind not in "iu":
        return np.zeros(stored.shape, bool)
    ends = sorted(_wrapped(int(v), stored.dtype) for v in (value, value if limit is None else limit))
    return (stored >= ends[0]) & (stored <= ends[1])


def _wrapped(value: int, dtype: np.dtype) -> int:
    """Returns a value that was written as unsigned though pixels are signed, or the other way round."""
    about, bits = np.iinfo(dtype), 8 * dtype.itemsize
    return value if about.min <= value <= about.max else (value - about.min) % 2**bits + about.min


def _inverted(dataset: Any, values: np.ndarray, padding: np.ndarray, notes: list[str]) -> np.ndarray:
    """Returns grey pictures that store white as 0, with white as the largest value. Numbers with a unit stay what they
    are."""
    if unit := str(dataset.get("Units", "")).strip():
        notes.append(f"its MONOCHROME1 concerns how it is shown: its values in {unit} were kept")
        return values
    notes.append("it stores white as 0 (MONOCHROME1): its values were inverted")
    inside = values[~padding] if (~padding).any() else values
    return inside.max() + inside.min() - values


# -- geometry ------------------------------------------------------------------------------------------------------------


def _each(dataset: Any, frames: int) -> range:
    """Returns the frames to ask: all where they have facts of their own, else one for all."""
    return range(frames if dataset.get("PerFrameFunctionalGroupsSequence") else 1)


def _group(dataset: Any, frame: int, name: str) -> Any:
    """Returns the first item of a functional group of a frame, its own or the shared one; None if there is neither."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for item in (*own[frame : frame + 1], *shared[:1]):
        if found := item.get(name):
            return found[0]
    return None


def _spacing(dataset: Any, frames: int) -> tuple[tuple[float, float] | None, list[str]]:
    """Returns (row, column) distance in mm, and a note where it is not that of the body."""
    found = [(_group(dataset, k, "PixelMeasuresSequence") or dataset).get("PixelSpacing") for k in _each(dataset, frames)]
    if len({str(one) for one in found}) > 1:
        return None, ["its frames have pixels of several sizes"]
    spacing, notes = found[0], []
    if not spacing and (spacing := dataset.get("ImagerPixelSpacing")):
        notes.append("the size of its pixels is that at the detector")
    if not spacing:
        return None, []
    row, column = (float(v) for v in spacing)
    return ((row, column), notes) if 0 < row < math.inf and 0 < column < math.inf else (None, [])


def _upright(
    dataset: Any,
    frames: int,
    values: np.ndarray,
    spacing: tuple[float, float] | None,
    notes: list[str],
    scale: str,
    facts: dict[str, Any],
) -> Scan:
    """Returns the scan with its frames in the order of their places, and each turned to the standard view of its plane."""
    each, name = _each(dataset, frames), "ImageOrientationPatient"
    lies = [(_group(dataset, k, "PlaneOrientationSequence") or dataset).get(name) for k in each]
    if any(one is None or len(one) != 6 for one in lies):
        return Scan(values, scale, spacing, tuple(notes), **facts)
    all_axes = np.array(lies, dtype=float).reshape(-1, 2, 3)
    along, down = all_axes[0]
    normal = np.cross(along, down)
    if not np.isfinite(all_axes).all() or abs(np.linalg.norm(normal) - 1) > 0.01 or np.ptp(all_axes, axis=0).max() > 0.01:
        return Scan(values, scale, spacing, tuple(notes), **facts)
    axis = int(np.abs(normal).argmax())
    plane, right, below = STANDARD[axis]
    done = []
    if abs(along @ right) < abs(down @ right):
        values, along, down = values.swapaxes(-1, -2), down, along
        spacing = spacing and (spacing[1], spacing[0])
        done.append("rows and columns exchanged")
    if along @ right < 0:
        values = values[..., ::-1]
        done.append("columns reversed")
    if down @ below < 0:
        values = values[..., ::-1, :]
        done.append("rows reversed")
    if done:
        notes.append(f"it was turned to the standard {plane} view ({', '.join(done)})")
    places = [(_group(dataset, k, "PlanePositionSequence") or {}).get("ImagePositionPatient") for k in each]
    if len(places) > 1 and all(place is not None and len(place) == 3 for place in places):
        heights = np.array(places, dtype=float) @ (normal * (np.sign(normal[axis]) or 1.0))
        if len(np.unique(heights.round(3))) < frames:
            notes.append("several of its frames lie at one place: they are in the order of the file")
        elif (np.diff(heights) < 0).any():
            values = values[np.argsort(heights, kind="stable")]
            notes.append("its frames were put in the order of their places")
    return Scan(values, scale, spacing, tuple(notes), **facts)


# -- compressed headers --------------------------------------------------------------------------------------------------


def _check_deflated(path: Path) -> None:
    """Refuses a deflated file that would grow beyond the limit: pydicom inflates it in one piece."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    with path.open("rb") as file:
        read_preamble(file, False)
        if _read_file_meta_info(file).get("TransferSyntaxUID") != DEFLATED:
            return
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while (piece := inflate.unconsumed_tail or file.read(2**16)) and not inflate.eof:
            size += len(inflate.decompress(piece, 2**20))
            if size > max_bytes():
                check_size(size, str(path))
