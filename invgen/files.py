"""Reading signals from PNG, JPEG, TIFF, NPY and DICOM files, and fitting them to a prior."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from invgen.errors import FileError, MissingExtraError, OptionError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor

    from invgen.diffusion import Prior

PICTURES = ("PNG", "JPEG", "TIFF")
LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709: red, green and blue in grey


@dataclass(frozen=True)
class Signal:
    """What a file holds.

    Attributes:
        values: float32, (C, H, W) for pictures and DICOM, the shape of the array for NPY.
        units: "unit" (grey levels in [0, 1]), "HU" (Hounsfield) or "own" (the file's own; taken for those of the prior).
        spacing: (row, column) distance of pixels in mm where a DICOM file tells.
        notes: sentences about what was done to the values.
    """

    values: "Tensor"
    units: str
    spacing: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def read(path: str | Path) -> Signal:
    """The signal in a PNG, JPEG, TIFF, NPY or DICOM file, told apart by its first bytes.

    Raises:
        FileError: no such file, not one of these, damaged, cut off, holding Python objects, or not finite.
    """
    path = Path(path)
    head = _head(path)
    if head.startswith(b"\x93NUMPY") or path.suffix.lower() == ".npy":
        return _from_array(read_npy(path), path)
    if head[128:132] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        return _read_dicom(path)
    return _read_picture(path)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except FileNotFoundError:
        raise FileError(f"there is no file {path}; pass a picture, a .npy array or a DICOM slice that exists") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise FileError(f"{path} is empty; expected a PNG, JPEG, TIFF, NPY or DICOM file")
    return head


def read_npy(path: str | Path) -> "Tensor":
    """The array in an NPY file as a tensor of its own dtype; bool, integer, floating point or complex.

    Raises:
        FileError: no such file, not NPY, cut off, holding Python objects (which could run code), or not finite.
    """
    import torch

    path = Path(path)
    if not _head(path).startswith(b"\x93NUMPY"):
        raise FileError(f"{path} is not an NPY file; write it with numpy.save")
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        if "pickle" in str(error):
            raise FileError(
                f"{path} holds Python objects, which could run code when read; save a plain numeric array instead"
            ) from error
        raise FileError(f"{path} is damaged or cut off ({error}); save it again with numpy.save") from error
    except (OSError, EOFError, MemoryError, SyntaxError, TypeError) as error:
        raise FileError(f"{path} is damaged or cut off ({error}); save it again with numpy.save") from error
    if array.dtype.kind not in "biufc":
        raise FileError(f"{path} holds values of type {array.dtype}, expected numbers")
    if array.size == 0:
        raise FileError(f"{path} holds an empty array of shape {array.shape}, expected a signal")
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise FileError(f"{path} has {bad} of {array.size} values not finite (NaN or infinite); replace them first")
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))


def _from_array(array: "Tensor", path: Path) -> Signal:
    import torch

    if array.is_complex():
        return Signal(array.to(torch.complex64), "own")  # `fit` makes two channels of it
    if array.dtype == torch.uint8:
        return Signal(array.float() / 255, "unit", notes=("uint8 values were read as grey levels of 0 to 255",))
    if not array.is_floating_point():
        raise FileError(f"{path} holds {array.dtype} values; expected floating point in the units of the prior, or uint8")
    return Signal(array.float(), "own")


def _read_picture(path: Path) -> Signal:
    import torch
    from PIL import Image, ImageOps, UnidentifiedImageError

    notes = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=PICTURES) as file:
                if getattr(file, "n_frames", 1) > 1:
                    notes.append(f"of {file.n_frames} pages the first was read")
                file.load()
                picture = ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        raise FileError(f"{path} is not a PNG, JPEG, TIFF, NPY or DICOM file; convert it to one of these") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FileError(f"{path} is too large to be read as a picture ({error})") from None
    except (OSError, SyntaxError, ValueError, EOFError, TypeError) as error:
        raise FileError(f"{path} is damaged or cut off ({error}); fetch or export it again") from error
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        notes.append("its transparency was dropped")
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.float32)[None] / 65535
    elif picture.mode == "F":
        values = np.array(picture, dtype=np.float32)[None]
        if not np.isfinite(values).all():
            raise FileError(f"{path} has values that are not finite (NaN or infinite); replace them first")
        note = "its floating-point values were taken for those of the prior"
        return Signal(torch.from_numpy(values), "own", notes=(*notes, note))
    elif picture.mode == "I":
        raise FileError(f"{path} holds 32-bit integers; expected 8 or 16 bits a channel, or floating point")
    else:
        grey = picture.mode in ("1", "L", "LA", "La")
        array = np.asarray(picture.convert("L" if grey else "RGB"), dtype=np.float32) / 255
        values = array[None] if grey else array.transpose(2, 0, 1)
    return Signal(torch.from_numpy(np.ascontiguousarray(values)), "unit", notes=tuple(notes))


def _read_dicom(path: Path) -> Signal:
    import torch

    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut
    except ImportError as error:
        raise MissingExtraError("reading DICOM files needs pydicom: pip install pydicom") from error
    notes = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of private tags and non-conformant headers, which do not matter here
            dataset = pydicom.dcmread(path)
            pixels = np.asarray(apply_modality_lut(dataset.pixel_array, dataset), dtype=np.float32)
    except pydicom.errors.InvalidDicomError:
        raise FileError(f"{path} is not a DICOM file, though its name says so") from None
    except Exception as error:  # pydicom raises many kinds, for missing elements, codecs and short data
        raise FileError(f"{path} has no picture that pydicom can read ({error}); export it whole, uncompressed") from error
    if int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise FileError(f"{path} is a colour DICOM file; expected one value a pixel, as in CT or MR")
    if pixels.ndim == 3:
        notes.append(f"of {len(pixels)} frames the middle one was read")
        pixels = pixels[len(pixels) // 2]
    if pixels.ndim != 2 or not np.isfinite(pixels).all():
        raise FileError(f"{path} holds pixels of shape {pixels.shape} or values that are not finite; expected one slice")
    spacing = dataset.get("PixelSpacing")
    spacing = (float(spacing[0]), float(spacing[1])) if spacing else None
    values = torch.from_numpy(np.ascontiguousarray(pixels))[None]
    if dataset.get("Modality") == "CT":
        return Signal(values, "HU", spacing, tuple(notes))
    low, high = values.min(), values.max()
    notes.append(
        f"its values of {low:g} to {high:g} ({dataset.get('Modality', 'no modality')}) became grey levels of 0 to 1"
    )
    return Signal((values - low) / (high - low).clamp(min=1e-12), "unit", spacing, tuple(notes))


def fit(
    signal: Signal, prior: "Prior", *, resize: bool = True, window: tuple[float, float] = (-1000.0, 1000.0)
) -> tuple["Tensor", Signal]:
    """The signal as one that the prior knows: its channels, its size and its units.

    Grey levels of 0 to 1, and Hounsfield units within `window` (clipped to it), map on the prior's value range; the values
    of NPY files and floating-point pictures are left as they are. Size: cut to the middle in the prior's proportions, then
    resampled bicubically with antialiasing.

    Returns:
        (x, signal): x of shape prior.shape, and the signal with spacing and notes brought up to date.

    Raises:
        ShapeError: the shapes differ and `resize` is False, or no reshaping makes sense.
    """
    import torch

    values, notes, spacing = signal.values, list(signal.notes), signal.spacing
    (low, high), shape = prior.value_range, tuple(prior.shape)
    if signal.units == "HU":
        a, b = window
        if not a < b:
            raise OptionError(f"a Hounsfield window needs low < high, got {a:g} to {b:g}")
        values = low + (values.clamp(a, b) - a) * ((high - low) / (b - a))
        notes.append(f"Hounsfield units of {a:g} to {b:g} became the prior's {low:g} to {high:g}, others were clipped")
    elif signal.units == "unit":
        values = low + values * (high - low)
        notes.append(f"grey levels of 0 to 1 became the prior's {low:g} to {high:g}")
    if values.is_complex():
        values = torch.view_as_real(values).movedim(-1, 0).flatten(0, max(0, values.ndim - 2))
        notes.append("its real and imaginary parts became two channels")
    if tuple(values.shape) != shape:
        if len(shape) == 3:
            values = _channels(values, shape[0], notes)
        if tuple(values.shape) != shape:
            if len(shape) != 3 or values.ndim != 3 or values.shape[0] != shape[0]:
                raise ShapeError(f"the signal has shape {tuple(signal.values.shape)}, the prior is over {shape}")
            if not resize:
                raise ShapeError(
                    f"the signal is {values.shape[1]} x {values.shape[2]} pixels, the prior is over {shape[1]} x "
                    f"{shape[2]}; leave out --no-resize, or pass --size"
                )
            values, factor = _resample(values, shape[1:], notes)
            spacing = spacing and (spacing[0] * factor, spacing[1] * factor)
    return values.to(prior.device, prior.dtype), replace(signal, values=values, spacing=spacing, notes=tuple(notes))


def _channels(values: "Tensor", count: int, notes: list[str]) -> "Tensor":
    """(H, W), (C, H, W) or (H, W, C) -> (count, H, W) where grey and colour allow it."""
    if values.ndim == 2:
        values = values[None]
    if values.ndim == 3 and values.shape[-1] in (1, 3, 4) and values.shape[0] not in (1, 3):
        values = values[..., :3].movedim(-1, 0)
        notes.append("its last axis was taken for the colours")
    if values.ndim != 3 or values.shape[0] == count:
        return values
    if values.shape[0] == 1 and count == 3:
        notes.append("its grey was repeated as red, green and blue")
        return values.expand(3, -1, -1)
    if values.shape[0] == 3 and count == 1:
        notes.append("its colours became grey (BT.709 weights)")
        return (values * values.new_tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
    return values


def _resample(values: "Tensor", size: tuple[int, ...], notes: list[str]) -> tuple["Tensor", float]:
    """(C, H, W) -> (C, *size), and by how much a pixel has grown."""
    from torch.nn.functional import interpolate

    rows, columns = values.shape[1:]
    factor = min(rows / size[0], columns / size[1])
    cut = min(rows, round(size[0] * factor)), min(columns, round(size[1] * factor))
    if cut != (rows, columns):
        top, left = (rows - cut[0]) // 2, (columns - cut[1]) // 2
        values = values[:, top : top + cut[0], left : left + cut[1]]
        notes.append(f"the middle {cut[0]} x {cut[1]} of its {rows} x {columns} pixels was cut out")
    if cut != size:
        small = interpolate(values[None], size=size, mode="bicubic", antialias=True)[0]
        values = small.clamp(values.min(), values.max())  # bicubic weights overshoot at edges
        notes.append(f"{cut[0]} x {cut[1]} pixels were resampled to {size[0]} x {size[1]}")
    return values, factor
