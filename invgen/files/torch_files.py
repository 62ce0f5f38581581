"""Files of torch.save, a zip archive or the format before torch 1.6, read without torch.load.

torch.load believes what the pickle in a file says of the bytes beside it, also with weights_only: a tensor may reach past
the end of its bytes, or be given memory that the file does not fill. Here every storage has as many bytes as the file
holds for it, and every tensor lies within its storage.
"""

import io
import math
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invgen.validation.limits import check_size, max_bytes

MAGIC = 0x1950A86A20F9469CFC6C  # the first object of the format before torch 1.6
PROTOCOL = 1001
KINDS = {
    "BFloat16": torch.bfloat16, "Bool": torch.bool, "Byte": torch.uint8, "Char": torch.int8,
    "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64, "Double": torch.float64, "Float": torch.float32,
    "Half": torch.float16, "Int": torch.int32, "Long": torch.int64, "Short": torch.int16, "Untyped": torch.uint8,
}  # fmt: skip
STORAGES = {
    f"torch.{place}{name}Storage": dtype for name, dtype in KINDS.items() for place in ("", "cuda.", "storage.")
}  # by their names in pickles

Load = Callable[[Any, int, Callable[[Any], Any]], Any]  # (stream, its length, persistent_load) -> the object


@dataclass
class Storage:
    """The bytes of one or more tensors, and how to read them."""

    data: torch.UntypedStorage
    dtype: torch.dtype

    def fill(self, stream: Any) -> None:
        """Reads as many bytes as it has."""
        view = torch.empty(0, dtype=torch.uint8).set_(self.data).numpy().data
        while len(view):
            part = stream.read(min(len(view), 2**24))
            if not part:
                raise ValueError("the numbers of a tensor break off")
            view[: len(part)] = part
            view = view[len(part) :]


def tensor(
    what: str,
    storage: Any,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    *_: Any,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Returns a tensor over a storage, as torch._utils._rebuild_tensor_v2 makes it.

    Args:
        what: the name of the file's kind, for the message.
        storage: the values.
        offset, size, stride: where the tensor lies in the storage, in values.
        dtype: of the tensor; by default that of the storage.

    Raises:
        ValueError: the tensor does not lie within the storage.
    """
    if not isinstance(storage, Storage):
        raise ValueError(f"a tensor over a {type(storage).__name__}")
    dtype = dtype or storage.dtype
    needed = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    there = storage.data.nbytes()
    if min((*size, *stride, offset), default=0) < 0 or (0 not in size and needed * dtype.itemsize > there):
        raise ValueError("a tensor reaches outside its storage")
    if math.prod(size) * dtype.itemsize > there:  # one number, seen many times
        check_size(math.prod(size) * dtype.itemsize, f"a tensor in {what}")
    return torch.empty(0, dtype=dtype).set_(storage.data, offset, tuple(size), tuple(stride))


def tensor_of_dtype(
    what: str, storage: Any, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    """Returns a tensor of a dtype that has no storage class, as torch._utils._rebuild_tensor_v3 makes it.

    Args:
        what, storage, offset, size, stride: as for `tensor`.
        grad, hooks: of the pickled call; not used.
        dtype: of the tensor.
    """
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"a tensor of dtype {dtype!r:.60}")
    return tensor(what, storage, offset, size, stride, dtype=dtype)


def _kind(entry: Any) -> tuple[torch.dtype, str, int, Any]:
    """Returns (dtype, key, bytes, the rest) of what a pickle says of a storage."""
    word, dtype, key, _, numel, *rest = entry
    if word not in ("storage", b"storage") or not isinstance(dtype, torch.dtype) or type(numel) is not int or numel < 0:
        raise ValueError("it describes its numbers in a way that is not torch's")
    return dtype, str(key), numel * dtype.itemsize, rest


def read_archive(path: Path, load: Load) -> Any:
    """Returns the object in a zip archive of torch.save; ValueError if it is none."""
    storages: dict[str, Storage] = {}
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        pickled = next((name for name in infos if name.rpartition("/")[2] == "data.pkl"), None)
        if pickled is None:
            raise ValueError("it is a zip archive without data.pkl")
        total = sum(info.file_size for info in infos.values())
        if total > max(path.stat().st_size, max_bytes()):
            check_size(total, f"{path}, unpacked,")
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}byteorder" in infos and archive.read(f"{folder}byteorder").strip() != sys.byteorder.encode():
            raise ValueError("its bytes are in the order of another kind of machine: save it again on one like this")

        def storage(entry: Any) -> Storage:
            dtype, key, count, _ = _kind(entry)
            info = infos[f"{folder}data/{key}"]
            if info.file_size != count:
                raise ValueError(f"it holds {info.file_size} bytes of the storage '{key:.40}', not {count}")
            if key not in storages:
                storages[key] = Storage(torch.UntypedStorage(count), dtype)
                with archive.open(info) as stream:
                    storages[key].fill(stream)
            return Storage(storages[key].data, dtype)

        content = archive.read(pickled)
        return load(io.BytesIO(content), len(content), storage)


def read_legacy(stream: Any, length: int, load: Load) -> Any:
    """Returns the object in a stream of the older format, after its magic number; ValueError if it is none."""

    def none(entry: Any) -> Any:
        raise ValueError("it has tensors where there are none in torch's format")

    protocol, system = load(stream, length, none), load(stream, length, none)
    if protocol != PROTOCOL or not isinstance(system, dict):
        raise ValueError(f"it is of protocol {protocol!r:.40}, which torch does not write")
    if system.get("little_endian", True) != (sys.byteorder == "little"):
        raise ValueError("its bytes are in the order of another kind of machine: save it again on one like this")
    storages: dict[str, Storage] = {}
    room = length

    def storage(entry: Any) -> Storage:
        nonlocal room
        dtype, key, count, rest = _kind(entry)
        if key not in storages:
            room -= count
            if room < 0:
                raise ValueError("it has fewer bytes than its tensors need")
            storages[key] = Storage(torch.UntypedStorage(count), dtype)
        whole = storages[key]
        if whole.data.nbytes() != count or whole.dtype != dtype:
            raise ValueError(f"it describes the storage '{key:.40}' twice, in two ways")
        if rest and rest[0] is not None:  # a part of it: its key, its start and its length
            _, start, size = rest[0]
            if not 0 <= start <= start + size <= count // dtype.itemsize:
                raise ValueError("a storage reaches outside another")
            return Storage(whole.data[start * dtype.itemsize : (start + size) * dtype.itemsize], dtype)
        return whole

    content = load(stream, length, storage)
    keys = load(stream, length, none)
    if sorted(map(str, keys)) != sorted(storages):
        raise ValueError("its list of storages is not that of its tensors")
    for key in map(str, keys):
        (count,) = struct.unpack("<q", stream.read(8))
        if count * storages[key].dtype.itemsize != storages[key].data.nbytes():
            raise ValueError(f"the storage '{key:.40}' has {count} numbers, not what its tensors need")
        storages[key].fill(stream)
    return content
