"""Scans, whatever their format, and the one rule for their units: for `files.read` and for training alike.

    "HU"         CT: Hounsfield units, as they are
    "magnitude"  MR, PET and what else has a zero that means nothing is there: 0 at 0, the 99.5th percentile of the positive
                 values at 1
    "grey"       radiographs and the rest, whose zero is arbitrary: the 0.5th and the 99.5th percentile at 0 and 1
    "unit"       colours: black at 0, full at 1
    "own"        complex values, as they are

What lies beyond an end is clipped to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from invgen.errors import FileError, OptionError
from invgen.files.signal import Signal

EMPTY, FULL = 0.5, 99.5  # percentiles: a hot pixel, a clip or a marker of lead does not set the scale


@dataclass(frozen=True)
class Scan:
    """The values of a scan before its units are mapped.

    Attributes:
        values: (slices, rows, columns) float32 or complex64, or (slices, 3, rows, columns) in colour.
        scale: "HU", "magnitude", "grey", "unit" or "own", see the top of this file.
        spacing: (row, column) distance of pixels in mm where the file tells.
        notes: sentences about what was done to the values.
        volume: whether the file counts slices (or frames), be it one.
        patient: who or what it is a scan of, where the file tells.
    """

    values: np.ndarray
    scale: str
    spacing: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    volume: bool = False
    patient: str | None = None


def read_scan(path: Path, modality: str | None = None, *, all_volumes: bool = False) -> Scan:
    """Reads a DICOM or NIfTI file.

    Args:
        path: the file.
        modality: "CT" or "MR" where the file does not tell, or tells wrongly.
        all_volumes: of a NIfTI series the slices of all volumes, after each other, in place of those of the first.

    Raises:
        FileError: damaged, cut off, without a picture, not finite, or too large.
        MissingExtraError: the package that reads it is not installed.
    """
    from invgen.files.dicom import read_dicom
    from invgen.files.nifti import is_nifti, read_nifti

    return read_nifti(path, modality, all_volumes) if is_nifti(path) else read_dicom(path, modality)


def scan_signal(scan: Scan) -> Signal:
    """Maps the values of one scan by the rule of units, and says so in the notes."""
    import torch

    low, high = ends([scan.values], scan.scale)
    values, notes = mapped(scan.values, scan.scale, low, high), list(scan.notes)
    if scan.scale == "magnitude":
        notes.append(f"its values of 0 to {high:g} (the 99.5th percentile) became grey levels of 0 to 1, others clipped")
        if fraction := float((scan.values < 0).mean()):
            notes.append(f"{max(fraction, 1e-3):.1%} of its values lie below 0 and became 0")
    elif scan.scale == "grey":
        notes.append(
            f"its values of {low:g} to {high:g} (0.5th to 99.5th percentile) became grey levels of 0 to 1, others clipped"
        )
    units = scan.scale if scan.scale in ("HU", "own") else "unit"
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if not scan.volume and tensor.ndim == 4:
        tensor = tensor[0]
    return Signal(tensor, units, scan.spacing, tuple(notes), volume=scan.volume)


def in_modality(signal: Signal, modality: str | None) -> Signal:
    """Returns the signal of an array whose units the caller tells: "CT", its values are Hounsfield units; "MR",
    magnitudes."""
    if modality is None or signal.values.is_complex():
        return signal
    if signal.units != "own":
        raise OptionError(f"the file tells its units itself, which are no {modality}'s; leave out modality")
    if modality == "CT":
        notes = (*signal.notes, "its values were taken for Hounsfield units, as modality='CT' says")
        return replace(signal, units="HU", notes=notes)
    scan = Scan(signal.values.numpy(), "magnitude", signal.spacing, signal.notes, True)
    return replace(scan_signal(scan), volume=signal.volume)


def ends(planes: Sequence[np.ndarray], scale: str) -> tuple[float, float]:
    """Returns the values that become 0 and 1: of one scan, or of all slices of a patient together.

    Raises:
        FileError: a magnitude has no positive values.
    """
    if scale == "magnitude":
        positive = np.concatenate([plane[plane > 0] for plane in planes])
        if not positive.size:
            raise FileError("the scan has no positive values, expected magnitudes such as those of an MR scan")
        return 0.0, float(np.percentile(positive, FULL))
    if scale == "grey":
        low, high = np.percentile(np.concatenate([plane.ravel() for plane in planes]), (EMPTY, FULL))
        return float(low), float(high)
    return 0.0, 1.0


def mapped(values: np.ndarray, scale: str, low: float, high: float) -> np.ndarray:
    """Maps `values` from (low, high) to (0, 1), float32, where `scale` is a magnitude or grey; others as they are."""
    if scale not in ("magnitude", "grey"):
        return values
    return ((values - np.float32(low)) / np.float32((high - low) or 1.0)).clip(0, 1).astype(np.float32)
