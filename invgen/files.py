"""Reading signals from files, and fitting them to a prior.

A file is told apart by its first bytes: pictures (PNG, JPEG, TIFF: `file_pictures`), arrays (NPY, NPZ, HDF5:
`file_arrays`), scans (DICOM, NIfTI: `file_scans`) and recordings (WAV, FLAC, OGG, AIFF: `file_sound`). Its address may go
on after the name of the file:

    scan.h5:/entry/image     a dataset of an HDF5 file     scans.npz:lung1     an array of an NPZ file
    head.nii.gz[40]          slice 40 of a volume          scans.npz:lung1[-1] the last slice of that array

Without a name the first array with two axes or more is read; without a number, of a volume the slice in its middle.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from invgen.errors import FileError, OptionError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor

    from invgen.diffusion import Prior

LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709: red, green and blue in grey
KINDS = "PNG, JPEG, TIFF, NPY, NPZ, HDF5, DICOM, NIfTI, WAV or FLAC"
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".npz", ".h5", ".hdf5", ".hdf"),
    *(".dcm", ".dicom", ".ima", ".nii", ".nii.gz", ".wav", ".flac", ".ogg", ".aif", ".aiff"),
)
_ADDRESS = re.compile(
    r"(?P<path>.*?\.(?:npz|h5|hdf5|hdf)(?=[:\[]|$)|[^\[]*)(?::(?P<name>[^\[]+))?(?:\[(?P<index>[^\]]*)\])?", re.I
)


@dataclass(frozen=True)
class Signal:
    """What a file holds.

    Attributes:
        values: float32, (C, H, W) for pictures, (slices, H, W) for volumes, (channels, samples) for recordings, the
            shape of the array for NPY, NPZ and HDF5.
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


def address(text: str | Path) -> tuple[Path, str | None, str | None]:
    """ "scans.npz:lung1[12]" as (path, "lung1", "12"). A file whose name has brackets or a colon is taken as it is."""
    whole = Path(text)
    found = _ADDRESS.fullmatch(str(text))
    if found is None or whole.exists():
        return whole, None, None
    return Path(found["path"]), found["name"], found["index"]


def read(source: str | Path) -> Signal:
    """The signal at an address, see the top of this file.

    Raises:
        FileError: no such file, array or slice, not one of these, damaged, cut off, holding Python objects, or not finite.
        MissingExtraError: the package that reads it is not installed.
    """
    from invgen.file_arrays import HDF5, read_hdf5, read_npy, read_npz, signal_from_array
    from invgen.file_pictures import read_picture
    from invgen.file_scans import read_dicom, read_nifti
    from invgen.file_sound import COMPRESSED, read_sound

    path, name, index = address(source)
    head, end = first_bytes(path), path.name.lower()
    if head.startswith(HDF5) or end.endswith((".h5", ".hdf5", ".hdf")):
        signal = read_hdf5(path, name)
    elif end.endswith(".npz"):
        signal = read_npz(path, name)
    elif name is not None:
        raise FileError(f"{path} has no arrays with names; leave out :{name}")
    elif head.startswith(b"\x93NUMPY") or end.endswith(".npy"):
        signal = signal_from_array(read_npy(path), str(path))
    elif end.endswith((".nii", ".nii.gz")):
        signal = read_nifti(path)
    elif head.startswith((b"RIFF", b"RIFX", *COMPRESSED)) or end.endswith((".wav", ".flac")):
        signal = read_sound(path)
    elif head[128:132] == b"DICM" or end.endswith((".dcm", ".dicom", ".ima")):
        signal = read_dicom(path)
    else:
        signal = read_picture(path)
    return signal if index is None else _slice(signal, index, path)


def read_npy(path: str | Path) -> "Tensor":
    """The array in an NPY file as a tensor of its own dtype; `file_arrays.read_npy`."""
    from invgen.file_arrays import read_npy

    return read_npy(path)


