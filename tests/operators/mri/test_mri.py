"""MRI against numpy.fft and the dense matrix, coil maps against the maps that made the data, masks against their counts."""

import numpy as np
import pytest
import torch

from invgen.errors import OptionError, ShapeError
from invgen.forward import LinearOperator
from invgen.inference.checks import check_operator
from invgen.linalg import dot
from invgen.operators import (
    MRI,
    Fourier,
    MultiCoilMRI,
    birdcage_maps,
    equispaced_mask,
    normalise_maps,
    radial_mask,
    random_mask,
    rss,
    sensitivity_maps,
)


def numpy_fft2c(x):
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, axes), norm="ortho"), axes)


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def masks(height, width):
    lines = random_mask(width, 2, seed=1)
    scattered = torch.rand(height, width, generator=torch.Generator().manual_seed(0)) < 0.4
    return {"lines": lines, "scattered": scattered, "full": torch.ones(height, width)}


# even and odd sizes, because the mirror of k differs between them
SIZES = [(6, 8), (5, 7), (6, 5)]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["lines", "scattered", "full"])
@pytest.mark.parametrize("channels", [0, 1, 2])
def test_single_coil_contract(size, kind, channels):
    mask = masks(*size)[kind]
    A = MRI((channels, *size), mask) if channels else MRI(size, mask, complex=True)
    check_operator(A)


@pytest.mark.parametrize("size", SIZES)
def test_single_coil_is_numpys_transform(size):
    mask = masks(*size)["scattered"]
    x = random(3, *size, dtype=torch.complex128)
    k = numpy_fft2c(x.numpy())[:, mask.numpy()]
    A = MRI(size, mask, complex=True)
    np.testing.assert_allclose(A(x).numpy(), k, atol=1e-13)
    B = MRI((2, *size), mask)
    y = B(torch.stack([x.real, x.imag], 1))
    assert y.shape == (3, int(mask.sum()), 2)
    np.testing.assert_allclose(torch.view_as_complex(y).numpy(), k, atol=1e-13)
    C = MRI((1, *size), mask)
    real = numpy_fft2c(x.real.numpy())[:, mask.numpy()]
    np.testing.assert_allclose(torch.view_as_complex(C(x.real[:, None])).numpy(), real, atol=1e-13)


def test_a_mask_after_the_transform_is_mri():
    """The operator made by composition has the same exact solve."""
    mask = masks(6, 8)["scattered"]
    A = MRI((2, 6, 8), mask)
    F = Fourier((2, 6, 8))
    x = random(2, 2, 6, 8)
    torch.testing.assert_close(A.kspace(A(x)), torch.complex(*F(x).unbind(1)) * mask)


def test_kspace_and_measured_are_inverse():
    mask = masks(6, 8)["lines"]
    for A, dtype in [(MRI((2, 6, 8), mask), torch.float64), (MRI((6, 8), mask, complex=True), torch.complex128)]:
        y = A(random(2, 3, *A.in_shape, dtype=dtype))
        k = A.kspace(y)
        assert k.shape == (2, 3, 6, 8)
        assert (k[..., ~mask] == 0).all()
        assert torch.equal(A.measured(k), y)


def test_the_zero_filled_image_of_a_full_mask_is_the_image():
    A = MRI((2, 6, 8), torch.ones(8))
    assert A.orthogonal
    x = random(2, 2, 6, 8)
    torch.testing.assert_close(A.adjoint(A(x)), x)


@pytest.mark.slow
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("channels", [0, 1, 2])
def test_multi_coil_contract(channels, normalised):
    size, mask = (6, 5), masks(6, 5)["lines"]
    maps = random(3, *size, dtype=torch.complex128)
    maps = normalise_maps(maps) if normalised else maps
    A = MultiCoilMRI((channels, *size), mask, maps) if channels else MultiCoilMRI(size, mask, maps, complex=True)
    assert A.normalised == normalised
    check_operator(A)


