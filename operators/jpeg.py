"""JPEG compression as an operator: what a file at some quality keeps of an image."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import Operator
from invgen.operators.nonlinear import straight_through
from invgen.validation.hints import Range

# ITU-T Recommendation T.81 (1992), tables K.1 and K.2: quantisation steps at quality 50
LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
          18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
            99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""

# sqrt(8) times the orthonormal cosine transform in 13-bit fixed point, as the factors of libjpeg's accurate integer
# transform multiply out (Loeffler, Ligtenberg & Moschytz, ICASSP 1989): the left half, the right half mirrors it
COSINES = [
    [8192, 8192, 8192, 8192],
    [11363, 9633, 6437, 2260],
    [10703, 4433, -4433, -10703],
    [9633, -2259, -11362, -6436],
    [8192, -8192, -8192, 8192],
    [6437, -11362, 2261, 9633],
    [4433, -10704, 10704, -4433],
    [2260, -6436, 9633, -11363],
]

# JFIF 1.02 in 16-bit fixed point: rows Y, Cb, Cr of R, G, B with what is added before rounding down, and R, G, B of Cb, Cr
TO_YCBCR = [[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]]
OFFSET = [[[32768]], [[2**23 + 32767]], [[2**23 + 32767]]]
TO_RGB = [[0, 91881], [-22554, -46802], [116130, 0]]


def quantisation_table(base: str, quality: int) -> Tensor:
    """Returns the 8x8 quantisation steps at a quality from 1 to 100, scaled and clipped to 1..255 as libjpeg does."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = [min(max((int(step) * scale + 50) // 100, 1), 255) for step in base.split()]
    return torch.tensor(steps, dtype=torch.float64).reshape(8, 8)


