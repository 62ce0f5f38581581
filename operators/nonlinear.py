"""Nonlinear measurements: lost phase, a clipped range, few levels."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import Operator
from invgen.operators.mri.fourier import fftc
from invgen.validation.hints import NonNegative, Range


class PhaseRetrieval(Operator):
    """y = |F P x|: the magnitude of the zero-padded, orthonormal Fourier transform over the last two axes.

    Args:
        in_shape: (..., H, W), each leading axis (colour channel) transformed by itself.
        oversample: n pixels are padded with int(oversample / 8 * n) zeros at either side, the convention of DPS (Chung et
            al., ICLR 2023): 2.0 turns 256 into 384, an oversampling of 1.5 along each axis, and 4.0 into 512, twice.
        complex: whether signals are complex tensors.

    y is real, (..., H + 2 pad, W + 2 pad), zero frequency in the centre, in the units of x because F is orthonormal:
    |y| = |x|. Where y = 0 the gradient of the magnitude is taken as 0.

    Signals that differ by a sign, a global phase, a shift or a turn by 180 degrees with conjugation can have the same y; on
    non-negative signals less of this is left. Published results are therefore hard to compare: DPS measures colour images
    in [-1, 1] at oversample 2.0 and noise 0.05, where x and -x cannot be told apart; DAPS maps to [0, 1] first; PnP-DM uses
    grey images in [0, 1] at oversample 4.0 and noise 0.01. The operator acts on x as it is: for [0, 1] rescale the prior.

    Raises:
        OptionError: fewer than two axes, or a negative oversample.
    """

    def __init__(self, in_shape: tuple[int, ...], oversample: NonNegative = 2.0, *, complex: bool = False) -> None:
        super().__init__(in_shape, dtype=torch.complex64 if complex else torch.float32)
        if len(self.in_shape) < 2:
            raise OptionError(f"PhaseRetrieval takes in_shape (..., H, W), got {tuple(self.in_shape)}")
        self.pad = tuple(int(oversample / 8 * n) for n in self.in_shape[-2:])
        self.out_shape = (*self.in_shape[:-2], *(n + 2 * p for n, p in zip(self.in_shape[-2:], self.pad, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        (rows, columns) = self.pad
        return fftc(F.pad(x, (columns, columns, rows, rows))).abs()


class HighDynamicRange(Operator):
    """y = min(max(gain * x, low), high): a detector that saturates.

    With the defaults it is the HDR problem of DAPS (Zhang et al., CVPR 2025), clip(2x, -1, 1); with gain 1 and the clipping
    level of a recording it is audio declipping. The gradient is that of the clip: zero where y is saturated.

    Args:
        in_shape: any shape.
        gain: exposure.
        low, high: the range of the detector, in units of gain * x.

    Raises:
        OptionError: low is not below high, or the gain is zero.
    """

    def __init__(self, in_shape: tuple[int, ...], gain: float = 2.0, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(in_shape)
        if not low < high or gain == 0:
            raise OptionError(f"HighDynamicRange needs low < high and a gain other than 0, got {low!r}, {high!r}, {gain!r}")
        self.gain, self.low, self.high = float(gain), float(low), float(high)
        self.out_shape = self.in_shape

    def forward(self, x: Tensor) -> Tensor:
        return (self.gain * x).clamp(self.low, self.high)


class Quantize(Operator):
    """y = the nearest of `levels` values, evenly spaced from low to high, both included.

    The forward map is exact. Its derivative is zero almost everywhere, so that the gradient is a surrogate: that of the
    clip to [low, high], "straight through" the rounding (Bengio et al., 2013). A measurement tells that x lies within half
    a spacing of y; as noise, take the standard deviation of that interval, spacing / sqrt(12).

    Args:
        in_shape: any shape.
        levels: at least 2; 2 keeps one bit.
        low, high: range of the quantiser in the units of x.

    Raises:
        OptionError: fewer than 2 levels, or low not below high.
    """

    def __init__(
        self, in_shape: tuple[int, ...], levels: Annotated[int, Range(2)], low: float = -1.0, high: float = 1.0
    ) -> None:
        super().__init__(in_shape)
        if not low < high:
            raise OptionError(f"Quantize needs low < high, got {low!r} and {high!r}")
        self.levels, self.low, self.high = int(levels), float(low), float(high)
        self.out_shape = self.in_shape

    @property
    def spacing(self) -> float:
        """The distance between neighbouring levels."""
        return (self.high - self.low) / (self.levels - 1)

    def forward(self, x: Tensor) -> Tensor:
        clipped = x.clamp(self.low, self.high)
        nearest = self.low + self.spacing * ((clipped - self.low) / self.spacing).round()
        return straight_through(nearest, clipped)


def straight_through(exact: Tensor, surrogate: Tensor) -> Tensor:
    """Returns the value of `exact` with the gradient of `surrogate`."""
    return exact.detach() + (surrogate - surrogate.detach())