def test_multi_coil_is_numpys_transform_of_each_coil_image():
    size, mask = (6, 8), masks(6, 8)["lines"]
    maps, x = random(4, *size, dtype=torch.complex128), random(3, *size, dtype=torch.complex128, seed=1)
    want = numpy_fft2c((maps * x[:, None]).numpy())[..., mask.numpy()].reshape(3, 4, -1)
    A = MultiCoilMRI(size, mask, maps, complex=True)
    np.testing.assert_allclose(A(x).numpy(), want, atol=1e-13)
    B = MultiCoilMRI((2, *size), mask, maps)
    y = B(torch.stack([x.real, x.imag], 1))
    np.testing.assert_allclose(torch.view_as_complex(y).numpy(), want, atol=1e-13)
    assert B.kspace(y).shape == (3, 4, *size)
    assert torch.equal(B.measured(B.kspace(y)), y)


def test_one_coil_of_unit_sensitivity_is_single_coil():
    size, mask = (6, 8), masks(6, 8)["lines"]
    maps = torch.ones(1, *size, dtype=torch.complex64)
    x = random(2, 2, *size)
    torch.testing.assert_close(MultiCoilMRI((2, *size), mask, maps)(x)[:, 0], MRI((2, *size), mask)(x))


def test_normalised_maps_and_full_sampling_give_an_isometry():
    A = MultiCoilMRI((16, 12), torch.ones(12), birdcage_maps((8, 16, 12)).to(torch.complex128), complex=True)
    assert A.normalised
    x = random(2, 16, 12, dtype=torch.complex128)
    torch.testing.assert_close(A.adjoint(A(x)), x, rtol=1e-6, atol=1e-6)  # birdcage_maps are complex64
    half = MultiCoilMRI((16, 12), equispaced_mask(12, 2), birdcage_maps((8, 16, 12)), complex=True)
    assert half.norm() <= 1 + 1e-5


def test_cg_sense_recovers_the_image_from_half_the_lines():
    """Eight coils see every pixel differently: at acceleration 2 SENSE is determined, zero filling is not."""
    size = (24, 24)
    A = MultiCoilMRI(size, equispaced_mask(24, 2, 0.0), birdcage_maps((8, *size)), complex=True)
    x = random(1, *size, dtype=torch.complex128)
    relative = lambda u: (torch.linalg.vector_norm(u - x) / torch.linalg.vector_norm(x)).item()  # noqa: E731
    assert relative(A.pinv(A(x))) < 1e-6
    assert relative(A.adjoint(A(x))) > 0.3


def test_moving_to_double_keeps_the_imaginary_part_of_the_maps():
    maps = birdcage_maps((3, 6, 8))
    A = MultiCoilMRI((2, 6, 8), torch.ones(8), maps).to(torch.float64)
    x = random(1, 2, 6, 8)
    torch.testing.assert_close(A(x), MultiCoilMRI((2, 6, 8), torch.ones(8), maps)(x))


def test_sensitivity_maps_estimate_the_maps_of_smooth_coils():
    """Up to the phase of the object, which is common to all coils; compared where the object has signal."""
    n = 64
    grid = torch.linspace(-1, 1, n, dtype=torch.float64)
    r2 = grid[:, None] ** 2 + grid**2
    image = torch.exp(-2 * r2).to(torch.complex128) * torch.exp(0.5j * grid)
    maps = birdcage_maps((6, n, n)).to(torch.complex128)
    A = MultiCoilMRI((n, n), torch.ones(n), maps, complex=True)
    got = sensitivity_maps(A.kspace(A(image[None])), (16, 16), threshold=0.05)[0]
    inside = r2 < 0.5
    # |<got, maps>| = 1 at a pixel where both unit vectors over the coils agree up to a phase
    agreement = (got.conj() * maps).sum(0).abs()[inside]
    assert agreement.min() > 0.995
    far = torch.linalg.vector_norm(got, dim=0)
    assert ((far - 1).abs() < 1e-9).logical_or(far == 0).all()
    # most of the object's phase, up to 0.35 here, is in the maps: the SENSE image is nearly real
    sense = MultiCoilMRI((n, n), torch.ones(n), normalise_maps(got), complex=True)
    found = sense.adjoint(A(image[None]))[0][inside]
    assert (found.imag.abs() / found.abs()).max() < 0.1


