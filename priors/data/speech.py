"""Training data of the prior `speech`: random pieces of recordings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from invgen.errors import FileError
from invgen.files import sound
from invgen.priors.data.readable import DataError

VALIDATION, TEST = range(561, 591), range(591, 621)  # sentences of festvox-ru that are kept from training


def sentences(folder: Path | str, split: str = "train") -> list[Path]:
    """Returns the recordings ru_NNNN.wav under a folder, of one split: "train", "validation" (0561-0590), "test"
    (0591-0620)."""
    kept = {"validation": VALIDATION, "test": TEST}
    found = []
    for path in sorted(Path(folder).rglob("*.wav")):
        number = int(path.stem[3:]) if path.stem.startswith("ru_") and path.stem[3:].isdigit() else 0
        if next((name for name, numbers in kept.items() if number in numbers), "train") == split:
            found.append(path)
    if not found:
        raise DataError(f"no recordings (.wav) for split '{split}' under {folder}: `invgen data speech` fetches some")
    return found


def read_wave(path: Path | str, rate: int | None = None) -> tuple[np.ndarray, int]:
    """Returns samples (channels, length) float32, full scale is 1, and the rate in Hz, of a .wav file of integers or
    floats.

    rate: resampled to that, if given.
    """
    try:
        samples, own = sound.read_wave(path)
    except FileError as error:
        raise DataError(str(error)) from error
    if rate is None or rate == own:
        return samples, own
    from math import gcd

    from scipy.signal import resample_poly

    common = gcd(rate, own)
    return resample_poly(samples, rate // common, own // common, axis=1).astype(np.float32), rate


class WaveViews:
    """Random pieces of recordings, louder or softer (a third, in nepers: 3 dB) and of either polarity."""

    def __init__(self, recordings: Sequence[np.ndarray], length: int) -> None:
        """recordings: (channels, samples) each, float in [-1, 1]."""
        self.length = length
        self.recordings = [
            torch.from_numpy((np.asarray(r).clip(-1, 1) * 32767).astype(np.int16))
            for r in recordings
            if r.shape[-1] >= length
        ]
        if not self.recordings:
            raise DataError(f"no recording has {length} samples")
        self.weights = torch.tensor([r.shape[-1] - length + 1 for r in self.recordings], dtype=torch.float64)

    def batch(self, count: int, generator: Generator) -> Tensor:
        """Returns (count, channels, length) float32."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator).tolist()
        places = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
        gains = (torch.randn(count, generator=generator) * 0.35).exp()
        gains = gains * (2 * torch.randint(2, (count,), generator=generator) - 1)
        pieces = []
        for index, place in zip(chosen, places, strict=True):
            start = int(place * (self.recordings[index].shape[-1] - self.length + 1))
            pieces.append(self.recordings[index][:, start : start + self.length])
        return (torch.stack(pieces).float() / 32767 * gains.view(-1, 1, 1)).clamp(-1, 1)