class JPEG(Operator):
    """y = the decoded JPEG file of x: baseline JPEG with the standard tables, as encoded and decoded by libjpeg.

    Values are mapped to 0..255 and rounded, turned into YCbCr (JFIF), the colour planes halved for "4:2:0", cosine
    transformed in 8x8 blocks, rounded to multiples of the quantisation steps, and all of it undone, with every rounding and
    every constant of libjpeg's fixed-point arithmetic. In double precision y is, value for value, what Pillow decodes from
    the file that it writes; in single precision fewer than one value in a thousand differs, by one of 255 levels.

    The forward map is exact; the gradient is a surrogate that passes straight through each rounding (Bengio et al., 2013),
    close to the identity within the range of the values.

    Args:
        in_shape: (3, H, W) for colour or (1, H, W) for grey, any size.
        quality: 1 to 100, libjpeg's scale.
        subsampling: "4:2:0" (the usual, colour at half resolution) or "4:4:4".
        value_range: the values that become 0 and 255; what lies outside is clipped.

    Raises:
        OptionError: another number of channels, a quality that is not a whole number from 1 to 100, another subsampling,
            or an empty value range.
    """

    luma: Tensor
    chroma: Tensor
    cosines: Tensor
    to_ycbcr: Tensor
    offset: Tensor
    to_rgb: Tensor

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        quality: Annotated[int, Range(1, 100)],
        *,
        subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0",
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(in_shape)
        if len(self.in_shape) != 3 or self.in_shape[0] not in (1, 3):
            raise OptionError(f"JPEG takes in_shape (3, H, W) or (1, H, W), got {tuple(self.in_shape)}")
        low, high = value_range
        if not low < high:
            raise OptionError(f"value_range must be (low, high) with low < high, got {value_range!r}")
        self.quality, self.subsampling, self.value_range = int(quality), subsampling, (float(low), float(high))
        self.out_shape = self.in_shape
        self.register_buffer("luma", quantisation_table(LUMA, self.quality), persistent=False)
        self.register_buffer("chroma", quantisation_table(CHROMA, self.quality), persistent=False)
        half = torch.tensor(COSINES, dtype=torch.float64) / 8192
        sign = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)[:, None]
        self.register_buffer("cosines", torch.cat([half, sign * half.flip(1)], 1), persistent=False)
        for name, table in (("to_ycbcr", TO_YCBCR), ("offset", OFFSET), ("to_rgb", TO_RGB)):
            self.register_buffer(name, torch.tensor(table, dtype=torch.float64), persistent=False)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, quality={self.quality}, subsampling={self.subsampling!r}"

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.value_range
        pixels = _round(((x - low) * (255 / (high - low))).clamp(0, 255))
        if self.in_shape[0] == 1:
            decoded = self._code(pixels, self.luma)
        else:
            y, cb, cr = self._to_ycbcr(pixels).split(1, 1)
            halve = self.subsampling == "4:2:0"
            decoded = self._to_rgb(
                self._code(y, self.luma), torch.cat([self._chroma(cb, halve), self._chroma(cr, halve)], 1)
            )
        return decoded * ((high - low) / 255) + low

    def _to_ycbcr(self, pixels: Tensor) -> Tensor:
        """Returns whole RGB values to whole YCbCr values (JFIF 1.02); every product and sum is exact in single
        precision."""
        mixed = torch.einsum("ij,bjhw->bihw", self.to_ycbcr.to(pixels.dtype), pixels) + self.offset.to(pixels.dtype)
        return straight_through((mixed / 65536).floor(), mixed / 65536 - 0.5)

    def _to_rgb(self, y: Tensor, chroma: Tensor) -> Tensor:
        """Returns the inverse of `_to_ycbcr`, clipped to 0..255."""
        mixed = torch.einsum("ij,bjhw->bihw", self.to_rgb.to(y.dtype), chroma - 128)
        return (y + _round(mixed / 65536)).clamp(0, 255)

    def _chroma(self, plane: Tensor, halve: bool) -> Tensor:
        height, width = plane.shape[-2:]
        if not halve:
            return self._code(plane, self.chroma)
        # the encoder repeats the last column up to a whole number of blocks before it averages, the last row only to a pair
        wide = F.pad(plane, (0, -width % 16, 0, height % 2), mode="replicate")
        mean = F.avg_pool2d(wide, 2)
        # libjpeg rounds up and down in turn
        bias = torch.arange(mean.shape[-1], device=plane.device) % 2 * 0.25 + 0.25
        half = straight_through((mean + bias.to(mean.dtype)).floor(), mean)
        coded = self._code(half, self.chroma)[..., : (width + 1) // 2]
        # the decoder's "fancy" upsampling: weights 3/4 and 1/4 along each axis
        full = F.interpolate(coded, scale_factor=2, mode="bilinear")[..., :height, :width]
        bias = 0.5 - torch.arange(width, device=plane.device) % 2 / 16
        return straight_through((full + bias.to(full.dtype)).floor(), full)

    def _code(self, plane: Tensor, steps: Tensor) -> Tensor:
        """Returns one plane (B, 1, H, W) through the cosine transform, the quantiser and back, to whole values in
        0..255."""
        height, width = plane.shape[-2:]
        steps, C = steps.to(plane.dtype), self.cosines.to(plane.dtype)
        padded = F.pad(plane, (0, -width % 8, 0, -height % 8), mode="replicate")
        rows, columns = padded.shape[-2] // 8, padded.shape[-1] // 8
        blocks = (padded - 128).reshape(-1, rows, 8, columns, 8).transpose(2, 3)
        # libjpeg keeps two binary digits after the first pass of a transform, and three of the coefficients
        eighths = _round(C @ _round(4 * blocks @ C.T) / 4)
        quotient = eighths / (8 * steps)
        coefficients = steps * straight_through((quotient.abs() + 0.5).floor() * quotient.sign(), quotient)
        blocks = _round(_round(4 * C.T @ coefficients) @ C / 32)
        image = blocks.transpose(2, 3).reshape(-1, 1, 8 * rows, 8 * columns)[..., :height, :width]
        return (image + 128).clamp(0, 255)


def _round(x: Tensor) -> Tensor:
    """To whole numbers, halves up as a shift of an integer does, with the gradient of the identity."""
    return straight_through((x + 0.5).floor(), x)
