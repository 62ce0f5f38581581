"""Reading signals from files, and fitting them to a prior.

A file is told apart by its first bytes: pictures (PNG, JPEG, BMP, WebP: `pictures`; TIFF: `tiff`), arrays (NPY,
NPZ: `arrays`; HDF5: `hdf5`), scans (DICOM: `dicom`; NIfTI: `nifti`; their units: `scans`) and
recordings (WAV, FLAC, OGG, MP3, AIFF: `sound`). `fit` fits them to a prior. An address may go on after the name
of the file:

    scan.h5:/entry/image     a dataset of an HDF5 file     scans.npz:lung1     an array of an NPZ file
    head.nii.gz[40]          slice 40 of a volume          scans.npz:lung1[-1] the last slice of that array

Without a name the first array with two axes or more is read; without a number, of a volume the slice in its middle.
Only the file itself is read, and its header may ask for as much memory as `limits.check_size` allows.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from invgen.errors import FileError, OptionError
from invgen.files.fit import cut, fit, picture_size
from invgen.files.signal import KINDS, Signal
from invgen.validation.arguments import checked

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KINDS", "SUFFIXES", "Signal", "address", "cut", "fit", "picture_size", "read", "read_npy", "slices"]
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".npy", ".npz", ".h5", ".hdf5", ".hdf", ".dcm", ".dicom"),
    *(".ima", ".nii", ".nii.gz", ".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"),
)
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
MODALITIES = (None, "CT", "MR")
_ADDRESS = re.compile(
    r"(?P<path>.*?\.(?:npz|h5|hdf5|hdf)(?=[:\[]|$)|[^\[]*)(?::(?P<name>[^\[]+))?(?:\[(?P<index>[^\]]*)\])?", re.I
)


def address(text: str | Path) -> tuple[Path, str | None, str | None]:
    """Returns  "scans.npz:lung1[12]" as (path, "lung1", "12"). A file whose name has brackets or a colon is taken as it is.

    Raises:
        OptionError: no text and no path.  FileError: a name that no file can have.
    """
    if not isinstance(text, str | Path):
        raise OptionError(f"expected the path of a file, got {type(text).__name__}")
    whole = Path(text)
    found = _ADDRESS.fullmatch(str(text))
    if found is None or _exists(whole):
        return whole, None, None
    return Path(found["path"]), found["name"], found["index"]


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:  # too long, or with a NUL
        if isinstance(error, NotADirectoryError | PermissionError):
            return False
        raise FileError(f"{str(path)[:80]!r} cannot be the name of a file ({_reason(error)})") from None
    return True


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


@checked
def read(source: str | Path, modality: str | None = None) -> Signal:
    """Returns the signal at an address, see the top of this file.

    Args:
        source: the address.
        modality: "CT" where the values of a NIfTI file or of an array are Hounsfield units, "MR" where they are
            magnitudes; left out, DICOM tells it itself, and NIfTI is taken for CT where its values look like it.

    Raises:
        FileError: no such file, array or slice, not one of these, damaged, cut off, holding Python objects, too large, or
            not finite.
        MissingExtraError: the package that reads it is not installed.  OptionError: an unknown modality, or no path.
    """
    if modality not in MODALITIES:
        raise OptionError(f"unknown modality {modality!r}; expected 'CT', 'MR' or None")
    path, name, index = address(source)
    signal = _read(path, name, modality)
    return signal if index is None else _slice(signal, index, path)


def _read(path: Path, name: str | None, modality: str | None) -> Signal:
    from invgen.files.arrays import NPY, read_npy_signal, read_npz
    from invgen.files.hdf5 import HDF5, read_hdf5
    from invgen.files.nifti import is_nifti
    from invgen.files.pictures import read_picture
    from invgen.files.scans import in_modality, read_scan, scan_signal
    from invgen.files.sound import is_sound, read_sound

    head, end = first_bytes(path), path.name.lower()
    if head.startswith(b"MATLAB"):
        raise FileError(
            f"{path} is a MATLAB file; read its variables with invgen.files.read_matlab and save the array as NPY"
        )
    if head.startswith(HDF5) or end.endswith(HDF5_SUFFIXES):
        return in_modality(read_hdf5(path, name), modality)
    if end.endswith(".npz"):
        return in_modality(read_npz(path, name), modality)
    if name is not None:
        raise FileError(f"{path} has no arrays with names; leave out :{name}")
    if head.startswith(NPY) or end.endswith(".npy"):
        return in_modality(read_npy_signal(path), modality)
    if head[128:132] == b"DICM" or end.endswith(DICOM_SUFFIXES) or is_nifti(path):
        return scan_signal(read_scan(path, modality))
    return read_sound(path) if is_sound(path, head) else in_modality(read_picture(path), modality)


def read_npy(path: str | Path) -> "Tensor":
    """Returns the array in an NPY file as a tensor of its own dtype; `file_arrays.read_npy`."""
    from invgen.files.arrays import read_npy

    address(path)  # whose sentences are for what is no path
    return read_npy(path)


def slices(source: str | Path) -> list[str]:
    """Returns the addresses that "FILE[a:b:c]" stands for, as Python counts; any other address alone.

    Raises:
        FileError: as `read`, and where no slice is left.
    """
    path, name, index = address(source)
    if index is None or ":" not in index:
        return [str(source)]
    whole = f"{path}:{name}" if name else str(path)
    count = len(read(whole).values)
    try:
        chosen = range(count)[slice(*(int(part) if part.strip() else None for part in index.split(":")))]
    except (ValueError, TypeError):
        raise FileError(
            f"cannot read the slices [{index}] of {whole}; expected [FIRST:END:STEP], such as [10:50:5]"
        ) from None
    if not chosen:
        raise FileError(f"[{index}] leaves none of the {count} slices of {whole}")
    return [f"{whole}[{k}]" for k in chosen]


def _slice(signal: Signal, index: str, path: Path) -> Signal:
    count = len(signal.values)
    try:
        k = int(index)
    except ValueError:
        raise FileError(f"cannot read the slice [{index}] of {path}; expected a whole number, such as {path}[12]") from None
    if signal.values.ndim < 3:
        shape = tuple(signal.values.shape)
        raise FileError(f"{path} has no slices, its values are of shape {shape}; leave out [{index}]")
    if not -count <= k < count:
        raise FileError(f"{path} has {count} slices, there is no slice {k}")
    one = signal.values[k].clone()
    return replace(signal, values=one if one.ndim == 3 and signal.volume else one[None], volume=False)


def first_bytes(path: Path) -> bytes:
    """Returns the first 132 bytes of a file; FileError where there are none."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except FileNotFoundError:
        raise FileError(f"there is no file {path}; pass a picture, an array, a scan or a recording that exists") from None
    except IsADirectoryError:
        raise FileError(f"{path} is a folder; pass one of its files") from None
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {str(path)[:200]!r}: {_reason(error)}") from error
    if not head:
        raise FileError(f"{path} is empty; expected a {KINDS} file")
    return head
