"""Super-resolution of sound: speech of 4 kHz back to 16 kHz, by splines, an autoregressive Wiener filter and a prior."""

from pathlib import Path

import torch

import invgen
from invgen import metrics, operators, plots, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, mean
from invgen.benchmarks.gallery.sounds.excerpts import RATE, save_sound, speech
from invgen.benchmarks.methods.audio import AutoregressiveWiener, CubicSpline

FACTOR, NOISE = 4, 0.001


def run(out: Path, quick: bool = False) -> Row:
    """Takes every fourth sample of held-out sentences after a low pass; the mean for the error, a sample for the ear."""
    x = speech(4, quick)
    prior = priors.load("speech", tuple(x.shape[1:]))
    A = operators.LowPassDecimate(prior.shape, FACTOR)
    clean = A(x)
    y = clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    post = invgen.Posterior(prior, A, invgen.Gaussian(NOISE), y)
    spline, wiener = (method.reconstruct(post) for method in (CubicSpline(), AutoregressiveWiener()))
    sampler = samplers.PiGDM(steps=10 if quick else 25)
    r = invgen.solve(y, A, prior, NOISE, sampler, num_samples=2 if quick else 3, seed=0)
    show = torch.stack([x[0], spline[0], wiener[0], r.samples[0, 0]])
    names = ["recording", "cubic spline", "autoregressive Wiener", "sample"]
    plots.show_spectrograms(show, RATE, out / "sound_super_resolution.png", titles=names)
    sound = save_sound(show, out / "sound_super_resolution.wav")
    best, rough = float(metrics.snr(wiener, x).mean()), float(metrics.log_spectral_distance(spline, x).mean())
    values = [metrics.snr(r.mean, x).tolist(), metrics.log_spectral_distance(r.samples[0], x).tolist()]
    half = f"half the spline's {rough:.2f}"
    a, b = (mean(v) if len(v) > 1 else (v[0], float("nan"), float("nan")) for v in values)
    loose = -20.0 if quick else 0.0  # one sound that the prior made: the row runs, and is no figure
    figures = (
        Figure("mean, signal to noise", *a, unit="dB", least=best + loose, baseline=f"Wiener {best:.2f}"),
        Figure("sample, log-spectral distance", *b, unit="dB", most=rough / 2 - loose, baseline=half),
    )
    return Row(16, figures, (out / "sound_super_resolution.png", sound))
