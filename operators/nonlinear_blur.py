"""Camera shake as a camera does it: blur of the light, not of the pixel values."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import Operator
from invgen.validation.hints import Count, NonNegative, Positive, Seed
from invgen.validation.limits import check_size


class NonlinearBlur(Operator):
    """y = f(min(exposure * mean_t g(x) after motion t, 1)), with g the decoding of pixel values to light and f its inverse.

    A shaken camera averages the light that falls on a pixel while the camera turns and moves; the sensor saturates; the
    camera then encodes the light for display. So blur is linear in light but not in pixel values, bright spots spread
    further than dark ones, and a saturated trail keeps its shape:

        L = g((x - low) / (high - low))                     g: the sRGB decoding (IEC 61966-2-1), light below zero is zero
        E = exposure / T * sum_t L(R_t (p - c) + c + d_t)   p a pixel, c the centre, R_t a turn, d_t a shift in pixels
        y = low + (high - low) f(min(E, 1))                 f = g^-1

    The path (R_t, d_t) is smooth and random, drawn once from `seed` (a path drawn at each call would make a different
    operator each time), centred, so that y is not shifted. The turn makes the blur different at every place of the image.

    Args:
        in_shape: (C, H, W).
        length: how far the shift goes, in pixels: the larger of the path's extents; by default max(H, W) / 12.
        rotation: extent of the turn in degrees.
        exposure: gain of the sensor, above 1 for saturated highlights.
        steps: instants T of the exposure.
        value_range: the pixel values for no light and for the sensor's (and sRGB's) white.
        seed: of the path.

    Beyond the image the nearest pixel is repeated.

    Raises:
        OptionError: in_shape is not (C, H, W), fewer than one step, a negative length or rotation, or exposure <= 0.
    """

    motion: Tensor

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        length: NonNegative | None = None,
        *,
        rotation: NonNegative = 2.0,
        exposure: Positive = 1.2,
        steps: Count = 24,
        value_range: tuple[float, float] = (-1.0, 1.0),
        seed: Seed = 0,
    ) -> None:
        super().__init__(in_shape)
        if len(self.in_shape) != 3:
            raise OptionError(f"NonlinearBlur takes in_shape (C, H, W), got {tuple(self.in_shape)}")
        check_size(24 * steps, f"a path of {steps} steps")
        height, width = self.in_shape[1:]
        length = max(height, width) / 12 if length is None else length
        if not value_range[0] < value_range[1]:
            raise OptionError(f"NonlinearBlur needs value_range (low, high) with low < high, got {value_range!r}")
        self.exposure, self.value_range = float(exposure), (float(value_range[0]), float(value_range[1]))
        self.out_shape = self.in_shape
        dy, dx, turn = _path(steps, seed)
        extent = max((d.max() - d.min()).item() for d in (dy, dx)) or 1.0
        dy, dx = dy * length / extent, dx * length / extent
        turn = turn * rotation * math.pi / 180 / ((turn.max() - turn.min()).item() or 1.0)
        # in the coordinates of grid_sample, -1 to 1 across the image, a turn of a rectangle mixes the two scales
        rows = [
            torch.stack([turn.cos(), -turn.sin() * height / width, 2 * dx / width], 1),
            torch.stack([turn.sin() * width / height, turn.cos(), 2 * dy / height], 1),
        ]
        self.register_buffer("motion", torch.stack(rows, 1))

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.value_range
        light = decode_srgb((x - low) / (high - low))
        # every image and channel moves alike: one batch entry, the instants one after the other to save memory
        planes = light.reshape(1, -1, *light.shape[-2:])
        total = torch.zeros_like(planes)
        for motion in self.motion.to(x.dtype):
            grid = F.affine_grid(motion[None], list(planes.shape), align_corners=False)
            total = total + F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
        exposed = (total * (self.exposure / len(self.motion))).reshape(light.shape)
        return low + (high - low) * encode_srgb(exposed.clamp(max=1))


def _path(steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns three smooth random functions of time with mean zero, (steps,): a velocity that wanders, integrated."""
    g = torch.Generator().manual_seed(seed)
    velocity = torch.randn(3, 1, dtype=torch.float64, generator=g)
    velocity = velocity + torch.randn(3, steps, dtype=torch.float64, generator=g).cumsum(1) * (3 / steps**0.5)
    path = velocity.cumsum(1)
    return (path - path.mean(1, keepdim=True)).unbind(0)


def decode_srgb(v: Tensor) -> Tensor:
    """Returns light in [0, 1] from an sRGB value in [0, 1] (IEC 61966-2-1): 0 below, the same power law above."""
    curve = ((v.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(v > 0.04045, curve, v.clamp(min=0) / 12.92)


def encode_srgb(light: Tensor) -> Tensor:
    """Returns the inverse of `decode_srgb`; its gradient is finite at zero, unlike that of a pure power law."""
    curve = 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light > 0.0031308, curve, 12.92 * light)
