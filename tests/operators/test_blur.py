import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage, signal

from invgen import check_operator
from invgen.errors import OptionError
from invgen.forward import SVDOperator
from invgen.operators import Blur, gaussian_kernel, motion_kernel

SCIPY = {"circular": "wrap", "reflect": "mirror", "replicate": "nearest"}
SHAPES = [((11,), (5,)), ((2, 9), (4,)), ((2, 9, 8), (3, 4)), ((9, 8), (1, 3)), ((2, 5, 4, 6), (3, 2, 3))]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def each_channel(x, kernel, filtered):
    flat = x.reshape(-1, *x.shape[x.ndim - kernel.ndim :]).numpy()
    return torch.from_numpy(np.stack([filtered(v, kernel.numpy()) for v in flat]))


@pytest.mark.parametrize("boundary", SCIPY)
@pytest.mark.parametrize("shape, size", SHAPES)
def test_agrees_with_scipy_convolve(boundary, shape, size):
    x, kernel = draw(3, *shape), draw(*size, seed=1)
    got = Blur(shape, kernel, boundary)(x)
    want = each_channel(x, kernel, lambda v, k: ndimage.convolve(v, k, mode=SCIPY[boundary]))
    assert torch.allclose(got, want.reshape(x.shape), atol=1e-12)  # rounding of sums of tens of terms of order one


