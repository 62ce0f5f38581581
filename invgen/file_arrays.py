"""Arrays from NPY, NPZ and HDF5 files. Nothing in a file is run."""

import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from invgen.errors import FileError
from invgen.files import Signal, first_bytes

if TYPE_CHECKING:
    from torch import Tensor

HDF5 = b"\x89HDF\r\n\x1a\n"


def read_npy(path: str | Path) -> "Tensor":
    """The array in an NPY file as a tensor of its own dtype; bool, integer, floating point or complex.

    Raises:
        FileError: no such file, not NPY, cut off, holding Python objects (which could run code), or not finite.
    """
    path = Path(path)
    if not first_bytes(path).startswith(b"\x93NUMPY"):
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
    return _checked(array, str(path))


def read_npz(path: Path, name: str | None) -> Signal:
    """An array of an NPZ file: the one of that name, else the first with two axes or more.

    Raises:
        FileError: damaged, cut off, no such array, or none that is a signal.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            shapes = {}
            for key in arrays.files:
                with arrays.zip.open(f"{key}.npy") as member:
                    shapes[key] = _npy_shape(member)
            chosen = _chosen(path, name, {k: s for k, s in shapes.items() if s is not None}, list(shapes))
            array = arrays[chosen]
    except FileError:
        raise
    except (OSError, EOFError, ValueError, KeyError, MemoryError, TypeError, SyntaxError, zipfile.BadZipFile) as error:
        if "pickle" in str(error):
            raise FileError(
                f"{path}:{name} holds Python objects, which could run code when read; save plain numeric arrays instead"
            ) from error
        raise FileError(f"{path} is damaged or cut off ({error}); save it again with numpy.savez") from error
    except zipfile.zlib.error as error:
        raise FileError(f"{path} is damaged or cut off ({error}); save it again with numpy.savez") from error
    return signal_from_array(_checked(array, f"{path}:{chosen}"), f"{path}:{chosen}", _note(name, chosen, shapes))


def _npy_shape(member: object) -> tuple[int, ...] | None:
    """The shape of an array of numbers, None for anything else, from the head of its file alone."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    return shape if dtype.kind in "biufc" else None


def read_hdf5(path: Path, name: str | None) -> Signal:
    """A dataset of an HDF5 file: the one of that name ("/group/image"), else the first with two axes or more.

    Raises:
        FileError: damaged, cut off, no such dataset, or none that is a signal.
    """
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}

    def look(key: str, thing: object) -> None:
        if isinstance(thing, h5py.Dataset) and thing.dtype.kind in "biufc" and thing.shape is not None:
            shapes[f"/{key}"] = thing.shape

    try:
        with h5py.File(path, "r") as file:
            file.visititems(look)
            chosen = _chosen(path, name and f"/{name.strip('/')}", shapes, list(shapes))
            array = np.asarray(file[chosen][()])
    except FileError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise FileError(f"{path} is damaged or cut off ({error}); write it again with h5py") from error
    return signal_from_array(_checked(array, f"{path}:{chosen}"), f"{path}:{chosen}", _note(name, chosen, shapes))


def _chosen(path: Path, name: str | None, shapes: dict[str, tuple[int, ...]], every: list[str]) -> str:
    if name is not None:
        if name not in every:
            raise FileError(f"{path} has no array {name!r}; it holds {_listed(every)}")
        if name not in shapes:
            raise FileError(f"{path}:{name} holds no numbers; expected a numeric array")
        return name
    for key, shape in shapes.items():
        if len(shape) >= 2 and math.prod(shape):
            return key
    raise FileError(f"{path} holds no array with two axes or more ({_listed(every)}); name one as {path.name}:NAME")


def _listed(every: list[str]) -> str:
    return ", ".join(every[:8]) + (" ..." if len(every) > 8 else "") if every else "no arrays"


def _note(name: str | None, chosen: str, shapes: dict) -> tuple[str, ...]:
    return (f"of its {len(shapes)} arrays {chosen} was read",) if name is None and len(shapes) > 1 else ()


def _checked(array: np.ndarray, where: str) -> "Tensor":
    """A numeric, finite, non-empty array as a tensor."""
    import torch

    if array.dtype.kind not in "biufc":
        raise FileError(f"{where} holds values of type {array.dtype}, expected numbers")
    if array.size == 0:
        raise FileError(f"{where} holds an empty array of shape {array.shape}, expected a signal")
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise FileError(f"{where} has {bad} of {array.size} values not finite (NaN or infinite); replace them first")
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))


def signal_from_array(array: "Tensor", where: str, notes: tuple[str, ...] = ()) -> Signal:
    """Floating point and complex values as they are, uint8 as grey levels.

    Raises:
        FileError: other integers, whose units nobody tells.
    """
    import torch

    if array.is_complex():
        return Signal(array.to(torch.complex64), "own", notes=notes)  # `fit` makes two channels of it
    if array.dtype == torch.uint8:
        note = "uint8 values were read as grey levels of 0 to 255"
        return Signal(array.float() / 255, "unit", notes=(*notes, note))
    if not array.is_floating_point():
        raise FileError(f"{where} holds {array.dtype} values; expected floating point in the units of the prior, or uint8")
    return Signal(array.float(), "own", notes=notes)
