"""Phase retrieval, clipping, quantisation and nonlinear blur: exact values, gradients, and what each cannot see."""

import numpy as np
import pytest
import torch

from invgen.errors import OptionError
from invgen.inference.checks import check_operator
from invgen.operators import HighDynamicRange, NonlinearBlur, PhaseRetrieval, Quantize
from invgen.operators.nonlinear_blur import decode_srgb, encode_srgb


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "A",
    [
        PhaseRetrieval((1, 8, 6)),
        PhaseRetrieval((8, 8), oversample=4.0, complex=True),
        HighDynamicRange((3, 5, 4)),
        HighDynamicRange((2, 30), gain=1.0, low=-0.5, high=0.7),
        Quantize((3, 5, 4), 4),
        NonlinearBlur((3, 12, 10)),
        NonlinearBlur((1, 9, 16), length=3.0, rotation=10.0, exposure=2.0, value_range=(0.0, 1.0), seed=3),
    ],
    ids=lambda A: type(A).__name__,
)
def test_contract(A):
    check_operator(A)


# -- phase retrieval


@pytest.mark.parametrize(("oversample", "pad"), [(2.0, 64), (4.0, 128), (0.0, 0)])
def test_padding_is_that_of_the_papers(oversample, pad):
    A = PhaseRetrieval((1, 256, 256), oversample)
    assert A.pad == (pad, pad)
    assert A.out_shape == (1, 256 + 2 * pad, 256 + 2 * pad)


def test_phase_retrieval_is_numpys():
    x = random(2, 3, 16, 8)
    padded = np.pad(x.numpy(), [(0, 0), (0, 0), (4, 4), (2, 2)])
    want = np.abs(np.fft.fftshift(np.fft.fft2(padded, norm="ortho"), (-2, -1)))
    np.testing.assert_allclose(PhaseRetrieval((3, 16, 8))(x).numpy(), want, atol=1e-13)


