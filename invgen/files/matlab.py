"""MATLAB files: their variables by name, numbers as arrays, structures as dicts, cells as lists; objects are left out."""

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from invgen.errors import FileError, InvgenError
from invgen.files.hdf5 import HDF5
from invgen.files.reader import first_bytes
from invgen.validation.arguments import checked
from invgen.validation.limits import check_size

DEEP = 20  # structures within structures
COMPRESSED = 15  # miCOMPRESSED of the format's description


@checked
def read_matlab(path: str | Path, *names: str) -> dict[str, Any]:
    """Returns the variables of a MATLAB file, of version 5 to 7.3, {name: array, or dict, list, text}.

        read_matlab("scan.mat", "CtDataLimited")["CtDataLimited"]["sinogram"]

    Axes are those of MATLAB; axes of length one are left out. Nothing is evaluated: function handles and objects are left
    out.

    Args:
        path: of the file.
        names: variables to read; all of them by default. Each has to be there.

    Raises:
        FileError: no such file or variable, damaged, too large, or no MATLAB file.
    """
    path = Path(path)
    head = first_bytes(path)
    if not (head.startswith(b"MATLAB") or head.startswith(HDF5)):
        raise FileError(f"{path} is no MATLAB file of version 5 or later; save it with save -v7 in MATLAB")
    try:
        found = _version_7_3(path, names) if head.startswith((HDF5, b"MATLAB 7.3")) else _version_5(path, names)
    except InvgenError:
        raise
    except Exception as error:  # scipy and h5py raise errors of many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FileError(f"{path} is damaged or cut off ({reason}); write it again in MATLAB") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise FileError(f"{path} has no variable {missing[0]!r} that can be read; read_matlab(path) lists what it has")
    return found


def _version_5(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    from scipy.io import loadmat

    check_size(_unpacked(path), str(path))
    values = loadmat(path, squeeze_me=True, struct_as_record=False, variable_names=list(names) or None)
    plain = {key: _plain(value) for key, value in values.items() if not key.startswith("__") and key != "None"}
    return {key: value for key, value in plain.items() if value is not None}


def _unpacked(path: Path) -> int:
    """Returns how many bytes the variables of a file take when they are unpacked, without keeping them."""
    total = 0
    with path.open("rb") as file:
        order = "<" if file.read(128)[126:128] == b"IM" else ">"
        while len(head := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", head)
            packed = file.read(size)
            if kind != COMPRESSED:
                total += size
                continue
            unpack, rest = zlib.decompressobj(), packed
            while rest:
                total += len(unpack.decompress(rest, 2**24))
                rest = unpack.unconsumed_tail
                check_size(total, str(path))
    return total


def _plain(value: Any, depth: int = 0) -> Any:
    """Returns what scipy read as arrays, dicts, lists and texts; None for anything else."""
    from scipy.io.matlab import MatlabFunction, MatlabOpaque, mat_struct

    if depth > DEEP or isinstance(value, MatlabFunction | MatlabOpaque):
        return None
    if isinstance(value, mat_struct):
        parts = {name: _plain(part, depth + 1) for name, part in vars(value).items() if name != "_fieldnames"}
        return {name: part for name, part in parts.items() if part is not None}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [_plain(part, depth + 1) for part in value.ravel()]
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    return array if array.dtype.kind in "biufc" else None


def _version_7_3(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    import h5py

    with h5py.File(path, "r") as file:
        wanted = [key for key in map(str, file) if not key.startswith("#") and (not names or key in names)]
        plain = {key: _hdf5(file, file[key], f"{path}:{key}") for key in wanted}
    return {key: value for key, value in plain.items() if value is not None}


def _hdf5(file: Any, thing: Any, where: str, depth: int = 0) -> Any:
    """Returns a variable of version 7.3, whose axes HDF5 has in reverse."""
    import h5py

    if depth > DEEP:
        return None
    if isinstance(thing, h5py.Group):
        parts = {name: _hdf5(file, thing[name], where, depth + 1) for name in thing}
        return {name: part for name, part in parts.items() if part is not None}
    kind = thing.attrs.get("MATLAB_class", b"")
    if thing.is_virtual or thing.external:
        return None
    check_size(math.prod(thing.shape) * max(8, thing.dtype.itemsize), where)
    values = thing[()]
    if thing.dtype == h5py.ref_dtype:
        return [_hdf5(file, file[reference], where, depth + 1) for reference in values.T.ravel()]
    if kind == b"char":
        return "".join(map(chr, values.T.ravel()))
    if values.dtype.names == ("real", "imag"):
        values = values["real"] + 1j * values["imag"]
    return np.squeeze(values.T) if values.dtype.kind in "biufc" else None
