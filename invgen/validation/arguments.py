"""Checks the arguments of public calls: their names, then each against its type hint."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from invgen.errors import CallError, OptionError
from invgen.names.spelling import hint as spelled
from invgen.validation.hints import check, fits, hints_of, shown

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Wraps a function, or the `__init__` of a class, so that its arguments are checked before it runs.

    Raises:
        CallError: from the wrapped function: an argument is missing, or does not exist.
        OptionError: one does not fit its hint.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = bind(owner_of(function, args), signature, args, kwargs)
        hints = hints_of(function)
        for name, value in bound.arguments.items():
            parameter = signature.parameters[name]
            if (
                name not in hints
                or value is parameter.default
                or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            ):
                continue
            try:
                bound.arguments[name] = check(f"{name} of {owner_of(function, args)}", value, hints[name])
            except OptionError as error:
                if other := _exchanged(name, bound.arguments, hints):
                    raise OptionError(f"{error}; are {name} and {other} in each other's place?") from None
                raise
        return function(*bound.args, **bound.kwargs)

    return wrapped


def checked_class(cls: type) -> None:
    """Puts `checked` around the constructor of a class and around its class methods, those that it defines itself.

    In classes that are not the package's own only the names of the arguments are checked: their hints are their author's.
    """
    own = cls.__module__.split(".")[0] == "invgen"
    for name, method in list(vars(cls).items()):
        if name == "__init__" and inspect.isfunction(method) and not hasattr(method, "_checked"):
            wrapped = checked(method) if own else _named(method)
            wrapped._checked = True
            setattr(cls, name, wrapped)
        elif own and isinstance(method, classmethod) and not name.startswith("_"):
            setattr(cls, name, classmethod(checked(method.__func__)))


def named(cls: C) -> C:
    """Checks the names of the arguments of a dataclass; its `__post_init__` looks at the values."""
    cls.__init__ = _named(cls.__init__)
    return cls


def _named(function: Callable) -> Callable:
    """Wraps a constructor so that an argument that is missing or unknown is one sentence."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        bind(owner_of(function, args), signature, args, kwargs)
        return function(*args, **kwargs)

    return wrapped


def owner_of(function: Callable, args: Sequence[Any]) -> str:
    """Returns the name of what is called, for a sentence: "Mask", "Mask.random" or "solve"."""
    if function.__name__ == "__init__" and args:
        return type(args[0]).__name__
    return function.__qualname__.split("<locals>.")[-1]


def bind(
    owner: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """Binds a call to a signature.

    Args:
        owner: the name of the function, for messages.
        signature: of the function.
        args, kwargs: of the call.

    Raises:
        CallError: an argument is unknown, missing, given twice or one too many; the sentence says which.
    """
    try:
        return signature.bind(*args, **kwargs)
    except TypeError:
        pass
    named = {n: p for n, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if next(iter(named), None) in ("self", "cls"):
        named.pop(next(iter(named)))
        args = args[1:]
    positional = [n for n, p in named.items() if p.kind is not p.KEYWORD_ONLY]
    others = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    unknown = next((k for k in kwargs if k not in named and not others), None)
    if unknown is not None:
        raise CallError(f"{owner} has no option {unknown!r}; {spelled(unknown, named)}")
    if len(args) > len(positional):
        rest = [n for n in named if n not in positional]
        order = f"{', '.join(positional) or 'nothing'} by position" + (f", {', '.join(rest)} by name" if rest else "")
        raise CallError(f"{owner} takes {order}; got {len(args)} arguments by position")
    twice = next((n for n in positional[: len(args)] if n in kwargs), None)
    if twice is not None:
        raise CallError(f"{owner} got {twice} twice, by position and by name; leave one out")
    missing = [n for n, p in named.items() if p.default is p.empty and n not in kwargs and n not in positional[: len(args)]]
    raise CallError(
        f"{owner} needs a value for {', '.join(missing)}: write {owner}({', '.join(f'{m}=...' for m in missing)})"
    )


def mask(name: str, value: Any) -> Tensor:
    """Returns a mask as booleans: from booleans, from 0 and 1, or from 0 and 255 as in an 8-bit picture.

    Raises:
        OptionError: any other value is in it: a mask says measured or not measured, nothing between.
    """
    try:
        table = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"{name} must be a tensor of booleans, or of 0 and 1, got {shown(value)}") from error
    if table.device.type == "meta":
        raise OptionError(f"{name} must have values, got {shown(value)} on the device meta")
    if table.dtype == torch.bool:
        return table
    high = 255 if bool((table == 255).any()) else 1
    on = table == high
    strange = table[~on & (table != 0)]
    if strange.numel():
        raise OptionError(
            f"{name} has {strange.numel()} of {table.numel()} values that are neither 0 nor {high}, such as "
            f"{strange.flatten()[0].item():.4g}; a value is measured or not: pass booleans, such as mask > 0.5"
        )
    return on


def _exchanged(name: str, arguments: Mapping[str, Any], hints: Mapping[str, Any]) -> str | None:
    """Returns another argument that would fit here, as this one would fit there."""
    value = arguments[name]
    if isinstance(value, bool | int | float | None):  # a number out of range is no slip of the order
        return None
    others = (o for o in arguments if o != name and o in hints and hints[o] != hints[name])
    return next((o for o in others if fits(value, hints[o]) and fits(arguments[o], hints[name])), None)
