import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from invgen import check_operator
from invgen.errors import OptionError
from invgen.forward import SVDOperator
from invgen.operators import Blur, Decimate, Downsample, gaussian_kernel, motion_kernel

SHAPES = [
    ((12,), 3, (5,)),
    ((2, 9), (3,), (4,)),
    ((2, 6, 8), 2, (3, 4)),
    ((6, 8), (2, 4), (3, 3)),
    ((1, 4, 6, 4), 2, (2, 2, 3)),
]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape, factor, size", SHAPES)
@pytest.mark.parametrize("filter", ["average", "bicubic", "lanczos", "kernel"])
def test_keeps_the_contract(shape, factor, size, filter):
    A = Downsample(shape, factor, draw(*size) if filter == "kernel" else filter)
    assert isinstance(A, Downsample)
    check_operator(A)
    check_operator(Decimate(shape, factor))


@pytest.mark.parametrize("filter", ["average", "bicubic", gaussian_kernel(0.8)])
def test_single_precision(filter):
    check_operator(Downsample((2, 8, 12), 4, filter), dtype=torch.float32)


def test_average_agrees_with_skimage():
    from skimage.transform import downscale_local_mean

    x = draw(12, 8)
    want = torch.from_numpy(downscale_local_mean(x.numpy(), (3, 2)))
    assert torch.allclose(Downsample((12, 8), (3, 2))(x), want, atol=1e-14)


@pytest.mark.parametrize("filter", ["bilinear", "bicubic", "lanczos"])
def test_resampling_agrees_with_pillow(filter):
    x = torch.rand(32, 48, generator=torch.Generator().manual_seed(0))
    want = Image.fromarray(x.numpy()).resize((12, 8), getattr(Image.Resampling, filter.upper()))
    assert torch.allclose(Downsample((32, 48), 4, filter)(x), torch.from_numpy(np.array(want)), atol=2e-6)


@pytest.mark.parametrize("shape, factor, size", SHAPES)
def test_a_kernel_is_a_convolution_and_a_decimation(shape, factor, size):
    kernel, x = draw(*size), draw(3, *shape, seed=1)
    factors = (factor,) * len(size) if isinstance(factor, int) else factor
    last = tuple(f - 1 for f in factors)
    for offset in (0, last):
        chain = Decimate(shape, factors, offset) @ Blur(shape, kernel)
        assert isinstance(chain, Downsample)
        want = Decimate(shape, factors, offset)(Blur(shape, kernel)(x))
        for A in (chain, Downsample(shape, factor, kernel, offset=offset)):
            assert torch.allclose(A(x), want, atol=1e-13)
        check_operator(chain)


def test_solve_after_a_blur_is_exact():
    A = Downsample((2, 8, 12), 4) @ Blur((2, 8, 12), motion_kernel(3, seed=1))
    assert isinstance(A, SVDOperator)
    x = draw(2, 2, 8, 12)
    B = Blur((2, 8, 12), motion_kernel(3, seed=1))
    assert torch.allclose(A(x), Downsample((2, 8, 12), 4)(B(x)), atol=1e-14)
    n, m = 192, 12
    dense = A(torch.eye(n, dtype=torch.float64).reshape(n, 2, 8, 12)).reshape(n, m).T
    b = draw(3, 2, 2, 3)
    for var_x, var_y in ((1.0, 0.0), (0.3, 1e-6), (2.0, 0.5)):
        want = torch.linalg.solve(var_x * dense @ dense.T + var_y * torch.eye(m), b.reshape(3, m).T).T
        assert torch.allclose(A.solve(b, var_x, var_y).reshape(3, m), want, rtol=1e-9, atol=1e-9)
    check_operator(A)


@pytest.mark.parametrize("filter", ["average", "bicubic", gaussian_kernel(1.0)])
def test_svd_against_a_dense_matrix(filter):
    A = Downsample((6, 8), 2, filter)
    dense = A(torch.eye(48, dtype=torch.float64).reshape(48, 6, 8)).reshape(48, 12).T
    got = A.s.flatten().sort(descending=True).values
    assert torch.allclose(got[:12], torch.linalg.svdvals(dense), atol=1e-13) and not got[12:].any()
    V = A.V(torch.eye(48, dtype=torch.float64).reshape(48, 6, 8)).reshape(48, 48)
    assert torch.allclose(V @ V.T, torch.eye(48, dtype=torch.float64), atol=1e-12)


def test_a_filter_that_loses_frequencies():
    check_operator(Downsample((8, 8), 2, torch.tensor([[1.0, -1.0]])))  # no constant along the rows
    comb = Downsample((12,), 3, torch.tensor([1.0, 0, 0, -1.0]))  # the difference of neighbours on the coarse grid
    assert comb.rank == 3
    check_operator(comb)
    dense = comb(torch.eye(12, dtype=torch.float64)).T
    y = draw(2, 4)
    assert torch.allclose(comb.pinv(y), y @ torch.linalg.pinv(dense).T, atol=1e-12)
    want = torch.linalg.solve(dense @ dense.T + 0.1 * torch.eye(4), y.T).T
    assert torch.allclose(comb.solve(y, 1.0, 0.1), want, atol=1e-12)


@pytest.mark.parametrize("filter", ["average", "bicubic", gaussian_kernel(1.0)])
def test_copies_conversions_and_files(filter):
    A, x = Downsample((8, 8), 2, filter), draw(1, 8, 8)
    A.pinv(A(x))  # what is computed on first use is copied too
    for other in (copy.deepcopy(A), pickle.loads(pickle.dumps(A)), copy.deepcopy(A).to(torch.float64)):
        assert type(other) is type(A) and torch.equal(other(x), A(x))


def test_the_measurement_of_a_decimation_is_no_view():
    A, x = Decimate((4,), 2), torch.zeros(1, 4)
    A(x).add_(1)
    assert not x.any()


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"factor": 3}, "does not divide the sizes \\(8, 8\\)"),
        ({"factor": 0}, "factor needs a positive integer"),
        ({"factor": 2, "filter": "cubic"}, "'average', 'box', 'bilinear', 'bicubic', 'lanczos' or a kernel"),
        ({"factor": (2, 2), "filter": torch.ones(3)}, "with 2 axes"),
        ({"factor": 2, "filter": torch.tensor([[float("nan")]])}, "finite"),
        ({"factor": 2, "filter": torch.ones(3, 3), "offset": 2}, "offset must lie between 0 and factor - 1"),
        ({"factor": 2, "offset": 1}, "offset belongs to a kernel"),
    ],
)
def test_bad_options_are_named(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        Downsample((3, 8, 8), **options)
    if "filter" not in options and "offset" not in options:
        with pytest.raises(OptionError, match=sentence):
            Decimate((3, 8, 8), **options)
