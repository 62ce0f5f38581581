"""The one network of the shipped priors: a norm-free UNet in plain torch, and the EDM denoiser around it.

The UNet is fully convolutional and has no normalisation over space, so weights trained on crops denoise images of any size.
Pixels are folded into channels at the input (pixel-unshuffle) and unfolded at the output, which buys most of the speed.
Residual blocks, summed skips, strided convolutions as in DRUNet (Zhang et al., 2021); noise level by FiLM as in DDPM.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.diffusion import Denoiser, Sigma
from invgen.errors import ShapeError


class ResidualBlock(nn.Module):
    """x + conv(silu(FiLM(conv(x)))); the second convolution starts at zero, so that the block starts as the identity."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: (B, width, H, W); embedding: (B, embedding)."""
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        return x + self.conv2(F.silu(torch.addcmul(shift, self.conv1(x), 1 + scale)))


class UNet(nn.Module):
    """Image and noise level in, image out: (B, C, H, W), (B,) -> (B, C, H, W), for any H and W.

    widths: channels of each resolution, each half the one before. blocks: residual blocks per resolution on the way down,
    and again on the way up. unshuffle: the factor by which pixels are folded into channels. H and W not divisible by
    unshuffle * 2^(levels - 1) are padded by reflection (replication if too small for that) and cropped at the end.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = (64, 96, 128),
        blocks: int = 2,
        unshuffle: int = 2,
        embedding: int = 128,
    ) -> None:
        super().__init__()
        self.options = {"channels": channels, "widths": list(widths), "blocks": blocks}
        self.options |= {"unshuffle": unshuffle, "embedding": embedding}
        self.unshuffle = unshuffle
        self.stride = unshuffle * 2 ** (len(widths) - 1)
        folded = channels * unshuffle**2

        def stage(width: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(width, embedding) for _ in range(blocks))

        self.embed = nn.Sequential(nn.Linear(32, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down = nn.ModuleList(stage(w) for w in widths)
        self.up = nn.ModuleList(stage(w) for w in widths)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.pool = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.head = nn.Conv2d(widths[0], folded, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """x: (B, C, H, W). noise: (B,), a function of the noise level that is of order one (EDM: ln(sigma) / 4)."""
        height, width = x.shape[-2:]
        pad_h, pad_w = -height % self.stride, -width % self.stride
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h), mode="reflect" if pad_h < height and pad_w < width else "replicate")
        embedding = self.embed(_fourier(noise).to(x.dtype))
        h = self.stem(F.pixel_unshuffle(x, self.unshuffle))
        skips = []
        for level, stage in enumerate(self.down):
            for block in stage:
                h = block(h, embedding)
            if level < len(self.pool):
                skips.append(h)
                h = self.pool[level](h)
        for level in reversed(range(len(self.up))):
            for block in self.up[level]:
                h = block(h, embedding)
            if level:
                h = self.grow[level - 1](h) + skips[level - 1]
        return F.pixel_shuffle(self.head(h), self.unshuffle)[..., :height, :width]


def _fourier(noise: Tensor, features: int = 32) -> Tensor:
    """(B,) -> (B, features): cosines and sines at frequencies from 0.25 to 8 radians, in float32 or better."""
    noise = noise.to(torch.promote_types(noise.dtype, torch.float32))
    powers = torch.linspace(math.log(0.25), math.log(8.0), features // 2, device=noise.device, dtype=noise.dtype)
    angles = noise[:, None] * powers.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class EDMDenoiser(Denoiser):
    """D(x, sigma) = m + c_skip (x - m) + c_out net(c_in (x - m), ln(sigma) / 4) (EDM: Karras et al., 2022, Table 1).

    m and data_std are the mean and the standard deviation of a pixel. x is (B, C, H, W) in the prior's units; H and W may
    differ from those of `shape`. The network runs in the dtype of its weights, the combination in float32 or better, so
    that half-precision weights stay accurate at large sigma. Noise levels outside [sigma_min, sigma_max], which training
    did not see, get the embedding of the nearest one that it saw.
    """

    def __init__(self, net: UNet, shape: Sequence[int], **facts: Any) -> None:
        """facts: sigma_min, sigma_max, value_range, data_mean, data_std, as for every `Denoiser`."""
        super().__init__(shape, **facts)
        self.net = net

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        """E[x0 | x0 + sigma eps = x], (B, C, H, W) in the dtype of x. sigma: a number or one per sample, (B,)."""
        if x.ndim != 4 or x.shape[1] != self.shape[0]:
            raise ShapeError(f"the prior denoises (B, {self.shape[0]}, H, W), got {tuple(x.shape)}")
        dtype = torch.promote_types(x.dtype, torch.float32)
        sigma = torch.as_tensor(sigma, dtype=dtype, device=x.device).expand(x.shape[0])
        z, s = x.to(dtype) - self.data_mean, sigma.view(-1, 1, 1, 1)
        total = s**2 + self.data_std**2
        noise = sigma.clamp(self.sigma_min, self.sigma_max).log() / 4
        out = self.net((z * total.rsqrt()).to(self.net.head.weight.dtype), noise).to(dtype)
        return (self.data_mean + self.data_std**2 / total * z + s * self.data_std * total.rsqrt() * out).to(x.dtype)
