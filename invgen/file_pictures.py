"""Pictures from PNG, JPEG and TIFF files."""

import warnings
from pathlib import Path

import numpy as np

from invgen.errors import FileError
from invgen.files import KINDS, Signal

PICTURES = ("PNG", "JPEG", "TIFF")


def read_picture(path: Path) -> Signal:
    import torch
    from PIL import Image, ImageOps, UnidentifiedImageError

    notes = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=PICTURES) as file:
                if getattr(file, "n_frames", 1) > 1:
                    notes.append(f"of {file.n_frames} pages the first was read")
                file.load()
                picture = ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        raise FileError(f"{path} is not a {KINDS} file; convert it to one of these") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FileError(f"{path} is too large to be read as a picture ({error})") from None
    except (OSError, SyntaxError, ValueError, EOFError, TypeError) as error:
        raise FileError(f"{path} is damaged or cut off ({error}); fetch or export it again") from error
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        notes.append("its transparency was dropped")
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.float32)[None] / 65535
    elif picture.mode == "F":
        values = np.array(picture, dtype=np.float32)[None]
        if not np.isfinite(values).all():
            raise FileError(f"{path} has values that are not finite (NaN or infinite); replace them first")
        note = "its floating-point values were taken for those of the prior"
        return Signal(torch.from_numpy(values), "own", notes=(*notes, note))
    elif picture.mode == "I":
        raise FileError(f"{path} holds 32-bit integers; expected 8 or 16 bits a channel, or floating point")
    else:
        grey = picture.mode in ("1", "L", "LA", "La")
        array = np.asarray(picture.convert("L" if grey else "RGB"), dtype=np.float32) / 255
        values = array[None] if grey else array.transpose(2, 0, 1)
    return Signal(torch.from_numpy(np.ascontiguousarray(values)), "unit", notes=tuple(notes))
