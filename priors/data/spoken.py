"""Training data of the prior `spoken-digits`: log-mel pictures of spoken digits, with the digit and the speaker.

A recording of one second at 8 kHz is a picture of 64 mel bands by 64 frames, as text-to-speech predicts it:
`operators.MelSpectrogram((1, LENGTH), RATE, BANDS, window=WINDOW, hop=HOP, floor=FLOOR)` measures it, and a vocoder makes
it audible again (row 15 of the gallery).
"""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from invgen.numerics.spectrogram import mel_bank
from invgen.priors.data.readable import DataError, readable
from invgen.priors.data.speech import read_wave

RATE, LENGTH, BANDS, WINDOW, HOP, FLOOR = 8000, 8064, 64, 512, 128, 1e-2
MIDDLE, SCALE = -0.2, 4.4  # of the logarithm: silence is -1, the loudest of all is 1
PEAK = 0.5  # of every recording: some speakers are ten times louder than others
SPEAKERS = 6
TEST = 5  # recordings of each digit and speaker that are never trained on: the customary ones, of index 0 to 4


def recordings(folder: Path | str, split: str = "train") -> tuple[Tensor, Tensor, Tensor]:
    """Returns recordings (N, LENGTH), their digits (N,) and speakers (N,), of the Free Spoken Digit Dataset.

    FOLDER/**/recordings.npz with `samples` (int16, end to end), `offsets`, `digits`, `speakers`, `index` and `rate`; or the
    set as it is published, FOLDER/**/DIGIT_SPEAKER_INDEX.wav. Each is scaled to the same peak, and stands in the middle.

    Args:
        folder: where to look.
        split: "train", or "test", the first five of each digit and speaker.

    Raises:
        DataError: neither is there, or another rate than 8 kHz.
    """
    paths = sorted(Path(folder).rglob("recordings.npz"))
    waves, facts = _packed(paths[0]) if paths else _files(Path(folder))
    kept = [k for k, (_, _, index) in enumerate(facts) if (index < TEST) == (split == "test")]
    if not kept:
        raise DataError(f"no recordings of the split '{split}' under {folder}")
    chosen = torch.tensor([facts[k] for k in kept])
    return torch.stack([_placed(waves[k]) for k in kept]), chosen[:, 0], chosen[:, 1]


def _packed(path: Path) -> tuple[list[np.ndarray], list[tuple[int, int, int]]]:
    with readable(path), np.load(path, allow_pickle=False) as arrays:
        samples, offsets = arrays["samples"], arrays["offsets"].tolist()
        facts = [tuple(map(int, row)) for row in zip(arrays["digits"], arrays["speakers"], arrays["index"], strict=True)]
        if arrays["rate"] != RATE or len(offsets) != len(facts) + 1 or offsets[-1] > len(samples):
            raise DataError(f"{path} has a rate of {arrays['rate']} Hz and {len(facts)} digits, expected 8000 and offsets")
    waves = [samples[a:b] / 32768 for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    return waves, [(d, s, k) for d, s, k in facts]


def _files(folder: Path) -> tuple[list[np.ndarray], list[tuple[int, int, int]]]:
    named = [(p, re.fullmatch(r"(\d)_([^_]+)_(\d+)", p.stem)) for p in sorted(folder.rglob("*.wav"))]
    found = [(p, m) for p, m in named if m]
    speakers = sorted({m[2] for _, m in found})
    if not found or len(speakers) > SPEAKERS:
        raise DataError(
            f"no spoken digits under {folder}: the recipe reads recordings.npz, or DIGIT_SPEAKER_INDEX.wav of at most "
            f"{SPEAKERS} speakers, see docs/data.md"
        )
    waves = [read_wave(p, RATE)[0].mean(0) for p, _ in found]
    return waves, [(int(m[1]), speakers.index(m[2]), int(m[3])) for _, m in found]


def _placed(wave: np.ndarray) -> Tensor:
    """Returns a recording at its peak level in the middle of LENGTH samples; of a longer one the loudest part."""
    x = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
    x = x * (PEAK / x.abs().amax().clamp(min=1e-6))
    if len(x) > LENGTH:
        power = x.square().cumsum(0)
        start = int((power[LENGTH - 1 :] - torch.cat([power.new_zeros(1), power[:-LENGTH]])).argmax())
        return x[start : start + LENGTH]
    left = (LENGTH - len(x)) // 2
    return torch.nn.functional.pad(x, (left, LENGTH - len(x) - left))


def pictures(waves: Tensor) -> Tensor:
    """Returns the log-mel pictures of recordings, (N, LENGTH) -> (N, 1, 64, 64), silence is -1; low frequencies first."""
    window = torch.hann_window(WINDOW, device=waves.device)
    magnitude = torch.stft(waves, WINDOW, HOP, window=window, return_complex=True).abs().square().add(1e-12).sqrt()
    mel = mel_bank(WINDOW // 2 + 1, RATE, BANDS).to(waves) @ magnitude
    return ((FLOOR + mel).log() - MIDDLE)[:, None] / SCALE


class SpokenViews:
    """Recordings drawn at random, up to 50 ms earlier or later, as pictures, with their digits and speakers.

    Args:
        waves, digits, speakers: of `recordings`.
        shift: whether they are moved.
    """

    def __init__(self, waves: Tensor, digits: Tensor, speakers: Tensor, shift: bool = True) -> None:
        self.waves, self.digits, self.shift = waves, digits, shift
        self.speakers = torch.nn.functional.one_hot(speakers, SPEAKERS).float()

    def batch(self, count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Returns pictures (count, 1, 64, 64), digits (count,), and speakers, (count, 6), one of them 1."""
        chosen = torch.randint(len(self.waves), (count,), generator=generator)
        later = torch.randint(-RATE // 20, RATE // 20 + 1, (count,), generator=generator) * self.shift
        places = (torch.arange(LENGTH) - later[:, None]) % LENGTH  # silence comes in from the other end
        return pictures(self.waves[chosen].gather(1, places)), self.digits[chosen], self.speakers[chosen]
