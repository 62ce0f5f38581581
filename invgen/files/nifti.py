"""NIfTI volumes, as (slices, rows, columns) seen upright: slices from foot to head, rows from front to back.

Columns run from the patient's left to the right, as neuroimaging shows them; those of DICOM run from right to left.
A NIfTI file does not say what it is a scan of. It is taken for CT in Hounsfield units where its values look like it
(`looks_like_hounsfield`), or where `modality="CT"` says so, and for a magnitude otherwise; the notes say which.
"""

import gzip
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from invgen.errors import FileError, InvgenError, MissingExtraError
from invgen.files.scans import Scan
from invgen.files.signal import single
from invgen.validation.limits import check_size

GZIP = b"\x1f\x8b"
MAGIC = (b"n+1\0", b"ni1\0")  # at byte 344 of NIfTI-1
MAGIC2 = (b"n+2\0", b"ni2\0")  # at byte 4 of NIfTI-2
HEADER = 540  # bytes of the longer header, that of NIfTI-2


def is_nifti(path: Path) -> bool:
    """Tells whether a file is named or begins as NIfTI does."""
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return True
    with path.open("rb") as file:
        head = file.read(348)
    return head[344:348] in MAGIC or head[4:8] in MAGIC2


def read_nifti(path: Path, modality: str | None = None, all_volumes: bool = False) -> Scan:
    """Reads the first volume of a NIfTI file, or all after each other, its axes turned to right, anterior, superior.

    Raises:
        FileError: damaged, cut off, not finite, in colour, or too large.  MissingExtraError: nibabel is not installed.
    """
    volumes, spacing, notes = nifti_volumes(path)
    if len(volumes) > 1 and not all_volumes:
        notes = [f"of its {len(volumes)} volumes the first was read", *notes]
        volumes = volumes[:1]
    values = volumes.reshape(-1, *volumes.shape[2:])
    if np.iscomplexobj(values):
        return Scan(values, "own", spacing, (*notes, "its complex values were taken as they are"), True)
    if modality == "CT" or (modality is None and looks_like_hounsfield(values)):
        why = "as modality='CT' says" if modality else "its many values near -1000, air, say so; modality='MR' if not"
        return Scan(values, "HU", spacing, (*notes, f"its values were taken for Hounsfield units ({why})"), True)
    if not (values > 0).any():
        raise FileError(f"{path} has no positive values, expected magnitudes such as those of an MR scan")
    if modality is None:
        notes.append("it was taken for a magnitude, such as MR (modality='CT' if it is in Hounsfield units)")
    return Scan(values, "magnitude", spacing, tuple(notes), True)


def looks_like_hounsfield(values: np.ndarray) -> bool:
    """Tells whether values are those of a CT: at least one in a hundred is air or lung, -1100 to -500, and hardly any
    lie below.

    The smallest value may be that of padding outside of the field of view, and does not count as below. Phase images, which
    have as many values at -4000 as at -1000, are none.
    """
    air = ((values >= -1100) & (values <= -500)).mean()
    below = ((values < -1100) & (values > values.min())).mean()
    return bool(air >= 0.01 and below < 0.01 and values.max() > -200)


def nifti_volumes(path: Path) -> tuple[np.ndarray, tuple[float, float] | None, list[str]]:
    """Reads all volumes of a NIfTI file: (volumes, slices, rows, columns), the spacing in mm, and notes.

    Raises:
        FileError, MissingExtraError: as `read_nifti`.
    """
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("reading NIfTI files needs nibabel: pip install 'invgen-solvers[nifti]'") from error
    try:
        image = _image(nibabel, path)
        dtype = image.get_data_dtype()
        if dtype.kind not in "biufc":
            raise FileError(f"{path} holds colours ({dtype}), expected one number a voxel; split it into its channels")
        image, notes = _upright(nibabel, image)
        values = np.asarray(image.dataobj)
        values = single(values, str(path))
        zooms = [float(z) for z in image.header.get_zooms()]
    except FileNotFoundError:
        raise FileError(f"there is no file {path}; pass a volume that exists") from None
    except InvgenError:
        raise
    except Exception as error:  # nibabel, gzip and numpy raise many kinds
        raise FileError(
            f"{path} is not a whole NIfTI file ({' '.join(str(error).split())}); fetch or export it again"
        ) from error
    if values.ndim < 2 or values.size == 0:
        raise FileError(f"{path} holds values of shape {values.shape}, expected a volume")
    series = values.reshape(*values.shape[:2], values.shape[2] if values.ndim > 2 else 1, -1)
    spacing = (zooms[1], zooms[0])
    known = all(math.isfinite(z) and z > 0 for z in spacing)
    return np.ascontiguousarray(series.transpose(3, 2, 1, 0)[:, :, ::-1]), spacing if known else None, notes


def _image(nibabel: Any, path: Path) -> Any:
    """Returns the image from the bytes of the file alone, as many as its header says; checked before they are read."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    with gzip.open(path) if packed else path.open("rb") as file:
        head = file.read(HEADER)
        two = head[4:8] in MAGIC2
        kind = nibabel.Nifti2Image if two else nibabel.Nifti1Image
        if head[344:348] == MAGIC[1] or head[4:8] == MAGIC2[1]:
            raise FileError(f"{path} is the header of a pair of files (.hdr and .img); join them into one .nii file")
        header = kind.header_class.from_fileobj(io.BytesIO(head), check=False)
        count = math.prod(int(n) for n in header.get_data_shape())
        offset = float(header["vox_offset"])
        if count < 0 or not 0 <= offset < 2**40:
            raise FileError(f"{path} has a header that is damaged; fetch or export it again")
        size = int(offset) + count * header.get_data_dtype().itemsize
        check_size(max(size, 4 * count), str(path))
        if not packed and path.stat().st_size < size:
            raise FileError(f"{path} is cut off (it has {path.stat().st_size} of {size} bytes); fetch or export it again")
        pieces, missing = [head], size - len(head)
        while missing > 0 and (
            piece := file.read(min(missing, 2**20))
        ):  # a stream that ends early takes no more than it has
            pieces.append(piece)
            missing -= len(piece)
        file.read(1)  # at the end of a gzip stream, its checksum
    raw = b"".join(pieces)
    if len(raw) < size:
        raise FileError(f"{path} is cut off (it has {len(raw)} of {size} bytes); fetch or export it again")
    return kind.from_bytes(raw)


def _upright(nibabel: Any, image: Any) -> tuple[Any, list[str]]:
    """Returns the image with its axes nearest to right, anterior, superior, and what was done."""
    header, affine, notes = image.header, image.affine, []
    if len(image.shape) < 3:
        return image, ["it is flat: its axes were taken for right and anterior"]
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        return image, ["it does not say how it lies: its axes were taken for right, anterior, superior"]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        return image, ["its affine cannot be used: its axes were taken for right, anterior, superior"]
    codes = nibabel.aff2axcodes(affine)
    if codes != ("R", "A", "S"):
        notes.append(f"its axes {''.join(map(str, codes))} were turned to RAS (right, anterior, superior)")
    tilt = math.degrees(float(np.max(nibabel.affines.obliquity(affine))))
    if tilt > 0.5:
        notes.append(f"its axes are oblique by {tilt:.1f} degrees, which was left as it is")
    return nibabel.as_closest_canonical(image), notes
