"""From what people type to objects: "ParallelBeamCT(num_angles=23)", "ct", "DAPS(steps=50)", "my_module:MyOperator".

Only names and literals are read (`ast.literal_eval`); nothing that is typed is ever evaluated as code. `module:Name`
imports a module of the user's, as `import module` in the current folder would.
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invgen.errors import InvgenError, OptionError

if TYPE_CHECKING:
    from invgen.diffusion import Prior
    from invgen.forward import Operator
    from invgen.noise import Noise
    from invgen.sampler import Sampler

SHAPE_NAMES = ("in_shape", "image_shape", "shape")  # what constructors call the shape of the signal
_SPEC = re.compile(r"\s*(?:(?P<module>[^():]+):)?\s*(?P<name>[A-Za-z_][\w.-]*)\s*(?P<call>\(.*\))?\s*", re.DOTALL)


def parse(spec: str) -> tuple[str | None, str, dict[str, Any]]:
    """The module (or None), the name and the keyword options of `module:Name(option=literal, ...)`.

    Raises:
        OptionError: the text is not of this form, or an option is not a literal.
    """
    match = _SPEC.fullmatch(spec)
    if not match:
        raise OptionError(f"cannot read {spec!r}; expected Name, Name(option=value, ...) or module:Name(option=value, ...)")
    return match["module"], match["name"], _keywords(match["call"], spec) if match["call"] else {}


def _keywords(call: str, spec: str) -> dict[str, Any]:
    try:
        node = ast.parse("f" + call, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise OptionError(f"the options in {spec!r} are not well formed ({error.args[0]}); {_FORM}") from None
    if not isinstance(node, ast.Call) or node.args or any(k.arg is None for k in node.keywords):
        raise OptionError(f"the options in {spec!r} must be given by name; {_FORM}")
    options = {}
    for keyword in node.keywords:
        try:
            options[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            shown = ast.unparse(keyword.value)
            raise OptionError(f"option {keyword.arg} = {shown} of {spec!r} is not a literal; {_FORM}") from None
    return options


_FORM = "expected numbers, strings, tuples, lists, True, False or None, as in Name(size=4, shape=(1, 64, 64))"


def unknown(kind: str, name: str, names: Iterable[str]) -> OptionError:
    """The error for a name that is not known, with the nearest one and all that there are."""
    names = list(names)
    by_lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), by_lower, 1)
    hint = f"did you mean {by_lower[close[0]]!r}? " if close else ""
    return OptionError(f"unknown {kind} {name!r}; {hint}there are {', '.join(names) or 'none'}")


def user_object(module: str, name: str) -> Any:
    """`name` of the user's `module`: a dotted name, found from the current folder too, or a path to a .py file.

    Raises:
        OptionError: the module cannot be found or fails as it is imported, or has no such name.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        if module.endswith(".py"):
            path = Path(module)
            found = importlib.util.spec_from_file_location(path.stem, path)
            if found is None or not path.is_file():
                raise OptionError(f"there is no Python file {module!r}")
            loaded = importlib.util.module_from_spec(found)
            sys.modules[path.stem] = loaded  # so that its classes can be pickled and their source found
            found.loader.exec_module(loaded)
        else:
            loaded = importlib.import_module(module)
        value = loaded
        for part in name.split("."):
            value = getattr(value, part)
    except InvgenError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise OptionError(
                f"there is no module {module!r} in {here} or among the installed packages; write module:Name, "
                "or path/to/file.py:Name"
            ) from error
        raise OptionError(f"module {module!r} needs the package {error.name!r}, which is not installed") from error
    except AttributeError as error:
        if "loaded" not in locals() or error.obj is not loaded:
            raise OptionError(_failure(f"importing {module!r}", error)) from error
        names = [n for n, v in vars(loaded).items() if inspect.isclass(v) and v.__module__ == loaded.__name__]
        raise OptionError(f"module {module!r} has no {name!r}; its classes are {', '.join(names) or 'none'}") from error
    except Exception as error:  # whatever the user's module does wrong becomes one sentence
        raise OptionError(_failure(f"importing {module!r}", error)) from error
    return value


def _failure(what: str, error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error) or "no message"
    return f"{what} failed at {last.filename}:{last.lineno} with {type(error).__name__}: {text}"