@pytest.mark.parametrize("shape, size", SHAPES)
def test_valid_agrees_with_scipy_signal(shape, size):
    x, kernel = draw(3, *shape), draw(*size, seed=1)
    got = Blur(shape, kernel, "valid")(x)
    want = each_channel(x, kernel, lambda v, k: signal.convolve(v, k, mode="valid", method="direct"))
    assert got.shape[1 + len(shape) - len(size) :] == want.shape[1:]
    assert torch.allclose(got.reshape(want.shape), want, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", [*SCIPY, "valid"])
@pytest.mark.parametrize("shape, size", SHAPES)
def test_keeps_the_contract(boundary, shape, size):
    # a kernel with a strong centre: the checks of CG are about the operator, not about conditioning
    kernel = 0.1 * draw(*size, seed=1)
    kernel[tuple(n // 2 for n in size)] += 1
    A = Blur(shape, kernel, boundary)
    assert isinstance(A, SVDOperator) == (boundary == "circular") and isinstance(A, Blur)
    check_operator(A)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", [*SCIPY, "valid"])
def test_single_precision(boundary):
    A = Blur((2, 12, 10), gaussian_kernel(0.6), boundary)
    check_operator(A, dtype=torch.float32)
    assert A(torch.zeros(2, 12, 10)).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("boundary", [*SCIPY, "valid"])
def test_one_kernel_for_each_channel(boundary):
    kernels = draw(2, 3, 3, seed=1)
    A = Blur((2, 8, 9), kernels, boundary, per_channel=True)
    x = draw(1, 2, 8, 9)
    for c in (0, 1):
        alone = Blur((1, 8, 9), kernels[c], boundary)(x[:, c : c + 1])
        assert torch.allclose(A(x)[:, c : c + 1], alone, atol=1e-13)
    check_operator(
        Blur((2, 2, 6, 7), torch.stack([gaussian_kernel(0.5), gaussian_kernel(0.6)])[:, 1:-1], boundary, per_channel=True)
    )


def test_kernels_longer_than_the_signal_wrap_around_or_are_refused():
    x, kernel = draw(1, 7), draw(17, seed=1)
    want = torch.from_numpy(ndimage.convolve(x[0].numpy(), kernel.numpy(), mode="wrap"))
    assert torch.allclose(Blur((7,), kernel)(x)[0], want, atol=1e-12)
    want = torch.from_numpy(ndimage.convolve(x[0].numpy(), kernel.numpy(), mode="nearest"))
    assert torch.allclose(Blur((7,), kernel, "replicate")(x)[0], want, atol=1e-12)


def test_svd_of_a_circular_blur_against_a_dense_matrix():
    A = Blur((6, 5), draw(3, 2, seed=1))
    dense = A(torch.eye(30, dtype=torch.float64).reshape(30, 6, 5)).reshape(30, 30).T
    want = torch.linalg.svdvals(dense)
    assert torch.allclose(A.s.flatten().sort(descending=True).values, want, atol=1e-12)
    # real coordinates: white noise in them is white noise in the signal
    V = A.V(torch.eye(30, dtype=torch.float64).reshape(30, 6, 5)).reshape(30, 30)
    assert torch.allclose(V @ V.T, torch.eye(30, dtype=torch.float64), atol=1e-13)


def test_a_kernel_with_zeros_in_its_spectrum_has_an_exact_pseudo_inverse():
    A = Blur((8,), torch.tensor([1.0, -1.0]))  # a difference loses the mean
    assert A.rank == 7
    dense = A(torch.eye(8, dtype=torch.float64)).T
    y = draw(2, 8)
    assert torch.allclose(A.pinv(y), y @ torch.linalg.pinv(dense).T, atol=1e-12)
    check_operator(A)
    gram = 0.7 * dense @ dense.T + 0.2 * torch.eye(8, dtype=torch.float64)
    assert torch.allclose(A.solve(y, 0.7, 0.2), torch.linalg.solve(gram, y.T).T, atol=1e-12)


@pytest.mark.parametrize("boundary", [*SCIPY, "valid"])
def test_a_variance_for_every_measured_value(boundary):
    A = Blur((1, 6, 7), gaussian_kernel(0.6), boundary)
    m = A.out_shape.numel()
    b, noise = draw(2, *A.out_shape), draw(2, *A.out_shape, seed=1).exp()
    dense = A(torch.eye(42, dtype=torch.float64).reshape(42, 1, 6, 7)).reshape(42, m).T
    for i in (0, 1):
        gram = 0.5 * dense @ dense.T + torch.diag(noise[i].flatten())
        want = torch.linalg.solve(gram, b[i].flatten())
        assert torch.allclose(A.solve(b, 0.5, noise)[i].flatten(), want, atol=1e-8)  # CG stops at 1e-10 relative
    x = draw(2, 1, 6, 7, seed=2)
    u = A.prox(x, b, 0.5, noise)
    gradient = A.adjoint((A(u) - b) / noise) + (u - x) / 0.5
    assert gradient.abs().max() < 1e-7


def test_two_circular_blurs_are_one():
    A, B = Blur((2, 9, 8), gaussian_kernel(1.0)), Blur((2, 9, 8), motion_kernel(4, seed=1))
    both = A @ B
    assert isinstance(both, Blur) and isinstance(both, SVDOperator)
    x = draw(1, 2, 9, 8)
    assert torch.allclose(both(x), A(B(x)), atol=1e-14)
    padded = Blur((2, 9, 8), gaussian_kernel(1.0), "reflect")
    assert not isinstance(A @ padded, SVDOperator)
    assert torch.allclose((A @ padded)(x), A(padded(x)), atol=1e-14)


@pytest.mark.parametrize("boundary", [*SCIPY, "valid"])
def test_copies_conversions_and_files(boundary):
    A, x = Blur((2, 6, 7), gaussian_kernel(0.6), boundary), draw(1, 2, 6, 7)
    for other in (copy.deepcopy(A), pickle.loads(pickle.dumps(A)), copy.deepcopy(A).to(torch.float64)):
        assert type(other) is type(A) and torch.equal(other(x), A(x))
    # a module that is made single precision keeps its transfer function complex
    assert torch.allclose(copy.deepcopy(A).to(torch.float32)(x.float()), A(x).float(), atol=1e-6)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"kernel": torch.ones(3, 3), "boundary": "mirror"}, "'circular', 'reflect', 'replicate', 'valid', got 'mirror'"),
        ({"kernel": torch.ones(3, 3, 3, 3)}, "does not fit"),
        ({"kernel": torch.tensor(1.0)}, "does not fit"),
        ({"kernel": "gaussian"}, "kernel of CircularBlur must be a tensor, got 'gaussian'"),
        ({"kernel": torch.ones(3, 3) * 1j}, "real numbers, got torch.complex64"),
        ({"kernel": torch.ones(0, 3)}, "at least one value"),
        ({"kernel": torch.tensor([[float("nan")]])}, "finite"),
        ({"kernel": torch.ones(3, 3, 3), "per_channel": True}, "needs 2 kernels, got 3"),
        ({"kernel": torch.ones(9, 3), "boundary": "valid"}, "too long for an axis of 8"),
        ({"kernel": torch.ones(17, 3), "boundary": "reflect"}, "at most 15"),
    ],
)
def test_bad_options_are_named(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        Blur((2, 8, 8), **options)
