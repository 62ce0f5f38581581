"""Operators that lose the phase of a short-time Fourier transform: what vocoders and phase retrieval start from."""

import math

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import Operator


class SpectrogramOperator(Operator):
    """A function of |STFT x| alone, (..., L) -> (..., rows, frames), frames centred, in a Hann window.

    A subclass writes `of_magnitudes` and `magnitudes`. `griffin_lim` is the classical inverse of all of them.

    Args:
        in_shape: (channels, length), or any shape whose last axis is time.
        window: its length in samples; the frequencies are window // 2 + 1.
        hop: between frames, at most half a window, so that frames determine the signal.
    """

    hann: Tensor

    def __init__(self, in_shape: tuple[int, ...], window: int = 512, hop: int = 128) -> None:
        super().__init__(in_shape)
        length = self.in_shape[-1] if self.in_shape else 0
        if not 4 <= window <= length or not 1 <= hop <= window // 2:
            raise OptionError(
                f"a spectrogram needs 4 <= window <= {length} samples and 1 <= hop <= window / 2, got {window!r}, {hop!r}"
            )
        self.window, self.hop = int(window), int(hop)
        self.frames = length // self.hop + 1
        self.register_buffer("hann", torch.hann_window(self.window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # smooth at silence, 60 dB below any level that is heard
        return self.of_magnitudes(self.transform(x).abs().square().add(1e-12).sqrt())

    def of_magnitudes(self, magnitudes: Tensor) -> Tensor:
        """Returns what is measured of |STFT x|, (B, ..., frequencies, frames)."""
        raise TypeError(f"{type(self).__name__} must define of_magnitudes(self, magnitudes)")

    def magnitudes(self, y: Tensor, near: Tensor) -> Tensor:
        """Returns |STFT| that gives y, of those the one that `near`, (B, ..., frequencies, frames), is turned to."""
        raise TypeError(f"{type(self).__name__} must define magnitudes(self, y, near)")

    def transform(self, x: Tensor) -> Tensor:
        """Returns the short-time Fourier transform, (B, ..., frequencies, frames)."""
        flat = x.reshape(-1, self.in_shape[-1])
        z = torch.stft(flat, self.window, self.hop, window=self.hann.to(x.dtype), return_complex=True)
        return z.reshape(*x.shape[:-1], *z.shape[1:])

    def inverse(self, z: Tensor) -> Tensor:
        """Returns the signal whose transform is nearest to z, (B, *in_shape)."""
        flat, window = z.reshape(-1, *z.shape[-2:]), self.hann.to(z.real.dtype)
        x = torch.istft(flat, self.window, self.hop, window=window, length=self.in_shape[-1])
        return x.reshape(*z.shape[:-2], self.in_shape[-1])

    def griffin_lim(
        self, y: Tensor, x: Tensor, iterations: int = 60, momentum: float = 0.99, near: Tensor | None = None
    ) -> Tensor:
        """Returns a signal with the magnitudes of y and phases that started as those of x, (B, *in_shape).

        The fast Griffin-Lim algorithm (Perraudin, Balazs & Sondergaard, WASPAA 2013, Algorithm 2); momentum 0 is that of
        Griffin & Lim (1984).

        Args:
            y: measurements, (B, *out_shape).
            x: signals; noise for random phases.
            iterations: of the alternation.
            momentum: alpha.
            near: magnitudes for what y leaves open, (B, ..., frequencies, frames); even ones if left out.
        """
        z = self.transform(x)
        wanted = self.magnitudes(y, torch.ones_like(z.real) if near is None else near)
        before = torch.zeros_like(z)
        for _ in range(iterations):
            x = self.inverse(torch.polar(wanted, z.angle()))
            now = self.transform(x)
            z, before = now + momentum * (now - before) if before.any() else now, now
        return x


def mel_bank(frequencies: int, rate: float, bands: int) -> Tensor:
    """Returns triangles over frequencies from 0 to rate / 2, (bands, frequencies)."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    f = torch.linspace(0, rate / 2, frequencies, dtype=torch.float64)
    up = (f - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - f) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(up, down).clamp(min=0).float()
