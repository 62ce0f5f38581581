"""Colour to grey: what a panchromatic sensor sees."""

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.operators._axes import real_table
from invgen.operators.orthogonal import OrthogonalRows, householder

WEIGHTS = {
    "bt601": (0.299, 0.587, 0.114),  # ITU-R BT.601: luma of standard television, and of PIL's mode "L"
    "bt709": (
        0.2126,
        0.7152,
        0.0722,
    ),  # ITU-R BT.709: luma of HDTV, luminance of linear sRGB
}


class Grey(OrthogonalRows):
    """y = sum_c w_c x_c: the weighted sum of the channels, (C, *spatial) -> (1, *spatial).

    Recovering the colours is the colourisation problem. A A^T = |w|^2 I; V is one Householder reflection of the channels.

    Args:
        in_shape: (C, *spatial), any number of spatial axes.
        weights: "bt601" (.299, .587, .114), "bt709" (.2126, .7152, .0722), "mean" (1/C each), or C numbers.

    Raises:
        OptionError: an unknown name, a number of weights other than C, weights that are all zero or not finite.
    """

    weights: Tensor
    reflector: Tensor

    def __init__(self, in_shape: tuple[int, ...], weights: str | Tensor | tuple[float, ...] = "bt601") -> None:
        super().__init__(in_shape)
        if not self.in_shape:
            raise OptionError("Grey needs a signal with axes, got in_shape ()")
        channels = self.in_shape[0]
        if isinstance(weights, str) and weights not in (*WEIGHTS, "mean"):
            raise OptionError(f"weights must be 'bt601', 'bt709', 'mean' or {channels} numbers, got {weights!r}")
        mean = (1 / channels,) * channels
        w = real_table("weights", (WEIGHTS | {"mean": mean})[weights] if isinstance(weights, str) else weights)
        if w.shape != (channels,):
            raise OptionError(f"Grey needs one weight for each of {channels} channels, got shape {tuple(w.shape)}")
        if not torch.isfinite(w).all() or not w.any():
            raise OptionError(f"the weights of Grey must be finite and not all zero, got {w.tolist()}")
        self.out_shape = (1, *self.in_shape[1:])
        self.gain = (w @ w).item()
        reflector, self.sign = householder(w / w.norm())
        column = (channels, *[1] * (len(self.in_shape) - 1))
        s = torch.zeros(self.in_shape, dtype=torch.float64)
        s[0] = w.norm()
        self.register_buffer("weights", w.reshape(column))
        self.register_buffer("reflector", reflector.reshape(column), persistent=False)
        self.register_buffer("s", s, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.weights.to(x.dtype) * x).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.weights.to(y.dtype) * y

    def V(self, z: Tensor) -> Tensor:
        w = self.reflector.to(z.dtype)
        return z - w * (w * z).sum(1, keepdim=True)

    def Vt(self, x: Tensor) -> Tensor:
        return self.V(x)  # a reflection is its own inverse

    def U(self, z: Tensor) -> Tensor:
        return self.sign * z[:, :1]

    def Ut(self, y: Tensor) -> Tensor:
        return torch.cat([self.sign * y, y.new_zeros(len(y), self.in_shape[0] - 1, *self.in_shape[1:])], 1)
