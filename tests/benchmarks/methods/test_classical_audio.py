"""Classical restorations of recordings, and the masks and metrics that suites of speech use."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

import invgen
from invgen import metrics
from invgen.benchmarks.methods import catalogue
from invgen.benchmarks.methods.audio import autoregressive_covariance, autoregressive_spectrum
from invgen.errors import OptionError, UnsupportedError
from invgen.operators import HighDynamicRange, Identity, LowPassDecimate, Mask
from invgen.priors import GaussianPrior

N = 2048


def voice(seed=0, n=N):
    """An autoregressive process with two resonances, as a vowel has, and its spectrum."""
    poles = [0.97 * np.exp(0.3j), 0.93 * np.exp(0.9j)]
    a = np.real(np.poly([*poles, *np.conj(poles)]))
    spectrum = 1 / np.abs(np.fft.rfft(a, n)) ** 2
    spectrum *= 0.04 / np.mean(np.concatenate([spectrum, spectrum[1:-1]]))
    white = np.fft.rfft(np.random.default_rng(seed).normal(size=n))
    return torch.from_numpy(np.fft.irfft(white * np.sqrt(spectrum), n)).float()[None], torch.from_numpy(spectrum).float()


def problem(A, x, noise=0.005):
    y = invgen.Gaussian(noise).sample(A(x[None])[0], torch.Generator().manual_seed(1))
    return invgen.Posterior(GaussianPrior(tuple(x.shape), var=0.04), A, noise, y)


def test_the_spectrum_of_an_autoregressive_process_is_found():
    x, spectrum = voice(n=65536)
    found = autoregressive_spectrum(x, 4)[0]
    # 65536 samples give the five numbers of the process to about a per cent, and a resonance to a few
    ratio = (found / spectrum).log().abs()
    assert ratio.max() < 0.3 and ratio.mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "A",
    [Mask.gaps((1, N), 60, 512), LowPassDecimate((1, N), 2), Mask.random((1, N), 0.4, seed=0)],
    ids=["gaps", "x2", "few"],
)
def test_the_wiener_filter_nearly_reaches_the_best_linear_estimate(A):
    x, spectrum = voice()
    post = problem(A, x)
    dense = (
        A(torch.eye(N)[:, None])[:, 0].T if isinstance(A, LowPassDecimate) else A(torch.eye(N)[:, None]).reshape(N, -1).T
    )
    C = torch.fft.irfft(spectrum, N)[(torch.arange(N)[:, None] - torch.arange(N)) % N].double()
    dense = dense.double()
    gain = C @ dense.T @ torch.linalg.inv(dense @ C @ dense.T + 0.005**2 * torch.eye(len(dense)))
    best = (gain @ post.y.flatten().double()).float()[None]
    ours = catalogue.method("AutoregressiveWiener(order=8, steps=8)")(post)[0]
    errors = [((v - x) ** 2).mean().item() for v in (ours, best)]
    # it has to find the spectrum, which the best estimate knows; a zero estimate errs by 0.04
    assert errors[0] < 1.5 * errors[1] and errors[0] < 0.01
    assert errors[0] < ((catalogue.method("Adjoint")(post)[0] - x) ** 2).mean()


def test_the_spline_is_that_of_scipy():
    x, _ = voice()
    A = LowPassDecimate((1, N), 4)
    post = problem(A, x)
    expected = CubicSpline(np.arange(0, N, 4), post.y[0].numpy(), bc_type="natural")(np.arange(N - 3))
    ours = catalogue.method("CubicSpline")(post)[0]
    assert np.allclose(ours[0, : N - 3].numpy(), expected, atol=1e-5)
    assert (ours[0, N - 3 :] - expected[-1]).abs().max() < 1e-5  # constant beyond the last sample


def test_the_spline_over_gaps_and_clipped_samples():
    x = 0.5 * torch.sin(0.02 * torch.arange(N))[None]
    post = problem(Mask.gaps((1, N), 40, 256), x, noise=1e-5)
    assert (catalogue.method("CubicSpline")(post)[0] - x).abs().max() < 1e-2  # a smooth signal over short gaps
    clip = HighDynamicRange((1, N), gain=2.0, low=-0.9, high=0.9)
    post = problem(clip, x, noise=1e-5)
    ours = catalogue.method("CubicSpline")(post)[0]
    clipped = post.y / 2
    assert ((ours - x) ** 2).mean() < 0.2 * ((clipped - x) ** 2).mean()
    # what is not clipped stays
    assert torch.allclose(ours[clipped.abs() < 0.44], clipped[clipped.abs() < 0.44], atol=1e-5)


def test_what_they_refuse():
    A = Identity((1, 8, 8))
    post = invgen.Posterior(GaussianPrior(A.in_shape), A, 0.1, torch.zeros(1, 8, 8))
    with pytest.raises(UnsupportedError, match="CubicSpline needs LowPassDecimate, Mask or HighDynamicRange"):
        catalogue.method("CubicSpline")(post)
    with pytest.raises(UnsupportedError, match="AutoregressiveWiener needs real recordings"):
        catalogue.method("AutoregressiveWiener")(post)


def test_masks_with_gaps():
    mask = Mask.gaps((1, 100), 10, 40).mask.flatten()
    missing = torch.nonzero(mask == 0).flatten().tolist()
    assert missing == [*range(15, 25), *range(55, 65), *range(95, 100)]
    with pytest.raises(OptionError, match="gaps needs 0 < length < period <= 100"):
        Mask.gaps((1, 100), 50, 40)


def test_signal_to_noise_ratio():
    x = torch.tensor([[3.0, -4.0]])
    assert torch.allclose(metrics.snr(x * 1.1, x), torch.tensor(20.0), atol=1e-4)
    assert metrics.snr(torch.stack([x, 0 * x]), x).tolist() == [float("inf"), 0.0]


def test_log_spectral_distance():
    x, _ = voice()
    # ten times the amplitude is 20 dB everywhere
    assert torch.allclose(metrics.log_spectral_distance(10 * x, x, floor=-200), torch.tensor(20.0), atol=1e-3)
    assert metrics.log_spectral_distance(x, x) == 0
    reference = []
    window = np.hanning(513)[:512]  # periodic
    for start in range(0, N - 511, 128):
        p = [np.abs(np.fft.rfft(v[start : start + 512] * window)) ** 2 for v in ((x + 0.1)[0].numpy(), x[0].numpy())]
        reference.append(np.sqrt(np.mean((10 * np.log10(p[0]) - 10 * np.log10(p[1])) ** 2)))
    # single precision in the logarithms of small powers
    assert abs(metrics.log_spectral_distance(x + 0.1, x, floor=-300).item() - np.mean(reference)) < 1e-2
    # a band 60 dB below the rest is heard by it and not by the ratio
    missing = LowPassDecimate((1, N), 1, cutoff=0.5, taps=101)(x[None])[0]
    assert metrics.snr(missing, x) > 20 and metrics.log_spectral_distance(missing, x) > 10
    with pytest.raises(OptionError, match="1 < window <= 2048"):
        metrics.log_spectral_distance(x, x, window=4096)


def test_the_covariance_of_an_autoregressive_process_is_that_of_its_equation():
    # x_t = .9 x_{t-1} + e_t has the correlation .9^k; 20 000 samples tell .9 to .4 %, and the power to 5 % (four errors)
    g = torch.Generator().manual_seed(0)
    e, x = torch.randn(20_000, generator=g, dtype=torch.float64), [torch.zeros((), dtype=torch.float64)]
    for value in e:
        x.append(0.9 * x[-1] + value)
    found = autoregressive_covariance(torch.stack(x[1:])[None], 1, 20)[0]
    assert torch.allclose(found, found[0] * 0.9 ** torch.arange(20.0, dtype=torch.float64), rtol=0.15)
    assert found[0].item() == pytest.approx(1 / (1 - 0.81), rel=0.2)
