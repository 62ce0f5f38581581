"""What determines a result, as a hash: options, tables and weights, files, and the code of the classes at work.

Two things with equal fingerprints compute the same. Comments, docstrings and layout of code do not count, and neither do
attributes whose name begins with an underscore nor what a `cached_property` has kept: those follow from the rest. Code
counts up to the contracts (`Operator`, `Sampler`, ...): what lies below them is told by invgen's version.
"""

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from invgen.errors import OptionError
from invgen.names import parameters, user_object
from invgen.spec import Call, parse

_DEPTH = 6  # of attributes within attributes
_BELOW = ("torch", "numpy", "scipy", "builtins", "abc", "typing", "collections", "functools", "pathlib")
_CONTRACTS = ("forward", "noise", "sampler", "diffusion", "pushforward", "conditional", "particles", "markov")


def digest(value: Any) -> str:
    """24 hexadecimal digits of the SHA-256 of a value made of dicts, lists, strings and numbers."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def of_tensor(tensor: Tensor) -> str:
    """The hash of a tensor's dtype, shape and values, wherever it lies."""
    t = tensor.detach().cpu()
    if t.layout == torch.sparse_coo:
        parts = (t.coalesce().indices(), t.coalesce().values())
    elif t.layout == torch.sparse_csr:
        parts = (t.crow_indices(), t.col_indices(), t.values())
    else:
        parts = (t.to_dense().resolve_conj().resolve_neg(),)
    found = hashlib.sha256(f"{t.dtype}{tuple(t.shape)}".encode())
    for part in parts:
        found.update(part.contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:24]


def of_file(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:24]


def of_object(thing: Any) -> str:
    """The hash of an operator, a noise, a sampler or a prior: its attributes, its tensors, and the code of its classes."""
    code = sorted({name for part in _parts(thing) for name in _modules(type(part))})
    return digest([plain(thing), [_source(name) for name in code]])


def plain(value: Any, depth: int = _DEPTH) -> Any:
    """A value as dicts, lists, strings and numbers that say what it is, the same in every process."""
    if value is None or isinstance(value, bool | int | float | str):
        if isinstance(value, str) and value.endswith(".npy") and Path(value).is_file():
            return ["file", of_file(Path(value))]
        return value
    if isinstance(value, Call):
        return ["call", value.name, plain(value.options, depth)]
    if isinstance(value, Tensor):
        return ["tensor", of_tensor(value)]
    if type(value).__module__ == "numpy":
        return ["array", of_tensor(torch.as_tensor(value))]
    if isinstance(value, Mapping):
        return {str(k): plain(v, depth) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, depth) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, Path | torch.dtype | torch.device):
        return str(value)
    if isinstance(value, type) or inspect.isroutine(value):
        module = getattr(value, "__module__", None) or ""
        return ["code", f"{module}.{getattr(value, '__qualname__', '')}", _source(module)]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if depth == 0 or isinstance(value, torch.Generator | ModuleType):
        return kind
    depth -= not isinstance(value, nn.Module)  # networks are trees, however deep
    return [kind, {k: plain(v, depth) for k, v in sorted(_attributes(value).items())}]


def _attributes(thing: Any) -> dict[str, Any]:
    """The public attributes of an object; of a module its parameters, buffers and parts too."""
    found = {n: v for n, v in getattr(thing, "__dict__", {}).items() if not n.startswith("_") and n != "training"}
    found = {n: v for n, v in found.items() if not isinstance(getattr(type(thing), n, None), cached_property)}
    if isinstance(thing, nn.Module):
        tensors = [*thing.named_parameters(recurse=False), *thing.named_buffers(recurse=False)]
        kept = thing.state_dict(keep_vars=True)  # a buffer with an underscore that is not kept is a cache
        found |= {n: t for n, t in tensors if not n.startswith("_") or n in kept}
        found |= dict(thing.named_children())
    return found


def _parts(thing: Any, depth: int = _DEPTH) -> list[Any]:
    """An object and the objects that it is made of, whose code counts too."""
    parts = [thing]
    for value in _attributes(thing).values() if depth else ():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, nn.Module) or type(item).__module__.split(".")[0] not in _BELOW:
                parts += _parts(item, depth - (not isinstance(item, nn.Module)))
    return parts


def _modules(cls: type) -> list[str]:
    """The modules that define a class and its bases, down to the contracts."""
    known = {f"invgen.{name}" for name in _CONTRACTS}
    found = {base.__module__ for base in cls.__mro__}
    return [name for name in found if name.split(".")[0] not in _BELOW and name not in known]


@lru_cache(maxsize=1024)
def _source(module: str) -> str:
    """The hash of a module's code without comments, docstrings and layout; "" for what has no source to read."""
    loaded = sys.modules.get(module)
    if loaded is None or module.split(".")[0] in _BELOW:
        return ""
    try:
        tree = ast.parse(inspect.getsource(loaded))
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:24]


def of_spec(spec: str, made: Any) -> str:
    """The hash of what a spec has made: its options with defaults filled in, the object, and the module of a user's."""
    try:
        module, name, options = parse(spec)
    except OptionError:  # a path
        return of_object(made)
    make: Any = type(made)
    for part in name.split(".")[1:]:  # an alternative constructor, such as Mask.random
        make = getattr(make, part, make)
    defaults = {n: p.default for n, p in parameters(make)[0].items() if p.default is not p.empty}
    user = user_object(module, name) if module else None
    code = _source(getattr(user, "__module__", None) or type(user).__module__) if module else ""
    return digest([plain({**defaults, **options}), of_object(made), code])
