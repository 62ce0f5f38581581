import numpy as np
import pytest
import torch
from PIL import Image

from invgen import check_operator
from invgen.errors import OptionError
from invgen.operators import Resize

METHODS = ["box", "bilinear", "bicubic", "lanczos"]


def draw(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape, size", [((64, 48), (16, 12)), ((20, 31), (7, 40)), ((13, 9), (29, 4)), ((5, 5), (5, 1))])
def test_agrees_with_pillow(method, shape, size):
    x = draw(*shape, dtype=torch.float32)
    want = Image.fromarray(x.numpy()).resize(size[::-1], getattr(Image.Resampling, method.upper()))
    # both in single precision on values of order one
    assert torch.allclose(Resize(shape, size, method)(x), torch.from_numpy(np.array(want)), atol=2e-6)


def test_bicubic_agrees_with_torch():
    x = draw(2, 3, 24, 30)
    want = torch.nn.functional.interpolate(x, (6, 10), mode="bicubic", antialias=True, align_corners=False)
    # torch computes its weights in single precision
    assert torch.allclose(Resize((3, 24, 30), (6, 10))(x), want, atol=1e-6)


def test_linear_enlargement_agrees_with_skimage():
    from skimage.transform import resize

    x = draw(7, 9)
    want = resize(x.numpy(), (21, 30), order=1, mode="edge", anti_aliasing=False)
    assert torch.allclose(Resize((7, 9), (21, 30), "bilinear")(x), torch.from_numpy(want), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "shape, size", [((12,), 5), ((2, 8, 9), (3, 12)), ((2, 9), (4,)), ((1, 4, 5, 6), 3), ((2, 6, 6), 6)]
)
def test_keeps_the_contract(method, shape, size):
    check_operator(Resize(shape, size, method))


def test_single_precision():
    check_operator(Resize((2, 12, 9), (4, 6)), dtype=torch.float32)


def test_svd_against_a_dense_matrix():
    A = Resize((6, 8), (3, 5), "lanczos")
    dense = A(torch.eye(48, dtype=torch.float64).reshape(48, 6, 8)).reshape(48, 15).T
    got = A.s.flatten().sort(descending=True).values
    assert torch.allclose(got[:15], torch.linalg.svdvals(dense), atol=1e-13) and not got[15:].any()


def test_a_variance_for_every_measured_value():
    A = Resize((6, 8), (3, 4))
    b, noise = draw(2, 3, 4), draw(2, 3, 4) + 0.1
    dense = A(torch.eye(48, dtype=torch.float64).reshape(48, 6, 8)).reshape(48, 12).T
    for i in (0, 1):
        want = torch.linalg.solve(dense @ dense.T + torch.diag(noise[i].flatten()), b[i].flatten())
        assert torch.allclose(A.solve(b, 1.0, noise)[i].flatten(), want, atol=1e-8)  # CG stops at 1e-10 relative


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"size": 4, "method": "cubic"}, "box, bilinear, bicubic, lanczos, got 'cubic'"),
        ({"size": 0}, "size needs a positive integer"),
        ({"size": (4, 4, 4, 4)}, "size needs a positive integer"),
        ({"size": (4, 2.5)}, "size of Resize must be a whole number or a list of whole numbers"),
        ({"size": 2.5}, "size of Resize must be a whole number or a list of whole numbers"),
    ],
)
def test_bad_options_are_named(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        Resize((3, 8, 8), **options)
