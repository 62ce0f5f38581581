"""The recordings and clips of the rows, and stand-ins that need no download."""

from pathlib import Path

import torch
from torch import Tensor

from invgen import priors
from invgen.files.sound import read_wave
from invgen.files.video import read_clip
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.speech import sentences

RATE, LENGTH = 16_000, 8192


def speech(count: int, quick: bool) -> Tensor:
    """Returns half a second of held-out sentences, (count, 1, 8192); in the quick form one that the prior made."""
    if quick:
        import invgen

        prior = priors.load("speech", (1, 2048))
        return invgen.sample(prior, 1, seed=1, sampler="DPMSolver(steps=10)")
    files = sentences(fetch("speech", data_folder()), "test")[:count]
    return torch.stack([torch.from_numpy(read_wave(f)[0][:, RATE : RATE + LENGTH].copy()) for f in files])


def carphone(frames: int, side: int = 64, start: int = 25) -> Tensor:
    """Returns frames of a clip of a man in a car, (3, frames, side, side) in [-1, 1], at half its size."""
    path = fetch("clips", data_folder()) / "carphone.mp4"
    whole = read_clip(path, frames, start).values[:, :, 8 : 8 + 2 * side, 30 : 30 + 2 * side]
    return 2 * torch.nn.functional.avg_pool3d(whole, (1, 2, 2)) - 1


def moving_squares(frames: int, side: int) -> Tensor:
    """Returns a bright square that crosses a gradient, (3, frames, side, side) in [-1, 1]."""
    x = torch.linspace(-0.8, 0.2, side).expand(3, frames, side, side).clone()
    for k in range(frames):
        x[:, k, side // 4 : side // 2, 2 + k : 2 + k + side // 4] = 0.7
    return x


def save_sound(x: Tensor, path: Path, rate: int = RATE) -> Path:
    """Writes recordings (N, 1, L) after each other as a WAV file of 16 bits, with an eighth of a second between."""
    from scipy.io import wavfile

    gap = torch.zeros(rate // 8)
    whole = torch.cat([torch.cat([one.flatten(), gap]) for one in x]).clamp(-1, 1)
    wavfile.write(path, rate, (32767 * whole).round().to(torch.int16).numpy())
    return path
