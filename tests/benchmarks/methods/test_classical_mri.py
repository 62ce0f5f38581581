"""Classical reconstructions of MRI: wavelets against PyWavelets and theory, methods against their equations."""

import numpy as np
import pytest
import torch

import invgen
from invgen import metrics
from invgen.benchmarks.methods import catalogue, wavelets
from invgen.errors import UnsupportedError
from invgen.operators import MRI, Identity, MultiCoilMRI, birdcage_maps, random_mask
from invgen.priors import GaussianPrior

G = torch.Generator


def test_the_filter_is_that_of_daubechies():
    h = np.array(wavelets.daubechies(4))
    # PyWavelets 1.9, Wavelet("db4").dec_lo, in either order
    expected = [0.23037781, 0.71484657, 0.63088077, -0.02798377, -0.18703481, 0.03084138, 0.03288301, -0.01059740]
    assert np.allclose(h, expected, atol=1e-7) or np.allclose(h[::-1], expected, atol=1e-7)
    for moments in (1, 2, 5):
        h = np.array(wavelets.daubechies(moments))
        shifts = [np.dot(h[2 * k :], h[: len(h) - 2 * k]) for k in range(moments)]
        assert np.allclose(shifts, [1.0] + [0.0] * (moments - 1), atol=1e-10), "shifts by two are not orthonormal"


@pytest.mark.parametrize("moments", [1, 4])
def test_the_transform_is_orthogonal(moments):
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64, generator=G().manual_seed(0))
    bands = wavelets.analyse(x, 4, moments)
    assert torch.allclose(wavelets.synthesise(bands, 4, moments), x, atol=1e-12)
    assert torch.allclose(bands.square().sum(), x.square().sum())
    other = torch.randn(x.shape, dtype=x.dtype, generator=G().manual_seed(1))
    back = wavelets.synthesise(other, 4, moments)
    assert torch.allclose((bands * other).sum(), (x * back).sum())  # the inverse is the transpose


def test_the_transform_is_that_of_pywavelets():
    pywt = pytest.importorskip("pywt")
    x = np.random.default_rng(0).random((32, 32))
    bands, _ = pywt.coeffs_to_array(pywt.wavedec2(x, "db4", mode="periodization", level=1))
    theirs = np.sort(np.abs(bands).ravel())
    # the same numbers, in another order: conventions of the filter's direction, its place and signs differ
    places = [np.roll(image, (a, b), (0, 1)) for image in (x, x[::-1, ::-1]) for a in (0, 1) for b in (0, 1)]
    ours = [np.sort(wavelets.analyse(torch.from_numpy(p.copy()), 1, 4).abs().numpy().ravel()) for p in places]
    assert min(np.abs(o - theirs).max() for o in ours) < 1e-10  # round-off of double precision


def test_a_polynomial_has_no_details():
    u = torch.linspace(-1, 1, 64, dtype=torch.float64)
    bands = wavelets.analyse((u**3 - u).expand(64, 64), 1, 4)
    # four vanishing moments: away from the seam of the period (8 taps, so 4 coefficients) a cubic is all coarse
    assert bands[:, 32:-4].abs().max() < 1e-12


def test_shrinking_leaves_what_is_coarse_and_any_size():
    x = torch.rand(1, 1, 23, 18, generator=G().manual_seed(0))
    assert torch.allclose(wavelets.shrink(x, 0.0, (3, 5)), x, atol=1e-5)
    flat = wavelets.shrink(x, 10.0)
    assert flat.shape == x.shape and abs(flat.mean() - x.mean()) < 0.2 * x.mean() and flat.std() < x.std()
    z = torch.complex(x, 2 * x)
    turned = wavelets.shrink(z * 1j, 0.1)
    assert torch.allclose(turned, wavelets.shrink(z, 0.1) * 1j, atol=1e-5), "the phase of coefficients is not kept"


def problem(A, noise=0.02):
    u = torch.linspace(-1, 1, A.in_shape[-1])
    head = ((u[:, None] / 0.9) ** 2 + (u / 0.7) ** 2 < 1).float()
    inner = (((u[:, None] - 0.1) / 0.4) ** 2 + ((u + 0.2) / 0.25) ** 2 < 1).float()
    truth = (head * (0.6 + 0.2 * torch.cos(3 * u)) + 0.2 * inner)[None]
    if A.in_shape[0] == 2:
        truth = torch.cat([truth, 0.3 * truth])
    y = invgen.Gaussian(noise).sample(A(truth), G().manual_seed(0))
    return invgen.Posterior(GaussianPrior(A.in_shape, var=0.1), A, noise, y), truth


def one_coil(channels=1, n=64):
    return MRI((channels, n, n), random_mask(n, 3))


def many(channels=1, n=64):
    return MultiCoilMRI((channels, n, n), random_mask(n, 3), birdcage_maps((6, n, n)))


def test_zero_filling():
    post, _ = problem(one_coil())
    assert torch.equal(catalogue.method("ZeroFilling")(post)[0], post.A.adjoint(post.y[None])[0])


@pytest.mark.parametrize("channels", [1, 2])
def test_sense_explains_the_coils_as_far_as_the_noise_allows(channels):
    post, truth = problem(many(channels))
    x = catalogue.method("SENSE")(post)[0]
    assert post.rows(torch.tensor([0])).residual_over_noise(x[None]) <= 1
    zero = catalogue.method("ZeroFilling")(post)[0]
    assert metrics.psnr(x, truth, data_range=1.0) > metrics.psnr(zero, truth, data_range=1.0) + 0.5
    with pytest.raises(UnsupportedError, match="SENSE needs MultiCoilMRI, got MRI"):
        catalogue.method("SENSE")(problem(one_coil())[0])


@pytest.mark.slow
@pytest.mark.parametrize("A", [one_coil(), one_coil(2), many(2)], ids=["one coil", "complex", "coils"])
def test_wavelets_find_their_weight_by_the_noise(A):
    post, truth = problem(A)
    x = catalogue.method("L1Wavelet(steps=200)")(post)[0]
    # it stops at the first iterate that explains the data; a step changes the residual by a few per cent there
    assert 0.9 < post.rows(torch.tensor([0])).residual_over_noise(x[None]) <= 1
    zero = catalogue.method("ZeroFilling")(post)[0]
    assert metrics.psnr(x, truth, data_range=1.0) > metrics.psnr(zero, truth, data_range=1.0) + 1


def test_wavelets_with_a_weight_minimise_what_they_say():
    """Orthogonal A, no shifts: one step of soft thresholding is the minimum."""
    A = MRI((1, 32, 32), torch.ones(32, 32, dtype=torch.bool))
    post, _ = problem(A)
    x = catalogue.method("L1Wavelet(threshold=0.05, steps=1)")(post)[0]
    image = A.adjoint(post.y[None])
    shift = tuple(np.random.default_rng(0).integers(0, 16, (1, 2))[0].tolist())
    # y has noise in the imaginary part of the image too, which a real image does not see
    assert torch.allclose(x, wavelets.shrink(image, 0.05, shift)[0], atol=1e-5)


def test_they_refuse_what_is_no_k_space():
    A = Identity((1, 16, 16))
    post = invgen.Posterior(GaussianPrior(A.in_shape), A, 0.1, torch.zeros(1, 16, 16))
    for name in ("ZeroFilling", "L1Wavelet"):
        with pytest.raises(UnsupportedError, match=f"{name} needs MRI or MultiCoilMRI, got Identity"):
            catalogue.method(name)(post)
