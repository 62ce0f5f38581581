"""Names a result by a hash: specs with their options, the bytes of files, and the code of the classes at work.

Nothing that was computed is hashed: eigenvectors, kernels and drawn signals differ in their last digits, or wholly, from
one processor to another, and the same experiment has the same name everywhere. `identity` compares values, to a tolerance.
Comments, docstrings, type hints, the layout of code and the place of a file in invgen do not count. The code of a class is
that of its module and of its bases', and all of invgen that those import: the contracts, the solvers, the random numbers.
What lies below (torch, numpy, ...) does not count.
"""

import ast
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from invgen.benchmarks.suite.bare import bare
from invgen.diffusion import Prior
from invgen.forward import Operator
from invgen.names.resolve import functions, parameters, user_object
from invgen.names.spec import Call, parse

_DEPTH = 6  # of attributes within attributes
# of invgen: nothing is computed by them
_SILENT = ("invgen.errors", "invgen.messages", "invgen.names.", "invgen.files.writing", "invgen.commands.", "invgen.plots")
_BELOW = ("torch", "numpy", "scipy", "builtins", "abc", "typing", "collections", "functools", "pathlib")


def digest(value: Any) -> str:
    """Returns 24 hexadecimal digits of the SHA-256 of a value made of dicts, lists, strings and numbers."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def of_path(path: Path) -> str:
    """Returns the hash of a file's bytes, or of those of every file in a folder, with their names in it."""
    if path.is_dir():
        files = sorted(
            p for p in path.rglob("*") if p.is_file() and not any(n.startswith(".") for n in p.relative_to(path).parts)
        )
        return digest([[p.relative_to(path).as_posix(), of_path(p)] for p in files])
    state = path.stat()
    return _of_file(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)  # a volume has many slices; `parts.forget` has files read anew
def _of_file(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:24]


def of_spec(spec: str, made: Any, weights: Path | None = None) -> str:
    """Returns the hash of what a spec names: its options with defaults filled in, the files among them, and the code
    that is run.

    Args:
        spec: as `invgen.names.resolve` reads it.
        made: what it has made, whose classes count; its tensors do not.
        weights: the file or folder that the spec stands for, whose bytes then count in place of its name.
    """
    code = of_modules({name for part in _parts(made) for name in _modules(type(part))})
    if weights is None and Path(spec).suffix == ".json" and Path(spec).is_file():  # a sampler that `tune` has saved
        weights = Path(spec)
    if weights is not None:
        options = parse(spec)[2] if "(" in spec else {}
        return digest([of_path(weights), plain(options), code])
    module, name, options = parse(spec)
    make: Any = user_object(module, name) if module else type(made)
    for part in [] if module else name.split(".")[1:]:  # an alternative constructor, such as Mask.random
        make = getattr(make, part, make)
    given = _with_defaults(make, options) if inspect.isclass(make) or inspect.isroutine(make) else _scalars(make)
    called = name if module or name.startswith("from_") else name.partition(".")[2]
    return digest([type(made).__qualname__, called, plain(given), code, user_source(module) if module else ""])


def of_function(function: Callable[..., Any]) -> str:
    """Returns the hash of a function's code, with the functions beside it and the modules of invgen that it calls."""
    modules: set[str] = set()
    texts = sorted(_texts(function, modules).values())
    return digest([texts, of_modules({name for name in modules if name.startswith("invgen.")})])


def _texts(function: Any, modules: set[str], found: dict[str, str] | None = None) -> dict[str, str]:
    """Returns the code of a function and of those of its own module that it names; adds the modules of the others to
    `modules`."""
    found = {} if found is None else found
    found[function.__qualname__] = ast.unparse(bare(ast.parse(textwrap.dedent(inspect.getsource(function)))))
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
    """Returns the hash of the code of modules, and of all modules of invgen that they import."""
    found, new = set(), set(modules)
    while new:
        found |= new
        new = {name for module in new for name in _imports(module)} - found
    # without their names: a user's module has one for each time that it was loaded, and a file of invgen may be moved
    return digest(sorted(_source(name) for name in found))


def forget_files() -> None:
    """Drops what is known of files, so that they are read anew."""
    _of_file.cache_clear()


def forget() -> None:
    """Drops what is known of the code of modules, so that it is read anew."""
    for kept in (_tree, _source, _imports):
        kept.cache_clear()


