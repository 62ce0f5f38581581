"""Loading of trained priors from safetensors files, whose metadata say how to rebuild the network; no code is run."""

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from invgen.errors import OptionError, WeightsError
from invgen.files.pickles import require_fit
from invgen.priors.checkpoints.networks.digits import NETWORKS, SIDE
from invgen.priors.checkpoints.networks.unet import EDMDenoiser, LabelDenoiser, UNet, VectorDenoiser, denoiser_around
from invgen.priors.checkpoints.networks.wavenet import WaveNet, WaveNetPrior
from invgen.validation.arguments import checked
from invgen.validation.limits import check_size

if TYPE_CHECKING:
    from invgen.priors.wrappers.autoregressive import CausalNetwork
    from invgen.priors.wrappers.generators import VAE, Decoder
    from invgen.priors.wrappers.normalising_flows import NormalisingFlow

    Size = Sequence[int] | None

KINDS = {**NETWORKS, "WaveNet": WaveNet}
WEIGHTS = Path(__file__).parent / "weights"
FORMAT = 1  # of the metadata; a file of another format is refused
LOADERS = (
    "priors.from_guided_diffusion (ADM), from_edm, from_inverse_bench, from_score_sde, from_k_diffusion, "
    "from_flow_matching, from_diffusers or from_network"
)
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".ckpt", ".pkl")  # how the names of weights files end
LARGEST = 2**20  # of a size in a description
FACTS = ("sigma_min", "sigma_max", "value_range", "data_mean", "data_std")


