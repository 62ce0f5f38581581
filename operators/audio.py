"""Operators on one-dimensional signals. Gaps are `Mask`, clipping is `HighDynamicRange` with gain 1."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import LinearOperator
from invgen.operators._spectral import fast_length
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Range
from invgen.validation.limits import check_size


@checked
def lowpass_filter(taps: Count, cutoff: Annotated[float, Range(0, 1, above=True)]) -> Tensor:
    """Returns a linear-phase low pass, (taps,) in double precision: a sinc in a Hamming window, with gain 1 at frequency
    zero.

    Args:
        taps: odd, so that the filter delays nothing.
        cutoff: frequency of half amplitude, as a fraction of the Nyquist frequency, between 0 and 1.
    """
    check_size(8 * taps, f"a filter of {taps} taps")
    if taps % 2 == 0:
        raise OptionError(f"a low pass needs an odd number of taps, got {taps!r}")
    n = torch.arange(taps, dtype=torch.float64) - taps // 2
    window = torch.hamming_window(taps, periodic=False, dtype=torch.float64) if taps > 1 else torch.ones(1).double()
    h = torch.sinc(cutoff * n) * window
    return h / h.sum()


class LowPassDecimate(LinearOperator):
    """y[k] = sum_j h[j] x[factor k - j]: a low pass against aliasing, then every factor-th sample.

    What is lost is the band above the new Nyquist frequency: bandwidth extension asks for it.

    Args:
        in_shape: (channels, length), or any shape whose last axis is time.
        factor: of decimation, 1 to filter only.
        taps: of the filter, odd; by default 20 * factor + 1, as scipy.signal.decimate(ftype="fir").
        cutoff: as a fraction of the Nyquist frequency of x; by default 1 / factor, the Nyquist frequency of y.
        boundary: "zero" (silence outside; scipy's choice) or "reflect".

    y has ceil(length / factor) samples at the times 0, factor, 2 factor, ... of x, and the units of x. `solve` and `prox`
    are conjugate gradients; neighbouring rows of A overlap by the length of the filter only, so that they are few.

    Raises:
        OptionError: a factor below 1, another boundary, a filter that is even or cuts outside (0, 1], or one that is longer
            than "reflect" can mirror.
    """

    response: Tensor

    def __init__(
        self,
        in_shape: tuple[int, ...],
        factor: Count,
        *,
        taps: Count | None = None,
        cutoff: Annotated[float, Range(0, 1, above=True)] | None = None,
        boundary: Literal["zero", "reflect"] = "zero",
    ) -> None:
        super().__init__(in_shape)
        if not self.in_shape:
            raise OptionError("LowPassDecimate needs a signal with axes, got in_shape ()")
        self.factor, self.boundary, length = int(factor), boundary, self.in_shape[-1]
        h = lowpass_filter(20 * self.factor + 1 if taps is None else taps, 1 / self.factor if cutoff is None else cutoff)
        self.half_taps = len(h) // 2
        if boundary == "reflect" and self.half_taps >= length:
            raise OptionError(
                f"a filter of {len(h)} taps needs more than {self.half_taps} samples to reflect, got {length}; pass fewer "
                "taps or boundary='zero'"
            )
        self.out_shape = (*self.in_shape[:-1], -(-length // self.factor))
        self.start = self.half_taps if boundary == "reflect" else 0  # where x begins in what is filtered
        self.register_buffer("response", _response(h, length + max(self.half_taps, 2 * self.start)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        length = self.in_shape[-1]
        if self.start:
            x = F.pad(x.reshape(len(x), -1, length), (self.start, self.start), mode="reflect")
        y = self._filter(x)[..., self.start : self.start + length : self.factor]
        return y.reshape(len(x), *self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        length, start = self.in_shape[-1], self.start
        sparse = y.new_zeros(*y.shape[:-1], length + 2 * start)
        sparse[..., start : start + length : self.factor] = y
        full = self._filter(sparse)  # h is symmetric
        x = full[..., start : start + length]
        if start:
            # what fell on the mirrored samples returns to those they copy
            left, right = full[..., :start].flip(-1), full[..., start + length :].flip(-1)
            x = x + F.pad(left, (1, length - 1 - start)) + F.pad(right, (length - 1 - start, 1))
        return x

    def _filter(self, x: Tensor) -> Tensor:
        # by FFT: a convolution layer would round to 10 bits on recent GPUs, unless their TF32 mode is off
        n = 2 * (len(self.response) - 1)
        return torch.fft.irfft(torch.fft.rfft(x, n) * self.response.to(x.dtype), n)[..., : x.shape[-1]]


def _response(h: Tensor, least: int) -> Tensor:
    """Returns the real frequency response of a symmetric filter on a ring of at least `least` samples, of an even, fast
    length."""
    n = 2 * fast_length(-(-max(least, len(h)) // 2))
    ring = F.pad(h, (0, n - len(h))).roll(-(len(h) // 2))
    return torch.fft.rfft(ring).real.contiguous()
