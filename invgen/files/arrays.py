"""Arrays from NPY, NPZ and HDF5 files. Nothing in a file is run, and nothing outside of it is read."""

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from invgen.errors import FileError, InvgenError
from invgen.files.signal import Signal, depth_note, single
from invgen.validation.limits import check_size

if TYPE_CHECKING:
    from torch import Tensor

NPY = b"\x93NUMPY"
# arrays of these names are what an instrument measured, no picture: they are read by name alone
MEASURED = ("kspace", "k_space", "k-space", "kdata", "ksp", "sinogram", "sino", "projections", "proj")
OBJECTS = "holds Python objects, which could run code when read; save a plain numeric array instead"


def read_npy(path: str | Path) -> "Tensor":
    """Returns the array in an NPY file as a tensor of its own dtype; bool, integer, floating point or complex.

    Raises:
        FileError: no such file, not NPY, cut off, too large, holding Python objects (which could run code), or not finite.
    """
    import torch

    array = _load(Path(path))
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch knows little of these
        array = array.astype(np.int64)
    return torch.from_numpy(array)


def read_npy_signal(path: Path) -> Signal:
    """Returns the array in an NPY file as a signal; as `read_npy`."""
    return array_signal(_load(path), str(path))


def _load(path: Path) -> np.ndarray:
    from invgen.files.reader import first_bytes

    if not first_bytes(path).startswith(NPY):
        raise FileError(f"{path} is not an NPY file; write it with numpy.save")
    try:
        with path.open("rb") as file:
            shape, dtype = _npy_head(file)
        if dtype.hasobject:
            raise FileError(f"{path} {OBJECTS}")
        if not math.prod(shape):
            raise FileError(f"{path} holds an empty array of shape {shape}, expected a signal")
        check_size(math.prod(shape) * max(4, dtype.itemsize), str(path))
        mapped = np.load(
            path, mmap_mode="r", allow_pickle=False
        )  # which fails before it allocates where values are missing
        return checked(np.array(mapped), str(path))
    except InvgenError:
        raise
    except Exception as error:  # numpy raises ValueError, tokenize.TokenError, struct.error, ...
        reason = " ".join(str(error).split())[:300]
        raise FileError(f"{path} is damaged or cut off ({reason}); save it again with numpy.save") from error


