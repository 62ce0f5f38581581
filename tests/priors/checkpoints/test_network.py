import pytest
import torch

from invgen.conditional import ClassifierFree
from invgen.errors import OptionError, ShapeError
from invgen.priors.checkpoints.networks.unet import EDMDenoiser, LabelDenoiser, UNet, VectorDenoiser, fold, unfold

MEAN, STD = -0.2, 0.5


def denoiser(channels=3, trained=True, dtype=torch.float32):
    """A tiny network; `trained` gives every layer random weights, the zero-initialised ones too."""
    generator = torch.Generator().manual_seed(0)
    net = UNet(channels, widths=(4, 6), blocks=1, unshuffle=2, embedding=8)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.1) * trained)
    facts = {"sigma_min": 0.01, "sigma_max": 50.0, "data_mean": MEAN, "data_std": STD}
    return EDMDenoiser(net, (channels, 16, 16), **facts).to(dtype).requires_grad_(False)


def noise(*shape, dtype=torch.float32, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (37, 51), (5, 3), (1, 1), (2, 131)])
def test_any_size_keeps_its_shape(size):
    out = denoiser()(noise(2, 3, *size), 0.3)
    assert out.shape == (2, 3, *size)
    assert out.isfinite().all()


def test_a_shift_by_the_stride_shifts_the_interior():
    # Nothing in the network looks at the whole image, so weights from crops serve on any size.
    d, x = denoiser(), noise(1, 3, 160, 160)
    shifted = torch.roll(x, (d.net.stride, 2 * d.net.stride), (2, 3))
    inside = (..., slice(64, 96), slice(64, 96))
    expected = torch.roll(d(x, 0.5), (d.net.stride, 2 * d.net.stride), (2, 3))
    torch.testing.assert_close(d(shifted, 0.5)[inside], expected[inside], rtol=0, atol=1e-5)


def test_untrained_it_is_the_wiener_filter_of_white_data():
    # With a silent network only c_skip is left: the posterior mean under N(mean, std^2) pixels.
    d, x = denoiser(trained=False), noise(2, 3, 16, 16)
    for sigma in (0.02, 0.7, 40.0):
        expected = MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)
        torch.testing.assert_close(d(x, sigma), expected, rtol=1e-5, atol=1e-6)


def test_without_noise_it_changes_nothing():
    # |D - x| <= sigma |net| + O(sigma^2): first order in sigma.
    d, x = denoiser(dtype=torch.float64), noise(2, 3, 16, 16, dtype=torch.float64)
    small, smaller = ((d(x, s) - x).abs().max().item() for s in (1e-5, 1e-7))
    assert small < 1e-3
    assert smaller == pytest.approx(small / 100, rel=1e-2)


def test_in_pure_noise_it_stays_of_the_size_of_the_data():
    d, eps = denoiser(), noise(4, 3, 16, 16)
    x0 = d(1e4 * eps, 1e4)
    assert (x0 - MEAN).abs().max() < 10 * STD
    # Only the direction of the noise matters there, not its size.
    torch.testing.assert_close(x0, d(1e6 * eps, 1e6), rtol=0, atol=1e-3)


def test_sigma_as_number_scalar_and_per_sample_agree():
    d, x = denoiser(), noise(3, 3, 16, 16)
    expected = d(x, 0.4)
    torch.testing.assert_close(d(x, torch.tensor(0.4)), expected)
    torch.testing.assert_close(d(x, torch.full((3,), 0.4)), expected)
    mixed = d(x, torch.tensor([0.1, 0.4, 9.0]))
    for k, sigma in enumerate((0.1, 0.4, 9.0)):
        torch.testing.assert_close(mixed[k], d(x[k : k + 1], sigma)[0], rtol=1e-5, atol=1e-5)


def test_the_pullback_is_the_transpose_of_the_derivative():
    d = denoiser(dtype=torch.float64)
    x, u, v = (noise(1, 3, 9, 7, dtype=torch.float64, seed=s) for s in (1, 2, 3))
    step = 1e-5
    forward = (d(x + step * u, 0.3) - d(x - step * u, 0.3)) / (2 * step)
    x0, pullback = d.vjp(x, 0.3)
    torch.testing.assert_close(x0, d(x, 0.3))
    # Central differences err by step^2 times the third derivative.
    assert (pullback(v) * u).sum().item() == pytest.approx((forward * v).sum().item(), rel=1e-6)


def test_precisions():
    d, x = denoiser(), noise(2, 3, 16, 16)
    exact = denoiser(dtype=torch.float64)(x.double(), 0.5)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(d(x, 0.5).double(), exact, rtol=0, atol=1e-5)
    assert d(x.double(), 0.5).dtype == torch.float64
    for dtype, digits in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        low = denoiser(dtype=dtype)
        assert low(x.to(dtype), 0.5).dtype == dtype
        # A half-precision network and a float32 state: rounding of a few layers, also where sigma is large.
        for sigma in (0.5, 50.0):
            error = low(sigma * x, sigma) - d(sigma * x, sigma)
            assert low(sigma * x, sigma).dtype == torch.float32
            assert error.abs().max() < 16 * digits