def slices(source: str | Path) -> list[str]:
    """The addresses that "FILE[a:b:c]" stands for, as Python counts; any other address alone.

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
    return replace(signal, values=signal.values[k][None].clone(), volume=False)


def first_bytes(path: Path) -> bytes:
    """The first 132 bytes of a file; FileError where there are none."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except FileNotFoundError:
        raise FileError(f"there is no file {path}; pass a picture, an array, a scan or a recording that exists") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise FileError(f"{path} is empty; expected a {KINDS} file")
    return head


def fit(
    signal: Signal, prior: "Prior", *, resize: bool = True, window: tuple[float, float] = (-1000.0, 1000.0)
) -> tuple["Tensor", Signal]:
    """The signal as one that the prior knows: its channels, its size and its units.

    Grey levels of 0 to 1, and Hounsfield units within `window` (clipped to it), map on the prior's value range; the values
    of arrays, recordings and floating-point pictures are left as they are. Size: cut to the middle in the prior's
    proportions, then resampled bicubically with antialiasing; of a volume the slice in its middle, of a recording as many
    samples from its middle as the prior has.

    Returns:
        (x, signal): x of shape prior.shape, and the signal with spacing and notes brought up to date.

    Raises:
        ShapeError: the shapes differ and `resize` is False, or no reshaping makes sense.
        OptionError: a recording has another sampling rate than the prior.
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
    if signal.rate is not None:
        _check_rate(signal.rate, prior)
    if tuple(values.shape) != shape:
        if len(shape) == 2 and values.ndim <= 2:
            values = _excerpt(values, shape, notes)
        elif len(shape) == 3 and signal.rate is None:
            values = _channels(_middle(values, shape, signal.volume, notes), shape[0], notes)
        elif len(shape) == 4 and signal.volume and shape[0] == 1:
            values = values[None]
        if tuple(values.shape) != shape:
            if len(shape) != 3 or values.ndim != 3 or values.shape[0] != shape[0] or signal.rate is not None:
                raise ShapeError(f"the signal has shape {tuple(signal.values.shape)}, the prior is over {shape}")
            if not resize:
                raise ShapeError(
                    f"the signal is {values.shape[1]} x {values.shape[2]} pixels, the prior is over {shape[1]} x "
                    f"{shape[2]}; leave out --no-resize, or pass --size"
                )
            values, factor = _resample(values, shape[1:], notes)
            spacing = spacing and (spacing[0] * factor, spacing[1] * factor)
    return values.to(prior.device, prior.dtype), replace(signal, values=values, spacing=spacing, notes=tuple(notes))


def _check_rate(rate: float, prior: "Prior") -> None:
    own = next((m.rate for m in prior.modules() if getattr(m, "rate", None)), None)
    if own is not None and own != rate:
        raise OptionError(
            f"the recording has {rate:g} samples a second, the prior is over {own:g}; resample it first, for example with "
            "scipy.signal.resample_poly"
        )


def _excerpt(values: "Tensor", shape: tuple[int, ...], notes: list[str]) -> "Tensor":
    """(channels, samples) or (samples,) -> shape, from the middle; several channels are averaged for a prior over one."""
    values = values[None] if values.ndim == 1 else values
    if shape[0] == 1 and len(values) > 1 and values.shape[1] >= shape[1]:
        notes.append(f"its {len(values)} channels were averaged")
        values = values.mean(0, keepdim=True)
    if len(values) == shape[0] and values.shape[1] > shape[1]:
        start = (values.shape[1] - shape[1]) // 2
        notes.append(f"of its {values.shape[1]} samples {start} to {start + shape[1] - 1}, the middle, were cut out")
        values = values[:, start : start + shape[1]]
    return values


def _middle(values: "Tensor", shape: tuple[int, ...], volume: bool, notes: list[str]) -> "Tensor":
    """The slice in the middle of a volume; an array that cannot be a picture of one channel is taken for a volume."""
    if values.ndim == 3 and (volume or (shape[0] == 1 and len(values) > 4 and values.shape[-1] > 4)):
        notes.append(f"of its {len(values)} slices number {len(values) // 2}, the middle, was read")
        return values[len(values) // 2][None]
    return values


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
