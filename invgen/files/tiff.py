"""TIFF by tifffile: any number of bits, grey, RGB and palettes, stacks of pages as volumes; no other file is read."""

import lzma
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from invgen.errors import FileError, InvgenError, MissingExtraError
from invgen.files.signal import Signal, depth_note, single
from invgen.validation.limits import check_size

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6  # PhotometricInterpretation
NO_COMPRESSION, ZLIB, LZMA = 1, (8, 32946), 34925
ORIENTATION = 274  # the tag that says at which corner the first pixel lies
TURNS = {  # orientation: (exchange rows and columns, reverse rows, reverse columns)
    **{1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False)},
    **{5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False)},
}


def read_tiff(path: Path) -> Signal:
    """Reads a TIFF: (1, H, W) or (3, H, W), or a volume where several pages are alike.

    Unsigned integers of up to 16 bits are grey levels or colours in [0, 1]; other numbers are taken as they are.

    Raises:
        FileError: damaged, cut off, not finite, in other colours, or too large.
        MissingExtraError: its compression needs imagecodecs.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path, is_ome=False) as file:
            return _signal(path, list(file.pages))
    except InvgenError:
        raise
    except Exception as error:  # tifffile raises many kinds
        reason = " ".join(str(error).split())[:300]
        raise FileError(f"{path} is damaged or cut off ({reason}); fetch or export it again") from error


def _signal(path: Path, every: list[Any]) -> Signal:
    import torch

    first = every[0]
    pages = [p for p in every if not p.is_reduced and (p.shape, p.dtype, p.photometric) == _kind(first)]
    pages = pages or [first]
    check_size(len(pages) * first.size * max(4, first.dtype.itemsize if first.dtype else 4), str(path))
    notes = [f"{len(every) - len(pages)} of its pages are of another size or kind and were left out"]
    notes = notes if len(every) > len(pages) else []
    _require_known(path, first)
    arrays = [_pixels(path, page) for page in pages]
    array, units = _scaled(path, first, np.stack(arrays), notes)
    array = _turned(first, array, notes)
    if array.shape[1] == 1 and len(pages) > 1:
        array = array[:, 0]  # a volume of grey slices
    values = torch.from_numpy(np.ascontiguousarray(array if len(pages) > 1 else array[0]))
    return Signal(values, units, notes=tuple(notes), volume=len(pages) > 1)


def _kind(page: Any) -> tuple[Any, ...]:
    return page.shape, page.dtype, page.photometric


def _require_known(path: Path, page: Any) -> None:
    if page.dtype is None or page.dtype.kind not in "biufc" or page.imagedepth != 1:
        raise FileError(
            f"{path} has values of a kind that cannot be read ({page.bitspersample} bits); export it as 16 bits"
        )
    if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR):
        colours = getattr(page.photometric, "name", page.photometric)
        raise FileError(f"{path} has colours of kind {colours}, expected grey, RGB or a palette; convert it first")


# -- pixels --------------------------------------------------------------------------------------------------------------


def _pixels(path: Path, page: Any) -> np.ndarray:
    """Returns (samples, rows, columns) of a page, as stored."""
    _check_segments(path, page)
    try:
        if page.photometric == YCBCR:
            raise ValueError("the codec that turns it into RGB")
        array = page.asarray(maxworkers=1)
    except ValueError as error:
        if "codec" not in str(error).lower() and "requires" not in str(error):
            raise
        array = _by_pillow(path, page)
    if array.ndim == 2:
        return array[None]
    return np.moveaxis(array, -1, 0) if page.planarconfig == 1 or array.shape[-1] == page.samplesperpixel else array


def _by_pillow(path: Path, page: Any) -> np.ndarray:
    """Returns Pillow's libtiff knows compressions that tifffile leaves to imagecodecs; for 8 bits, and for grey of 16."""
    from PIL import Image

    modes = {(8, 1): ("L", "P"), (8, 3): ("RGB", "YCbCr"), (8, 4): ("RGBA",), (16, 1): ("I;16", "I;16B", "I;16L")}
    wanted = modes.get((page.bitspersample, page.samplesperpixel), ())
    try:
        with Image.open(path, formats=("TIFF",)) as file:
            file.seek(page.index)
            if file.mode in wanted and (file.height, file.width) == page.shape[:2]:
                if page.photometric == WHITE_IS_ZERO and file.mode == "L":
                    return 255 - np.asarray(file)  # Pillow has inverted it
                return np.asarray(file.convert("RGB") if file.mode == "YCbCr" else file)
    except (Image.DecompressionBombError, Image.UnidentifiedImageError):
        pass
    compression = getattr(page.compression, "name", page.compression)
    raise MissingExtraError(
        f"reading {path}, whose compression is {compression}, needs imagecodecs: pip install imagecodecs"
    )


