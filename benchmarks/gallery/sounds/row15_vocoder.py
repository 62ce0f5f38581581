"""Text to speech: log-mel spectrograms made audible, by Griffin-Lim and with the phases of a prior; a number, spoken."""

from pathlib import Path

import torch

import invgen
from invgen import metrics, operators, plots, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, mean
from invgen.benchmarks.gallery.sounds.excerpts import RATE, save_sound, speech
from invgen.benchmarks.gallery.sounds.telephone import telephone

STARTS = 4


def run(out: Path, quick: bool = False) -> Row:
    """Measures held-out sentences in 80 mel bands; the phases of the best of four draws, the power of all."""
    x = speech(4, quick)
    prior = priors.load("speech", tuple(x.shape[1:]))
    A = operators.MelSpectrogram(prior.shape, RATE)
    y = A(x)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    classic = A.griffin_lim(y, noise, 60)
    sampler = samplers.PhaseCrossing(steps=8 if quick else 15, sigma0=2.0)
    found = sampler(invgen.Posterior(prior, A, 0.05, y), 2 if quick else STARTS, 0)
    fits = torch.stack([(A(one) - y).square().flatten(1).mean(1) for one in found])
    best = found[fits.argmin(0), torch.arange(len(x))]
    # a draw has errors of its own in what the bands leave open; the mean power of all draws has less
    power = torch.stack([A.transform(one).abs().square() for one in found]).mean(0)
    best = A.griffin_lim(y, best, 60, near=power.sqrt())
    show = torch.stack([x[0], classic[0], best[0]])
    plots.show_spectrograms(show, RATE, out / "vocoder.png", titles=["recording", "Griffin-Lim", "PhaseCrossing"])
    sound = save_sound(show, out / "vocoder.wav")
    scores = {"spectral convergence": metrics.spectral_convergence, "log-spectral distance": metrics.log_spectral_distance}
    figures = []
    for name, score in scores.items():
        theirs = float(score(classic, x).mean())
        most = theirs * (1.5 if quick else 1)  # one short sound that the prior made: the row runs, and is no figure
        value = mean(score(best, x).tolist()) if len(x) > 1 else (float(score(best, x)), *(float("nan"),) * 2)
        figures.append(Figure(name, *value, unit="dB" * ("log" in name), most=most, baseline=f"Griffin-Lim {theirs:.3f}"))
    ours, theirs = ((A(u) - y).square().mean().sqrt().item() for u in (best, classic))
    figures.append(Figure("error in the log-mel", ours, most=theirs, baseline=f"Griffin-Lim {theirs:.3f}"))
    number, files = telephone(out, quick)
    note = "The prior of waves knows one voice and no text; that of spectrograms ten words and six voices."
    return Row(15, (*figures, *number), (out / "vocoder.png", sound, *files), note)
