"""Sound sample by sample: gaps in speech, filled by a WaveNet that sees both sides, by a Wiener filter and by a spline."""

from pathlib import Path

import torch
from torch import Tensor

from invgen import Gaussian, Posterior, metrics, operators, plots, priors, samplers
from invgen.autoregressive import Autoregressive
from invgen.benchmarks.gallery.rows import Figure, Row, mean
from invgen.benchmarks.gallery.sounds.excerpts import RATE, save_sound, speech
from invgen.benchmarks.methods.audio import AutoregressiveWiener, CubicSpline, autoregressive_covariance
from invgen.priors.checkpoints.networks.wavenet import mu_law, mu_law_levels
from invgen.samplers.smc.base import Particles

LENGTH, GAP, NOISE, PARTICLES = 768, 64, 0.001, 64  # 48 ms of sound, 4 ms of them lost


def run(out: Path, quick: bool = False) -> Row:
    """Takes 4 ms out of held-out sentences, and fills them by particles that look ahead by the spectrum of the rest."""
    length, gap, particles = (96, 16, 4) if quick else (LENGTH, GAP, PARTICLES)
    x = mu_law_levels()[mu_law(pieces(speech(12, quick), length))][: 1 if quick else None]
    known = torch.ones(1, length, dtype=torch.bool)
    known[:, (length - gap) // 2 : (length + gap) // 2] = False
    A, prior = operators.Mask((1, length), known), priors.load("speech-ar", (1, length))
    y = A(x)
    post = Posterior(prior, A, Gaussian(NOISE), y)
    spline, wiener = (method.reconstruct(post) for method in (CubicSpline(), AutoregressiveWiener()))
    drawn = [fill(prior, post.rows(torch.tensor([k])), wiener[k], particles) for k in range(len(x))]
    best, one = torch.stack([w.mean[0, 0] for w in drawn]), torch.stack([w.samples[0, 0, 0] for w in drawn])
    lost = [u[:, None, ~known[0]] for u in (x.flatten(1), best.flatten(1), wiener.flatten(1), spline.flatten(1))]
    truth, ours, filtered, cubic = lost
    filled, of_filter, of_spline = (metrics.snr(u, truth) for u in (ours, filtered, cubic))
    show = torch.stack([x[0], spline[0], wiener[0], one[0]])
    names = ["recording", "cubic spline", "autoregressive Wiener", "sample"]
    plots.show_spectrograms(show, RATE, out / "sound_gaps.png", titles=names)
    sound = save_sound(show, out / "sound_gaps.wav")
    bits = -prior.log_prob(x) / length / torch.log(torch.tensor(2.0))
    baseline = f"Wiener {float(of_filter.mean()):.2f}, spline {float(of_spline.mean()):.2f}"
    loose = -30.0 if quick else 0.0  # one sound that the prior made: the row runs, and is no figure
    figures = (
        Figure(
            "mean, in the gap", *mean(filled.tolist()), unit="dB", least=float(of_filter.mean()) + loose, baseline=baseline
        ),
        Figure("mean over the Wiener filter", *mean((filled - of_filter).tolist()), unit="dB"),
        Figure("bits a sample", *mean(bits.tolist()), baseline="8 of mu-law"),
    )
    return Row(14, figures, (out / "sound_gaps.png", sound))


def fill(prior: Autoregressive, post: Posterior, guess: Tensor, particles: int) -> Particles:
    """Returns particles of a sound; what they expect of the samples to come is the Gaussian with the guess's spectrum."""
    prior.set_moments(torch.zeros_like(guess), autoregressive_covariance(guess, 32, guess.shape[-1]))
    return samplers.AutoregressiveSMC(particles=particles, lookahead="gaussian").weighted(post)


def pieces(x: Tensor, length: int) -> Tensor:
    """Returns the loudest piece of each sound (N, 1, L), (N, 1, length)."""
    power = torch.nn.functional.avg_pool1d(x.square(), length, 1)
    starts = power.argmax(2).flatten().tolist()
    return torch.stack([u[:, k : k + length] for u, k in zip(x, starts, strict=True)])
