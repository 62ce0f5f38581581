"""From what people type to objects: "ParallelBeamCT(num_angles=23)", "ct", "DAPS(steps=50)", "my_module:MyOperator".

`invgen.names.spec` reads the text; here names become classes, and classes objects. An option may be made by one of the
catalogue's own functions, "Blur(kernel=gaussian_kernel(std=2.0))", an object by a constructor of its class,
"Mask.random(keep=0.3)".
`module:Name` imports a module of the user's, see `invgen.names.user_code`.
"""

import inspect
import json
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invgen.errors import FileError, InvgenError, OptionError
from invgen.names.spec import Call, parse
from invgen.names.spelling import clipped, hint, short
from invgen.names.user_code import check_maker, failure, user_object
from invgen.validation.arguments import checked

if TYPE_CHECKING:
    from invgen.diffusion import Prior
    from invgen.forward import Operator
    from invgen.noise import Noise
    from invgen.sampler import Sampler

SHAPE_NAMES = ("in_shape", "image_shape", "shape")  # what constructors call the shape of the signal


def unknown(kind: str, name: str, names: Iterable[str]) -> OptionError:
    """Returns the error for a name that is not known, with the nearest ones, or with all that there are."""
    return OptionError(f"unknown {kind} {short(name)}; {hint(name, names)}")


