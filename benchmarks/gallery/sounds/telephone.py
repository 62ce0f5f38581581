"""A telephone number, spoken: the prior draws log-mel pictures by digit and speaker, and Griffin-Lim makes them audible."""

from pathlib import Path

import torch
from torch import Tensor

import invgen
from invgen import operators, plots, priors
from invgen.benchmarks.gallery.rows import Figure, share
from invgen.benchmarks.gallery.sounds.excerpts import save_sound
from invgen.errors import WeightsError
from invgen.priors.cards.judges import spoken_judge
from invgen.priors.data.fetch import data_folder
from invgen.priors.data.spoken import BANDS, FLOOR, HOP, LENGTH, MIDDLE, RATE, SCALE, SPEAKERS, WINDOW, pictures, recordings

NUMBER, SPEAKER = "2025550147", 2  # a number that is kept for fiction
SPEECH = operators.MelSpectrogram((1, LENGTH), RATE, BANDS, window=WINDOW, hop=HOP, floor=FLOOR)


def spoken(digit: int, speaker: int, count: int, seed: int, steps: int = 20) -> Tensor:
    """Returns log-mel pictures of a digit by a speaker, (count, 1, 64, 64), drawn from the prior.

    Args:
        digit, speaker: their numbers.
        count: how many.
        seed: of the samples.
        steps: of DPMSolver.
    """
    voice = torch.nn.functional.one_hot(torch.tensor(speaker), SPEAKERS).float()
    prior = priors.load("spoken-digits").condition((digit, voice))
    return invgen.sample(prior, count, seed, sampler=f"DPMSolver(steps={steps})")


def audible(x: Tensor, iterations: int = 60) -> Tensor:
    """Returns recordings (N, 1, LENGTH) whose log-mel pictures are near to x, (N, 1, 64, 64), by Griffin-Lim."""
    noise = torch.randn(len(x), 1, LENGTH, generator=torch.Generator().manual_seed(0))
    return SPEECH.griffin_lim(SCALE * x + MIDDLE, noise, iterations)


def telephone(out: Path, quick: bool) -> tuple[tuple[Figure, ...], tuple[Path, ...]]:
    """Says a telephone number, and counts what a recogniser of real recordings understands of every digit and voice.

    Args:
        out: the folder of spectrogram and sound.
        quick: three digits in a few steps, and no judge.

    Raises:
        WeightsError: the prior has not been trained yet.  DataError: the recordings are not there.
    """
    if "spoken-digits" not in priors.names():
        if quick:
            return (), ()
        raise WeightsError("the prior spoken-digits does not ship: invgen train spoken-digits --data FSDD (docs/data.md)")
    number = NUMBER[:3] if quick else NUMBER
    said = torch.cat([spoken(int(d), SPEAKER, 1, 10 * k, 5 if quick else 20) for k, d in enumerate(number)])
    sound = audible(said, 5 if quick else 60)
    files = (out / "telephone.png", save_sound(sound, out / "telephone.wav", RATE))
    plots.show_spectrograms(sound.reshape(1, -1), RATE, files[0], titles=[f"spoken: {number}"])
    if quick:
        return (), files
    folder = data_folder() / "spoken-digits"
    judge, (waves, digits, _) = spoken_judge(folder), recordings(folder, "test")
    hits = []
    for k in range(10):
        drawn = torch.cat([spoken(k, s, 5, 100 * k + s) for s in range(SPEAKERS)])
        hits += (judge(pictures(audible(drawn)[:, 0])).argmax(1) == k).tolist()
    real = audible(pictures(waves))
    known = (judge(pictures(real[:, 0])).argmax(1) == digits).float().mean()
    told = f"recordings by the same vocoder {known:.3f}"
    return (Figure("spoken digits understood", *share(hits), least=0.9, baseline=told),), files
