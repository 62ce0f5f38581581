"""Scans from DICOM and NIfTI files: slices, or volumes (slices, rows, columns)."""

import warnings
from pathlib import Path

import numpy as np

from invgen.errors import FileError, MissingExtraError
from invgen.files import Signal

FULL = 99.5  # percentile of the positive values of an MR volume that is put at 1, as the prior `mr` was trained


def read_dicom(path: Path) -> Signal:
    """The pixels of a DICOM file: in Hounsfield units for CT, else with the smallest and the largest value at 0 and 1."""
    import torch

    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut
    except ImportError as error:
        raise MissingExtraError("reading DICOM files needs pydicom: pip install pydicom") from error
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
    if pixels.ndim not in (2, 3) or not np.isfinite(pixels).all():
        raise FileError(f"{path} holds pixels of shape {pixels.shape} or values that are not finite; expected slices")
    spacing = dataset.get("PixelSpacing")
    spacing = (float(spacing[0]), float(spacing[1])) if spacing else None
    volume = pixels.ndim == 3
    values = torch.from_numpy(np.ascontiguousarray(pixels if volume else pixels[None]))
    if dataset.get("Modality") == "CT":
        return Signal(values, "HU", spacing, volume=volume)
    low, high = values.min(), values.max()
    note = f"its values of {low:g} to {high:g} ({dataset.get('Modality', 'no modality')}) became grey levels of 0 to 1"
    scaled = (values - low) / (high - low).clamp(min=1e-12)
    return Signal(scaled, "unit", spacing, (note,), volume=volume)


def read_nifti(path: Path) -> Signal:
    """The volume of a NIfTI file, 0 at 0 and the 99.5th percentile of its positive values at 1; of a series, the first.

    Raises:
        MissingExtraError: nibabel is not installed.  FileError: damaged, cut off, without positive values, not finite.
    """
    import torch

    volumes, spacing = nifti_planes(path)
    notes = (f"of its {len(volumes)} volumes the first was read",) if len(volumes) > 1 else ()
    planes = volumes[0]
    if not np.isfinite(planes).all():
        raise FileError(f"{path} has values that are not finite (NaN or infinite); replace them first")
    if not (planes > 0).any():
        raise FileError(f"{path} has no positive values, expected magnitudes such as those of an MR scan")
    top = float(np.percentile(planes[planes > 0], FULL))
    note = f"its values of 0 to {top:g} (the 99.5th percentile) became grey levels of 0 to 1, others were clipped"
    values = torch.from_numpy((planes / top).clip(0, 1))
    return Signal(values, "unit", spacing, (*notes, note), volume=True)


def nifti_planes(path: Path) -> tuple[np.ndarray, tuple[float, float]]:
    """The volumes of a NIfTI file, (volumes, slices, rows, columns) float32, and the (row, column) distance in mm.

    Slices are along the last axis of space, upright where the axes are right-anterior-superior.
    """
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("reading NIfTI files needs the package nibabel: pip install 'invgen[nifti]'") from error
    try:
        image = nibabel.load(path)
        values = np.asarray(image.dataobj, dtype=np.float32)
        zooms = [float(z) for z in image.header.get_zooms()]
    except FileNotFoundError:
        raise FileError(f"there is no file {path}; pass a volume that exists") from None
    except Exception as error:  # nibabel, gzip and numpy raise many kinds
        raise FileError(
            f"{path} is not a whole NIfTI file ({' '.join(str(error).split())}); fetch or export it again"
        ) from error
    if values.ndim < 2 or values.size == 0:
        raise FileError(f"{path} holds values of shape {values.shape}, expected a volume")
    series = values.reshape(*values.shape[:2], values.shape[2] if values.ndim > 2 else 1, -1)
    return np.ascontiguousarray(series.transpose(3, 2, 1, 0)[:, :, ::-1]), (zooms[1], zooms[0])