def test_phase_retrieval_is_an_isometry_blind_to_sign_and_turn():
    x = random(2, 1, 8, 8)
    A = PhaseRetrieval((1, 8, 8))
    torch.testing.assert_close(A(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    torch.testing.assert_close(A(-x), A(x))
    torch.testing.assert_close(A(x.flip(-2, -1)), A(x))


def test_the_magnitude_has_a_finite_gradient_at_zero():
    A = PhaseRetrieval((1, 8, 8))
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(A(x).sum(), x)
    assert (grad == 0).all()
    # a constant has magnitudes of exactly zero next to large ones
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(PhaseRetrieval((1, 8, 8), 0.0)(x).sum(), x)
    assert torch.isfinite(grad).all()


def test_phase_retrieval_gradient():
    assert torch.autograd.gradcheck(PhaseRetrieval((1, 4, 4), 4.0), random(1, 1, 4, 4).requires_grad_())


# -- clip and quantise


def test_hdr_is_the_clip():
    x = torch.tensor([-3.0, -0.5, -0.2, 0.0, 0.4, 0.6, 9.0], requires_grad=True)
    A = HighDynamicRange((7,))
    y = A(x)
    assert torch.equal(y, torch.tensor([-1.0, -1.0, -0.4, 0.0, 0.8, 1.0, 1.0]))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad[0] == 0
    assert grad[2] == 2
    assert grad[-1] == 0


def test_quantize_is_exact_with_the_gradient_of_the_clip():
    A = Quantize((9,), 5)
    assert A.spacing == 0.5
    x = torch.tensor([-7.0, -1.0, -0.74, -0.26, 0.1, 0.26, 0.7, 0.8, 2.0], requires_grad=True)
    y = A(x)
    assert torch.equal(y, torch.tensor([-1.0, -1.0, -0.5, -0.5, 0.0, 0.5, 0.5, 1.0, 1.0]))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad[2:-1], torch.ones(6))
    assert grad[0] == grad[-1] == 0


def test_quantize_levels():
    for levels in (2, 3, 16, 256):
        y = Quantize((10000,), levels, 0.0, 1.0)(torch.linspace(-0.5, 1.5, 10000))
        assert len(y.unique()) == levels
        assert torch.equal(Quantize((10000,), levels, 0.0, 1.0)(y), y)


# -- nonlinear blur


def test_srgb_curves():
    """Anchors of IEC 61966-2-1: the middle grey of 18 % light is the value 0.461, and both curves meet where they join."""
    v = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(encode_srgb(decode_srgb(v)), v, rtol=0, atol=1e-7)
    assert abs(encode_srgb(torch.tensor(0.18, dtype=torch.float64)).item() - 0.4613561) < 1e-6
    assert decode_srgb(torch.tensor(-1.0)) == 0


def test_without_motion_it_is_the_camera_alone():
    x = 2 * torch.rand(2, 3, 12, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    A = NonlinearBlur((3, 12, 9), length=0, rotation=0, exposure=1.0)
    # 1e-6: sRGB's two pieces meet to seven digits, and the identity grid is rounded
    torch.testing.assert_close(A(x), x, rtol=0, atol=1e-6)
    bright = NonlinearBlur((3, 12, 9), length=0, rotation=0, exposure=2.0)(x)
    want = 2 * encode_srgb((2 * decode_srgb((x + 1) / 2)).clamp(max=1)) - 1
    torch.testing.assert_close(bright, want, rtol=0, atol=1e-6)


def test_light_is_conserved_and_highlights_spread():
    """A bright point on black keeps its light, and its trail is brighter than a blur of pixel values would leave it."""
    x = torch.full((1, 1, 65, 65), -1.0, dtype=torch.float64)
    x[..., 32, 32] = 1.0
    A = NonlinearBlur((1, 65, 65), length=8.0, rotation=0.0, exposure=1.0)
    y = A(x)
    light = lambda v: decode_srgb((v + 1) / 2).sum().item()  # noqa: E731
    assert abs(light(y) - 1) < 1e-6
    assert ((y + 1) / 2).sum() > 3
    rows, columns = torch.where(y[0, 0] > -0.999)
    extent = max(rows.max() - rows.min(), columns.max() - columns.min()).item()
    assert 7 <= extent <= 10  # 8 pixels of motion and the width of the interpolation
    # the path is centred: the centre of the light has not moved
    weight = decode_srgb((y[0, 0] + 1) / 2)
    grid = torch.arange(65, dtype=torch.float64)
    assert abs((weight.sum(1) @ grid).item() - 32) < 0.05
    assert abs((weight.sum(0) @ grid).item() - 32) < 0.05


def test_a_turn_keeps_its_angle_on_a_rectangle():
    """In pixels the motion is a rotation whatever the aspect: a grid_sample matrix of one size does not tell."""
    A = NonlinearBlur((1, 20, 50), length=0.0, rotation=30.0)
    to_unit = torch.diag(torch.tensor([50.0, 20.0], dtype=torch.float64))
    for motion in A.motion:
        R = to_unit @ motion[:, :2] @ torch.linalg.inv(to_unit)
        torch.testing.assert_close(R @ R.T, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)
    angle = torch.atan2(A.motion[:, 1, 0] * 20 / 50, A.motion[:, 0, 0]).rad2deg()
    assert abs((angle.max() - angle.min()).item() - 30) < 1e-9


def test_the_path_belongs_to_the_operator():
    state = torch.get_rng_state()
    x = random(1, 3, 16, 16)
    A = NonlinearBlur((3, 16, 16), seed=1)
    assert torch.equal(A(x), NonlinearBlur((3, 16, 16), seed=1)(x))
    assert not torch.equal(A(x), NonlinearBlur((3, 16, 16), seed=2)(x))
    assert torch.equal(state, torch.get_rng_state())


def test_blur_gradient():
    x = 0.5 * random(1, 1, 5, 4).clamp(-1, 1)
    assert torch.autograd.gradcheck(NonlinearBlur((1, 5, 4), length=2.0, exposure=0.8), x.requires_grad_())


def test_gradient_is_finite_at_black_and_white():
    A = NonlinearBlur((1, 6, 6))
    for value in (-1.0, 1.0):
        x = torch.full((1, 1, 6, 6), value, requires_grad=True)
        (grad,) = torch.autograd.grad(A(x).sum(), x)
        assert torch.isfinite(grad).all()


def test_errors():
    with pytest.raises(OptionError, match=r"\(..., H, W\)"):
        PhaseRetrieval((8,))
    with pytest.raises(OptionError, match="low < high"):
        HighDynamicRange((8,), low=1.0, high=-1.0)
    with pytest.raises(OptionError, match="levels of Quantize must be a whole number of at least 2"):
        Quantize((8,), 1)
    with pytest.raises(OptionError, match="in_shape of NonlinearBlur must be 3 whole numbers"):
        NonlinearBlur((8, 8))
    with pytest.raises(OptionError, match="exposure of NonlinearBlur must be a positive number"):
        NonlinearBlur((1, 8, 8), exposure=0.0)
