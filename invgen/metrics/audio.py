"""Distances between recordings: one number for each, in dB."""

import math

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.metrics._signals import check_pair, mean_over, square
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Index


@checked
def snr(estimate: Tensor, truth: Tensor, *, dims: Index = 2) -> Tensor:
    """Returns the signal-to-noise ratio in dB, 10 log10(mean |truth|^2 / mean |estimate - truth|^2): (*batch).

    The `dims` last axes are one signal, (channels, length) for 2; batch axes broadcast. Infinite where the two are equal.
    """
    check_pair("snr", estimate, truth, dims)
    return 10 * torch.log10(mean_over(square(truth), dims) / mean_over(square(estimate - truth), dims))


@checked
def spectral_convergence(
    estimate: Tensor, truth: Tensor, *, window: Count = 512, hop: Count = 128, dims: Index = 2
) -> Tensor:
    """Returns | |STFT estimate| - |STFT truth| | / | |STFT truth| |, Frobenius norms (Sturmel & Daudet, 2011): (*batch).

    Phases do not count. 0 where the spectrograms are equal, 1 for silence.

    Args:
        estimate, truth: (*batch, *shape).
        window, hop: of the Hann-windowed transform, in samples.
        dims: axes of a signal, 2 for (channels, length).
    """
    check_pair("spectral_convergence", estimate, truth, dims)
    found, wanted = (_magnitudes(x, window, hop) for x in (estimate, truth))
    axes = tuple(range(-dims - 1, 0))
    return (found - wanted).square().sum(axes).sqrt() / wanted.square().sum(axes).sqrt()


def _magnitudes(x: Tensor, window: int, hop: int) -> Tensor:
    hann = torch.hann_window(window, dtype=x.dtype, device=x.device)
    z = torch.stft(x.reshape(-1, x.shape[-1]), window, hop, window=hann, return_complex=True)
    return z.abs().reshape(*x.shape[:-1], *z.shape[1:])


@checked
def log_spectral_distance(
    estimate: Tensor, truth: Tensor, *, window: Count = 512, hop: Count = 128, floor: float = -80.0, dims: Index = 2
) -> Tensor:
    """Returns the log-spectral distance in dB (Gray & Markel, IEEE Trans. ASSP 1976): (*batch).

        mean over frames of  sqrt(mean over frequencies of (10 log10 P_estimate - 10 log10 P_truth)^2)

    P are power spectra in a Hann window. It hears what a squared error does not: a band that is missing, however soft.
    Those who take log10 of the power without the factor of 10 find a tenth of it.

    Args:
        estimate, truth: (*batch, *shape).
        window, hop: in samples; 512 and 128 are 32 and 8 ms at 16 kHz.
        floor: in dB below the truth's strongest power; less is taken for that, so that silence does not decide.
        dims: axes of a signal, 2 for (channels, length).

    Raises:
        ShapeError: the shapes do not fit.  OptionError: a window that is longer than the signal.
    """
    check_pair("log_spectral_distance", estimate, truth, dims)
    length = truth.shape[-1]
    if not 1 < window <= length or not 1 <= hop <= window:
        raise OptionError(
            f"log_spectral_distance needs 1 < window <= {length} samples and 1 <= hop <= window, got {window!r}, {hop!r}"
        )
    frames = [
        x.unfold(-1, window, hop) * torch.hann_window(window, dtype=x.dtype, device=x.device) for x in (estimate, truth)
    ]
    powers = [torch.fft.rfft(f).abs().square() for f in frames]
    axes = tuple(range(-dims - 1, 0))
    least = powers[1].amax(axes, keepdim=True) * 10 ** (floor / 10)
    found, wanted = (10 / math.log(10) * torch.maximum(p, least.clamp(min=1e-30)).log() for p in powers)
    return mean_over((found - wanted).square().mean(-1).sqrt(), dims)
