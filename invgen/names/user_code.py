"""The user's own code: what `module:Name` and `path/to/file.py:Name` reach, and what is refused before anything is called.

Importing a module runs it: a `module:Name` is a program of the user's, and so is a suite that holds one (SECURITY.md).
What a spec may call beyond that is decided by what the name stands for, not by what comes back: a class that derives from
the wanted contract, or a function that makes one. Python's own modules are refused before they are imported, and what a
module has imported from them (`my_module:os.system`) before it is called.
"""

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from invgen.errors import InvgenError, OptionError
from invgen.names.spelling import clipped, short

_loaded: dict[Path, tuple[tuple[int, int], ModuleType]] = {}  # .py files: (time of change, size), and what they made
_INSTALLED = {"site-packages", "dist-packages"}  # folders that installers write to


def user_object(module: str, name: str) -> Any:
    """Finds `name` in the user's `module`; calls nothing.

    Args:
        module: a dotted name, found from the current folder too, or a path to a .py file. It is imported.
        name: of something in it, or of something in a class in it ("Mask.random").

    Raises:
        OptionError: the module cannot be found, is Python's own or fails as it is imported; it has no such name; or the
            name is private, a module, or comes from Python's standard library.
    """
    spec = short(f"{module}:{name}")
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise OptionError(f"{spec} is no name; expected module:Name or path/to/file.py:Name")
    if any(part.startswith("_") for part in parts):
        raise OptionError(f"{spec} is private, as its underscore says; give what a spec may reach a public name")
    value = _imported(module)
    for k, part in enumerate(parts):
        owner = value
        if k and not inspect.isclass(owner):
            raise OptionError(
                f"{spec} looks into {parts[k - 1]}, which is no class; expected module:Name or module:Class.name"
            )
        try:
            value = getattr(owner, part)
        except AttributeError as error:
            of = "its classes are" if not k else "its class methods are"
            known = [n for n, v in vars(owner).items() if _offered(owner, n, v)]
            shown = f"module {short(module)}" if not k else f"{module}:{'.'.join(parts[:k])}"
            raise OptionError(f"{shown} has no {short(part)}; {of} {', '.join(known) or 'none'}") from error
        except InvgenError:
            raise
        except Exception as error:  # a module or a class may look its names up by code of its own
            raise OptionError(failure(f"looking up {spec}", error)) from error
        if isinstance(value, ModuleType):
            raise OptionError(f"{spec} is a module; name a class in it: {value.__name__}:Name")
    if callable(value) and origin(value) == "python":
        raise OptionError(f"{spec} is from Python's standard library, which a spec may not call; expected code of your own")
    return value


def _offered(owner: Any, name: str, value: Any) -> bool:
    if name.startswith("_"):
        return False
    if inspect.isclass(owner):
        return isinstance(value, classmethod | staticmethod)
    return inspect.isclass(value) and value.__module__ == owner.__name__


