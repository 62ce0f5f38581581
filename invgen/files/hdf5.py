"""HDF5 files: a dataset by its name, the picture of the layouts that are known, nothing that lies in another file."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from invgen.errors import FileError, InvgenError
from invgen.files.arrays import array_signal, checked, chosen_name, note_of
from invgen.files.scans import Scan, scan_signal
from invgen.files.signal import Signal, single
from invgen.validation.limits import check_size

HDF5 = b"\x89HDF\r\n\x1a\n"
FASTMRI = ("/reconstruction_esc", "/reconstruction_rss")  # the targets of single-coil and of multi-coil data
PARTS = (("r", "i"), ("re", "im"), ("real", "imag"), ("real", "imaginary"))  # how others name complex numbers


def read_hdf5(path: Path, name: str | None) -> Signal:
    """Returns a dataset of an HDF5 file: the one of that name ("/group/image"), else the first with two axes or more.

    Of a fastMRI file the reconstruction is read, a magnitude. Raw data of other known layouts is named and not taken for
    a picture.

    Raises:
        FileError: damaged, cut off, too large, kept in another file, no such dataset, or none that is a signal.
    """
    import h5py

    datasets: dict[str, Any] = {}

    def visit(key: str, thing: object) -> None:
        if isinstance(thing, h5py.Dataset):
            datasets[f"/{key}"] = thing

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)  # which follows no link to another place or file
            shapes = {key: found for key, thing in datasets.items() if (found := _shape(thing)) is not None}
            fastmri = name is None and "/kspace" in datasets
            if name is None:
                _refuse_raw(path, datasets)
            if fastmri and (found := next((key for key in FASTMRI if key in shapes), None)):
                chosen = found
            else:
                chosen = chosen_name(path, name and f"/{name.strip('/')}", shapes, list(datasets))
            array = checked(_values(datasets[chosen], f"{path}:{chosen}"), f"{path}:{chosen}")
    except InvgenError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ValueError, TypeError, ...
        reason = " ".join(str(error).split())[:300]
        raise FileError(f"{path} is damaged or cut off ({reason}); write it again with h5py") from error
    if fastmri and chosen in FASTMRI:
        note = f"it is a fastMRI file, of which the reconstruction {chosen} was read, not /kspace"
        values = single(array, f"{path}:{chosen}")
        return scan_signal(Scan(values.reshape(-1, *values.shape[-2:]), "magnitude", notes=(note,), volume=values.ndim > 2))
    return array_signal(array, f"{path}:{chosen}", note_of(name, chosen, list(shapes)))


def _shape(thing: Any) -> tuple[int, ...] | None:
    """Returns the shape of a dataset of numbers, None for anything else."""
    try:
        numeric = thing.dtype.kind in "biufc" or _parts(thing.dtype)
        return tuple(thing.shape) if numeric and thing.shape is not None else None
    except (TypeError, ValueError, RuntimeError, OSError):  # a type that numpy does not have
        return None


def _parts(dtype: np.dtype) -> tuple[str, str] | None:
    """Returns the names of the real and the imaginary part of a compound type."""
    if dtype.names is None or len(dtype.names) != 2:
        return None
    real, imaginary = dtype.names
    numbers = all(dtype[n].kind in "iuf" and not dtype[n].shape for n in (real, imaginary))
    return (real, imaginary) if numbers and (real.lower(), imaginary.lower()) in PARTS else None


def _values(thing: Any, where: str) -> np.ndarray:
    import h5py

    if thing.is_virtual or thing.external:
        raise FileError(
            f"{where} keeps its values in other files, which are not read; copy them into one file with h5repack"
        )
    listed = thing.id.get_create_plist()
    for number in (listed.get_filter(k)[0] for k in range(listed.get_nfilters())):
        if not h5py.h5z.filter_avail(number):
            raise FileError(
                f"{where} is packed by the HDF5 filter {number}, which is not here; unpack it with h5repack -f NONE"
            )
    check_size(math.prod(thing.shape) * max(4, thing.dtype.itemsize), where)
    array = np.asarray(thing[()])
    if parts := _parts(array.dtype):
        return array[parts[0]] + 1j * array[parts[1]]
    return array


def _refuse_raw(path: Path, datasets: dict[str, Any]) -> None:
    """Names the layouts whose arrays are raw data, so that none of them is taken for a picture."""
    end = {key.rsplit("/", 1)[-1] for key in datasets}
    if "/exchange/data" in datasets and end & {"theta", "data_white", "data_dark"}:
        what, where = "a tomography file (Data Exchange): /exchange/data are measured projections", "/exchange/data"
    elif "rotation_angle" in end:
        what, where = "a tomography file (NeXus): its data are measured projections", "/entry/data/data"
    elif any(key.endswith("/data") and {"head", "data"} <= set(_names(thing)) for key, thing in datasets.items()):
        raise FileError(
            f"{path} is an ISMRMRD file: it holds measured readouts, no picture; reconstruct it with its own tools"
        )
    elif any(key.startswith("/minc-2.0/") for key in datasets):
        raise FileError(f"{path} is a MINC file, whose values are scaled slice by slice; convert it to NIfTI with mnc2nii")
    else:
        return
    raise FileError(f"{path} is {what}, no picture; name an array as {path.name}:{where} to read it nevertheless")


def _names(thing: Any) -> tuple[str, ...]:
    try:
        return thing.dtype.names or ()
    except (TypeError, ValueError, RuntimeError, OSError):
        return ()
