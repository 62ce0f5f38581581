import numpy as np
import pytest
import torch
from PIL import Image

from invgen import check_operator
from invgen.errors import OptionError
from invgen.operators import Grey


@pytest.mark.parametrize("weights", ["bt601", "bt709", "mean", (0.2, 0.7, 0.1), torch.tensor([-1.0, 0.0, 2.0])])
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 7), (3, 2, 3, 4)])
def test_keeps_the_contract(weights, shape):
    check_operator(Grey(shape, weights))
    check_operator(Grey(shape, weights), dtype=torch.float32)


def test_bt601_is_the_luma_of_pillow():
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    got = Grey((3, 9, 8))(torch.from_numpy(image).movedim(-1, 0).double())[0]
    want = torch.from_numpy(np.asarray(Image.fromarray(image).convert("L"), dtype=np.float64))
    assert (got - want).abs().max() <= 1  # Pillow truncates to whole grey values


def test_bt709_is_the_luminance_of_skimage():
    from skimage.color import rgb2gray

    image = np.random.default_rng(0).random((9, 8, 3))
    got = Grey((3, 9, 8), "bt709")(torch.from_numpy(image).movedim(-1, 0))[0]
    # skimage rounds the weights differently: 0.2125, 0.7154, 0.0721
    assert (got - torch.from_numpy(rgb2gray(image))).abs().max() < 5e-4


@pytest.mark.parametrize(
    "shape, weights, sentence",
    [
        ((3, 4, 4), "bt2020", "'bt601', 'bt709', 'mean' or 3 numbers"),
        ((4, 4, 4), "bt601", "each of 4 channels"),
        ((3, 4, 4), (1.0, 2.0), "each of 3 channels"),
        ((3, 4, 4), (0.0, 0.0, 0.0), "not all zero"),
        ((3, 4, 4), (1.0, float("inf"), 0.0), "finite"),
        ((3, 4, 4), (1.0, "a", 0.0), "weights of Grey must be a string, a tensor or a list of numbers"),
    ],
)
def test_bad_options_are_named(shape, weights, sentence):
    with pytest.raises(OptionError, match=sentence):
        Grey(shape, weights)
