"""Latent diffusion: x = decode(z) with the decoder of an autoencoder and a diffusion prior over its codes z.

Rombach, Blattmann, Lorenz, Esser & Ommer, "High-resolution image synthesis with latent diffusion models" (CVPR 2022). It is
a pushforward prior like any other: each sampler that takes a nonlinear operator draws codes and decodes them, and PSLD and
ReSample use the encoder too.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from invgen.conditional import ClassifierFree, Conditional
from invgen.diffusion import Denoiser
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.pushforward import Generator
from invgen.validation.hints import Interval


class Autoencoder(nn.Module):
    """An autoencoder of the diffusers library, in the units of the diffusion over its codes.

    z = (E(x) - shift) scale and x = D(z / scale + shift), with `scaling_factor` and `shift_factor` of its configuration;
    where that has `latents_mean` and `latents_std`, one per channel, z = (E(x) - mean) scale / std. E is the mode of the
    posterior (AutoencoderKL), or the code itself (VQModel before quantisation, AutoencoderTiny, AutoencoderDC).

    The network is evaluated in its own precision, whatever that of z and x.

    Args:
        network: with `encode`, `decode` and `config`.
        quantize: of a VQModel, decode the nearest codewords, as trained; their gradient passes straight through to z. False
            decodes z as it is (`force_not_quantize`).
    """

    network: Any  # torch knows nothing of encode, decode and config

    def __init__(self, network: nn.Module, quantize: bool = True) -> None:
        super().__init__()
        missing = [name for name in ("encode", "decode", "config") if not hasattr(network, name)]
        if missing:
            raise UnsupportedError(
                f"{type(network).__name__} has no {', '.join(missing)}; expected an autoencoder of diffusers, such as "
                "AutoencoderKL, AutoencoderTiny, AutoencoderDC or VQModel"
            )
        config: Any = network.config
        if config.get("lookup_from_codebook"):
            raise UnsupportedError("this VQModel decodes token numbers, over which there is no diffusion of real codes")
        self.network, self.quantize = network, bool(quantize)
        self.has_codebook = hasattr(network, "quantize")
        if not quantize and not self.has_codebook:
            raise OptionError(f"quantize=False is for a VQModel, and {type(network).__name__} has no codebook")
        self.channels = int(config.get("vq_embed_dim") or config["latent_channels"])
        self.stride = _stride(network)
        # one affine map for all conventions: E(x) = spread z + centre
        scale = config.get("scaling_factor") or 1.0
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            mean, std = [config.get("shift_factor") or 0.0], [1.0]
        if len(std) not in (1, self.channels) or len(mean) != len(std):
            raise UnsupportedError(
                f"the autoencoder has {self.channels} channels of codes but latents_mean of {len(mean)} and latents_std of "
                f"{len(std)} values"
            )
        # numbers rather than buffers, which half() would round
        self.centre, self.spread = tuple(map(float, mean)), tuple(s / scale for s in std)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def decode(self, z: Tensor) -> Tensor:
        """Returns the image of a code: (B, channels, h, w) -> (B, C, stride h, stride w), differentiable."""
        code = (z * _channels(self.spread, z) + _channels(self.centre, z)).to(self.dtype)
        if self.has_codebook:
            return self.network.decode(code, force_not_quantize=not self.quantize).sample.to(z.dtype)
        return self.network.decode(code).sample.to(z.dtype)

    def encode(self, x: Tensor) -> Tensor:
        """Returns the code of an image: (B, C, H, W) -> (B, channels, H / stride, W / stride), differentiable."""
        out = self.network.encode(x.to(self.dtype))
        if hasattr(out, "latent_dist"):
            code = out.latent_dist.mode()
        else:
            code = out.latents if hasattr(out, "latents") else out.latent
        return (code.to(x.dtype) - _channels(self.centre, x)) / _channels(self.spread, x)


def _channels(values: tuple[float, ...], like: Tensor) -> float | Tensor:
    """Returns numbers per channel of the code, ready to be broadcast."""
    return values[0] if len(values) == 1 else like.new_tensor(values).reshape(-1, 1, 1)


def _stride(network: Any) -> int:
    """Returns the number of pixels along an axis for one code."""
    ratio = getattr(network, "spatial_compression_ratio", None)  # AutoencoderDC, whose blocks are of several kinds
    if ratio is not None:
        return int(ratio)
    for key in ("block_out_channels", "down_block_out_channels"):
        if network.config.get(key):
            return 2 ** (len(network.config[key]) - 1)
    raise UnsupportedError(f"{type(network).__name__} does not say by how much it shrinks an image")


class LatentDiffusion(Generator):
    """x = decode(z), z from a diffusion prior over the codes of an autoencoder.

    Args:
        autoencoder: an `Autoencoder`, or a network that it takes.
        latent: the denoiser over codes, in the units of the diffusion; conditional, `condition` and `guided` work.
        quantize: see `Autoencoder`.
        facts: value_range ((-1, 1), diffusers' convention), data_mean, data_std of the images.
    """

    def __init__(self, autoencoder: nn.Module, latent: Denoiser, *, quantize: bool = True, **facts: Any) -> None:
        if not isinstance(autoencoder, Autoencoder):
            autoencoder = Autoencoder(autoencoder, quantize)
        if len(latent.shape) != 3 or latent.shape[0] != autoencoder.channels:
            raise ShapeError(
                f"the denoiser is over {tuple(latent.shape)} but the autoencoder's codes are "
                f"({autoencoder.channels}, height, width)"
            )
        config, (_, height, width) = autoencoder.network.config, latent.shape
        channels = config.get("out_channels") or config["in_channels"]
        shape = (channels, autoencoder.stride * height, autoencoder.stride * width)
        super().__init__(shape, latent, **{"data_std": 0.5, **facts})
        self.autoencoder = autoencoder

    def forward(self, z: Tensor) -> Tensor:
        """Returns the image of a code, not clamped: (B, *latent_shape) -> (B, *shape)."""
        return self.autoencoder.decode(z)

    def encode(self, x: Tensor) -> Tensor:
        """Returns the code of an image: (B, *shape) -> (B, *latent_shape)."""
        return self.autoencoder.encode(x)

    def over(self, latent: Denoiser) -> "LatentDiffusion":
        """Returns the same decoder over another denoiser of its codes."""
        return LatentDiffusion(
            self.autoencoder,
            latent,
            value_range=self.value_range,
            data_mean=self.data_mean,
            data_std=self.data_std,
            sampling_rate=self.sampling_rate,
        )

    @torch.no_grad()
    def measure(self, x0: Tensor) -> "LatentDiffusion":
        """Sets data_mean and data_std, of images and of codes, by those of images x0, (B, *shape), and returns self.

        For autoencoders without a scaling_factor that makes codes of size 1, such as those of DM4CT. Conditions come after.
        """
        for prior, values in ((self, x0), (self.latent, self.encode(x0))):
            prior.data_mean, prior.data_std = values.mean().item(), max(values.std().item(), 1e-6)
        return self

    def condition(self, condition: Any) -> "LatentDiffusion":
        """Returns p(x | condition): a prompt, its `TextEmbedding`, a tensor of embeddings, a class: what the latent
        prior takes.

        Raises:
            UnsupportedError: the latent prior is unconditional.
        """
        return self.over(self._conditional().condition(condition))

    def guided(
        self,
        condition: Any,
        scale: float = 7.5,
        negative: Any = None,
        interval: Interval = (0.0, math.inf),
    ) -> "LatentDiffusion":
        """Returns the classifier-free guidance towards a condition, away from `negative` (by default the unconditional
        prior).

        Args:
            scale: diffusers' `guidance_scale`; 1 is p(x | condition).
            interval: the noise levels, in units of the code, within which to guide; see `ClassifierFree`.
        """
        latent = self._conditional()
        away = latent if negative is None else latent.condition(negative)
        return self.over(ClassifierFree(latent.condition(condition), away, scale, interval))

    def _conditional(self) -> Any:
        if not isinstance(self.latent, Conditional):
            raise UnsupportedError(
                "this latent prior takes no condition, or has been given one already; condition the prior that was loaded"
            )
        return self.latent
