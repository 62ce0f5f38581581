"""Loading of trained priors from safetensors files, whose metadata say how to rebuild the network; no code is run."""

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from invgen.errors import OptionError, WeightsError
from invgen.priors.network import EDMDenoiser, LabelDenoiser, UNet
from invgen.priors.pickles import require_fit
from invgen.priors.twin_networks import NETWORKS

WEIGHTS = Path(__file__).parent / "weights"
FORMAT = 1  # of the metadata; a file of another format is refused
LOADERS = (
    "priors.from_guided_diffusion (ADM), from_edm, from_inverse_bench, from_score_sde, from_k_diffusion, "
    "from_flow_matching, from_diffusers or from_network"
)
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".ckpt", ".pkl")  # how the names of weights files end
FACTS = ("sigma_min", "sigma_max", "value_range", "data_mean", "data_std")


def names() -> list[str]:
    """The shipped priors."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def load(name_or_path: str | Path, shape: int | Sequence[int] | None = None) -> Any:
    """A trained prior in float32: a shipped one by its name, or by its path one that `invgen train` wrote.

    A denoiser, one that knows classes (`load("digits").condition(3)`), or what else the file holds: a VAE or a GAN (a
    `Generator`), a normalising flow, an autoregressive prior.
    shape: (C, H, W) or (C, L) of the signals if not what it was trained on; the UNet is fully convolutional, so any H, W
    will do. The other networks have one shape.
    Raises WeightsError for a file that is missing, truncated, of another kind or of another architecture, and for one that
    could run code (a pickle, which a .pt file is); OptionError for a shape with another number of channels.
    """
    path = _find(name_or_path)
    tensors, about = read(path)
    twin = about["network"] != "UNet"
    try:
        with torch.device("meta"):  # so that a wrong description cannot ask for memory
            net = (NETWORKS[about["network"]] if twin else UNet)(**about["options"])
        facts = {key: about[key] for key in (FACTS[2:] if twin else FACTS)}
        trained_shape = tuple(int(n) for n in about["shape"])
        denoiser = None if twin else (LabelDenoiser if net.classes else EDMDenoiser)(net, trained_shape, **facts)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"the description of the network in {path} cannot be used ({error!r}): train it again"
        ) from error
    require_fit(net, tensors, path)
    if twin:
        if shape is not None and tuple(shape) != trained_shape:
            raise OptionError(f"prior '{name_or_path}' has signals of shape {trained_shape} alone, got {tuple(shape)}")
        net = NETWORKS[about["network"]](**about["options"])  # with its tables that are not weights
        net.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
        return net.prior(**facts)
    net.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)
    shape = trained_shape if shape is None else tuple(shape)
    if len(shape) != net.dims + 1 or shape[0] != trained_shape[0]:
        sides = "H, W" if net.dims == 2 else "L"
        raise OptionError(f"prior '{name_or_path}' takes shapes ({trained_shape[0]}, {sides}), got {shape}")
    denoiser.shape = torch.Size(shape)
    denoiser.rate = _sampling_rate(about.get("units", ""))
    denoiser.mmse = tuple((float(s), float(error)) for s, error in about.get("mmse", []))
    denoiser.eval().requires_grad_(False)
    return denoiser.to(memory_format=torch.channels_last) if net.dims == 2 else denoiser  # a tenth faster on the CPU


def _sampling_rate(units: str) -> float | None:
    """Samples a second, of a prior of recordings: "waveform of 16 kHz, ..." as 16000."""
    found = re.match(r"waveform of ([\d.]+) (k?)Hz", units)
    return float(found[1]) * (1000 if found[2] else 1) if found else None


def metadata(name_or_path: str | Path) -> dict[str, Any]:
    """What the file says of itself: network options, shape, units, and how and on what it was trained."""
    return read(_find(name_or_path))[1]


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the description in a weights file; WeightsError if it is anything else."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file opens with eight bytes of length, which may look like a pickle's, and a brace.
    if (head[:1] == b"\x80" and head[8:] != b"{") or zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path} is a pickle or a torch checkpoint, which can run code when opened, not a file of `invgen train`: "
            f"take its project's loader, which runs nothing of it, {LOADERS}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("invgen")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}): fetch or export it again") from error
    try:
        about = json.loads(text) if text else None
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise WeightsError(
            f"{path} holds tensors but no description of an invgen prior: load() reads the files of `invgen train`, "
            f"those of other projects are read by {LOADERS}"
        )
    known = ("UNet", *NETWORKS)
    if about.get("format") != FORMAT or about.get("network") not in known:
        raise WeightsError(
            f"{path} describes network {about.get('network')!r} in format {about.get('format')!r}, this version "
            f"reads {', '.join(known)} in format {FORMAT}"
        )
    return tensors, about


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    shipped = WEIGHTS / f"{name_or_path}.safetensors"
    if path.is_file():
        return path
    if path.is_dir() and not shipped.is_file():
        raise WeightsError(
            f"{path} is a folder, load() takes a name or a file: priors.from_diffusers reads folders of diffusers"
        )
    if path.suffix or path.parent != Path("."):
        if path.suffix in CHECKPOINTS[1:]:
            raise WeightsError(f"there is no weights file {path}; checkpoints of other projects are read by {LOADERS}")
        raise WeightsError(
            f"there is no weights file {path}; shipped priors, by name: {', '.join(names()) or 'none'}; a model of the "
            f"Hugging Face hub: priors.from_diffusers(model='owner/name')"
        )
    if not shipped.is_file():
        raise WeightsError(
            f"unknown prior '{name_or_path}'; shipped are: {', '.join(names()) or 'none'}; or pass a .safetensors file"
        )
    return shipped
