"""Checkpoints of other libraries, read without running a line of what they bring along.

A pickle is a program: opening one calls whatever it names. Here it is walked through first (pickle_scan.py), and then goes
through a reader that looks each name up in a list (tensors, numpy arrays, numbers, plain containers) or, where the caller
says so, replaces it by an `Inert` object that only remembers what it was given; any other name ends the reading before
anything has been called. The numbers of torch.save are read by torch_files.py, safetensors by their own library.
"""

import io
import mmap
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from invgen.errors import InvgenError, WeightsError
from invgen.files import pickle_scan, torch_files
from invgen.validation.limits import check_size

Net = TypeVar("Net", bound=nn.Module)
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
NESTED = 8  # files of torch.save within a pickle within a file


class Inert:
    """Stands for an object of a class that is not loaded: the arguments, state and items that the pickle gave it."""

    path = ""  # "module.name" in the pickle
    args: tuple[Any, ...]
    state: Any
    items: list[Any]

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
        self.code: Any = code
        self.order: Any = "="  # numpy looks at it

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


def _from_buffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Literal["C", "F"] = "C") -> np.ndarray:
    return np.frombuffer(bytearray(data), dtype.numpy()).reshape(shape, order=order)


def _text_to_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _Refused(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _plain(kind: type) -> Callable[..., Any]:
    """Returns the type, for one plain value: bytes(10**10) would be ten gigabytes, str(list) as long as all that is in
    the list."""

    def make(*args: Any) -> Any:
        if any(type(a) not in (bool, bytes, complex, float, int, list, str) for a in args) or (
            type(args[0] if args else "") in ((int,) if kind is bytes else (list,))
        ):
            raise _Refused(f"{kind.__name__} of {', '.join(type(a).__name__ for a in args)}")
        return kind(*args)

    return make


BUILTINS: dict[str, Any] = {k.__name__: k for k in (dict, frozenset, list, set, tuple)}
BUILTINS |= {k.__name__: _plain(k) for k in (bool, bytes, complex, float, int, str)}
ALLOWED = {
    "_codecs.encode": _text_to_bytes,
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": defaultdict,
    "copyreg._reconstructor": lambda kind, base, state: kind(state),
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    "torch.Size": torch.Size,
    "torch._tensor._rebuild_from_type_v2": lambda function, kind, args, state: function(*args),
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._utils._rebuild_tensor": torch_files.tensor,
    "torch._utils._rebuild_tensor_v2": torch_files.tensor,
    "torch._utils._rebuild_tensor_v3": torch_files.tensor_of_dtype,
    "torch.Tensor": lambda *_: None,  # named, never built
    "torch.device": lambda *_: torch.device("cpu"),
    "torch.nn.parameter.Parameter": lambda data, *_: data,
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

    def __init__(self, reader: "_Reader", stream: Any, storage: Callable[[Any], Any] | None = None) -> None:
        super().__init__(stream, encoding="latin1")
        self.reader, self.storage, self.known = reader, storage, {}

    def persistent_load(self, entry: Any) -> Any:
        if self.storage is None:
            raise ValueError("it refers to what is not in the file")
        return self.storage(entry)

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path not in self.known:
            self.known[path] = self._known(module, name, path)
        return self.known[path]

    def _known(self, module: str, name: str, path: str) -> Any:
        if module in ("builtins", "__builtin__") and name in BUILTINS:
            return BUILTINS[name]
        if path in torch_files.STORAGES:
            return torch_files.STORAGES[path]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if path == "torch.storage._load_from_bytes":
            return lambda data: self.reader.nested(data)
        if path in ALLOWED:
            known = ALLOWED[path]
            if known in (OrderedDict, defaultdict, torch.Size):
                return known
            if known in (torch_files.tensor, torch_files.tensor_of_dtype):
                return lambda *args: known(str(self.reader.path), *args)
            return (lambda *args: known(*args)) if not isinstance(known, type) else type(name, (known,), {})
        if any(path == prefix or path.startswith(prefix + ".") for prefix in self.reader.inert):
            return type(name, (Inert,), {"path": path})
        raise _Refused(path)


class _Reader:
    """Reads one file: what is inert in it, and how deep a file within a pickle within a file it is at."""

    def __init__(self, path: Path, inert: tuple[str, ...], depth: int = 0) -> None:
        self.path, self.inert, self.depth = path, inert, depth

    def load(self, stream: Any, length: int, storage: Callable[[Any], Any] | None = None) -> Any:
        """Returns the object of one pickle, and the stream behind it."""
        start = stream.tell()
        pickle_scan.check(stream, length, str(self.path))
        end = stream.tell()
        stream.seek(start)
        value = _Unpickler(self, stream, storage).load()
        stream.seek(end)  # the unpickler may have read on
        return value

    def stream(self, stream: Any, length: int) -> Any:
        """Returns the object in a plain pickle or in torch's older format."""
        first = self.load(stream, length)
        return (
            torch_files.read_legacy(stream, length, self.load)
            if type(first) is int and first == torch_files.MAGIC
            else first
        )

    def nested(self, data: Any) -> Any:
        """Returns the object in the bytes of a file of torch.save, which is how a plain pickle holds a tensor."""
        if type(data) is not bytes or self.depth >= NESTED:
            raise ValueError("it holds a file within a file within a file")
        return _Reader(self.path, self.inert, self.depth + 1).stream(io.BytesIO(data), len(data))


def read(path: str | Path, inert: Iterable[str] = FRAMEWORKS) -> Any:
    """Returns the content of a checkpoint: tensors, numbers, arrays and containers of them, on the CPU.

    Args:
        path: a safetensors file, a .pt / .pth / .ckpt file of torch.save in either format, or a pickle.
        inert: modules whose objects are replaced by `Inert` ones; an object of any other unlisted class is refused.

    Raises:
        WeightsError: the file is missing, damaged, or asks for something that could run code.
        FileError: it asks for far more memory than it has bytes.
    """
    try:
        path = Path(path)
        if not path.is_file():
            raise WeightsError(f"there is no weights file {path}; pass the path of a checkpoint that exists")
    except (TypeError, ValueError, OSError) as error:
        if isinstance(error, InvgenError):
            raise
        raise WeightsError(f"a weights file is given by its path, got {path!r:.80} ({error})") from error
    try:
        return _finished(_read(path, tuple(inert)), {})
    except InvgenError:
        raise
    except _Refused as error:
        raise WeightsError(
            f"{path} asks for {str(error):.200}, which could run code, so invgen does not open it: save the state dict "
            "alone, torch.save(net.state_dict(), path) or safetensors, where you trust the file"
        ) from None
    except Exception as error:  # whatever a damaged or hostile file may do to the parsers
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise WeightsError(f"{path} is not a whole checkpoint ({reason:.200}): fetch or save it again") from error


def _read(path: Path, inert: tuple[str, ...]) -> Any:
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= length - 8:
        from safetensors.torch import load_file

        return load_file(path)
    reader = _Reader(path, inert)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise _Refused("TorchScript")
        return torch_files.read_archive(path, reader.load)
    if not length:
        raise ValueError("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        return reader.stream(stream, length)


def _finished(value: Any, done: dict[int, Any]) -> Any:
    """With the arrays in the making replaced by arrays; what is shared is met once, and stays shared."""
    if not isinstance(value, _Array | dict | list | tuple | Inert):
        return value
    if id(value) in done:
        return done[id(value)][1]
    done[id(value)] = (value, value)  # holds it, so that its id stays its own
    if isinstance(value, _Array):
        done[id(value)] = (value, value.value)
    elif isinstance(value, dict):
        for key in value:
            value[key] = _finished(value[key], done)
    elif isinstance(value, list):
        value[:] = [_finished(v, done) for v in value]
    elif type(value) is tuple:
        done[id(value)] = (value, tuple(_finished(v, done) for v in value))
    elif isinstance(value, Inert):
        value.args, value.state, value.items = (_finished(v, done) for v in (value.args, value.state, value.items))
    return done[id(value)][1]


def fill(net: Net, tensors: Mapping[str, Tensor], source: str | Path) -> Net:
    """Returns `net`, built on the meta device or not, with these weights: every tensor has its place, and every place
    its tensor.

    Raises:
        WeightsError: a tensor is missing, extra, of another shape, or not finite.
        FileError: the file has one number stand for many, and more of them than a file may ask for.
    """
    tensors = counted(net, tensors)
    require_fit(net, tensors, source)
    asked = sum(t.numel() * t.element_size() for t in tensors.values())
    there = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()}.values())
    if asked > 2 * there:
        check_size(asked, f"the network in {source}")
    half = (torch.float16, torch.bfloat16)
    numbers = {name: (t.float() if t.dtype in half else t).detach().clone() for name, t in tensors.items()}
    net.load_state_dict(numbers, assign=True)
    return net.eval().requires_grad_(False)


def counted(net: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """With the counters of batch norms that torch before 0.4.1 did not keep, which nothing but training reads."""
    missing = [n for n in net.state_dict() if n.rpartition(".")[2] == "num_batches_tracked" and n not in tensors]
    return {**tensors, **{name: torch.zeros((), dtype=torch.long) for name in missing}}


def require_fit(net: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Every tensor has its place in the network, and every place its tensor, of finite numbers; WeightsError if not."""
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise WeightsError(
            f"the weights in {source} do not fit the network that they are said to be: {len(wrong)} tensors are missing, "
            f"extra or of another shape, '{wrong[0]:.200}' first (expected {expected.get(wrong[0])}, "
            f"found {found.get(wrong[0])})"
        )
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise WeightsError(
            f"the weights in {source} are not finite ('{bad[0]:.200}'): the training diverged or the file is damaged"
        )