def test_a_wrong_number_of_channels_is_named():
    with pytest.raises(ShapeError, match=r"\(B, 3, H, W\), got \(2, 1, 8, 8\)"):
        denoiser()(torch.zeros(2, 1, 8, 8), 1.0)


def waves(classes=0):
    generator = torch.Generator().manual_seed(0)
    net = UNet(1, widths=(4, 6), blocks=1, unshuffle=4, embedding=8, classes=classes, dims=1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.1))
    return net.requires_grad_(False)


@pytest.mark.parametrize("length", [64, 61, 5, 1, 1000])
def test_waveforms_of_any_length(length):
    d = EDMDenoiser(waves(), (1, 64), sigma_min=0.01, sigma_max=50.0)
    out = d(noise(2, 1, length), 0.3)
    assert out.shape == (2, 1, length) and out.isfinite().all()
    with pytest.raises(ShapeError, match=r"denoises \(B, 1, L\), got \(2, 1, 8, 8\)"):
        d(noise(2, 1, 8, 8), 0.3)


def test_folding_is_undone():
    for shape in ((2, 3, 12), (2, 3, 12, 8)):
        x = noise(*shape)
        folded = fold(x, 4)
        assert folded.shape == (2, 3 * 4 ** (len(shape) - 2), *(n // 4 for n in shape[2:]))
        assert torch.equal(unfold(folded, 4), x)
    # neighbours in time become channels
    assert fold(torch.arange(8.0).reshape(1, 1, 8), 4)[0, :, 1].tolist() == [4, 5, 6, 7]


def test_labels_are_one_for_each_sample_and_none_is_a_label_too():
    net = UNet(1, widths=(4, 6), blocks=1, unshuffle=2, embedding=8, classes=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    d = LabelDenoiser(net.requires_grad_(False), (1, 8, 8), sigma_min=0.01, sigma_max=50.0)
    x = noise(4, 1, 8, 8)
    whole = d(x, 0.5, torch.tensor([0, 1, 2, 3]))  # 3, the number of classes, is none
    for k in range(3):
        torch.testing.assert_close(whole[k], d.condition(k)(x, 0.5)[k])
    torch.testing.assert_close(whole[3], d(x, 0.5)[3])
    assert (whole[0] - d(x, 0.5)[0]).abs().max() > 1e-3
    guided = ClassifierFree.of(d, 1, scale=3.0)(x, 0.5)
    torch.testing.assert_close(guided, d(x, 0.5) + 3 * (d.condition(1)(x, 0.5) - d(x, 0.5)))
    for wrong in (torch.tensor([0, 1]), torch.zeros(4), torch.zeros(4, 1, dtype=torch.long)):
        with pytest.raises(OptionError, match="one per sample"):
            d(x, 0.5, wrong)
    with pytest.raises(OptionError, match="no class 3: the prior knows 0 to 2"):
        d.condition(3)


def test_a_vector_and_a_class_condition_one_network():
    net = UNet(1, widths=(4, 6), blocks=1, unshuffle=2, embedding=8, classes=3, vector=5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    d = VectorDenoiser(net.requires_grad_(False), (1, 8, 8), sigma_min=0.01, sigma_max=50.0)
    x, vectors = noise(4, 1, 8, 8), torch.randn(4, 5, generator=generator)
    whole = d(x, 0.5, (torch.tensor([0, 1, 2, 3]), vectors))  # 3, the number of classes, is none
    for k in range(3):
        torch.testing.assert_close(whole[k], d.condition((k, vectors[k]))(x, 0.5)[k])
    torch.testing.assert_close(whole[3], d.condition(vectors[3])(x, 0.5)[3])
    torch.testing.assert_close(d(x, 0.5, torch.zeros(5)), d(x, 0.5))  # zeros are no vector
    torch.testing.assert_close(d(x, 0.5, 2), d.condition(2)(x, 0.5))
    assert (whole[3] - d(x, 0.5)[3]).abs().max() > 1e-3
    for wrong in (torch.zeros(4), torch.zeros(3, 5), "a cat", (1, 2), (vectors[0], vectors[1]), 0.5):
        with pytest.raises(OptionError, match="a vector of 5 values, a class from 0 to 2, or"):
            d(x, 0.5, wrong)
    with pytest.raises(OptionError, match="no class 3"):
        d.condition((3, vectors[0]))
    assert net.options["vector"] == 5 and "vector" not in UNet(1, (4,), 1).options  # files of before are as they were
