"""Checkpoints of score_sde_pytorch: DDPM++, NCSN++ and DDPM on the VE, VP and sub-VP SDEs.

Song et al., "Score-based generative modeling through stochastic differential equations" (ICLR 2021). Its modules are
numbered in one list; they are renamed into the U-Net of edm_networks.py, which computes the same function. The order and
shapes of the tensors tell everything but the SDE and the size of the images.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invgen.errors import OptionError, ShapeError, UnsupportedError, WeightsError
from invgen.files import pickles
from invgen.priors.checkpoints import entries
from invgen.priors.checkpoints.networks.edm import EDMUNet, rehearse
from invgen.priors.checkpoints.networks.score_sde_ddpm import DDPM, is_ddpm
from invgen.priors.wrappers.from_network import NetworkDenoiser, takes_data
from invgen.priors.wrappers.schedules import Schedule
from invgen.validation.arguments import checked

BLOCK = {
    "GroupNorm_0": "norm0",
    "Conv_0": "conv0",
    "Dense_0": "affine",
    "GroupNorm_1": "norm1",
    "Conv_1": "conv1",
    "Conv_2": "skip",
}
Modules = list[dict[str, Tensor]]
MARKS = (("all_modules.",), ("begin_conv.",))  # how the names of its tensors begin, and those of NCSN


class SubVP(Schedule):
    """The sub-VP SDE (Song et al., Section 3.4): alpha_t as in VP, sigma_t = 1 - alpha_t^2, sigma = 1 / alpha - alpha.

    Args:
        beta_min, beta_max: the rate of noise at time 0 and 1.
        time_scale: the network's time is t times this.
        t_min: the least time.
    """

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, time_scale: float = 999.0, t_min: float = 1e-5
    ) -> None:
        self.beta_min, self.slope, self.time_scale = beta_min, beta_max - beta_min, time_scale
        logs = [t * beta_min / 2 + t**2 * self.slope / 4 for t in (t_min, 1.0)]
        super().__init__(*(2 * math.sinh(log) for log in logs))

    def _time(self, sigma: Tensor) -> Tensor:
        log = torch.asinh(sigma / 2)  # -ln alpha
        return self.time_scale * ((self.beta_min**2 + 4 * self.slope * log).sqrt() - self.beta_min) / self.slope

    def alpha(self, sigma: Tensor) -> Tensor:
        return 2 / (sigma + (sigma**2 + 4).sqrt())


@takes_data
@checked
def from_score_sde(
    path: str | Path,
    shape: Sequence[int],
    *,
    sde: str,
    continuous: bool | None = None,
    centered: bool | None = None,
    key: str | None = None,
    ema: bool = True,
    **facts: Any,
) -> NetworkDenoiser:
    """Returns the prior in a .pth checkpoint of score_sde_pytorch, with its averaged weights.

    Args:
        path: the checkpoint ("model", "ema", ...), or a state dict of the network (`all_modules.0.weight`, ...).
        shape: (C, H, W), the size of the images the network was trained on.
        sde: "ve", "vp" or "subvp", `training.sde` of its configuration.
        continuous: `training.continuous`; by default False for a VE network without Fourier features, else True.
        centered: whether images are in [-1, 1] (`data.centered`) rather than [0, 1], which is the default for VE.
        key, ema: see `from_guided_diffusion`.
        facts: value_range, data_mean, data_std; sigma_min, sigma_max. Noise levels are in units of the images.
        data: clean signals, which check it and set what the facts leave open, the range of sigma first; see `from_network`.

    Raises:
        WeightsError: the file is damaged, not safe to open, or not such a network.
        OptionError: an unknown SDE.
        UnsupportedError: a network of this library of another kind (NCSN, NCSNv2).
    """
    if sde not in ("ve", "vp", "subvp"):
        raise OptionError(f"sde must be 've', 'vp' or 'subvp', got {sde!r}")
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ShapeError(f"the shape of square images (C, H, H) is expected, got {tuple(shape)}")
    found = entries.state_dict(path, MARKS, key, ema)
    tensors = dict(found)
    sigmas = tensors.pop("sigmas", None)
    if "begin_conv.weight" in tensors:
        raise UnsupportedError(
            f"{path} holds an NCSN or NCSNv2; of score_sde_pytorch invgen reads NCSN++, DDPM++ and DDPM alone"
        )
    simple = is_ddpm({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    try:
        renamed = tensors if simple else renamed_modules(tensors, shape[-1])
        with torch.device("meta"):
            kind: type[DDPM | EDMUNet] = DDPM if simple else EDMUNet
            net = kind({name: tuple(tensor.shape) for name, tensor in renamed.items()})
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        raise WeightsError(f"{path} does not hold an NCSN++, DDPM++ or DDPM of score_sde_pytorch ({error!r})") from error
    net = pickles.fill(net, renamed, path)
    if net.in_channels != shape[0]:
        raise ShapeError(f"the network takes {net.in_channels} channels, got the shape {tuple(shape)}")
    rehearse(net, net.in_channels, 2 * net.stride if simple else net.stride, path)  # group norms of one value are refused
    fourier = "map_noise.freqs" in renamed
    continuous = (sde != "ve" or fourier) if continuous is None else continuous
    centered = sde != "ve" if centered is None else centered
    if not centered:
        facts = {"value_range": (0.0, 1.0), "data_mean": 0.5, "data_std": 0.25} | facts
    schedule = _schedule(sde, continuous, sigmas, path)
    call = _Call(sde == "ve", fourier, centered)
    return found.of(NetworkDenoiser(net, shape, "epsilon", schedule, call=call, stride=net.stride, **facts))


class _Call:
    """Calls the network: on [-1, 1], with ln sigma for Fourier features; the VE score is net / sigma, not -net."""

    def __init__(self, exploding: bool, fourier: bool, centered: bool) -> None:
        self.exploding, self.fourier, self.centered = exploding, fourier, centered

    def __call__(self, net: nn.Module, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        if condition is not None:
            raise UnsupportedError("the network knows no classes: use the prior without a condition")
        out = net(x if self.centered else 2 * x - 1, t.log() if self.fourier else t)
        return -out if self.exploding else out


def _schedule(sde: str, continuous: bool, sigmas: Tensor | None, path: str | Path) -> Schedule:
    if sde == "subvp":
        return SubVP()
    if sde == "vp":
        return Schedule.vp(t_min=1e-5) if continuous else Schedule.linear()
    if sigmas is None:
        raise WeightsError(f"{path} lacks the noise levels 'sigmas' of a VE network: save the whole state dict")
    if continuous:
        return Schedule.ve(sigmas.min().item(), sigmas.max().item())
    return Schedule.from_sigmas(sigmas.double())  # from the highest down, as the network counts them


def renamed_modules(tensors: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Returns the tensors under the names of an `EDMUNet` for images of `size`; KeyError, IndexError or ValueError if
    none."""
    count = 1 + max(int(name.split(".")[1]) for name in tensors)
    modules: Modules = [{} for _ in range(count)]
    for name, tensor in tensors.items():
        stem, number, inner = name.split(".", 2)
        if stem != "all_modules":
            raise ValueError(f"unexpected '{name}'")
        modules[int(number)][inner] = tensor
    if not any("Conv_2.weight" in m for m in modules):
        raise UnsupportedError("the network is not an NCSN++ or DDPM++ with BigGAN blocks, which invgen reads of score_sde")
    return dict(_walk(modules, size))


