"""Training data of the class-conditional priors `digits` and `clothing`: small grey pictures with a label each."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from invgen.priors.data.readable import DataError, readable

CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
VALIDATION = 2000  # the last pictures of Fashion-MNIST's training set, kept from training to choose by


def labelled(folder: Path | str, split: str = "train") -> tuple[Tensor, Tensor]:
    """Returns pictures (N, 1, 32, 32) in [-1, 1] and labels (N,) of the .npz file that `invgen data digits` or clothing
    wrote.

    The pictures of 28 x 28 get a border of two black pixels. split: "train" or "test" (never trained on).
    """
    files = sorted(Path(folder).rglob("*.npz"))
    for path in files:
        with readable(path), np.load(path, allow_pickle=False) as arrays:
            if f"{split}_images" in arrays:
                images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
                break
    else:
        raise DataError(
            f"no pictures with labels ({split}_images and {split}_labels in an .npz file) under {folder}: `invgen data "
            "digits` and `invgen data clothing` fetch some"
        )
    if images.dtype != np.uint8 or images.ndim != 3 or len(images) != len(labels):
        raise DataError(
            f"{split}_images of {path} is {images.dtype} {images.shape}, expected uint8 (N, H, W), a label each"
        )
    grey = F.pad(torch.from_numpy(images.copy())[:, None], (2, 2, 2, 2))
    return grey.float() / 127.5 - 1, torch.from_numpy(labels.astype(np.int64))


class LabelledViews:
    """Pictures drawn at random, with their labels; `warp` > 0 turns, scales, shears and shifts them a little.

    warp: standard deviations of 6 degrees, 5 % and 1 pixel, times this. For few pictures, such as 4500 digits.
    """

    def __init__(self, images: Tensor, labels: Tensor, warp: float = 0.0) -> None:
        self.images, self.labels, self.warp = images, labels, warp

    def batch(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Returns (count, 1, H, W) float32 in [-1, 1] and the labels, (count,)."""
        chosen = torch.randint(len(self.images), (count,), generator=generator)
        normal = torch.randn(count, 6, generator=generator)
        images, labels = self.images[chosen], self.labels[chosen]
        if not self.warp:
            return images, labels
        turn, shear = normal[:, 0] * math.radians(6) * self.warp, normal[:, 1] * 0.05 * self.warp
        scale = (normal[:, 2:4] * 0.05 * self.warp).exp()
        shift = normal[:, 4:6].clamp(-2, 2) * 2 / images.shape[-1] * self.warp
        rows = [
            torch.stack([turn.cos() * scale[:, 0], -turn.sin() + shear, shift[:, 0]], 1),
            torch.stack([turn.sin(), turn.cos() * scale[:, 1], shift[:, 1]], 1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return (F.grid_sample(images + 1, grid, mode="bicubic", align_corners=False) - 1).clamp(-1, 1), labels
