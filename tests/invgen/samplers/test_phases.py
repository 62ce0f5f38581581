"""Sound from spectrograms: the operators, Griffin & Lim's algorithm, and phases that cross with a prior."""

import math

import pytest
import torch

import invgen
from invgen import metrics, operators, samplers
from invgen.errors import OptionError, UnsupportedError
from invgen.inference.checks import check_operator
from invgen.priors import GaussianPrior


def tones(count=2, length=1024, rate=8000.0):
    """Two sliding tones each, louder and softer in time."""
    t = torch.arange(length) / rate
    x = [0.3 * torch.sin(2 * math.pi * (300 + 150 * k + 2000 * t) * t) * torch.sin(20 * t + k) for k in range(count)]
    return torch.stack(x)[:, None]


def test_magnitudes_are_those_of_windowed_frames():
    x = tones()
    A = operators.STFTMagnitude((1, 1024), 256, 64)
    for k in (2, 9, 14):  # centred at 64 k; these do not reach over the ends, where torch mirrors
        frame = x[..., 64 * k - 128 : 64 * k + 128] * torch.hann_window(256)
        torch.testing.assert_close(A(x)[..., k], torch.fft.rfft(frame).abs(), atol=1e-4, rtol=0)
    assert A.out_shape == (1, 129, 17) == tuple(A(x).shape[1:])


@pytest.mark.parametrize(
    "A", [operators.STFTMagnitude((1, 96), 16, 4), operators.MelSpectrogram((96,), 8000, 5, window=16, hop=8)]
)
def test_contract(A):
    check_operator(A)


def test_the_bank_has_triangles_of_height_one_even_in_mel():
    from invgen.operators.media.sound import mel_bank

    bank = mel_bank(257, 16_000, 20)
    peaks = bank.argmax(1) * 8000 / 256
    mel = 2595 * torch.log10(1 + peaks / 700)
    assert bank.min() >= 0 and bank.max() <= 1
    # a peak is on the grid of 31 Hz to within half a step, 50 mel at the bottom
    torch.testing.assert_close(mel.diff(), mel.diff().mean().expand(19), atol=50, rtol=0)


@pytest.mark.slow
def test_griffin_lim_nears_the_magnitudes_and_keeps_phases_that_are_right():
    x = tones()
    A = operators.STFTMagnitude((1, 1024), 256, 64)
    y, noise = A(x), torch.randn(2, 1, 1024, generator=torch.Generator().manual_seed(0))
    error = [metrics.spectral_convergence(A.griffin_lim(y, noise, n), x, window=256, hop=64).mean() for n in (1, 60)]
    assert error[1] < 0.3 * error[0]
    torch.testing.assert_close(A.griffin_lim(y, x, 5), x, atol=1e-4, rtol=0)
    mel = operators.MelSpectrogram((1, 1024), 8000, 40, window=256, hop=64)
    z = mel.transform(x).abs()
    torch.testing.assert_close(mel.magnitudes(mel(x), z), z, atol=1e-3, rtol=0)  # those of x fit already
    flat = mel.magnitudes(mel(x), torch.ones_like(z))
    assert (mel.of_magnitudes(flat) - mel(x)).square().mean().sqrt() < 0.1


@pytest.mark.slow
def test_a_prior_that_knows_the_sound_gives_it_its_phases():
    x = tones(1)
    A = operators.STFTMagnitude((1, 1024), 256, 64)
    y = A(x)[0]
    prior = GaussianPrior((1, 1024), mean=x[0], var=0.01)  # knows the sound to .1 a value
    found = samplers.PhaseCrossing(steps=8, sigma0=3.0, first=5, iterations=4)(invgen.Posterior(prior, A, 0.1, y), 2, 0)
    assert found.shape == (2, 1, 1024)
    blind = A.griffin_lim(y[None], torch.randn(1, 1, 1024, generator=torch.Generator().manual_seed(0)), 37)
    assert metrics.snr(found, x[0]).min() > metrics.snr(blind, x[0]).max() + 5
    again = samplers.PhaseCrossing(steps=8, sigma0=3.0, first=5, iterations=4)(invgen.Posterior(prior, A, 0.1, y), 1, 0)
    torch.testing.assert_close(again[0], found[0])  # a sample depends on its seed and number alone


def test_what_does_not_fit_is_said():
    with pytest.raises(OptionError, match="hop <= window / 2"):
        operators.STFTMagnitude((1, 1024), 256, 200)
    prior = GaussianPrior((1, 64))
    with pytest.raises(UnsupportedError, match="PhaseCrossing"):
        samplers.PhaseCrossing()(invgen.Posterior(prior, operators.Identity((1, 64)), 0.1, torch.zeros(1, 64)), 1, 0)
