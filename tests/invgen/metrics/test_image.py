"""PSNR, SSIM and NRMSE against skimage and torchmetrics, at three sizes and two ranges."""

import numpy as np
import pytest
import torch

from invgen.errors import OptionError, ShapeError
from invgen.metrics import nrmse, psnr, ssim

SIZES = [(16, 16), (64, 48), (128, 128)]
RANGES = [1.0, 2.0]


def images(size, data_range, batch=3, channels=3, dtype=torch.float64):
    """Smooth images with noise, spanning about the range: neither flat nor white, so that all terms of SSIM matter."""
    g = torch.Generator().manual_seed(sum(size))
    coarse = torch.rand(batch, channels, 5, 5, generator=g, dtype=torch.float64)
    truth = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
    estimate = truth + 0.1 * torch.randn(truth.shape, generator=g, dtype=torch.float64)
    return (data_range * estimate - data_range / 2).to(dtype), (data_range * truth - data_range / 2).to(dtype)


def ends(data_range):
    """The value range of `images`."""
    return -data_range / 2, data_range / 2


def scaled(metric, data_range):
    """How a metric is told the scale of `images`."""
    return {"value_range": ends(data_range)} if metric is ssim else {"data_range": data_range}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("data_range", RANGES)
def test_psnr_is_skimages_per_image(size, data_range):
    from skimage.metrics import peak_signal_noise_ratio

    x, y = images(size, data_range)
    want = [peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=data_range) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(psnr(x, y, data_range=data_range).numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("data_range", RANGES)
def test_psnr_is_torchmetrics_for_one_image(data_range):
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x, y = images((32, 40), data_range)
    want = [peak_signal_noise_ratio(a, b, data_range=data_range).item() for a, b in zip(x, y, strict=True)]
    # torchmetrics keeps its logarithms in single precision
    np.testing.assert_allclose(psnr(x, y, data_range=data_range).numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("data_range", RANGES)
def test_nrmse_is_skimages(size, data_range):
    from skimage.metrics import normalized_root_mse

    x, y = images(size, data_range)
    pairs = list(zip(x.numpy(), y.numpy(), strict=True))
    relative = [normalized_root_mse(b, a) for a, b in pairs]
    np.testing.assert_allclose(nrmse(x, y, data_range=None).numpy(), relative, rtol=1e-12)
    ranged = [normalized_root_mse(b, a, normalization="min-max") * (b.max() - b.min()) / data_range for a, b in pairs]
    np.testing.assert_allclose(nrmse(x, y, data_range=data_range).numpy(), ranged, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("data_range", RANGES)
def test_ssim_valid_is_skimages(size, data_range):
    from skimage.metrics import structural_similarity

    x, y = images(size, data_range)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0}
    # skimage takes a range alone: it is meant for images whose black is 0
    pairs = [(a.numpy() + data_range / 2, b.numpy() + data_range / 2) for a, b in zip(x, y, strict=True)]
    want = [structural_similarity(b, a, data_range=data_range, **options) for a, b in pairs]
    np.testing.assert_allclose(ssim(x, y, value_range=ends(data_range)).numpy(), want, atol=1e-12)
    single = ssim(x.float(), y.float(), value_range=ends(data_range))
    np.testing.assert_allclose(single.numpy(), want, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("data_range", RANGES)
def test_ssim_reflect_is_torchmetrics(size, data_range):
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = images(size, data_range)
    black_is_zero = [image + data_range / 2 for image in (x, y)]
    want = structural_similarity_index_measure(*black_is_zero, data_range=data_range, reduction="none")
    np.testing.assert_allclose(
        ssim(x, y, value_range=ends(data_range), boundary="reflect").numpy(), want.numpy(), atol=1e-12
    )


def test_ssim_of_volumes_and_lines_is_skimages():
    from skimage.metrics import structural_similarity

    g = torch.Generator().manual_seed(0)
    for shape in [(2, 12, 13, 14), (2, 40)]:
        x, y = torch.rand(2, *shape, generator=g, dtype=torch.float64)
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0}
        want = structural_similarity(y.numpy(), x.numpy(), data_range=1.0, **options)
        assert abs(ssim(x, y, value_range=(0, 1), dims=len(shape)).item() - want) < 1e-12


def test_ssim_does_not_depend_on_the_units():
    """The camera picture at 0.9 of its brightness: .9921 in any units; a range without its black gave .804 in [-1, 1]."""
    from skimage import data
    from skimage.metrics import structural_similarity

    grey = data.camera().astype(float)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    want = structural_similarity(grey, 0.9 * grey, data_range=255.0, **options)
    y = torch.from_numpy(grey)[None]
    for low, high in [(0.0, 255.0), (0.0, 1.0), (-1.0, 1.0), (-1024.0, 3071.0)]:
        scale = (high - low) / 255
        found = ssim(scale * 0.9 * y + low, scale * y + low, value_range=(low, high)).item()
        assert abs(found - want) < 1e-9 and abs(want - 0.9921) < 1e-4


def test_ssim_in_hounsfield_units_keeps_its_digits_in_single_precision():
    x, y = images((32, 32), 4000.0)
    hounsfield = {"value_range": ends(4000.0)}
    assert (ssim(x.float(), y.float(), **hounsfield).double() - ssim(x, y, **hounsfield)).abs().max() < 1e-6


def test_samples_broadcast_against_one_truth_and_batches_do_not_mix():
    x, y = images((24, 24), 2.0, batch=4)
    for metric in (psnr, ssim, nrmse):
        together = metric(x.reshape(2, 2, 3, 24, 24), y[:2], **scaled(metric, 2.0))
        assert together.shape == (2, 2)
        alone = metric(x[3], y[1], **scaled(metric, 2.0))
        assert alone.shape == ()
        torch.testing.assert_close(together[1, 1], alone, rtol=1e-13, atol=0)


@pytest.mark.parametrize("metric", [psnr, ssim, nrmse])
def test_gradients(metric):
    x, y = images((13, 12), 1.0, batch=1, channels=1)
    assert torch.autograd.gradcheck(lambda v: metric(v, y, **scaled(metric, 1.0)), x.requires_grad_(), eps=1e-6, atol=1e-5)


def test_complex_signals():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, 8, 8, generator=g, dtype=torch.complex128)
    real = [torch.view_as_real(v) for v in (x, y)]
    # the mean runs over complex values: twice the mean over real and imaginary parts
    want = psnr(*real, data_range=1.0, dims=4) - 10 * np.log10(2)
    torch.testing.assert_close(psnr(x, y, data_range=1.0), want)
    torch.testing.assert_close(nrmse(x, y, data_range=None), nrmse(*real, data_range=None, dims=4))
    with pytest.raises(ShapeError, match="complex"):
        ssim(x.repeat(1, 2, 2), y.repeat(1, 2, 2), value_range=(0, 1))


def test_equal_images():
    x, _ = images((16, 16), 1.0)
    assert torch.isinf(psnr(x, x, data_range=1.0)).all()
    torch.testing.assert_close(ssim(x, x, value_range=(0, 1)), torch.ones(3, dtype=torch.float64))
    assert (nrmse(x, x, data_range=1.0) == 0).all()


@pytest.mark.parametrize("metric", [psnr, ssim, nrmse])
def test_errors(metric):
    x, y = images((16, 16), 1.0)
    with pytest.raises(TypeError, match="_range"):
        metric(x, y)
    for bad in (0.0, -1.0, float("nan"), float("inf"), True, "1"):
        if metric is not ssim:
            with pytest.raises(OptionError, match="data_range of .* must be a (positive|finite) number"):
                metric(x, y, data_range=bad)
    with pytest.raises(ShapeError, match="the last 3 axes must be equal"):
        metric(x[..., :-1], y, **scaled(metric, 1.0))
    with pytest.raises(ShapeError, match="others must broadcast"):
        metric(x[:2], y, **scaled(metric, 1.0))
    with pytest.raises(ShapeError, match="dims=3 axes"):
        metric(x[0, 0], y[0, 0], **scaled(metric, 1.0))
    assert torch.equal(metric(x.numpy(), y.numpy(), **scaled(metric, 1.0)), metric(x, y, **scaled(metric, 1.0)))
    with pytest.raises(ShapeError, match="dtype torch.uint8"):
        metric(x.byte(), y, **scaled(metric, 1.0))


def test_ssim_errors():
    x, y = images((16, 16), 1.0)
    with pytest.raises(ShapeError, match="at least 11 pixels"):
        ssim(x[..., :10], y[..., :10], value_range=(0, 1))
    assert ssim(x[..., :6], y[..., :6], value_range=(0, 1), boundary="reflect").shape == (3,)
    with pytest.raises(ShapeError, match="at least 6 pixels"):
        ssim(x[..., :5], y[..., :5], value_range=(0, 1), boundary="reflect")
    with pytest.raises(OptionError, match="boundary of ssim must be one of 'valid', 'reflect', got 'same'"):
        ssim(x, y, value_range=(0, 1), boundary="same")
    with pytest.raises(ShapeError, match="channel axis"):
        ssim(x, y, value_range=(0, 1), dims=1)
    for bad in ((1, -1), (0, 0), (0, float("nan")), 2.0, None, (0, 1, 2), "ab"):
        with pytest.raises(OptionError, match="value_range"):
            ssim(x, y, value_range=bad)
