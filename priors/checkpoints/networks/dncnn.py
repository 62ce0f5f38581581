"""DnCNN, the convolutional denoiser that others are compared with, as trained by the authors of scico: `invgen data dncnn`.

Zhang et al., "Beyond a Gaussian denoiser" (IEEE TIP 2017): 17 layers that predict the noise, here with periodic borders and
without biases, of grey images in [0, 1]. scico (BSD-3-Clause) has one network for each of three levels of noise, and one
that is told a level of at most 0.2. A baseline for the cards of priors.
"""

import functools
import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import MissingExtraError, MissingWeightsError, WeightsError
from invgen.files.writing import atomic_file

PACKAGE = "scico==0.0.7"
# the level of noise of each network, in grey levels of [0, 1], and the SHA-256 of its file in the package; "17N" is told it
NETWORKS = {
    "17L": (0.06, "640d7a1f74d88fba6af6b05882049d1fdf44372d039aead1c491266c3fe5ef23"),
    "17M": (0.1, "1b92262ccb8d7c9fc6cb7328fd1e0922499d2325afba65c2b161556deb7447cf"),
    "17H": (0.2, "f3178a60f871ae5c4f423a5a9cc0158206375b568d272c79a30640e3a1737507"),
    "17N": (0.2, "92f6710a43588ceab25275eaedceda81bca99f814c3f825651087a4e24a71ad7"),
}


def dncnn(x: Tensor, sigma: float, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor | None:
    """Returns images (B, C, H, W) without noise of standard deviation sigma, each channel by itself; None for levels
    beyond 0.2.

    The network trained for this level where there is one within 5 %, else the one that is told the level.

    Raises:
        MissingWeightsError: the weights have not been fetched.
    """
    low, width = value_range[0], value_range[1] - value_range[0]
    level = sigma / width
    name = next((n for n, (s, _) in NETWORKS.items() if n != "17N" and abs(level / s - 1) <= 0.05), "17N")
    if name == "17N" and level > NETWORKS[name][0]:
        return None
    grey = (x.flatten(0, 1)[:, None] - low) / width
    if name == "17N":
        grey = torch.cat([grey, torch.full_like(grey, level)], 1)
    clean = network({k: t.to(x.device, x.dtype) for k, t in _weights(name, weights_folder()).items()}, grey)
    return clean[:, 0].reshape(x.shape) * width + low


def network(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """Returns x less the noise that the convolutions "0.weight", "1.weight", "1.bias" ... find in it; (B, channels, H,
    W)."""
    h, last = x, max(int(name.split(".")[0]) for name in tensors)
    for k in range(last + 1):
        h = F.conv2d(F.pad(h, (1, 1, 1, 1), "circular"), tensors[f"{k}.weight"], tensors.get(f"{k}.bias"))
        h = h.relu() if k < last else h
    return x - h


def weights_folder() -> Path:
    """Returns INVGEN_WEIGHTS, or where `invgen data dncnn` puts them: dncnn in INVGEN_DATA or in ~/.cache/invgen/data."""
    if folder := os.environ.get("INVGEN_WEIGHTS"):
        return Path(folder)
    return Path(os.environ.get("INVGEN_DATA") or Path.home() / ".cache" / "invgen" / "data") / "dncnn"


def at_hand() -> bool:
    """Tells whether the weights have been fetched."""
    return all((weights_folder() / f"dncnn_{name}.safetensors").is_file() for name in NETWORKS)


@functools.lru_cache(maxsize=4)
def _weights(name: str, folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / f"dncnn_{name}.safetensors"
    if not path.is_file():
        raise MissingWeightsError(f"there is no weights file {path}: run `invgen data dncnn` once (11 MB)")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}): run `invgen data dncnn` again") from error


def convert(work: Path, target: Path) -> None:
    """From the wheel of scico in the folder `work` to target/dncnn_17L.safetensors and its like.

    Raises:
        WeightsError: the package holds something else than it did.
    """
    from safetensors.torch import save_file

    with zipfile.ZipFile(next(work.glob("scico-*.whl"))) as wheel:
        for name, (_, digest) in NETWORKS.items():
            member = f"scico/data/flax/dncnn{name}.mpk"
            if member not in wheel.namelist():
                raise WeightsError(f"{PACKAGE} does not hold {member}, as it did")
            raw = wheel.read(member)
            if hashlib.sha256(raw).hexdigest() != digest:
                raise WeightsError(f"{member} in {PACKAGE} is not the file that it was: its checksum differs")
            with atomic_file(target / f"dncnn_{name}.safetensors") as out:
                save_file(tensors_of(read_flax(raw)), out)
                out.chmod(0o644)  # safetensors makes it private


def read_flax(raw: bytes) -> dict[str, Any]:
    """Returns the nested arrays of float32 numbers in flax's msgpack format, which can hold nothing that runs."""
    try:
        import msgpack
    except ImportError as error:
        raise MissingExtraError("reading scico's weights needs msgpack: pip install 'invgen-solvers[data]'") from error

    def array(code: int, data: bytes) -> np.ndarray:
        shape, kind, values = msgpack.unpackb(data)
        if code != 1 or kind != "float32":
            raise ValueError(f"extension {code} of type {kind}")
        return np.frombuffer(values, "<f4").reshape(shape)

    try:
        return msgpack.unpackb(raw, ext_hook=array)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WeightsError(f"the file is not flax's msgpack of float32 arrays ({error})") from error


def tensors_of(variables: dict[str, Any]) -> dict[str, Tensor]:
    """Returns Flax's DnCNN as convolutions (out, in, 3, 3), batch normalisation multiplied into them."""
    params, moments = variables["params"], variables["batch_stats"]
    kernels = [params["conv_start"]["kernel"]]
    blocks = [f"ConvBNBlock_{k}" for k in range(len(moments))]
    kernels += [params[block]["Conv_0"]["kernel"] for block in blocks]
    kernels += [params["conv_end"]["kernel"]]
    tensors = {f"{k}.weight": torch.tensor(kernel).permute(3, 2, 0, 1).contiguous() for k, kernel in enumerate(kernels)}
    for k, block in enumerate(blocks, start=1):
        norm = {n: torch.tensor(v) for n, v in (params[block]["BatchNorm_0"] | moments[block]["BatchNorm_0"]).items()}
        gain = norm["scale"] / (norm["var"] + 1e-5).sqrt()
        tensors[f"{k}.weight"] = tensors[f"{k}.weight"] * gain[:, None, None, None]
        tensors[f"{k}.bias"] = norm["bias"] - norm["mean"] * gain
    return tensors
