"""Plug-and-play with a published network (DnCNN of one level, KAIR) and on a measured camera shake (Levin et al., 2009)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from invgen import Gaussian, Posterior, priors, samplers
from invgen.files import pickles
from invgen.operators import Blur

pytestmark = [pytest.mark.data, pytest.mark.slow]
Find = Callable[[str], Path]


class DnCNN(nn.Module):
    """Zhang et al. (2017): 17 convolutions that predict the noise, batch normalisation multiplied into them."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, *[64] * 16, 1]
        layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, widths[1:], strict=False)]
        self.model = nn.Sequential(*[m for layer in layers for m in (layer, nn.ReLU())][:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x - self.model(x)


def photograph(find: Find, mode: str, size: int) -> Tensor:
    """The middle of a photograph, in [0, 1]."""
    from PIL import Image

    image = np.asarray(Image.open(find("bsds500/val/101085.jpg")).convert(mode), dtype=np.float32) / 255
    image = torch.as_tensor(image).reshape(*image.shape[:2], -1).permute(2, 0, 1)
    top, left = ((n - size) // 2 for n in image.shape[1:])
    return image[:, top : top + size, left : left + size].contiguous()


def kernel(find: Find, number: int) -> Tensor:
    import h5py

    with h5py.File(find("measured/levin2009/Levin09.mat")) as file:
        return torch.tensor(np.array(file[np.ravel(file["kernels"])[number]]).T.astype(np.float32))


def psnr(x: Tensor, truth: Tensor, width: float = 1.0) -> float:
    return (-10 * ((x - truth) / width).square().mean().log10()).item()


def measured(A: Blur, x: Tensor, sigma: float) -> Tensor:
    return Gaussian(sigma).sample(A(x), torch.Generator().manual_seed(0))


def test_a_published_denoiser_of_one_level_deblurs(field_data):
    net = DnCNN()
    net.load_state_dict(pickles.read(field_data("checkpoints/dncnn_25.pth")))
    prior = priors.from_denoiser(net.requires_grad_(False), (1, 64, 64), level=25 / 255, value_range=(0, 1), data_mean=0.45)
    x = photograph(field_data, "L", 64)
    A = Blur((1, 64, 64), torch.full((2, 2), 0.25))
    y = measured(A, x, 0.02)
    post = Posterior(prior, A, Gaussian(0.02), y)
    gain = {s: psnr(samplers.get(s)(steps=30)(post)[0], x) - psnr(y, x) for s in ("PnPADMM", "RED")}
    # measured: 5.0 and 2.2 dB; on three other photographs 4.2 to 7.9 dB by PnPADMM
    assert gain["PnPADMM"] > 3 and gain["RED"] > 1, gain


def test_dpir_is_ahead_of_a_posterior_sample_on_a_measured_kernel(field_data):
    # a sample of the posterior has twice the squared error of its mean: 3 dB less than the best image
    x = 2 * photograph(field_data, "RGB", 64) - 1
    prior = priors.load("photo", x.shape)
    A = Blur(x.shape, kernel(field_data, 4))
    y = measured(A, x, 0.04)
    post = Posterior(prior, A, Gaussian(0.04), y)
    tried = (samplers.DPIR(), samplers.DiffPIR(steps=20), samplers.DiffPIR(steps=20, zeta=1.0), samplers.MMPS(steps=10))
    found = {s: psnr(s(post)[0], x, 2.0) for s in tried}
    # measured: 29.3, 25.1, 28.2 and 27.1 dB, from 22.7; MMPS over five seeds 27.1 to 27.6, the mean of eight samples 28.7
    dpir, diffpir, fresh, mmps = found.values()
    assert dpir > mmps + 1.3, found  # the best image is 29.3 dB, a sample of a true posterior at most 3 dB below it
    assert mmps > dpir - 3, found
    assert min(diffpir, fresh, mmps) > psnr(y, x, 2.0) + 1.5 and dpir > psnr(y, x, 2.0) + 3, found
