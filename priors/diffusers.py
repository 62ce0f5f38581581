"""Priors from unconditional pixel-space models of the diffusers library: a UNet2DModel and its scheduler."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invgen.diffusion import Denoiser, Sigma
from invgen.errors import OptionError, ShapeError, UnsupportedError, WeightsError


class DiffusersDenoiser(Denoiser):
    """A variance-preserving network as a denoiser in x_sigma = x_0 + sigma eps.

    With sigma(t) = sqrt((1 - abar_t) / abar_t), the network sees x / sqrt(1 + sigma^2) at the (fractional) time of sigma,
    interpolated linearly in log sigma. D = x - sigma e ("epsilon"), o ("sample"), or x / (1 + sigma^2) - sigma /
    sqrt(1 + sigma^2) v ("v_prediction"; Salimans & Ho, ICLR 2022).

    Args:
        unet: called as unet(x, t).sample, with `config.in_channels`, `config.out_channels`; of twice as many channels out
            as in (a learned variance) the first half is taken.
        scheduler: its `betas` and `config.prediction_type`.
        shape: (C, H, W); by default what the configuration says.
        facts: value_range, data_mean, data_std, as for every `Denoiser`.
    """

    def __init__(self, unet: nn.Module, scheduler: Any, shape: Sequence[int] | None = None, **facts: Any) -> None:
        prediction = scheduler.config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "sample", "v_prediction"):
            raise UnsupportedError(
                f"the scheduler predicts {prediction!r}; expected 'epsilon', 'sample' or 'v_prediction' of a "
                "variance-preserving diffusion"
            )
        betas = getattr(scheduler, "betas", None)
        if betas is None:
            raise UnsupportedError(
                f"{type(scheduler).__name__} has no betas; expected the scheduler of a variance-preserving diffusion, "
                "such as DDPMScheduler"
            )
        channels, out = unet.config.in_channels, unet.config.out_channels
        if out not in (channels, 2 * channels):
            raise UnsupportedError(f"the network turns {channels} channels into {out}; expected as many or twice as many")
        if shape is None:
            size = unet.config.sample_size
            if size is None:
                raise OptionError("the network does not say the size of its images; pass shape=(C, H, W)")
            shape = (channels, *((size, size) if isinstance(size, int) else size))
        if len(shape) != 3 or shape[0] != channels:
            raise ShapeError(
                f"the network takes {channels} channels, so that shape must be ({channels}, H, W), got {shape}"
            )
        # in double precision: diffusers' float32 tables lose digits at the last times
        alpha_bar = torch.cumprod(1 - betas.double(), 0)
        sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()
        sigmas = sigmas[torch.isfinite(sigmas)]  # a schedule of zero terminal SNR ends at infinity
        super().__init__(shape, **{"sigma_min": sigmas[0].item(), "sigma_max": sigmas[-1].item(), "data_std": 0.5, **facts})
        self.unet, self.prediction = unet, prediction
        self.register_buffer("log_sigmas", sigmas.log(), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if next(self.unet.parameters()).dtype == torch.float64 else torch.float32

    def _time(self, sigma: Tensor) -> Tensor:
        """The fractional time of each noise level, clamped to the range of training."""
        log = sigma.double().log().clamp(self.log_sigmas[0], self.log_sigmas[-1])
        k = torch.searchsorted(self.log_sigmas, log).clamp(1, len(self.log_sigmas) - 1)
        low, high = self.log_sigmas[k - 1], self.log_sigmas[k]
        return k - 1 + (log - low) / (high - low)

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        """E[x_0 | x_0 + sigma eps = x], (B, C, H, W). sigma: a number or one per sample, (B,)."""
        sigma = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).expand(len(x))
        dtype = next(self.unet.parameters()).dtype
        s = sigma.to(x.dtype).reshape(-1, 1, 1, 1)
        scale = (1 + s**2).sqrt()
        out = self.unet((x / scale).to(dtype), self._time(sigma).to(dtype)).sample[:, : x.shape[1]].to(x.dtype)
        if self.prediction == "epsilon":
            return x - s * out
        return out if self.prediction == "sample" else x / scale**2 - s / scale * out


def from_diffusers(model: str | Path, shape: Sequence[int] | None = None, **facts: Any) -> DiffusersDenoiser:
    """The prior in a folder (or hub name) that diffusers wrote: unet/ and scheduler/ of a DDPM or DDIM pipeline.

    Only safetensors weights are read, never a pickle. shape and facts: see `DiffusersDenoiser`.

    Raises:
        WeightsError: there is no such model, or it is not an unconditional pixel-space one.
    """
    from diffusers import DDPMScheduler, UNet2DModel

    try:
        unet = UNet2DModel.from_pretrained(model, subfolder="unet", use_safetensors=True)
        scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(
            f"no diffusers model could be read from {model} ({reason}); expected a folder with unet/ (safetensors) and "
            "scheduler/"
        ) from error
    return DiffusersDenoiser(unet.eval().requires_grad_(False), scheduler, shape, **facts)