def test_rss():
    x = random(2, 3, 4, 5, dtype=torch.complex128)
    np.testing.assert_allclose(rss(x).numpy(), np.sqrt((np.abs(x.numpy()) ** 2).sum(1)))


@pytest.mark.parametrize(("width", "acceleration", "low"), [(320, 4, 26), (320, 8, 13), (368, 4, 29), (64, 4, 5)])
def test_line_masks_have_fastmris_centre_and_total(width, acceleration, low):
    """center_fraction is 0.08 at acceleration 4 and 0.04 at 8, rounded to lines."""
    start = (width - low + 1) // 2
    for mask in (random_mask(width, acceleration), equispaced_mask(width, acceleration)):
        assert mask.shape == (width,)
        assert mask.dtype == torch.bool
        assert mask[start : start + low].all()
        assert mask[width // 2]
    assert random_mask(width, acceleration).sum() == round(width / acceleration)
    even = equispaced_mask(width, acceleration, offset=1)
    assert even[1::acceleration].all()
    assert (
        even.sum()
        == len(range(1, width, acceleration))
        + low
        - even[1::acceleration][[start <= k < start + low for k in range(1, width, acceleration)]].sum()
    )
    total = equispaced_mask(width, acceleration, keep_total=True).sum().item()
    assert abs(total - width / acceleration) <= 0.02 * width


def test_masks_follow_their_seed_and_leave_the_global_state_alone():
    state = torch.get_rng_state()
    assert torch.equal(random_mask(128, seed=3), random_mask(128, seed=3))
    assert not torch.equal(random_mask(128, seed=3), random_mask(128, seed=4))
    assert torch.equal(state, torch.get_rng_state())


def test_radial_mask():
    mask = radial_mask((33, 33), 2)
    want = torch.zeros(33, 33, dtype=torch.bool)
    want[16], want[:, 16] = True, True
    assert torch.equal(mask, want)
    mask = radial_mask((64, 48), 20, golden=True)
    assert mask[32, 24]
    assert 0.2 < mask.float().mean() < 0.5
    ring = radial_mask((64, 64), 180)
    assert ring[16:48, 16:48].all()  # where 180 spokes are less than a pixel apart nothing is left out


def test_errors():
    mask = torch.ones(8)
    with pytest.raises(OptionError, match=r"\(2, H, W\)"):
        MRI((3, 6, 8), mask)
    with pytest.raises(OptionError, match="complex=True"):
        MRI((2, 6, 8), mask, complex=True)
    with pytest.raises(ShapeError, match="for whole lines"):
        MRI((2, 8, 6), mask)
    with pytest.raises(OptionError, match="measures nothing"):
        MRI((2, 6, 8), torch.zeros(8))
    with pytest.raises(ShapeError, match=r"complex tensor of shape \(coils, 6, 8\)"):
        MultiCoilMRI((2, 6, 8), mask, torch.ones(3, 6, 8))
    with pytest.raises(ShapeError, match="kspace takes"):
        MRI((2, 6, 8), mask).kspace(torch.zeros(7, 2))
    with pytest.raises(ShapeError, match="complex k-space"):
        MRI((2, 6, 8), mask).measured(torch.zeros(6, 8))
    with pytest.raises(OptionError, match="acceleration"):
        random_mask(64, 0)
    with pytest.raises(OptionError, match="center_fraction of random_mask must be"):
        random_mask(64, 4, 1.5)
    with pytest.raises(OptionError, match="lower center_fraction"):
        equispaced_mask(64, 8, 0.2, keep_total=True)
    with pytest.raises(OptionError, match="offset"):
        equispaced_mask(64, 4, offset=4)
    with pytest.raises(OptionError, match="spoke"):
        radial_mask((8, 8), 0)
    with pytest.raises(OptionError, match="center must lie"):
        sensitivity_maps(torch.zeros(2, 8, 8, dtype=torch.complex64), (9, 4))
    with pytest.raises(ShapeError, match="complex k-space"):
        sensitivity_maps(torch.zeros(2, 8, 8), (4, 4))


@pytest.mark.parametrize("channels", [0, 1, 2])
def test_volumes_are_numpys_transform_of_three_axes(channels):
    size = (3, 4, 5)
    x, maps = random(2, *size, dtype=torch.complex128), random(3, *size, dtype=torch.complex128, seed=1)
    x = x.real + 0j if channels == 1 else x
    signal = x if not channels else torch.stack([x.real, x.imag][:channels], 1)
    shape, kind = ((channels, *size) if channels else size), {"complex": not channels}
    for mask in (masks(4, 5)["lines"], masks(4, 5)["scattered"], torch.rand(size) < 0.5):
        k = numpy_fft2c(x.numpy())
        k = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(k, 1), axis=1, norm="ortho"), 1)[:, mask.expand(size).numpy()]
        A = MRI(shape, mask, **kind)
        y = A(signal)
        np.testing.assert_allclose((torch.view_as_complex(y) if channels else y).numpy(), k, atol=1e-13)
        # the exact solve of either: the adjoint is the transpose, and singular values are those of the transform
        u = A.prox(signal, 2 * y, 0.5, 0.1)
        torch.testing.assert_close(
            A.adjoint(A(u) - 2 * y) / 0.1 + (u - signal) / 0.5, torch.zeros_like(u), atol=1e-12, rtol=0
        )
        assert A.kspace(y).shape == (2, *size) and torch.equal(A.measured(A.kspace(y)), y)
    B = MultiCoilMRI(shape, mask, maps, **kind)
    y = B(signal)
    one = MRI(size, mask, complex=True)
    torch.testing.assert_close(
        torch.view_as_complex(y) if channels else y, one((maps * x[:, None]).flatten(0, 1)).reshape(2, 3, -1)
    )
    left, right = (B(signal).conj() * y).sum().real, (signal.conj() * B.adjoint(y)).sum().real
    assert left.item() == pytest.approx(right.item(), rel=1e-12)


