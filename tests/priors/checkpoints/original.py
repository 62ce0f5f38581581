"""Networks of other libraries as fixtures: what their own code computed, on weights that a formula gives back.

A file of ../fixtures holds inputs and outputs, tables that are no weights (buffers), and in its metadata the names
and shapes of the weights. These come from numpy's RandomState, whose stream is frozen, seeded by their names, so that a
network of any size costs a few kilobytes. All layers are random, those that start at zero too.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

DATA = Path(__file__).parents[1] / "fixtures"


def random_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A weight of about the size that keeps activations of order one; scales and gains lie around one."""
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) < 2:
        value = 0.2 * z if name.endswith("bias") or name.endswith(".b") else 1 + 0.2 * z
    else:
        value = z / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def load(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict]:
    """The state dict under its original names, the tensors of the experiment, and what else the file says."""
    with safe_open(DATA / f"{name}.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    state = {}
    for key, shape in about.pop("shapes").items():
        buffer = tensors.pop(f"buffer:{key}", None)
        state[key] = random_weight(key, tuple(shape)) if buffer is None else buffer
    return state, tensors, about
