"""Raw scans: from what a detector recorded to line integrals, view angles and the place of the rotation axis."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from invgen.errors import FileError, OptionError, ShapeError
from invgen.files.hdf5 import read_hdf5
from invgen.files.reader import address
from invgen.files.tiff import read_tiff
from invgen.operators.ct._options import Angles, choose_angles
from invgen.validation.arguments import checked
from invgen.validation.hints import Index, Positive
from invgen.validation.limits import check_size

Stack = Tensor | np.ndarray | str | Path | Sequence[str | Path]
HDF5_ENDS, TIFF_ENDS = (".h5", ".hdf5", ".hdf", ".nxs"), (".tif", ".tiff")
EXCHANGE = {"flat": "data_white", "dark": "data_dark", "angles": "theta"}  # of the layout Data Exchange, in degrees


class RawScan(NamedTuple):
    """Line integrals of a scan and the angles of its views.

    Attributes:
        lines: (views, [rows,] detector) float32, pure numbers.
        angles: (views,) float64, radians; None where none were given.
    """

    lines: Tensor
    angles: Tensor | None


@checked
def line_integrals(counts: Tensor, flat: Tensor | float, dark: Tensor | float = 0.0) -> Tensor:
    """Returns -log((counts - dark) / (flat - dark)), the line integrals of the attenuation, (views, ...) float32.

    Rays without signal get what the least signal that is positive anywhere gives. `invgen.log_transform` is the same for
    photon counts, with the variance of each ray.

    Args:
        counts: what the detector recorded, one array a view, (views, ...).
        flat: without the object: a number, one view, or a stack of views, which is averaged.
        dark: without the beam, likewise.

    Raises:
        ShapeError: flat or dark has another shape than a view.
        OptionError: flat is nowhere above dark.
    """
    counts = counts.double()
    blank, offset = (_one(field, counts, name) for field, name in ((flat, "flat"), (dark, "dark")))
    gain, signal = blank - offset, counts - offset
    if not bool((gain > 0).any()):
        raise OptionError("flat must be brighter than dark, and no pixel is; check which of the two is which")
    share = signal / gain.where(gain > 0, torch.inf)  # a dead pixel has no signal
    positive = share[share > 0]
    if not len(positive):
        raise OptionError("no count is above dark; check which of counts, flat and dark is which")
    return -share.clamp(min=positive.min()).log().float()


def _one(field: Tensor | float, counts: Tensor, name: str) -> Tensor:
    """Returns a field as one view, averaged over a stack."""
    values = torch.as_tensor(field, dtype=torch.float64)
    view = counts.shape[1:]
    if values.ndim == len(view) + 1:
        values = values.mean(0)
    if values.ndim and values.shape != view:
        raise ShapeError(f"{name} must be a number, one view {tuple(view)} or a stack of views, got {tuple(values.shape)}")
    return values


@checked
def read_scan(
    data: Stack,
    flat: Stack | float | None = None,
    dark: Stack | float | None = None,
    angles: Angles | None = None,
    row: Index | None = None,
) -> RawScan:
    """Returns the line integrals and view angles of a raw scan.

        lines, angles = operators.read_scan("tooth.h5", row=0)
        A = ParallelBeamCT(shape, angles=angles, det_count=lines.shape[-1], det_offset=find_center(lines, angles))

    Args:
        data: the views, (views, [rows,] detector): a tensor or an array, an HDF5 file ("scan.h5:/entry/data"; a file of the
            layout Data Exchange needs no name, and has flat, dark and angles), a TIFF with a page a view, a folder of
            TIFFs or a list of them, a view each, in the order of their names.
        flat: views without the object, likewise, or a number. Without any, the data are taken for transmissions, in [0, 1].
        dark: views without the beam, likewise; 0 if not given.
        angles: of the views, in radians.
        row: of the detector; all rows by default.

    Raises:
        FileError: a file is not there, damaged, or of another kind.
        OptionError: flat is nowhere above dark, or there is another number of angles than of views.
        ShapeError: shapes do not fit.
    """
    found: dict[str, Tensor] = {}
    if isinstance(data, str | Path):
        path, name, _ = address(data)
        if path.suffix.lower() in HDF5_ENDS and name is None and path.exists():
            data, found = _exchange(path)
    counts = _stack(data, "data")
    if counts.ndim not in (2, 3) or not len(counts):
        raise ShapeError(f"data must be (views, detector) or (views, rows, detector), got shape {tuple(counts.shape)}")
    flat = found.get("flat", 1.0) if flat is None else flat
    dark = found.get("dark", 0.0) if dark is None else dark
    fields = [f if isinstance(f, float | int) else _stack(f, name) for f, name in ((flat, "flat"), (dark, "dark"))]
    if row is not None:
        if counts.ndim != 3 or row >= counts.shape[1]:
            raise OptionError(f"there is no row {row} in views of shape {tuple(counts.shape[1:])}, (rows, detector)")
        counts, fields = counts[:, row], [f[..., row, :] if isinstance(f, Tensor) else f for f in fields]
    views = found.get("angles") if angles is None else torch.from_numpy(choose_angles(None, angles, math.pi))
    if views is not None and len(views) != len(counts):
        raise OptionError(f"there are {len(views)} angles and {len(counts)} views; give an angle for each view")
    return RawScan(line_integrals(counts, *fields), views)


def _exchange(path: Path) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the views of a file of the layout Data Exchange (De Carlo et al. 2014), and its flat, dark and angles."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            group = file.get("exchange")
            names = set(group) if isinstance(group, h5py.Group) else set()
    except OSError as error:
        raise FileError(f"{path} is damaged or no HDF5 file ({error})") from error
    if "data" not in names:
        raise FileError(f"{path} has no /exchange/data; name the dataset of the views, {path.name}:/group/data")
    found = {key: read_hdf5(path, f"exchange/{name}").values for key, name in EXCHANGE.items() if name in names}
    found = {key: values.double().flatten().deg2rad() if key == "angles" else values for key, values in found.items()}
    return read_hdf5(path, "exchange/data").values, found


def _stack(data: Stack, name: str) -> Tensor:
    """Returns views from memory or files."""
    if isinstance(data, Tensor | np.ndarray):
        return torch.as_tensor(data)
    if isinstance(data, str | Path):
        path, dataset, _ = address(data)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in TIFF_ENDS)
            if not files:
                raise FileError(f"{path} holds no TIFF files (.tif, .tiff), which {name} is to be read from")
            return _stack(files, name)
        if not path.exists():
            raise FileError(f"{path}, which {name} is to be read from, is not there")
        if path.suffix.lower() in HDF5_ENDS:
            return read_hdf5(path, dataset).values
        if path.suffix.lower() not in TIFF_ENDS:
            raise FileError(
                f"{path} must be HDF5 ({', '.join(HDF5_ENDS)}) or TIFF ({', '.join(TIFF_ENDS)}) to be read as {name}"
            )
        signal = read_tiff(path)
        return signal.values if signal.volume else signal.values.squeeze(0)
    views = []
    for file in data:
        view = _stack(file, name)
        if views and view.shape != views[0].shape:
            raise ShapeError(f"{file} has shape {tuple(view.shape)}, the views before it {tuple(views[0].shape)}")
        views.append(view)
        check_size(4 * view.numel() * len(data), f"a stack of {len(data)} views")
    return torch.stack(views)


@checked
def find_center(lines: Tensor, angles: Angles, det_spacing: Positive = 1.0) -> float:
    """Returns where the rotation axis of a parallel beam projects: `det_offset` of `ParallelBeamCT`, in mm.

    To some two tenths of a pixel, on phantoms with noise of 1 %.

    A half turn and its mirror image make a whole turn, whose Fourier transform is next to nothing outside of a double
    wedge, if they are mirrored at the axis (Vo et al., Opt. Express 22(16), 2014). Of many rows four are looked at.

    Args:
        lines: line integrals, (views, detector) or (views, rows, detector).
        angles: of the views in radians, even over half a turn at least.
        det_spacing: size of a detector pixel, mm.

    Raises:
        OptionError: the views do not cover half a turn evenly.
    """
    t = choose_angles(None, angles, math.pi)
    if lines.ndim not in (2, 3) or len(lines) != len(t) or lines.shape[-1] < 8:
        raise ShapeError(f"lines must be ({len(t)}, [rows,] detector) with 8 pixels at least, got {tuple(lines.shape)}")
    order = np.argsort(t)
    t = t[order] - t.min()
    step = float(np.median(np.diff(t))) if len(t) > 1 else math.pi
    half = t < math.pi - step / 2
    even = np.abs(t[half] - step * np.arange(half.sum())).max() < step / 4
    if not even or abs(half.sum() * step - math.pi) > step:
        raise OptionError(
            f"find_center needs views even over half a turn, these cover {math.degrees(t[-1]):.0f} degrees in steps of "
            f"about {math.degrees(step):.3g}; give det_offset yourself"
        )
    rows = lines[torch.from_numpy(order[half])].double().reshape(int(half.sum()), -1, lines.shape[-1]).movedim(1, 0)
    rows = rows[:: max(1, len(rows) // 4)]
    reach, best = rows.shape[-1] // 4, 0.0
    for width, spacing in ((reach, 1.0), (1.0, 0.1)):
        shifts = best + torch.arange(-round(width / spacing), round(width / spacing) + 1, dtype=torch.float64) * spacing
        best = shifts[int(torch.stack([_outside_wedge(rows, shift.item()) for shift in shifts]).argmin())].item()
    return best * det_spacing


def _outside_wedge(rows: Tensor, shift: float) -> Tensor:
    """Returns the size of the spectrum of half turns (N, A, D) and their mirror images outside of the double wedge.

    Args:
        rows: the half turns.
        shift: of the axis from the middle of the detector, in pixels.
    """
    views, count = rows.shape[1:]
    at = torch.arange(count, dtype=torch.float64) - 2 * shift  # of the pixels of the mirror image
    low = at.floor().clamp(0, count - 2)
    flipped, index = rows.flip(-1), low.long()
    mirrored = torch.lerp(flipped[..., index], flipped[..., index + 1], (at - low).clamp(0, 1))
    mirrored = mirrored.where((at >= 0) & (at <= count - 1), rows)  # nothing was measured there
    spectrum = torch.fft.rfft2(torch.cat([rows, mirrored], dim=1)).abs()
    order = (torch.fft.fftfreq(2 * views, 1 / (2 * views), dtype=torch.float64)).abs()[:, None]
    wave = torch.arange(spectrum.shape[-1], dtype=torch.float64)
    outside = (order > math.pi * wave / 2 + 3) & (wave > 0)  # an object of half the detector's width
    return (spectrum * outside).mean()
