"""Classical denoisers and DnCNN, the rows beside a prior in its card. All know the level of noise."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import MissingExtraError
from invgen.priors.checkpoints.networks import dncnn

Denoise = Callable[[Tensor, float], Tensor | None]  # of (1, C, H, W) or (1, 1, L); None: not for this level of noise
SLOW = {"BM3D": 50, "DnCNN": 50}  # up to how many signals they are run on


def baselines(waves: bool, value_range: tuple[float, float], count: int = 1) -> dict[str, Denoise]:
    """Those for images, or for waveforms, whose package or weights are at hand; the slow ones for few signals only."""
    if waves:
        return {"noisy": noisy, "spectral Wiener": spectral_wiener}
    found: dict[str, Denoise] = {"noisy": noisy, "Wiener": wiener}
    if find_spec("bm3d"):
        found["BM3D"] = partial(bm3d, value_range=value_range)
    if dncnn.at_hand():
        found["DnCNN"] = partial(dncnn.dncnn, value_range=value_range)
    return {name: method for name, method in found.items() if count <= SLOW.get(name, count)}


def noisy(x: Tensor, sigma: float) -> Tensor:
    """No denoising."""
    return x


def wiener(x: Tensor, sigma: float) -> Tensor:
    """Returns scipy's local Wiener filter, 5 x 5, knowing the noise variance. (1, C, H, W)."""
    from scipy.signal import wiener as local_wiener

    planes = [torch.from_numpy(local_wiener(p.double().numpy(), 5, sigma**2)) for p in x[0]]
    return torch.stack(planes)[None].to(x.dtype)


def spectral_wiener(x: Tensor, sigma: float) -> Tensor:
    """Returns a Wiener filter on a short-time Fourier transform, knowing the noise variance, (1, 1, L).

    The power of the signal is that of the noisy one, averaged over 3 x 3 bins, less that of the noise: power spectral
    subtraction.
    """
    window = torch.hann_window(512, dtype=x.dtype)
    bins = torch.stft(x[:, 0], 512, 128, window=window, return_complex=True)
    noise = sigma**2 * window.square().sum()
    power = F.avg_pool2d(bins.abs().square()[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    gain = (1 - noise / power.clamp_min(1e-20)).clamp_min(0.0)
    return torch.istft(bins * gain, 512, 128, window=window, length=x.shape[-1])[:, None]


def bm3d(x: Tensor, sigma: float, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Returns BM3D (Dabov et al., 2007; colour: CBM3D) of the package `bm3d`, knowing sigma. (1, C, H, W)."""
    try:
        import bm3d as package  # pyright: ignore[reportMissingImports]  (installed for the cards alone)
    except ImportError as error:
        raise MissingExtraError("the BM3D baseline needs the package bm3d: pip install bm3d") from error
    low, width = value_range[0], value_range[1] - value_range[0]
    image = (x[0].permute(1, 2, 0).double().numpy() - low) / width
    clean = package.bm3d_rgb(image, sigma / width) if image.shape[2] == 3 else package.bm3d(image[..., 0], sigma / width)
    return torch.from_numpy(clean.reshape(image.shape) * width + low).permute(2, 0, 1)[None].to(x.dtype)
