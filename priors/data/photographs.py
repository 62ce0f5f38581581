"""Training data of the shipped priors: random views of photographs and of CT slices, cheap beside a network step.

Views are (B, C, H, W) float32 batches in the units of the prior. Everything random comes from the generator that is passed
in, so that a resumed training sees the views that an uninterrupted one would have seen.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from invgen.priors.data.readable import DataError, readable

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


def photographs(folder: Path | str, leave_out: Sequence[str] = ("val",)) -> list[Path]:
    """Returns the pictures under a folder, sorted by name, except those in a subfolder named in `leave_out` (BSDS500's
    val)."""
    folder = Path(folder)
    found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in PICTURES]
    found = [p for p in found if not set(p.relative_to(folder).parts[:-1]) & set(leave_out)]
    if not found:
        raise DataError(f"no pictures ({', '.join(PICTURES)}) under {folder}: pass the folder of your photographs")
    return found


def read_picture(path: Path | str) -> np.ndarray:
    """Returns a picture file as (H, W, 3) uint8."""
    from PIL import Image

    with readable(path), Image.open(path) as file:
        return np.array(file.convert("RGB"))


class PhotoViews:
    """Random crops of photographs at full, 0.7 and 0.5 scale, in one of eight orientations; RGB in [-1, 1]."""

    def __init__(self, paths: Sequence[Path], size: int = 64, max_side: int = 800) -> None:
        from PIL import Image

        self.size = size
        self.images: list[Tensor] = []
        for path in paths:
            with readable(path), Image.open(path) as file:
                file.draft("RGB", (max_side, max_side))
                picture = file.convert("RGB")
            if max(picture.size) > max_side:
                picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
            for scale in (1.0, 0.7, 0.5):
                width, height = round(picture.width * scale), round(picture.height * scale)
                if min(width, height) >= size:
                    part = picture.resize((width, height), Image.Resampling.LANCZOS)
                    self.images.append(torch.from_numpy(np.array(part)).permute(2, 0, 1).contiguous())
        self.weights = torch.tensor([image[0].numel() for image in self.images], dtype=torch.float64)

    def batch(self, count: int, generator: Generator) -> Tensor:
        """Returns (count, 3, size, size) float32 in [-1, 1]."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator).tolist()
        places = torch.rand(count, 2, generator=generator).tolist()
        turns = torch.randint(8, (count,), generator=generator).tolist()
        crops = []
        for index, (a, b), turn in zip(chosen, places, turns, strict=True):
            image = self.images[index]
            top, left = (int(u * (n - self.size + 1)) for u, n in zip((a, b), image.shape[1:], strict=True))
            crop = image[:, top : top + self.size, left : left + self.size].rot90(turn % 4, (1, 2))
            crops.append(crop.flip(2) if turn >= 4 else crop)
        return torch.stack(crops).float() / 127.5 - 1
