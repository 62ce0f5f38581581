"""`Signal`, the result of every reader of files, and the words that messages about files share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from invgen.errors import FileError

if TYPE_CHECKING:
    from torch import Tensor

KINDS = "PNG, JPEG, TIFF, NPY, NPZ, HDF5, DICOM, NIfTI, WAV or FLAC"


@dataclass(frozen=True)
class Signal:
    """The content of a file.

    Attributes:
        values: float32 or complex64, (C, H, W) for pictures, (slices, H, W) for volumes, (slices, 3, H, W) for volumes in
            colour, (channels, samples) for recordings, the shape of the array for NPY, NPZ and HDF5.
        units: "unit" (grey levels in [0, 1]), "HU" (Hounsfield) or "own" (the file's own; taken for those of the prior).
        spacing: (row, column) distance of pixels in mm where the file tells.
        notes: sentences about what was done to the values.
        rate: samples a second of a recording.
        volume: whether the first axis counts slices.
    """

    values: "Tensor"
    units: str
    spacing: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    rate: float | None = None
    volume: bool = False


def depth_note(values: np.ndarray) -> tuple[str, ...]:
    """Notes where values of 16 bits use 14 or fewer, as those of many cameras and scanners do: they look dark."""
    bits = int(values.max()).bit_length()
    return (f"its values use {bits} of their 16 bits: they were read on the scale of 0 to 65535",) if 0 < bits <= 14 else ()


def single(array: np.ndarray, where: str) -> np.ndarray:
    """Returns the values in single precision, float32 or complex64.

    Raises:
        FileError: some are not finite, or too large for it.
    """
    with np.errstate(over="ignore"):
        values = array.astype(np.complex64 if array.dtype.kind == "c" else np.float32)
    if bad := int((~np.isfinite(values)).sum()):
        known = array.dtype.kind in "fc" and not np.isfinite(array).all()
        why = "not finite (NaN or infinite)" if known else "too large for single precision"
        raise FileError(f"{where} has {bad} of {array.size} values {why}; replace them first")
    return values
