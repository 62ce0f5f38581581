"""Flow-matching checkpoints in plain state-dict form, in the layout of guided-diffusion's U-Net: torchcfm and its kin.

Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal transport" (TMLR 2024); Lipman
et al. (ICLR 2023). There x_t goes from noise at t = 0 to data at t = 1; here a flow is a denoiser like any other.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.priors.checkpoints import adm, entries
from invgen.priors.wrappers.from_network import NetworkDenoiser, takes_data
from invgen.priors.wrappers.schedules import Schedule
from invgen.validation.arguments import checked

# torchcfm's CIFAR-10 models (otcfm, icfm, fm), from the example's code and flags.
PUBLISHED = {"cifar10": adm.Published(32, 128, (1, 2, 2, 2), 2, (16,), plain=True)}


class Trigonometric(Schedule):
    """x_t = sin(pi t / 2) x_0 + cos(pi t / 2) eps, noise at t = 0 and data at 1 (Albergo & Vanden-Eijnden, ICLR 2023)."""

    direction = -1.0

    def __init__(self, time_scale: float = 1.0, steps: int = 1000) -> None:
        self.time_scale = time_scale
        last = 1 / math.tan(math.pi / 2 / steps)
        super().__init__(1 / last, last)

    def _time(self, sigma: Tensor) -> Tensor:
        return self.time_scale * 2 / math.pi * torch.atan2(torch.ones_like(sigma), sigma)

    def alpha(self, sigma: Tensor) -> Tensor:
        return (1 + sigma**2).rsqrt()


@takes_data
@checked
def from_flow_matching(
    path: str | Path,
    shape: Sequence[int] | None = None,
    *,
    model: str | None = None,
    num_head_channels: int | None = None,
    num_heads: int | None = None,
    new_attention_order: bool | None = None,
    interpolation: str = "straight",
    noise_at: float = 0.0,
    time_scale: float = 1.0,
    key: str | None = None,
    ema: bool = True,
    **facts: Any,
) -> NetworkDenoiser:
    """Returns the prior in a flow-matching checkpoint whose network has guided-diffusion's layout, such as torchcfm's.

    With v = x_0 - eps on straight paths x_t = t x_0 + (1 - t) eps, D = x_t + (1 - t) v. That is E[x_0 | x_t] for
    independent pairs of noise and data. For pairs from minibatch optimal transport (OT-CFM) it is the mean under that
    coupling, which is narrower: scores by Tweedie's formula are then approximate.

    Args:
        path: the checkpoint (torchcfm's has "ema_model" and "net_model"), or a state dict.
        shape: (C, H, W); known for a published model.
        model: "cifar10", torchcfm's; by default recognised by the shapes of its tensors. The options of attention heads are
            then known, else they must be given.
        num_head_channels, num_heads, new_attention_order: of the attention, see `from_guided_diffusion`.
        interpolation: "straight" (torchcfm's otcfm, icfm and fm), or "trigonometric" (its si): see `Trigonometric`.
        noise_at: the time of pure noise, 0 or 1; data are at the other end, and the velocity is the time derivative.
        time_scale: what the network's time is multiplied by.
        key, ema: see `from_guided_diffusion`.
        facts: value_range, data_mean, data_std; sigma_min, sigma_max.
        data: clean signals, which check it and set what the facts leave open, the range of sigma first; see `from_network`.

    Raises:
        WeightsError: the file is damaged, not safe to open, or not such a network.
        OptionError: the network is not a published one and an option is missing, or an option has no such value.
    """
    if interpolation not in ("straight", "trigonometric") or noise_at not in (0, 1):
        raise OptionError(
            "interpolation must be 'straight' or 'trigonometric' and noise_at 0 or 1, got "
            f"{interpolation!r} and {noise_at!r}"
        )
    tensors = entries.state_dict(path, [adm.MARKS], key, ema)
    heads = {"num_head_channels": num_head_channels, "num_heads": num_heads, "new_attention_order": new_attention_order}
    net, shape, _ = adm.recognised(tensors, path, PUBLISHED, model, shape, **heads)
    options = {"stride": adm.stride(net), **facts}
    if interpolation == "straight":
        schedule = Schedule.flow(time_scale=time_scale, reverse=noise_at == 0)
        return tensors.of(NetworkDenoiser(net, shape, "velocity", schedule, call=adm.call_with_label, **options))
    if noise_at == 1:
        raise OptionError("the trigonometric interpolation has its noise at 0")
    return tensors.of(NetworkDenoiser(net, shape, "v", Trigonometric(time_scale), call=_call_trigonometric, **options))


def _call_trigonometric(net: Any, x: Tensor, t: Tensor, condition: Any) -> Tensor:
    # dx_t / dt = pi / 2 (cos x_0 - sin eps) is minus pi / 2 times v = alpha eps - sigma_t x_0
    return adm.call_with_label(net, x, t, condition) * (-2 / math.pi)