@checked
def names() -> list[str]:
    """Returns the shipped priors."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


@overload
def load(name_or_path: Literal["ct", "mr", "photo", "speech"], shape: "Size" = None) -> EDMDenoiser: ...
@overload
def load(name_or_path: Literal["clothing", "digits", "digits-consistency"], shape: "Size" = None) -> LabelDenoiser: ...
@overload
def load(name_or_path: Literal["cifar", "spoken-digits"], shape: "Size" = None) -> VectorDenoiser: ...
@overload
def load(name_or_path: Literal["speech-ar"], shape: "Size" = None) -> "WaveNetPrior": ...
@overload
def load(name_or_path: Literal["digits-ar"], shape: "Size" = None) -> "CausalNetwork": ...
@overload
def load(name_or_path: Literal["digits-flow"], shape: "Size" = None) -> "NormalisingFlow": ...
@overload
def load(name_or_path: Literal["digits-gan"], shape: "Size" = None) -> "Decoder": ...
@overload
def load(name_or_path: Literal["digits-vae"], shape: "Size" = None) -> "VAE": ...
@overload
def load(name_or_path: str | Path, shape: "Size" = None) -> Any: ...  # a kind of Prior, which the file says
@checked
def load(name_or_path: str | Path, shape: Sequence[int] | None = None) -> Any:
    """Returns a trained prior in float32: a shipped one by its name, or by its path one that `invgen train` wrote.

    A denoiser, one that knows classes (`load("digits").condition(3)`), or what else the file holds: a VAE or a GAN (a
    `Generator`), a normalising flow, an autoregressive prior.
    shape: (C, H, W) or (C, L) of the signals if not what it was trained on; the UNet is fully convolutional, so any H, W
    will do. The other networks have one shape.
    Raises WeightsError for a file that is missing, truncated, of another kind or of another architecture, and for one that
    could run code (a pickle, which a .pt file is); OptionError for a shape with another number of channels.
    """
    path = _find(name_or_path)
    if path.parent == WEIGHTS and not isinstance(name_or_path, Path):
        _require_checksum(path)
    tensors, about = read(path)
    small = about["network"] != "UNet"
    try:
        _require_sane(about, len(tensors))
        with torch.device("meta"):  # so that a wrong description cannot ask for memory
            net = (KINDS[about["network"]] if small else UNet)(**about["options"])
        facts = {key: about[key] for key in (FACTS[2:] if small else FACTS)}
        facts["sampling_rate"] = about.get("sampling_rate", _sampling_rate(about.get("units", "")))
        trained_shape = tuple(int(n) for n in about["shape"])
        denoiser = None if small else denoiser_around(net, trained_shape, **facts)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"the description of the network in {path} cannot be used ({type(error).__name__}: {str(error):.300}): "
            "train it again"
        ) from error
    require_fit(net, tensors, path)
    if denoiser is None:
        if shape is not None and about["network"] == "WaveNet" and len(shape) == 2 and shape[0] == 1:
            about["options"] |= {"length": shape[1]}  # it is causal, so that any length will do
        elif shape is not None and tuple(shape) != trained_shape:
            raise OptionError(f"prior '{name_or_path}' has signals of shape {trained_shape} alone, got {tuple(shape)}")
        net = KINDS[about["network"]](**about["options"])  # with its tables that are not weights
        net.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
        return net.prior(**facts)
    net.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)
    shape = trained_shape if shape is None else tuple(shape)
    if len(shape) != net.dims + 1 or shape[0] != trained_shape[0]:
        sides = "H, W" if net.dims == 2 else "L"
        raise OptionError(f"prior '{name_or_path}' takes shapes ({trained_shape[0]}, {sides}), got {shape}")
    denoiser.shape = torch.Size(shape)
    denoiser.mmse = tuple((float(s), float(error)) for s, error in about.get("mmse", []))
    denoiser.consistency = about.get("consistency") is True
    denoiser.eval().requires_grad_(False)
    if net.dims == 2:  # a tenth faster on the CPU
        denoiser.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (torch does not type it)
    return denoiser


def _sampling_rate(units: str) -> float | None:
    """Returns samples a second, in files that were written before they said so: "waveform of 16 kHz, full scale is 1" as
    16000."""
    found = re.fullmatch(r"waveform of (\d+(?:\.\d+)?) (k?)Hz, full scale is 1", units)
    return float(found[1]) * (1000 if found[2] else 1) if found else None


def _require_checksum(path: Path) -> None:
    """Compares a shipped file with the checksum in its card; WeightsError if they differ."""
    try:
        expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["manifest"]["weights_sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        return  # a prior without a card
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise WeightsError(
            f"{path} is not the file that its card {path.stem}.json was made for, their checksums differ: install invgen "
            f"again, or pass the path to load it all the same"
        )


def _require_sane(about: dict[str, Any], count: int) -> None:
    """Raises ValueError or FileError for a description that would build more than the `count` tensors of its file fill."""
    options, shape = about["options"], about["shape"]
    if not isinstance(options, dict) or not isinstance(shape, list) or not 0 < len(shape) <= 4:
        raise ValueError("its options are a table and its shape a list of sizes")
    layers = options.get("blocks", 1)
    for name, value in options.items():
        sizes = value if isinstance(value, list) else [value]
        if not all(type(n) in (int, bool) and (n > 0 or name == "classes") and 0 <= n <= LARGEST for n in sizes):
            raise ValueError(f"{name!r:.40} is {value!r:.60}, not a size or a list of sizes")
        layers *= len(sizes)
    if layers > count or any(n > SIDE for n in options.get("dilations", [])) or options.get("dims", 2) not in (1, 2):
        raise ValueError(f"it describes more than the {count} tensors of the file")
    if not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"its shape is {shape!r:.60}")
    check_size(4 * math.prod(shape), "a signal of it")
    numbers = [about[key] for key in FACTS if key in about and key != "value_range"]
    numbers += [*about["value_range"], *(n for pair in about.get("mmse", []) for n in pair)]
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise ValueError("its noise levels, ranges and errors are finite numbers")
    if not all(len(pair) == 2 for pair in about.get("mmse", [])) or not isinstance(about.get("units", ""), str):
        raise ValueError("its mmse are pairs and its units a text")


def metadata(name_or_path: str | Path) -> dict[str, Any]:
    """Returns what the file tells of itself: network options, shape, units, and how and on what it was trained."""
    return read(_find(name_or_path))[1]


def origin(name_or_path: str | Path) -> dict[str, str]:
    """Returns the name of a weights file and its SHA-256, for the record of what starts from it."""
    path = _find(name_or_path)
    return {"name": path.stem, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Returns the tensors and the description in a weights file; WeightsError if it is anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
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
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise WeightsError(
            f"{path} holds tensors but no description of an invgen prior: load() reads the files of `invgen train`, "
            f"those of other projects are read by {LOADERS}"
        )
    known = ("UNet", *KINDS)
    if about.get("format") != FORMAT or about.get("network") not in known:
        raise WeightsError(
            f"{path} describes network {about.get('network')!r:.60} in format {about.get('format')!r:.60}, this version "
            f"reads {', '.join(known)} in format {FORMAT}"
        )
    return tensors, about


def _find(name_or_path: str | Path) -> Path:
    try:
        path = Path(name_or_path)
        shipped = WEIGHTS / f"{name_or_path}.safetensors"
        if path.is_file():
            return path
        path.is_dir()
        shipped.is_file()
    except (TypeError, ValueError, OSError) as error:  # no path, a NUL in it, too long
        raise WeightsError(
            f"a prior is given by its name or a path, got {name_or_path!r:.80} ({error}); shipped are: {', '.join(names())}"
        ) from error
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