def _walk(modules: Modules, size: int) -> Iterator[tuple[str, Tensor]]:
    """Yields names and tensors, in the order in which the network computes."""
    blocks = [m for m in modules if "Conv_1.weight" in m]
    # only a block that resamples has a shortcut between as many channels
    levels = (
        1 + sum("Conv_2.weight" in m and m["Conv_2.weight"].shape[0] == m["Conv_2.weight"].shape[1] for m in blocks) // 2
    )
    per_level = (len(blocks) - 3 * levels) // (2 * levels)
    # the filter is (1, 3, 3, 1) where the image enters again at each level, else (1, 1), in all published networks
    again = any("Conv2d_0.weight" in m or ("Conv_0.weight" in m and "Conv_1.weight" not in m) for m in modules)
    line = torch.tensor([1.0, 3.0, 3.0, 1.0] if again else [1.0, 1.0])
    taps = torch.outer(line, line)[None, None] / line.sum() ** 2
    rest = [*modules, {}]

    def block(name: str, resampling: bool = False) -> Iterator[tuple[str, Tensor]]:
        module = rest.pop(0)
        for key, tensor in module.items():
            inner, kind = key.rsplit(".", 1)
            yield f"{name}.{BLOCK[inner]}.{kind}", tensor
        if resampling:
            yield f"{name}.conv0.resample_filter", taps
            yield f"{name}.skip.resample_filter", taps
        if "NIN_0.W" in rest[0]:
            yield from _attention(name, rest.pop(0))

    def plain(name: str, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for key, tensor in rest.pop(0).items():
            yield f"{name}.{key.removeprefix(prefix)}", tensor

    if "W" in rest[0]:
        yield "map_noise.freqs", rest.pop(0)["W"]
    yield from plain("map_layer0")
    yield from plain("map_layer1")
    yield from plain(f"enc.{size}x{size}_conv")
    for level in range(levels):
        at = f"{size >> level}x{size >> level}"
        if level:
            yield from block(f"enc.{at}_down", resampling=True)
            if "Conv2d_0.weight" in rest[0]:
                yield f"enc.{at}_aux_residual.resample_filter", taps
                yield from plain(f"enc.{at}_aux_residual", "Conv2d_0.")
            elif again:
                yield f"enc.{at}_aux_down.resample_filter", taps
                yield from plain(f"enc.{at}_aux_skip", "Conv_0.")
        for k in range(per_level):
            yield from block(f"enc.{at}_block{k}")
    yield from block(f"dec.{at}_in0")
    yield from block(f"dec.{at}_in1")
    pyramid = False
    for level in reversed(range(levels)):
        at = f"{size >> level}x{size >> level}"
        if level < levels - 1:
            yield from block(f"dec.{at}_up", resampling=True)
        for k in range(per_level + 1):
            yield from block(f"dec.{at}_block{k}")
        if "weight" in rest[0]:  # an image at each level, or at the last one
            if pyramid:
                yield f"dec.{at}_aux_up.resample_filter", taps
            yield from plain(f"dec.{at}_aux_norm")
            yield from plain(f"dec.{at}_aux_conv")
            pyramid = True
    if rest != [{}]:
        raise ValueError("modules are left over")


def _attention(name: str, module: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields the projections are matrices (in, out) there and convolutions here; rows of the joint one are (channel,
    qkv)."""
    for kind in ("weight", "bias"):
        yield f"{name}.norm2.{kind}", module[f"GroupNorm_0.{kind}"]
    q, k, v, out = (module[f"NIN_{i}.W"].t()[:, :, None, None] for i in range(4))
    yield f"{name}.qkv.weight", torch.stack([q, k, v], dim=1).flatten(0, 1)
    yield f"{name}.qkv.bias", torch.stack([module[f"NIN_{i}.b"] for i in range(3)], dim=1).flatten()
    yield f"{name}.proj.weight", out
    yield f"{name}.proj.bias", module["NIN_3.b"]