def _imported(module: str) -> ModuleType:
    """Returns the module of a dotted name, or of a .py file."""
    is_file = module.endswith(".py")
    if not is_file and not all(part.isidentifier() for part in module.split(".")):
        raise OptionError(f"{short(module)} is no module; write module:Name, or path/to/file.py:Name")
    top = module.partition(".")[0]
    if not is_file and top in sys.stdlib_module_names:
        own = f"; if you mean your file, write ./{top}.py:Name" if os.path.isfile(f"{top}.py") else ""
        raise OptionError(f"{module!r} is a module of Python's standard library, which a spec may not reach{own}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return _from_file(module) if is_file else importlib.import_module(module)
    except InvgenError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise OptionError(
                f"there is no module {short(module)} in {here} or among the installed packages; write module:Name, "
                "or path/to/file.py:Name"
            ) from error
        raise OptionError(f"module {module!r} needs the package {error.name!r}, which is not installed") from error
    except Exception as error:  # whatever the user's module does wrong becomes one sentence
        raise OptionError(failure(f"importing {short(module)}", error)) from error


def _from_file(name: str) -> ModuleType:
    """Returns the module of a .py file, run once as long as the file stays as it is.

    Its name follows from the path as it is written, so that it is the same in every process, whatever was loaded before.
    """
    try:
        path = Path(name).resolve()
        found = path.stat() if path.is_file() else None
    except (OSError, ValueError):  # a path that is too long, or holds a NUL
        found = None
    if found is None:
        raise OptionError(f"there is no Python file {short(name)}")
    state = (found.st_mtime_ns, found.st_size)
    if path in _loaded and _loaded[path][0] == state:
        return _loaded[path][1]
    alias = re.sub(r"\W+", "_", name.removesuffix(".py")).strip("_") + "_of_user"
    made = importlib.util.spec_from_file_location(alias, path)
    assert made is not None and made.loader is not None  # so it is for a path that ends in .py
    module = importlib.util.module_from_spec(made)
    sys.modules[alias] = module  # dataclasses and pickle look a class up there
    try:
        made.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(alias, None)
        raise
    _loaded[path] = (state, module)
    return module


def failure(what: str, error: Exception) -> str:
    """Returns the sentence about code that failed: where, and with what."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{what} failed at {last.filename}:{last.lineno} with {type(error).__name__}: {clipped(str(error)) or 'no message'}"
    )


# -- what may be called --------------------------------------------------------------------------------------------------


def origin(thing: Any) -> Literal["python", "installed", "own"]:
    """Returns who wrote a class, a function or an object: Python itself, an installed package (invgen is one
    wherever it lies), or somebody whose module lies elsewhere: the user."""
    function = _unwrapped(thing)
    name = getattr(function, "__module__", None) or type(function).__module__
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return "python"
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return "own" if top == "__main__" else "installed"
    return "installed" if top == "invgen" or _INSTALLED & set(Path(file).parts) else "own"


def _unwrapped(thing: Any) -> Any:
    """Returns the function beneath `functools.partial` and decorators."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    return inspect.unwrap(thing) if callable(thing) else thing


def check_maker(found: Any, base: type, kind: str, spec: str) -> Callable[..., Any]:
    """Returns `found` if calling it may make a `base`; does not call it.

    A class has to derive from `base`. A function has to be annotated as making one, or to be the user's own and not
    annotated as making anything else.

    Args:
        found: the object of the user's code.
        base: the class wanted.
        kind: its name in messages, such as "operator".
        spec: the text that named it.

    Raises:
        OptionError: it is neither.
    """
    spec, wanted = short(spec), f"an invgen {base.__name__}"
    article = "an" if kind[0] in "aeiou" else "a"
    expected = f"expected {article} {kind} class or a function that makes one"
    if inspect.isclass(found):
        if not issubclass(found, base):
            raise OptionError(f"{spec} makes {found.__name__}, expected {wanted}")
        return found
    function = _unwrapped(found)
    if not (inspect.isfunction(function) or inspect.ismethod(function)) or isinstance(found, base):
        raise OptionError(f"{spec} is {type(found).__name__} {clipped(_represented(found), 60)}, {expected}")
    of = getattr(found, "__self__", None)
    if inspect.isclass(of) and issubclass(of, base):  # an alternative constructor, such as Mask.random
        return found
    annotated, own = returned(function), origin(found) == "own"
    if not annotated and not own:
        raise OptionError(
            f"{spec} is a function of an installed package that does not say what it makes; {expected}, "
            f"annotated with -> {base.__name__}"
        )
    if annotated and not any(issubclass(c, base) or (own and issubclass(base, c)) for c in annotated):
        raise OptionError(
            f"{spec} makes {' or '.join(c.__name__ for c in annotated)}, as its annotation says, expected {wanted}"
        )
    return found


def _represented(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # of the user's class
        return ""


def returned(function: Callable[..., Any]) -> tuple[type, ...]:
    """Returns the classes that a function's annotation names as its result; none where it does not say."""
    try:
        hint = get_type_hints(function).get("return", Any)
    except Exception:  # an annotation that names what is imported for type checkers alone
        return ()
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    found = tuple(get_origin(h) or h for h in hints)
    return found if all(inspect.isclass(c) and c is not Any for c in found) else ()
