"""Checkpoints of EDM, EDM2 and InverseBench: the networks of NVIDIA's pickles, without running the code inside them.

Karras et al., "Elucidating the design space of diffusion-based generative models" (NeurIPS 2022), and "Analyzing and
improving the training dynamics of diffusion models" (CVPR 2024). The pickles carry the source of their classes and run it
when opened; here only their tensors and numbers are read, and the networks are ours (edm_networks.py, edm2_networks.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.conditional import ConditionalDenoiser
from invgen.errors import OptionError, UnsupportedError, WeightsError
from invgen.files import pickles
from invgen.priors.checkpoints import adm, entries
from invgen.priors.checkpoints.networks.edm import EDMUNet, rehearse
from invgen.priors.checkpoints.networks.edm2 import EDM2UNet
from invgen.priors.wrappers.from_network import NetworkDenoiser, from_denoiser, takes_data
from invgen.priors.wrappers.schedules import Schedule
from invgen.validation.arguments import checked

# What the sources in the pickles would have defined: remembered, never run.
INERT = (*pickles.FRAMEWORKS, "dnnlib", "torch.nn.modules", "torch_utils.persistence", "training")
MARKS = ("enc.", "dec.")  # how the names of the tensors begin
MODULES = 100_000  # of a pickle that are looked through
CLASSES = {"EDMPrecond": "edm", "Precond": "edm", "VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}
# Numbers of the preconditionings, by their names in the pickles (Karras et al., Table 1).
DEFAULTS = {
    "edm": {"sigma_data": 0.5},
    "vp": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5},
    "ve": {"sigma_min": 0.02, "sigma_max": 100.0},
    "iddpm": {"C_1": 0.001, "C_2": 0.008, "M": 1000},
}


@takes_data
@checked
def from_edm(
    source: str | Path | Callable[..., Tensor],
    shape: Sequence[int] | None = None,
    *,
    preconditioning: str | None = None,
    sigma_data: float | None = None,
    key: str | None = None,
    ema: bool = True,
    **facts: Any,
) -> ConditionalDenoiser:
    """Returns the prior of an EDM or EDM2 network: SongUNet (DDPM++, NCSN++), DhariwalUNet (ADM), or EDM2's UNet.

    A network with labels is conditioned by `prior.condition(k)`, k a class or a vector of label_dim; without a condition it
    gets a label of zeros, which means something only if it was trained with label dropout. The network runs in float32.

    Args:
        source: NVIDIA's .pkl; a .pt or .safetensors state dict under the same names, or a checkpoint with it as an entry
            (InverseBench's "ema"); or a network already loaded, called as net(x, sigma, labels) with sigma (B,) and one-hot
            labels or None, which is the denoiser itself.
        shape: (C, H, W), by default what the network was built for.
        preconditioning: "edm", "vp", "ve" or "iddpm"; a state dict does not tell, a pickle does.
        sigma_data: the constant of "edm", 0.5 unless the pickle says otherwise.
        key, ema: see `from_guided_diffusion`.
        facts: value_range, data_mean, data_std; sigma_min, sigma_max, for "edm" 0.002 and 80 by default.
        data: clean signals, which check it and set what the facts leave open, the range of sigma first; see `from_network`.

    Raises:
        WeightsError: the file is damaged, not safe to open, or not such a network.
        OptionError: the preconditioning is missing or not known, or a shape is missing.
    """
    if not isinstance(source, str | Path):
        return _from_loaded(source, shape, facts)
    given, found = _content(source, key, ema)
    levels = found.beside.get("u", found.get("u"))  # of iDDPM
    name = preconditioning or given.get("name") or (None if levels is None else "iddpm")
    of_training = ("map_augment.", "logvar_")
    tensors = {k: v for k, v in found.items() if k != "u" and not k.startswith(of_training)}
    net = _network(tensors, source)
    name = name or ("edm" if isinstance(net, EDM2UNet) else None)
    if name not in DEFAULTS:
        raise OptionError(
            f"the preconditioning of {source} must be one of {', '.join(map(repr, DEFAULTS))}, got {name!r}: pass "
            "preconditioning= as it was trained"
        )
    numbers = {number: given.get(number, default) for number, default in DEFAULTS[name].items()}
    if sigma_data is not None:
        numbers["sigma_data"] = float(sigma_data)
    if levels is not None:
        numbers["u"] = levels
    shape = (net.in_channels, net.resolution, net.resolution) if shape is None else shape
    return found.of(preconditioned(net, shape, name, numbers, stride=net.stride, **facts))


@takes_data
@checked
def from_inverse_bench(
    path: str | Path, shape: Sequence[int] | None = None, *, key: str | None = None, ema: bool = True, **facts: Any
) -> ConditionalDenoiser:
    """Returns the prior in one of InverseBench's .pt files (Zheng et al., ICLR 2025), with state dicts "ema" and "net".

    Its SongUNet (black hole) is "vp", its DhariwalUNets (waveform inversion, scattering, Navier-Stokes, MRI) are "edm", its
    ADM (FFHQ) is "vp". Signals are in the units of training: (v - 3000 m/s) / 1000 m/s for waveform inversion, 2 x - 1 for
    scattering, x / 10 for Navier-Stokes; `prior.rescaled(1000, 3000)` gives physical ones.

    Args:
        path: the file.
        shape: of one signal, where the file does not tell.
        key, ema, facts: see `from_edm`.
        data: clean signals, which check it and set what the facts leave open; see `from_network`.

    Raises:
        WeightsError: see `from_edm`.
    """
    tensors = entries.state_dict(path, [adm.MARKS, MARKS], key, ema)
    if "input_blocks.0.0.weight" not in tensors:
        song = not any(k.endswith("out_norm.weight") for k in tensors)
        return from_edm(path, shape, preconditioning="vp" if song else "edm", key=key, ema=ema, **facts)
    net, shape, _ = adm.recognised(tensors, path, adm.PUBLISHED, None, shape)
    options = {"call": adm.call_with_label, "stride": adm.stride(net), **facts}
    return tensors.of(NetworkDenoiser(net, shape, "epsilon", _vp(DEFAULTS["vp"]), **options))


def preconditioned(
    net: nn.Module, shape: Sequence[int], name: str, numbers: Mapping[str, Any], **options: Any
) -> NetworkDenoiser:
    """Returns the prior of a raw network net(x, t, labels) under one of the preconditionings of Karras et al., Table 1.

    iDDPM's time is interpolated between the levels of training, where the original takes the nearest one.

    Args:
        net: the network.
        shape: of one signal.
        name: of the preconditioning.
        numbers: its constants, see DEFAULTS.
        options: of `NetworkDenoiser`.
    """
    if name == "edm":
        return NetworkDenoiser(
            net, shape, "edm", Schedule.edm(), call=_call, sigma_data=numbers["sigma_data"], **options
        )  # fmt: skip
    if name == "vp":
        return NetworkDenoiser(net, shape, "epsilon", _vp(numbers), call=_call, **options)
    if name == "ve":
        schedule = Schedule.ve(numbers["sigma_min"], numbers["sigma_max"])
        return NetworkDenoiser(net, shape, "epsilon", schedule, call=_call_ve, **options)
    if "u" in numbers:  # as stored: its float32 recursion is off by up to a thousandth of a time step
        alpha_bar = 1 / (1 + numbers["u"][:-1].double().flip(0) ** 2)
        schedule = Schedule.from_betas(1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]]))
    else:
        schedule = Schedule.cosine(int(numbers["M"]), numbers["C_2"], 1 - numbers["C_1"])
    return NetworkDenoiser(net, shape, "epsilon", schedule, call=_call, **options)


def _vp(numbers: Mapping[str, float]) -> Schedule:
    low, slope = numbers["beta_min"], numbers["beta_d"]
    return Schedule.vp(low, low + slope, time_scale=numbers["M"] - 1, t_min=numbers["epsilon_t"])


def _call(net: EDMUNet | EDM2UNet, x: Tensor, t: Tensor, condition: Any) -> Tensor:
    return net(x, t, one_hot(condition, net.label_dim, x))


def _call_ve(net: EDMUNet | EDM2UNet, x: Tensor, t: Tensor, condition: Any) -> Tensor:
    return -_call(net, x, (t / 2).log(), condition)  # D = x + sigma net(x, ln(sigma / 2))


def one_hot(condition: Any, label_dim: int, x: Tensor) -> Tensor | None:
    """Returns the labels (B, label_dim) of a condition: a class, or a vector, for all samples or one for each."""
    if condition is None:
        return None
    if not label_dim:
        raise UnsupportedError("the network knows no labels: use the prior without a condition")
    label = torch.as_tensor(condition, device=x.device)
    if label.ndim == 2 or (label.is_floating_point() and label.ndim == 1 and label.shape[0] == label_dim != len(x)):
        return label.to(x.dtype).expand(len(x), label_dim)
    if label.is_floating_point() or not ((label >= 0) & (label < label_dim)).all():
        raise OptionError(f"the network knows the classes 0 to {label_dim - 1}, got {condition!r}")
    return F.one_hot(label.expand(len(x)), label_dim).to(x.dtype)


class _Loaded(nn.Module):
    """A network of EDM that is already loaded, which is a denoiser as it is."""

    def __init__(self, net: Callable[..., Tensor]) -> None:
        super().__init__()
        self.net, self.label_dim = net, int(getattr(net, "label_dim", 0) or 0)

    def forward(self, x: Tensor, sigma: Tensor, condition: Any = None) -> Tensor:
        z = x.float()  # the original computes in float32
        return self.net(z, sigma.float(), one_hot(condition, self.label_dim, z)).to(x.dtype)


def _from_loaded(net: Callable[..., Tensor], shape: Sequence[int] | None, facts: dict[str, Any]) -> ConditionalDenoiser:
    if not callable(net):
        raise OptionError(f"from_edm takes a path or a network net(x, sigma, labels), got a {type(net).__name__}")
    if shape is None:
        size, channels = getattr(net, "img_resolution", None), getattr(net, "img_channels", None)
        if size is None or channels is None:
            raise OptionError("the network does not say its img_channels and img_resolution: pass shape=(C, H, W)")
        shape = (channels, *((size, size) if isinstance(size, int) else size))
    for fact in ("sigma_min", "sigma_max"):
        level = float(getattr(net, fact, 0) or 0)
        if 0 < level < float("inf"):  # EDMPrecond says 0 and infinity
            facts.setdefault(fact, level)
    return from_denoiser(_Loaded(net), shape, per_sample=True, **facts)


def _content(path: str | Path, key: str | None, ema: bool) -> tuple[Mapping[str, Any], entries.Weights]:
    """Returns what a checkpoint tells of the preconditioning, and its tensors."""
    checkpoint = pickles.read(path, INERT)
    whole = checkpoint if isinstance(checkpoint, dict) else {"": checkpoint}
    nets = {k: v for k, v in whole.items() if isinstance(v, pickles.Inert) and isinstance(k, str)}
    known = {k: v for k, v in nets.items() if _persistent(v)[0] in CLASSES}
    others = [name for v in nets.values() if (name := _persistent(v)[0]) and name not in CLASSES]
    tables = [k for k, v in whole.items() if isinstance(v, Mapping) and any(isinstance(t, Tensor) for t in v.values())]
    if not known and not tables and others:
        raise WeightsError(f"{path} holds a {others[0]:.80}; expected one of EDM or EDM2: {', '.join(CLASSES)}")
    if not known:
        return {}, entries.network(checkpoint, path, [MARKS], key, ema)
    found = entries.network({k: dict(_tensors(v, path)) for k, v in known.items()}, path, [MARKS], key, ema)
    of = next(k for k in known if f"{found.place}.".startswith(f"{k}.") or not k)
    name, state = _persistent(known[of])
    return {**{k: v for k, v in state.items() if isinstance(v, int | float)}, "name": CLASSES[name]}, found


def _persistent(module: pickles.Inert) -> tuple[str, Mapping[str, Any]]:
    """Class and state of a module in a pickle: as StyleGAN's persistence wrote it, or as torch did."""
    meta = module.args[0] if module.args and isinstance(module.args[0], dict) else {}
    state = module.state if module.state is not None else meta.get("state")
    return str(meta.get("class_name", "")), state if isinstance(state, Mapping) else {}


def _tensors(module: pickles.Inert, path: str | Path) -> Iterator[tuple[str, Tensor]]:
    """Yields names and tensors of a module in a pickle and of those in it."""
    waiting, met = [("", module)], 0
    while waiting:
        prefix, module = waiting.pop()
        met += 1
        if met > MODULES or len(prefix) > 1000:
            raise WeightsError(f"the modules in {path} hold each other without end: it is not a network of EDM")
        _, state = _persistent(module)
        for kind in ("_parameters", "_buffers", "_modules"):
            inside = state.get(kind)
            for name, value in inside.items() if isinstance(inside, Mapping) else ():
                if isinstance(value, Tensor):
                    yield f"{prefix}{name}", value
                elif isinstance(value, pickles.Inert) and kind == "_modules":
                    waiting.append((f"{prefix}{name}.", value))


def _network(tensors: dict[str, Tensor], source: str | Path) -> EDMUNet | EDM2UNet:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        with torch.device("meta"):
            net = EDM2UNet(shapes) if "out_gain" in shapes else EDMUNet(shapes)
    except (KeyError, ValueError, IndexError, StopIteration, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(f"{source} does not hold a network of EDM or EDM2 ({reason or 'no layers'})") from error
    net = pickles.fill(net, tensors, source)
    net = net.normalise() if isinstance(net, EDM2UNet) else net
    rehearse(net, net.in_channels, net.stride, source)
    return net