def build(make: Callable[..., Any], options: Mapping[str, Any], shape: Sequence[int] | None = None) -> Any:
    """`make(**options)`, with `shape` as the shape of the signal where the constructor asks for one and none was given.

    A string option that ends in .npy stands for the array in that file.

    Raises:
        OptionError: an option does not exist or is missing, or the constructor fails.
    """
    name, options = getattr(make, "__name__", "it"), dict(options)
    parameters = inspect.signature(make).parameters
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = [p.name for p in named]
    if shape is not None:
        wanted = [n for n in SHAPE_NAMES if n in known]
        if wanted and wanted[0] not in options:
            options[wanted[0]] = tuple(shape)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in known:
                raise unknown(f"option of {name}", option, known)
    missing = [p.name for p in named if p.default is p.empty and p.name not in options]
    if missing:
        raise OptionError(
            f"{name} needs a value for {', '.join(missing)}: write {name}({', '.join(f'{m}=...' for m in missing)})"
        )
    for option, value in options.items():
        if isinstance(value, str) and value.endswith(".npy"):
            from invgen.files import read_npy

            options[option] = read_npy(value)
    try:
        return make(**options)
    except InvgenError:
        raise
    except Exception as error:  # a constructor of the user's, or a value that one of ours does not understand
        raise OptionError(_failure(f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items())})", error)) from error


def classes(package: Any, base: type) -> dict[str, type]:
    """The public classes of a package that derive from `base`, by name."""
    public = {name: getattr(package, name) for name in getattr(package, "__all__", ())}
    return {name: value for name, value in public.items() if inspect.isclass(value) and issubclass(value, base)}


def _find(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    by_lower = {n.lower(): value for n, value in known.items()}
    if name.lower() not in by_lower:
        raise unknown(kind, name, known)
    return by_lower[name.lower()]


def _resolve(kind: str, spec: str, base: type, known: Callable[[], Mapping[str, Any]], shape: Sequence[int] | None) -> Any:
    module, name, options = parse(spec)
    found = user_object(module, name) if module else _find(kind, name, known())
    if isinstance(found, base) and not options:
        return found
    if not callable(found) or isinstance(found, base):
        article = "an" if kind[0] in "aeiou" else "a"
        raise OptionError(f"{spec!r} is {article} {type(found).__name__}, expected {article} {kind} class")
    made = build(found, options, shape)
    if not isinstance(made, base):
        raise OptionError(f"{spec!r} makes a {type(made).__name__}, expected an invgen {base.__name__}")
    return made


def operator(spec: str, shape: Sequence[int] | None = None) -> "Operator":
    """The operator of a spec, on signals of `shape` unless the spec gives another."""
    from invgen import operators
    from invgen.forward import Operator

    return _resolve("operator", spec, Operator, lambda: classes(operators, Operator), shape)


def sampler(spec: str) -> "Sampler":
    """The sampler of a spec."""
    from invgen import samplers
    from invgen.sampler import Sampler

    def known() -> dict[str, type]:
        return {cls.__name__: cls for cls in samplers.catalogue().values()}

    return _resolve("sampler", spec, Sampler, known, None)


def noise(spec: str) -> "Noise":
    """The noise of a spec; a bare number is the standard deviation of Gaussian noise in the units of y."""
    from invgen import noise as laws

    try:
        return laws.Gaussian(float(spec))
    except ValueError as error:
        if isinstance(error, InvgenError):
            raise

    def known() -> dict[str, type]:
        names = {n: v for n, v in vars(laws).items() if inspect.isclass(v) and issubclass(v, laws.Noise)}
        if importlib.util.find_spec("invgen.noise_ct"):
            ct = importlib.import_module("invgen.noise_ct")
            names |= {n: v for n, v in vars(ct).items() if inspect.isclass(v) and issubclass(v, laws.Noise)}
        return {n: v for n, v in names.items() if v is not laws.Noise}

    return _resolve("noise", spec, laws.Noise, known, None)


def prior(spec: str, shape: Sequence[int] | None = None) -> "Prior":
    """The prior of a spec: a shipped one ("ct"), a .safetensors file, a class with options, or module:Name.

    shape: (C, H, W) of the signals for a prior that can take several.
    """
    from invgen import priors
    from invgen.diffusion import Prior
    from invgen.priors.load import load, names

    exact = classes(priors, Prior)
    if spec.endswith(".safetensors"):
        return load(spec, shape)
    module, name, options = parse(spec)
    if module is None and name.lower() not in {n.lower() for n in exact}:
        if name not in names():
            raise unknown("prior", name, [*names(), *exact])
        return build(load, {"name_or_path": name, **options}, shape)
    return _resolve("prior", spec, Prior, lambda: exact, shape)
