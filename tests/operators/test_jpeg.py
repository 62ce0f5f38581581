"""JPEG against Pillow's encoder and decoder (libjpeg)."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from invgen.errors import OptionError
from invgen.inference.checks import check_operator
from invgen.operators import JPEG
from invgen.operators.jpeg import CHROMA, LUMA, quantisation_table


def photograph(height=75, width=106):
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[20 : 20 + height, 150 : 150 + width])


def pillow(image, quality, subsampling="4:2:0"):
    file = io.BytesIO()
    options = {"subsampling": subsampling} if image.ndim == 3 else {}
    Image.fromarray(image).save(file, "JPEG", quality=quality, **options)
    file.seek(0)
    decoded = Image.open(file)
    return np.asarray(decoded).astype(float), decoded.quantization


def ours(image, quality, dtype=torch.float32, **options):
    channels_first = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    x = torch.tensor(channels_first, dtype=dtype)
    y = JPEG(x.shape, quality, value_range=(0, 255), **options)(x)
    return np.moveaxis(y.numpy(), 0, -1).squeeze()


@pytest.mark.slow
@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
def test_tables_are_pillows(quality):
    _, tables = pillow(photograph(16, 16), quality)
    assert quantisation_table(LUMA, quality).flatten().tolist() == tables[0]
    assert quantisation_table(CHROMA, quality).flatten().tolist() == tables[1]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (75, 106), (40, 41), (33, 8)])
@pytest.mark.parametrize("quality", [1, 10, 30, 75, 95, 100])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_decoded_image_is_pillows(size, quality, subsampling):
    image = photograph(*size)
    want = pillow(image, quality, subsampling)[0]
    np.testing.assert_array_equal(ours(image, quality, torch.float64, subsampling=subsampling), want)
    # the second pass of a transform needs 30 bits, single precision has 24: a rounding in a thousand falls otherwise
    single = np.abs(ours(image, quality, subsampling=subsampling) - want)
    assert single.max() <= 1
    assert (single > 0).mean() < 1e-3


@pytest.mark.parametrize("quality", [10, 75])
def test_grey_image_is_pillows(quality):
    image = np.ascontiguousarray(photograph()[..., 1])
    np.testing.assert_array_equal(ours(image, quality, torch.float64), pillow(image, quality)[0])


def test_value_range():
    image = photograph(32, 32)
    x = torch.tensor(np.moveaxis(image, -1, 0), dtype=torch.float64)
    y = JPEG((3, 32, 32), 40)(x / 127.5 - 1)
    assert y.min() >= -1
    assert y.max() <= 1
    torch.testing.assert_close((y + 1) * 127.5, JPEG((3, 32, 32), 40, value_range=(0, 255))(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 16, 24), (3, 9, 13), (1, 8, 8), (3, 1, 1)])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_contract(shape, subsampling):
    check_operator(JPEG(shape, 60, subsampling=subsampling))


def test_a_flat_image_survives_quality_100():
    x = torch.full((3, 20, 20), 37.0)
    assert torch.equal(JPEG((3, 20, 20), 100, value_range=(0, 255))(x), x)


def test_the_surrogate_gradient_is_near_the_identity():
    """Grey, inside the range: every rounding passed straight through leaves an orthonormal transform and its inverse.

    Up to libjpeg's constants, which are orthonormal to 1e-4.
    """
    x = torch.rand(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    x.requires_grad_()
    v = torch.randn(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (grad,) = torch.autograd.grad(JPEG((1, 16, 16), 50)(x), x, v)
    torch.testing.assert_close(grad, v, rtol=0, atol=1e-3)


def test_errors():
    with pytest.raises(OptionError, match="in_shape"):
        JPEG((2, 8, 8), 50)
    for quality in (0, 101, 50.5):
        with pytest.raises(OptionError, match="quality of JPEG must be a whole number from 1 to 100"):
            JPEG((3, 8, 8), quality)
    with pytest.raises(OptionError, match="4:4:4"):
        JPEG((3, 8, 8), 50, subsampling="4:1:1")
    with pytest.raises(OptionError, match="low < high"):
        JPEG((3, 8, 8), 50, value_range=(1, 0))