def _npy_head(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Returns the shape and the type of an NPY stream, from its head alone."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def read_npz(path: Path, name: str | None) -> Signal:
    """Returns an array of an NPZ file: the one of that name, else the first with two axes or more.

    Raises:
        FileError: damaged, cut off, too large, no such array, or none that is a signal.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            every, shapes = [], {}
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                every.append(key := member.filename.removesuffix(".npy"))
                check_size(member.file_size, f"{path}:{key}")
                with archive.open(member) as file:
                    shape, dtype = _npy_head(file)
                if dtype.kind in "biufc" and not dtype.hasobject:
                    shapes[key] = shape
                    if math.prod(shape) * dtype.itemsize > member.file_size:
                        raise FileError(f"{path}:{key} is damaged or cut off; save it again with numpy.savez")
            chosen = chosen_name(path, name, shapes, every)
            check_size(4 * math.prod(shapes[chosen]), f"{path}:{chosen}")
        with np.load(path, allow_pickle=False) as arrays:
            array = checked(arrays[chosen], f"{path}:{chosen}")
    except InvgenError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds: encrypted, of an unknown compression, damaged
        reason = " ".join(str(error).split())[:300]
        raise FileError(f"{path} is damaged or cut off ({reason}); save it again with numpy.savez") from error
    return array_signal(array, f"{path}:{chosen}", note_of(name, chosen, list(shapes)))


def read_npz_tables(path: str | Path) -> "dict[str, Tensor]":
    """Returns all arrays in an NPZ file as tensors of their own dtype, by name.

    Raises:
        FileError: as `read_npy`.
    """
    import torch

    out, path = {}, Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                check_size(member.file_size, f"{path}:{member.filename}")
                with archive.open(member) as file:
                    _, dtype = _npy_head(file)
                if dtype.kind not in "biufc" or dtype.hasobject:
                    raise FileError(f"{path}:{member.filename} {OBJECTS}")
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                array = checked(arrays[key], f"{path}:{key}")
                wide = array.dtype.kind == "u" and array.dtype.itemsize > 1  # torch knows little of these
                out[key] = torch.from_numpy(array.astype(np.int64) if wide else array)
    except InvgenError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds: encrypted, of an unknown compression, damaged
        reason = " ".join(str(error).split())[:300]
        raise FileError(f"{path} is damaged or cut off ({reason}); save it again with numpy.savez") from error
    return out


def choose(names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Returns the first array with two axes or more that is no measurement by its name."""
    for key in names:
        if key in shapes and len(shapes[key]) >= 2 and math.prod(shapes[key]) and not is_measured(key):
            return key
    return None


def is_measured(key: str) -> bool:
    """Tells whether an array is, by its name, what an instrument measured."""
    return key.rsplit("/", 1)[-1].lower() in MEASURED


def chosen_name(path: Path, name: str | None, shapes: Mapping[str, tuple[int, ...]], every: Sequence[str]) -> str:
    """Returns the name of the array to read: `name`, or the only one there is.

    Args:
        path: the file, for the message.
        name: the user's choice; None for no choice.
        shapes: of the arrays that can be read, by name.
        every: the names of all entries of the file.

    Raises:
        FileError: there is no such array, or a choice is needed.
    """
    if name is not None:
        if name not in every:
            raise FileError(f"{path} has no array {name!r}; it holds {_listed(every)}")
        if name not in shapes:
            raise FileError(f"{path}:{name} holds no numbers; expected a numeric array")
        return name
    if found := choose(every, shapes):
        return found
    if measured := [key for key in shapes if is_measured(key)]:
        raise FileError(
            f"{path} holds measurements ({_listed(measured)}), no picture; name an array as {path.name}:{measured[0]} to "
            "read it nevertheless"
        )
    raise FileError(f"{path} holds no array with two axes or more ({_listed(every)}); name one as {path.name}:NAME")


def _listed(every: Sequence[str]) -> str:
    return ", ".join(every[:8]) + (" ..." if len(every) > 8 else "") if every else "no arrays"


def note_of(name: str | None, chosen: str, every: Sequence[str]) -> tuple[str, ...]:
    return (f"of its {len(every)} arrays {chosen} was read",) if name is None and len(every) > 1 else ()


def checked(array: np.ndarray, where: str) -> np.ndarray:
    """Returns a numeric, finite, non-empty array in this machine's byte order, of a type that torch has."""
    if array.dtype.kind not in "biufc":
        raise FileError(f"{where} holds values of type {array.dtype}, expected numbers")
    if array.size == 0:
        raise FileError(f"{where} holds an empty array of shape {array.shape}, expected a signal")
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise FileError(f"{where} has {bad} of {array.size} values not finite (NaN or infinite); replace them first")
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    if array.dtype.kind == "c" and array.dtype.itemsize not in (8, 16):
        array = array.astype(np.complex128)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def array_signal(array: np.ndarray, where: str, notes: tuple[str, ...] = ()) -> Signal:
    """Returns unsigned integers of 8 and 16 bits as grey levels, bool as black and white, all else as it is; and says
    so."""
    import torch

    name, kind = array.dtype.name, array.dtype.kind
    if kind == "c":
        return Signal(torch.from_numpy(single(array, where)), "own", notes=notes)  # `fit` makes two channels of it
    values = torch.from_numpy(single(array, where))
    if kind == "b":
        return Signal(values, "unit", notes=(*notes, "its False and True became black and white"))
    if name in ("uint8", "uint16"):
        full = np.iinfo(array.dtype).max
        notes = (*notes, f"{name} values were read as grey levels of 0 to {full}")
        return Signal(values / full, "unit", notes=notes + (depth_note(array) if name == "uint16" else ()))
    if kind in "iu":
        notes = (*notes, f"its {name} values were taken for those of the prior")
    return Signal(values, "own", notes=notes)
