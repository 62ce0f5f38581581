"""Clips: read and written by the ffmpeg of the extra `video`; GIF by Pillow."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invgen.errors import FileError, MissingExtraError, OptionError, ShapeError
from invgen.files.signal import Signal
from invgen.files.writing import atomic_file
from invgen.validation.limits import check_size

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v")


def ffmpeg() -> Any:
    """Returns the module imageio_ffmpeg, or says which extra brings it."""
    try:
        import imageio_ffmpeg  # pyright: ignore[reportMissingImports]  (an extra that the tests do without)
    except ImportError as error:
        raise MissingExtraError("clips need imageio-ffmpeg: pip install 'invgen-solvers[video]', 68 MB") from error
    return imageio_ffmpeg


def read_clip(path: str | Path, frames: int | None = None, start: int = 0) -> Signal:
    """Reads a clip: values (3, T, H, W) in [0, 1], 1 is white, and frames a second among the notes.

    Args:
        path: of the clip.
        frames: at most so many; all by default.
        start: how many to leave out before them.

    Raises:
        FileError: no such file, no clip, or fewer frames than `start`.  MissingExtraError: the extra is not installed.
    """
    if not Path(path).is_file():
        raise FileError(f"there is no clip {path}")
    if start < 0 or (frames is not None and frames < 1):
        raise OptionError(f"a clip is read from frame 0 or later, 1 frame or more, got start={start!r}, frames={frames!r}")
    reader = ffmpeg().read_frames(str(path), pix_fmt="rgb24")
    found: list[Tensor] = []
    try:
        facts = next(reader)
        width, height = facts["size"]
        for k, raw in enumerate(reader):
            if k >= start:
                check_size(4 * (len(found) + 1) * len(raw), f"{len(found) + 1} frames of {path}")
                found.append(torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(height, width, 3))
            if frames is not None and len(found) == frames:
                break
    except (OSError, RuntimeError, StopIteration, KeyError, IndexError) as error:
        reason = str(error).strip().splitlines()[-1:] or ["no frames"]
        raise FileError(f"{path} cannot be read as a clip: {reason[0]}") from error
    finally:
        reader.close()
    if not found:
        raise FileError(f"{path} has no frame {start}")
    values = torch.stack(found).permute(3, 0, 1, 2).float() / 255
    return Signal(values, "unit", notes=(f"{len(found)} frames at {facts['fps']:g} a second",))


def write_clip(path: str | Path, x: Tensor, value_range: tuple[float, float] = (0.0, 1.0), rate: float = 10.0) -> Path:
    """Writes a clip, whole or not at all: an animated GIF, or a video by the suffix, 8 bits, black to white.

    Args:
        path: .gif, .mp4, ...
        x: (1 or 3, T, H, W).
        value_range: black and white.
        rate: frames a second.
    """
    import numpy as np
    from PIL import Image

    if x.ndim != 4 or x.shape[0] not in (1, 3):
        raise ShapeError(f"a clip is (1 or 3, T, H, W), got {tuple(x.shape)}")
    low, high = value_range
    levels = ((x.detach().cpu().float() - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8)
    pictures = np.ascontiguousarray(levels.expand(3, -1, -1, -1).permute(1, 2, 3, 0).numpy())
    with atomic_file(path) as work:
        if Path(path).suffix.lower() == ".gif":
            first, *others = (Image.fromarray(p) for p in pictures)
            first.save(work, format="GIF", save_all=True, append_images=others, duration=round(1000 / rate), loop=0)
        else:
            size = (pictures.shape[2], pictures.shape[1])
            writer = ffmpeg().write_frames(str(work), size, fps=rate, macro_block_size=2, output_params=["-v", "error"])
            writer.send(None)
            for picture in pictures:
                writer.send(picture)
            writer.close()
    return Path(path)


def side_by_side(*clips: Tensor) -> Tensor:
    """Returns clips (C, T, H, W) of one size beside each other, (C, T, H, sum of W)."""
    if len({tuple(c.shape[:-1]) for c in clips}) != 1:
        raise ShapeError(f"clips side by side have one height and length, got {[tuple(c.shape) for c in clips]}")
    return torch.cat(clips, -1)
