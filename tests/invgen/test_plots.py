"""Pictures of posteriors: of any rank of signal, whole or not written."""

import numpy as np
import pytest
import torch
from PIL import Image

from invgen import Gaussian, operators, plots, priors, samplers, solve
from invgen.plots import as_picture

SAMPLER = samplers.DAPS(steps=2)


def result(A, batch=(), num_samples=3):
    prior = priors.GaussianPrior(shape=tuple(A.in_shape))
    y = Gaussian(0.1).sample(torch.zeros(*batch, *A.out_shape), torch.Generator().manual_seed(0))
    return solve(y, A, prior, 0.1, SAMPLER, num_samples=num_samples)


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.mark.slow
def test_all_panels(tmp_path):
    r = result(operators.Blur((3, 16, 16), operators.gaussian_kernel(1.0)))
    truth = torch.zeros(3, 16, 16)
    figure = plots.show_posterior(r, truth, ("Wiener", r.mean), tmp_path / "a.png", num_samples=2, title="all")
    (low, high), mse = r.posterior.prior.value_range, r.mean.square().mean()
    decibel = f"{10 * torch.log10((high - low) ** 2 / mse):.1f} dB"
    assert titles(figure) == [
        "measurement",
        f"Wiener, {decibel}",
        "sample 1",
        "sample 2",
        f"mean of 3, {decibel}",
        "standard deviation",
        "truth",
    ]
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 5 * picture.height
        assert np.asarray(picture).std() > 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, batch, first",
    [
        (lambda: operators.Identity((32,)), (), "measurement"),
        (lambda: operators.Identity((1, 32)), (), "measurement"),
        (lambda: operators.Identity((1, 4, 8, 8)), (), "measurement"),
        (lambda: operators.Downsample((3, 16, 16), 2), (2,), "measurement"),
        (lambda: operators.Mask.random((3, 16, 16), 0.5), (), "measurement ($A^T y$)"),
        (lambda: operators.ParallelBeamCT((1, 16, 16), num_angles=5), (2, 2), "measurement"),
        (lambda: operators.Fourier((2, 16, 16)), (), "measurement"),
    ],
)
def test_any_signal_and_any_batch(make, batch, first, tmp_path):
    r = result(make(), batch, num_samples=1)
    figure = plots.show_posterior(r, path=tmp_path / "a.png", index=max(1, torch.Size(batch).numel()) - 1)
    assert titles(figure) == [first, "sample 1", "mean of 1"]


def test_the_index_chooses_the_measurement():
    r = result(operators.Identity((1, 8, 8)), (2,), num_samples=2)
    shown = [plots.show_posterior(r, index=k).axes[1].images[0].get_array() for k in (0, 1)]
    for k, image in enumerate(shown):
        low, high = r.posterior.prior.value_range
        expected = ((r.samples[0, k, 0] - low) / (high - low)).clamp(0, 1)
        assert np.allclose(image, expected, atol=1e-6)


def test_as_picture():
    assert as_picture(torch.zeros(3, 4, 5)).shape == (4, 5, 3)
    assert as_picture(torch.zeros(1, 4, 5)).shape == (4, 5)
    assert as_picture(torch.zeros(1, 7)).shape == (7,)
    assert as_picture(torch.zeros(2, 6, 4, 5)).shape == (4, 5)
    two = torch.tensor([3.0, 4.0]).reshape(2, 1, 1).expand(2, 4, 5)  # real and imaginary part
    assert torch.allclose(as_picture(two), torch.full((4, 5), 5.0))
    assert torch.allclose(as_picture(torch.complex(two[:1], two[1:])), torch.full((4, 5), 5.0))


def test_save_picture_maps_the_value_range(tmp_path):
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 5)
    plots.save_picture(x.expand(1, 2, 5), (-1.0, 1.0), tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png"))[0].tolist() == [0, 0, 128, 255, 255]
