"""Checkpoints of other libraries, read without running a line of what they bring along.

A pickle is a program: opening one calls whatever it names. Files of torch.save are read by torch.load(weights_only=True).
What it refuses, and plain pickles, go through a reader that looks each name up in a list (tensors, numpy arrays, numbers,
plain containers) or, where the caller says so, replaces it by an `Inert` object that only remembers what it was given; any
other name ends the reading before anything has been called.
"""

import io
import pickle
import re
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invgen.errors import WeightsError

# Configuration objects that training frameworks leave beside the weights: never needed, so remembered and not built.
FRAMEWORKS = (
    "argparse",
    "enum",
    "hydra",
    "lightning",
    "ml_collections",
    "omegaconf",
    "pathlib",
    "pytorch_lightning",
    "typing",
)
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first object of torch's format before 1.6
BUILTINS = {k.__name__: k for k in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)}
UNREADABLE = (
    AttributeError, EOFError, ImportError, IndexError, KeyError, MemoryError, OSError, OverflowError, RecursionError,
    RuntimeError, TypeError, UnicodeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


class Inert:
    """What stands for an object of a class that is not loaded: the arguments, state and items that the pickle gave it."""

    path = ""  # "module.name" in the pickle

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        self = super().__new__(cls)
        self.args, self.state, self.items = args, None, []
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes anything."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: Iterable[Any]) -> None:
        self.items.extend(items)


class _Refused(Exception):
    """The pickle asks for something that is not on the list."""


class _Dtype:
    """A numpy dtype in the making: numbers only."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype:
        dtype = np.dtype(self.code if isinstance(self.code, str) else "V")
        if dtype.kind not in "biufc":
            raise _Refused(f"a numpy array of {self.code!r}")
        return dtype.newbyteorder("=" if self.order == "|" else self.order)


class _Array:
    """A numpy array in the making."""

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _from_buffer(data, dtype, shape, "F" if fortran else "C")


def _from_buffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    return np.frombuffer(bytearray(data), dtype.numpy()).reshape(shape, order=order)


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    needed = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    data = storage._untyped_storage
    if min((*size, *stride, offset), default=0) < 0 or (0 not in size and needed * storage.dtype.itemsize > data.nbytes()):
        raise ValueError("a tensor reaches outside its storage")
    return torch.empty(0, dtype=storage.dtype).set_(data, offset, tuple(size), tuple(stride))


def _text_to_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _Refused(f"the encoding {encoding!r}")
    return text.encode("latin1")


ALLOWED = {
    "_codecs.encode": _text_to_bytes,
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": defaultdict,
    "copyreg._reconstructor": lambda kind, base, state: kind(state),
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    "torch.Size": torch.Size,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.device": lambda *_: torch.device("cpu"),
    "torch.nn.parameter.Parameter": lambda data, *_: data,
    "torch.storage._load_from_bytes": lambda data: torch.load(io.BytesIO(data), "cpu", weights_only=True),
} | {
    f"numpy.{core}.{name}": function
    for core in ("core", "_core")
    for name, function in {
        "multiarray._reconstruct": lambda *_: _Array(),
        "multiarray.scalar": lambda dtype, data: _from_buffer(data, dtype, ())[()].item(),
        "numeric._frombuffer": _from_buffer,
    }.items()
}


class _Unpickler(pickle.Unpickler):
    """Looks names up in the list. What it gives out is made anew, so that no pickle can change it for the next."""

    inert: tuple[str, ...] = ()

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if module in ("builtins", "__builtin__") and name in BUILTINS:
            return BUILTINS[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if path in ALLOWED:
            known = ALLOWED[path]
            if known in (OrderedDict, defaultdict, torch.Size):
                return known
            return (lambda *args: known(*args)) if not isinstance(known, type) else type(name, (known,), {})
        if any(path == prefix or path.startswith(prefix + ".") for prefix in self.inert):
            return type(name, (Inert,), {"path": path})
        raise _Refused(path)


def read(path: str | Path, inert: Iterable[str] = FRAMEWORKS) -> Any:
    """What is in a checkpoint: tensors, numbers, arrays and containers of them, on the CPU.

    Args:
        path: a safetensors file, a .pt / .pth / .ckpt file of torch.save in either format, or a pickle.
        inert: modules whose objects are replaced by `Inert` ones; an object of any other unlisted class is refused.

    Raises:
        WeightsError: the file is missing, damaged, or asks for something that could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    unpickler = type("Unpickler", (_Unpickler,), {"inert": tuple(inert)})
    try:
        return _finished(_read(path, unpickler))
    except _Refused as error:
        raise WeightsError(
            f"{path} asks for {error}, which could run code, so invgen does not open it: save the state dict alone, "
            "torch.save(net.state_dict(), path) or safetensors, where you trust the file"
        ) from None
    except UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise WeightsError(f"{path} is not a whole checkpoint ({reason}): fetch or save it again") from error


def _read(path: Path, unpickler: type[_Unpickler]) -> Any:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise _Refused("TorchScript")
    else:
        with path.open("rb") as file:
            first = unpickler(file, encoding="latin1").load()
        if first != TORCH_MAGIC:
            return first
    try:
        return torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unknown = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not zipfile.is_zipfile(path):  # torch's older format may make torch write files, if read in any other way
            raise (_Refused(unknown[1]) if unknown else error) from None
        ours = types.ModuleType("ours")  # torch opens the archive itself, with our unpickler in place of its own
        ours.Unpickler = unpickler
        return torch.load(path, "cpu", weights_only=False, pickle_module=ours)


def _finished(value: Any) -> Any:
    """With the arrays in the making replaced by arrays."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        for key in value:
            value[key] = _finished(value[key])
        return value
    if isinstance(value, list):
        value[:] = map(_finished, value)
        return value
    if type(value) is tuple:
        return tuple(map(_finished, value))
    if isinstance(value, Inert):
        value.args, value.state, value.items = map(_finished, (value.args, value.state, value.items))
    return value


def state_dict(path: str | Path, keys: Iterable[str], key: str | None = None) -> dict[str, Tensor]:
    """The tensors of one network in a checkpoint file: `read`, then `network`."""
    return network(read(path), path, keys, key)


def network(checkpoint: Any, path: str | Path, keys: Iterable[str], key: str | None = None) -> dict[str, Tensor]:
    """The tensors of one network in what `read` gave, without the prefixes that wrappers put before their names.

    Args:
        keys: entries of the checkpoint that may hold the network, the first that is there is taken; if none is, the
            checkpoint is the network.
        key: the entry to take instead.

    Raises:
        WeightsError: there is no such entry, or it holds no tensors by name.
    """
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{path} holds a {type(checkpoint).__name__}; expected a state dict, names with tensors")
    if key is not None and key not in checkpoint:
        raise WeightsError(f"{path} has no entry {key!r}; it has {', '.join(map(repr, list(checkpoint)[:8]))}")
    entry = key if key is not None else next((k for k in keys if isinstance(checkpoint.get(k), Mapping)), None)
    found = checkpoint if entry is None else checkpoint[entry]
    tensors = {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        entries = ", ".join(map(repr, list(checkpoint)[:8])) or "nothing"
        raise WeightsError(f"{path} holds no tensors by name where a network is expected; it has {entries}")
    for prefix in ("_orig_mod.", "module.", "ema_model.", "model.diffusion_model.", "net.", "model.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def fill(net: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> nn.Module:
    """`net`, built on the meta device or not, with these weights: every tensor has its place, and every place its tensor.

    Raises:
        WeightsError: a tensor is missing, extra, of another shape, or not finite.
    """
    require_fit(net, tensors, source)
    half = (torch.float16, torch.bfloat16)
    numbers = {name: (t.float() if t.dtype in half else t).detach().clone() for name, t in tensors.items()}
    net.load_state_dict(numbers, assign=True)
    return net.eval().requires_grad_(False)


def require_fit(net: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Every tensor has its place in the network, and every place its tensor, of finite numbers; WeightsError if not."""
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise WeightsError(
            f"the weights in {source} do not fit the network that they are said to be: {len(wrong)} tensors are missing, "
            f"extra or of another shape, '{wrong[0]}' first (expected {expected.get(wrong[0])}, "
            f"found {found.get(wrong[0])})"
        )
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise WeightsError(
            f"the weights in {source} are not finite ('{bad[0]}'): the training diverged or the file is damaged"
        )
