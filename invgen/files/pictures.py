"""Pictures: PNG, JPEG, BMP and WebP by Pillow; TIFF in `tiff`."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from invgen.errors import FileError, InvgenError
from invgen.files.signal import KINDS, Signal, depth_note
from invgen.validation.limits import check_size

PICTURES = ("PNG", "JPEG", "BMP", "WEBP")
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how TIFF and BigTIFF begin
GREY, COLOUR = ("1", "L", "LA", "La"), ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX")
ORIENTATION = 0x0112  # EXIF: how the camera was held


def read_picture(path: Path) -> Signal:
    """Reads a picture: grey (1, H, W) or colours (3, H, W) in [0, 1]; a TIFF as `file_tiff.read_tiff` says.

    Raises:
        FileError: not a picture, damaged, cut off, in other colours than grey or RGB, or too large.
    """
    with path.open("rb") as file:
        head = file.read(26)
    if head[:4] in TIFF:
        from invgen.files.tiff import read_tiff

        return read_tiff(path)
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that does not matter; the size is checked below
            with Image.open(path, formats=PICTURES) as file:
                check_size(4 * file.width * file.height * (1 if file.mode in GREY else 3), str(path))
                return _signal(file, path, head)
    except UnidentifiedImageError:
        raise FileError(f"{path} is not a {KINDS} file; convert it to one of these") from None
    except Image.DecompressionBombError as error:
        raise FileError(f"{path} is too large to be read as a picture ({error})") from None
    except InvgenError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        raise FileError(f"{path} is damaged or cut off ({error}); fetch or export it again") from error


def _signal(file: Any, path: Path, head: bytes) -> Signal:
    import torch
    from PIL import ImageOps

    notes = []
    if getattr(file, "n_frames", 1) > 1:
        notes.append(f"of {file.n_frames} pages the first was read")
    file.load()
    if (turned := file.getexif().get(ORIENTATION, 1)) in range(2, 9):
        notes.append(f"it was turned as its camera says (EXIF orientation {turned})")
    picture = ImageOps.exif_transpose(file)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        notes.append("its transparency was dropped")
    notes += colour_notes(picture.info)
    if picture.mode.startswith("I;16"):
        array = np.asarray(picture)
        notes += depth_note(array)
        return Signal(torch.from_numpy(array.astype(np.float32)[None] / 65535), "unit", notes=tuple(notes))
    if picture.mode not in (*GREY, *COLOUR):
        raise FileError(f"{path} has values of kind {picture.mode}, expected grey or RGB of 8 or 16 bits; convert it first")
    if head[:4] == b"\x89PNG" and head[24] == 16:
        notes.append("of its 16 bits a channel the upper 8 were read; save it as TIFF to keep all")
    grey = picture.mode in GREY
    array = np.asarray(picture.convert("L" if grey else "RGB"), dtype=np.float32) / 255
    values = array[None] if grey else array.transpose(2, 0, 1)
    return Signal(torch.from_numpy(np.ascontiguousarray(values)), "unit", notes=tuple(notes))


def colour_notes(info: Mapping[Any, Any]) -> list[str]:
    """Notes the tone curve of a picture that was not applied: its gamma, or a colour profile other than sRGB."""
    notes, gamma = [], info.get("gamma")
    if isinstance(gamma, float) and "srgb" not in info and abs(2.2 * gamma - 1) > 0.05:
        notes.append(f"its gamma of {gamma:g} was not applied: its values were taken as they are")
    profile = info.get("icc_profile")
    if profile and b"sRGB" not in profile and b"s\0R\0G\0B" not in profile:
        notes.append("its colour profile was not applied: its values were taken as they are")
    return notes