def parameters(make: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Returns the named parameters of a function or constructor, and whether it takes others too (`**options`)."""
    signature = inspect.signature(make)
    if inspect.isclass(make):
        # a class whose __new__ chooses a subclass tells its options by __init__, if it has one of its own
        owner = {name: next(c for c in make.__mro__ if name in vars(c)) for name in ("__new__", "__init__")}
        if owner["__init__"] is not object and issubclass(owner["__init__"], owner["__new__"]):
            signature = inspect.signature(make.__init__)
    found = signature.parameters.values()
    named = {p.name: p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"}
    return named, any(p.kind is p.VAR_KEYWORD for p in found)


def build(
    make: Callable[..., Any],
    options: Mapping[str, Any],
    shape: int | Sequence[int] | None = None,
    helpers: Mapping[str, Callable[..., Any]] | None = None,
) -> Any:
    """Returns `make(**options)`, with `shape` as the shape of the signal where one is asked for and none was given.

    A string option that ends in .npy stands for the array in that file, a Call for the result of the function of that name
    in `helpers`.

    Raises:
        OptionError: an option does not exist or is missing, or the constructor fails.
    """
    name, options = getattr(make, "__qualname__", "it"), dict(options)
    known, others = parameters(make)
    if shape is not None:
        wanted = [n for n in SHAPE_NAMES if n in known or (others and n == "in_shape")]
        if wanted and wanted[0] not in options:
            options[wanted[0]] = shape if isinstance(shape, int) else tuple(shape)
    for option in options:
        if option not in known and not others:
            raise unknown(f"option of {name}", option, known)
    missing = [n for n, p in known.items() if p.default is p.empty and n not in options]
    if missing:
        raise OptionError(
            f"{name} needs a value for {', '.join(missing)}: write {name}({', '.join(f'{m}=...' for m in missing)})"
        )
    shown = f"{name}({', '.join(f'{k}={_shown(v)}' for k, v in options.items())})"
    for option, value in options.items():
        if isinstance(value, str) and value.endswith(".npy"):
            from invgen.files.reader import read_npy

            options[option] = read_npy(value)
        elif isinstance(value, Call):
            options[option] = build(_find("function", value.name, helpers or {}), value.options, None, helpers)
    try:
        return make(**options)
    except InvgenError:
        raise
    except Exception as error:  # a constructor of the user's, or a value that one of ours does not understand
        if traceback.extract_tb(error.__traceback__)[-1].filename == __file__:  # the call itself
            raise OptionError(f"{clipped(shown)} cannot be made: {clipped(str(error)) or 'no message'}") from error
        raise OptionError(failure(clipped(shown), error)) from error


def _shown(value: Any) -> str:
    if isinstance(value, Call):
        return f"{value.name}({', '.join(f'{k}={_shown(v)}' for k, v in value.options.items())})"
    return repr(value)


def classes(package: Any, base: type) -> dict[str, type]:
    """Returns the public classes of a package that derive from `base`, by name."""
    public = {name: getattr(package, name) for name in getattr(package, "__all__", ())}
    return {name: value for name, value in public.items() if inspect.isclass(value) and issubclass(value, base)}


def functions(package: Any) -> dict[str, Callable[..., Any]]:
    """Returns the public functions of a package, by name."""
    public = {name: getattr(package, name) for name in getattr(package, "__all__", ())}
    return {name: value for name, value in public.items() if inspect.isfunction(value)}


def _find(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    first, *rest = name.split(".")
    by_lower = {n.lower(): value for n, value in known.items()}
    if first.lower() not in by_lower:
        raise unknown(kind, first, known)
    value = by_lower[first.lower()]
    for part in rest:  # an alternative constructor, such as Mask.random
        makers = constructors(value)
        if part not in makers:
            raise unknown(f"constructor of {first}", part, makers)
        value = makers[part]
    return value


def constructors(cls: Any) -> dict[str, Callable[..., Any]]:
    """Returns the public class methods that a class defines itself, by name; none of what is no class."""
    own = vars(cls).items() if inspect.isclass(cls) else ()
    return {n: getattr(cls, n) for n, v in own if isinstance(v, classmethod) and not n.startswith("_")}


def _resolve(
    kind: str,
    spec: str,
    base: type,
    known: Callable[[], Mapping[str, Any]],
    shape: int | Sequence[int] | None = None,
    helpers: Mapping[str, Callable[..., Any]] | None = None,
    given: Mapping[str, Any] | None = None,
) -> Any:
    module, name, options = parse(spec)
    options = {**options, **(given or {})}
    found = user_object(module, name) if module else _find(kind, name, known())
    if isinstance(found, base) and not options:
        return found
    made = build(check_maker(found, base, kind, spec) if module else found, options, shape, helpers)
    if not isinstance(made, base):
        raise OptionError(f"{short(spec)} makes {type(made).__name__}, expected an invgen {base.__name__}")
    return made


@checked
def operator(spec: str, shape: int | Sequence[int] | None = None, given: Mapping[str, Any] | None = None) -> "Operator":
    """Returns the operator of a spec, on signals of `shape` unless the spec gives another.

    Args:
        spec: a name with options.
        shape: of the signals.
        given: options that have no place in a text, such as the mask of one measurement.
    """
    from invgen import operators
    from invgen.forward import Operator

    helpers = functions(operators)
    return _resolve("operator", spec, Operator, lambda: classes(operators, Operator), shape, helpers, given)


@checked
def sampler(spec: str, others: Mapping[str, type] | None = None) -> "Sampler":
    """Returns the sampler of a spec; FILE.json is one that `invgen.tune` has saved.

    Args:
        spec: a name with options, module:Name, or a file.
        others: methods that are no samplers of invgen, by name; where there are, the spec may make any Method.
    """
    from invgen import samplers
    from invgen.method import Method
    from invgen.sampler import Sampler

    if spec.endswith(".json"):
        return load_sampler(spec)

    def known() -> dict[str, type]:
        return {**(others or {}), **{cls.__name__: cls for cls in samplers.catalogue().values()}}

    return _resolve("sampler", spec, Sampler if others is None else Method, known)


@checked
def noise(spec: str) -> "Noise":
    """Returns the noise of a spec; a bare number is the standard deviation of Gaussian noise in the units of y."""
    from invgen import noise as laws

    try:
        return laws.Gaussian(float(spec))
    except ValueError as error:
        if isinstance(error, InvgenError):
            raise

    def known() -> dict[str, type]:
        return {
            n: v
            for n, v in vars(laws).items()
            if inspect.isclass(v) and issubclass(v, laws.Noise) and v not in (laws.Noise, laws.LineIntegrals)
        }

    return _resolve("noise", spec, laws.Noise, known)


@checked
def prior(spec: str, shape: Sequence[int] | None = None) -> "Prior":
    """Returns the prior of a spec: a shipped one ("ct"), a .safetensors file, a folder of diffusers, or a class with
    options.

    shape: (C, H, W) of the signals for a prior that can take several.
    """
    from invgen import priors
    from invgen.diffusion import Prior
    from invgen.priors.load import CHECKPOINTS, load, names

    if os.path.isdir(spec) and spec not in names():
        return priors.from_diffusers(spec, shape)
    a_path = "/" in spec and "(" not in spec and ":" not in spec  # ./my_module.py:Name is none
    if spec.endswith(CHECKPOINTS) or a_path:  # load() says what is amiss with the file
        try:
            return load(spec, shape)
        except (OSError, ValueError) as error:
            if isinstance(error, InvgenError):
                raise
            reason = getattr(error, "strerror", None) or error  # a path that is too long, or holds a NUL
            raise FileError(f"cannot read the weights file {short(spec)}: {reason}") from error
    makers = classes(priors, Prior) | {n: f for n, f in functions(priors).items() if n.startswith("from_")}
    module, name, options = parse(spec)
    if module is None and name.lower() not in {n.lower() for n in makers}:
        if name not in names():
            raise unknown("prior", name, [*names(), *makers])
        return build(load, {"name_or_path": name, **options}, shape)
    return _resolve("prior", spec, Prior, lambda: makers, shape)


FORMAT = "invgen tuning 1"


LARGEST = 2**16  # bytes of a saved sampler, which has some hundred


def load_sampler(path: str | Path) -> "Sampler":
    """Returns the sampler in a file that `Tuning.save` has written.

    Raises:
        FileError: there is no such file, or it is of another kind.
    """
    from invgen import samplers

    name = clipped(str(path), 120)
    try:
        with open(path, "rb") as file:
            raw = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise FileError(f"there is no file {name}; write one with invgen.tune(...).save({name!r})") from None
    except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL
        raise FileError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    try:
        if len(raw) > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        content = json.loads(raw)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"it does not say that it is of the format {FORMAT!r}")
        sampler, options = content.get("sampler"), content.get("options")
        if not isinstance(sampler, str) or not isinstance(options, dict):
            raise ValueError("it lacks a sampler and its options")
        return samplers.get(sampler)(**options)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise FileError(f"{name} is not a file that invgen.tune has saved: {clipped(str(error))}") from error