def plain(value: Any) -> Any:
    """Returns an option as dicts, lists, strings and numbers that say what it is, the same in every process and
    everywhere."""
    if isinstance(value, str):
        return ["file", of_path(Path(value))] if _is_file(value) else value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Call):
        return _of_call(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, Tensor):  # a default: written in the code, which counts
        return ["tensor", str(value.dtype), list(value.shape)]
    if isinstance(value, type) or inspect.isroutine(value):
        module = getattr(value, "__module__", None) or ""
        return ["code", f"{module}.{getattr(value, '__qualname__', '')}", _source(module)]
    return (
        repr(value)
        if type(value).__repr__ is not object.__repr__
        else f"{type(value).__module__}.{type(value).__qualname__}"
    )


def _is_file(text: str) -> bool:
    """Tells whether an option names a file, whose bytes are meant and not its place."""
    try:
        return "." in text and Path(text).is_file()
    except (OSError, ValueError):  # too long, or with a NUL: no name of a file
        return False


def _scalars(thing: Any) -> dict[str, Any]:
    """Returns the numbers and texts of a sampler or a noise that is there already, to nine digits, which all machines
    agree on.

    Priors and operators are told by their values: what they have computed may differ in any digit.
    """
    if isinstance(thing, Prior | Operator):
        return {}
    found = {n: v for n, v in _attributes(thing).items() if v is None or isinstance(v, bool | int | float | str)}
    return {n: f"{v:.9g}" if isinstance(v, float) else v for n, v in found.items() if n != "training"}


def _of_call(call: Call) -> Any:
    """Returns the call of a function of the catalogue, with its defaults and its code."""
    from invgen import operators

    known = {name.lower(): function for name, function in functions(operators).items()}
    make = known[call.name.lower()]
    return ["call", make.__qualname__, plain(_with_defaults(make, call.options)), of_modules({make.__module__})]


def _with_defaults(make: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    return {n: p.default for n, p in parameters(make)[0].items() if p.default is not p.empty} | dict(options)


def _attributes(thing: Any) -> dict[str, Any]:
    """Returns the public attributes of an object, and the parts of a module."""
    found = {n: v for n, v in getattr(thing, "__dict__", {}).items() if not n.startswith("_")}
    return found | (dict(thing.named_children()) if isinstance(thing, nn.Module) else {})


def _parts(thing: Any, depth: int = _DEPTH) -> list[Any]:
    """Returns an object and the objects that it is made of, whose code counts too."""
    parts = [thing]
    for value in _attributes(thing).values() if depth else ():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, nn.Module) or type(item).__module__.split(".")[0] not in _BELOW:
                parts += _parts(item, depth - (not isinstance(item, nn.Module)))
    return parts


def _modules(cls: type) -> list[str]:
    """Returns the modules that define a class and its bases."""
    return [base.__module__ for base in cls.__mro__ if base.__module__.split(".")[0] not in _BELOW]


@lru_cache(maxsize=1024)
def _tree(module: str) -> ast.Module | None:
    """Returns a module's code without comments, docstrings, type hints and layout; None for what has no source to read."""
    loaded = sys.modules.get(module)
    if loaded is None or module.split(".")[0] in _BELOW:
        return None
    try:
        return bare(ast.parse(inspect.getsource(loaded)))
    except (OSError, TypeError, SyntaxError):
        return None


@lru_cache(maxsize=1024)
def _source(module: str) -> str:
    """Returns the hash of a module's code; "" for what has no source to read."""
    tree = _tree(module)
    if tree is not None and module.startswith("invgen."):  # where it finds the rest of invgen, whose code counts by itself
        ours = [n for n in tree.body if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("invgen")]
        tree = ast.Module([n for n in tree.body if n not in ours], [])
    return "" if tree is None else hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:24]


@lru_cache(maxsize=1024)
def _imports(module: str) -> frozenset[str]:
    """Returns the modules of invgen that a module imports at its top; of those that it imports from a package, where
    they are."""
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
    known = {name for name in found if name.startswith("invgen.") and name in sys.modules and not name.startswith(_SILENT)}
    return frozenset(name for name in known if not hasattr(sys.modules[name], "__path__"))


def user_source(module: str) -> str:
    """Returns the hash of the code of a user's module, or of a .py file."""
    if module.endswith(".py"):
        return hashlib.sha256(ast.unparse(bare(ast.parse(Path(module).read_text(encoding="utf-8")))).encode()).hexdigest()[
            :24
        ]
    return _source(module)