def test_the_adjoint_of_a_real_image_is_real():
    A = MRI((1, 6, 8), masks(6, 8)["scattered"])
    x, y = random(2, 1, 6, 8), random(2, *A.out_shape, seed=1)
    torch.testing.assert_close(dot(A(x), y).flatten(), dot(x, A.adjoint(y)).flatten())


@pytest.mark.parametrize("shape", [(7, 9), (8, 6), (3, 4, 5)])
@pytest.mark.parametrize("whole", [True, False])
def test_coils_are_measured_as_one_coil_is(shape, whole):
    """Without shifts of the coils, and by transforms of measured lines alone: the same numbers in the same order."""
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(shape[-1:] if whole else shape, generator=g) > 0.5
    mask[..., 0] = True
    maps = torch.randn(3, *shape, dtype=torch.complex128, generator=g)
    A = MultiCoilMRI((2, *shape), mask, maps).to(torch.float64)
    one = MRI((2, *shape), mask).to(torch.float64)
    x = torch.randn(2, 2, *shape, dtype=torch.float64, generator=g)
    coils = maps * torch.complex(x[:, 0], x[:, 1])[:, None]
    want = torch.stack([one(torch.stack([c.real, c.imag], 1)) for c in coils.unbind(1)], 1)
    # sums of a few hundred terms of order one in double precision
    torch.testing.assert_close(A(x), want, rtol=0, atol=1e-13)
    torch.testing.assert_close(A._gram(x), A.adjoint(A(x)), rtol=0, atol=1e-12)
    y = torch.randn(want.shape, dtype=torch.float64, generator=g)
    # both solves stop at a relative residual of 1e-10, which the smallest eigenvalue, 0.1, multiplies
    among_coils = LinearOperator.weighted_adjoint(A, y, 1.3, 0.1)
    torch.testing.assert_close(A.weighted_adjoint(y, 1.3, 0.1), among_coils, rtol=0, atol=1e-7)