def _check_segments(path: Path, page: Any) -> None:
    """Refuses a page whose pieces are missing, cut off, or larger unpacked than they may be: tifffile puts zeros there."""
    size, pieces = path.stat().st_size, list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if not pieces or any(count <= 0 or start + count > size for start, count in pieces):
        raise FileError(f"{path} is damaged or cut off (values are missing); fetch or export it again")
    stored = math.ceil(math.prod(page.shape) * page.bitspersample / 8)
    if page.compression == NO_COMPRESSION:
        if sum(count for _, count in pieces) < stored:
            raise FileError(f"{path} is damaged or cut off (values are missing); fetch or export it again")
    elif page.compression in ZLIB or page.compression == LZMA:
        with path.open("rb") as file:
            for start, count in pieces:
                file.seek(start)
                packed, limit = file.read(count), stored + 2**20
                unpack = zlib.decompressobj() if page.compression in ZLIB else lzma.LZMADecompressor()
                if len(unpack.decompress(packed, limit)) == limit:
                    raise FileError(f"{path} is damaged: its values unpack to more than {stored} bytes; export it again")


def _scaled(path: Path, page: Any, array: np.ndarray, notes: list[str]) -> tuple[np.ndarray, str]:
    """Returns (pages, channels, rows, columns) as stored -> float32 or complex64 in grey or RGB, and its units."""
    bits, kind = page.bitspersample, array.dtype.kind
    if page.photometric == PALETTE:
        table = np.asarray(page.colormap)
        full = 65535 if table.max() > 255 else 255
        return np.moveaxis(table[:, array[:, 0]], 0, 1).astype(np.float32) / np.float32(full), "unit"
    colours = 3 if page.photometric in (RGB, YCBCR) else 1
    if array.shape[1] > colours:
        alpha = [int(one) in (1, 2) for one in page.extrasamples[:1]] == [True]
        what = "transparency was" if alpha else f"{array.shape[1] - colours} further values a pixel were"
        notes.append(f"its {what} dropped")
        array = array[:, :colours]
    if array.shape[1] != colours:
        raise FileError(f"{path} has {array.shape[1]} values a pixel, expected grey or RGB")
    if kind in "bu" and bits <= 16:
        values = array.astype(np.float32) / np.float32(2**bits - 1)
        if bits == 16:
            notes += depth_note(array)
        elif bits not in (1, 8):
            notes.append(f"it has {bits} bits a value: 0 to {2**bits - 1} became 0 to 1")
        if page.photometric == WHITE_IS_ZERO:
            notes.append("it stores white as 0: its values were inverted")
            values = 1 - values
        return values, "unit"
    notes.append(f"its {array.dtype.name} values were taken for those of the prior")
    if page.photometric == WHITE_IS_ZERO:
        notes.append("that it stores white as 0 was not applied to them")
    return single(array, str(path)), "own"


def _turned(page: Any, array: np.ndarray, notes: list[str]) -> np.ndarray:
    """Returns the first pixel at the upper left, as the orientation of the file says."""
    tag = page.tags.get(ORIENTATION)
    orientation = int(tag.value) if tag is not None else 1
    exchange, rows, columns = TURNS.get(orientation, TURNS[1])
    array = array.swapaxes(-1, -2) if exchange else array
    array = array[..., ::-1, :] if rows else array
    array = array[..., ::-1] if columns else array
    if orientation in TURNS and orientation != 1:
        notes.append(f"it was turned as it says (orientation {orientation})")
    return array
