"""Spectrograms: the magnitudes of a short-time Fourier transform, and their logarithm in mel bands."""

import torch
from torch import Tensor

from invgen.numerics.spectrogram import SpectrogramOperator, mel_bank
from invgen.validation.hints import Count, Positive


class STFTMagnitude(SpectrogramOperator):
    """y = |STFT x|, (..., L) -> (..., window // 2 + 1, frames): phase retrieval of sound.

    x and -x have the same y. Noise is in the units of |STFT|, whose largest values are about window / 4 for full scale.

    Args:
        in_shape: (channels, length), or any shape whose last axis is time.
        window: in samples, of Hann's form.
        hop: between frames, at most half a window.
    """

    def __init__(self, in_shape: tuple[int, ...], window: Count = 512, hop: Count = 128) -> None:
        super().__init__(in_shape, window, hop)
        self.out_shape = (*self.in_shape[:-1], self.window // 2 + 1, self.frames)

    def of_magnitudes(self, magnitudes: Tensor) -> Tensor:
        return magnitudes

    def magnitudes(self, y: Tensor, near: Tensor) -> Tensor:
        return y.clamp(min=0)


class MelSpectrogram(SpectrogramOperator):
    """y = ln(floor + mel |STFT x|), (..., L) -> (..., bands, frames): what text-to-speech predicts and a vocoder inverts.

    Bands are triangles of height 1, even in mel = 2595 log10(1 + f / 700), from 0 Hz to half the rate.

    Args:
        in_shape: (channels, length), or any shape whose last axis is time.
        rate: of sampling, in Hz.
        bands: how many.
        window: in samples, of Hann's form.
        hop: between frames, at most half a window.
        floor: added before the logarithm, in the units of |STFT|, so that silence is finite.
    """

    bank: Tensor

    def __init__(
        self,
        in_shape: tuple[int, ...],
        rate: Positive = 16_000.0,
        bands: Count = 80,
        *,
        window: Count = 512,
        hop: Count = 128,
        floor: Positive = 1e-2,
    ) -> None:
        super().__init__(in_shape, window, hop)
        self.rate, self.floor = float(rate), float(floor)
        self.register_buffer("bank", mel_bank(self.window // 2 + 1, self.rate, bands), persistent=False)
        self.out_shape = (*self.in_shape[:-1], bands, self.frames)

    def of_magnitudes(self, magnitudes: Tensor) -> Tensor:
        return (self.floor + self.bank.to(magnitudes.dtype) @ magnitudes).log()

    def magnitudes(self, y: Tensor, near: Tensor) -> Tensor:
        """Returns those nearest to `near` in the sense of Kullback and Leibler: its own, weighed so that the bands fit y.

        Multiplicative updates of Lee & Seung (2001), from `near`, which they keep where the bands leave it free.
        """
        energy, bank = (y.exp() - self.floor).clamp(min=0), self.bank.to(y.dtype)
        u, heard = near.clamp(min=1e-5), bank.sum(0)[:, None]
        for _ in range(20):
            change = bank.T @ (energy / (bank @ u).clamp(min=1e-9))
            u = torch.where(heard > 0, u * change / heard.clamp(min=1e-9), near)
        return u
