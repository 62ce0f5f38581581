"""What determines a result, as a hash: options, tables and weights, files, and the code of the classes at work.

Two things with equal fingerprints compute the same. Comments, docstrings and layout of code do not count, and neither do
attributes whose name begins with an underscore nor what a `cached_property` has kept: those follow from the rest. The code
of a class is that of its module and of its bases', and all of invgen that those import: the contracts, the solvers, the
random numbers. What lies below (torch, numpy, ...) does not count.
"""

import ast
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
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
_SPEECH = (
    "errors",
    "names",
    "spec",
    "spelling",
    "user_code",
    "writing",
    "plots",
    "catalogue",
)  # of invgen: nothing is computed by them


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
    return digest([plain(thing), of_modules({name for part in _parts(thing) for name in _modules(type(part))})])


def of_function(function: Callable[..., Any]) -> str:
    """The hash of a function's code, with the functions beside it and the modules of invgen that it calls."""
    modules: set[str] = set()
    texts = sorted(_texts(function, modules).values())
    return digest([texts, of_modules({name for name in modules if name.startswith("invgen.")})])


def _texts(function: Any, modules: set[str], found: dict[str, str] | None = None) -> dict[str, str]:
    """The code of a function and of those of its own module that it names; adds the modules of the others to `modules`."""
    found = {} if found is None else found
    found[function.__qualname__] = ast.unparse(_bare(ast.parse(textwrap.dedent(inspect.getsource(function)))))
    names = function.__code__.co_names
    values = [function.__globals__[n] for n in names if n in function.__globals__]
    values += [getattr(v, n) for v in values if isinstance(v, ModuleType) for n in names if hasattr(v, n)]
    for value in values:
        if not inspect.isfunction(value) or value.__module__ != function.__module__:
            modules.add(getattr(value, "__module__", None) or "")
        elif value.__qualname__ not in found:
            _texts(value, modules, found)
    return found


def of_modules(modules: Iterable[str]) -> str:
    """The hash of the code of modules, and of all modules of invgen that they import."""
    found, new = set(), set(modules)
    while new:
        found |= new
        new = {name for module in new for name in _imports(module)} - found
    return digest([[name, _source(name)] for name in sorted(found)])


def forget() -> None:
    """Drops what is known of the code of modules, so that it is read anew."""
    for kept in (_tree, _source, _imports):
        kept.cache_clear()


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
    """The modules that define a class and its bases."""
    return [base.__module__ for base in cls.__mro__ if base.__module__.split(".")[0] not in _BELOW]


@lru_cache(maxsize=1024)
def _tree(module: str) -> ast.Module | None:
    """A module's code without comments, docstrings and layout; None for what has no source to read."""
    loaded = sys.modules.get(module)
    if loaded is None or module.split(".")[0] in _BELOW:
        return None
    try:
        return _bare(ast.parse(inspect.getsource(loaded)))
    except (OSError, TypeError, SyntaxError):
        return None


def _bare(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@lru_cache(maxsize=1024)
def _source(module: str) -> str:
    """The hash of a module's code; "" for what has no source to read."""
    tree = _tree(module)
    return "" if tree is None else hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:24]


@lru_cache(maxsize=1024)
def _imports(module: str) -> frozenset[str]:
    """The modules of invgen that a module imports at its top; of those that it imports from a package, where they are."""
    tree, found = _tree(module), set()
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            package = sys.modules.get(node.module)
            found.add(node.module)
            if hasattr(package, "__path__"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {str(getattr(getattr(package, alias.name, None), "__module__", "")) for alias in node.names}
    silent = {f"invgen.{name}" for name in _SPEECH}
    known = {name for name in found if name.startswith("invgen.") and name in sys.modules and name not in silent}
    return frozenset(name for name in known if not hasattr(sys.modules[name], "__path__"))


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
