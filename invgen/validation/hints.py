"""A value held against a type hint: what fits comes back as the hint has it, what does not is one sentence.

Ranges are data, `Annotated[float, Range(0, 1)]`, with names for the usual ones. Numbers of NumPy and of torch become plain.
"""

import contextlib
import functools
import inspect
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from invgen.errors import OptionError


@dataclass(frozen=True)
class Range:
    """The numbers from low to high; `above` and `below` leave the ends out, `infinite` lets an infinite one pass."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    infinite: bool = False

    def holds(self, value: float) -> bool:
        """Returns whether a number lies in the range; not-a-number never does."""
        from_below = value > self.low if self.above else value >= self.low
        return from_below and (value < self.high if self.below else value <= self.high)

    def words(self, noun: str) -> str:
        """Returns the range in words, such as "a positive whole number"."""
        low, high = f"{self.low:.12g}", f"{self.high:.12g}"
        if self.high == math.inf:
            if self.low == -math.inf:
                return f"a {noun}" if noun.startswith("whole") or self.infinite else f"a finite {noun}"
            if (self.above and self.low == 0) or (self.low == 1 and noun.startswith("whole")):
                return f"a positive {noun}"
            return f"a {noun} {'above' if self.above else 'of at least'} {low}"
        if self.low == -math.inf:
            return f"a {noun} {'below' if self.below else 'of at most'} {high}"
        if self.high >= 2**53:  # the limit of the seeds
            return f"a {noun} from {low} to 2^63 - 1"
        left_out = {(0, 0): "", (1, 1): ", both excluded", (1, 0): f", {low} excluded", (0, 1): f", {high} excluded"}
        return f"a {noun} from {low} to {high}{left_out[self.above, self.below]}"


Count = Annotated[int, Range(1)]
Index = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Level = Annotated[float, Range(0, 1, above=True, below=True)]
Interval = tuple[NonNegative, Annotated[float, Range(0, infinite=True)]]
Seed = Annotated[int, Range(0, 2**63 - 1)]


class _Names(dict):
    """The names of the package, for hints in quotes; each is imported when it is asked for."""

    def __missing__(self, name: str) -> Any:
        try:
            return getattr(sys.modules["invgen"], name)
        except AttributeError:
            raise KeyError(name) from None


class _Unfit(Exception):
    """A value does not fit a hint."""


def check(name: str, value: Any, hint: Any) -> Any:
    """Returns an argument as its hint has it: a plain number for one of NumPy or of torch, a tuple for a list.

    Args:
        name: of the argument; the sentence begins with it.
        value: what was passed.
        hint: a type hint: a class, a union, Literal, Sequence, tuple, Callable or Annotated[..., Range]. One that is
            none of these passes everything. A string in Annotated ends the sentence: what to do.

    Raises:
        OptionError: the value does not fit.
    """
    try:
        return _converted(value, hint)
    except _Unfit:
        raise OptionError(f"{name} must be {_words(hint)}, got {shown(value)}{_advice(value, hint)}") from None


def fits(value: Any, hint: Any) -> bool:
    """Returns whether `check` would take a value."""
    try:
        _converted(value, hint)
    except _Unfit:
        return False
    return True


@functools.cache
def hints_of(function: Callable) -> dict[str, Any]:
    """Returns the type hints of a function or a class; one whose names are not known here is left out."""
    names, known = _Names(), getattr(inspect.unwrap(function), "__globals__", {})
    with contextlib.suppress(NameError, TypeError, AttributeError):
        return typing.get_type_hints(function, localns=None if inspect.isclass(function) else names, include_extras=True)
    hints: dict[str, Any] = {}
    for name, hint in getattr(function, "__annotations__", {}).items():
        with contextlib.suppress(NameError, TypeError, AttributeError):
            one = types.SimpleNamespace(__annotations__={name: hint})
            hints |= typing.get_type_hints(one, known, names, include_extras=True)
    return hints


def shown(value: Any) -> str:
    """Returns a value for a sentence: short, on one line, a table by its shape."""
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if isinstance(value, Tensor):
        return (
            f"{value.item()!r}"
            if value.ndim == 0 and value.device.type == "cpu"
            else f"a tensor of shape {tuple(value.shape)}"
        )
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} of {value.dtype}"
    if isinstance(
        value, str | int | float | complex | tuple | list | dict | set | None | torch.dtype | np.generic | os.PathLike
    ):
        try:
            text = " ".join(repr(value).split())
        except (ValueError, RecursionError):  # a whole number of more than 4300 digits, a list that holds itself
            return f"a {type(value).__name__} too large to show"
        return text if len(text) <= 80 else f"{text[:77]}..."
    return type(value).__name__


def _converted(value: Any, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        value = (
            _converted(value, args[0]) if not any(isinstance(a, Range) and a.infinite for a in args[1:]) else _number(value)
        )
        if value is not None and not all(a.holds(value) for a in args[1:] if isinstance(a, Range)):
            raise _Unfit
        return value
    if origin in (Union, types.UnionType):
        return _one_of(value, args)
    if origin is Literal:
        if not isinstance(value, str | int | float | bool | None) or value not in args:
            raise _Unfit
        return value
    if hint in (None, type(None)):
        return _require(value, value is None)
    if hint is bool:
        return bool(_require(value, isinstance(value, bool | np.bool_)))
    if hint is int:
        return _whole(value)
    if hint is float:
        number = _number(value)
        return _require(number, math.isfinite(number))
    if hint is Tensor:
        return _tensor(value)
    if origin is tuple:
        return _tuple(value, args)
    if origin in (list, Sequence):
        return _sequence(value, args)
    kind = origin or hint
    if kind is Callable:
        return _require(value, callable(value))
    if inspect.isclass(kind) and origin is not type and not getattr(kind, "_is_protocol", False):
        return _require(value, isinstance(value, kind))
    return value


def _require(value: Any, good: bool) -> Any:
    if not good:
        raise _Unfit
    return value


def _one_of(value: Any, hints: Sequence[Any]) -> Any:
    """Returns the first hint that fits, one of the value's own class before one that converts: a tensor stays a tensor."""
    listed = isinstance(value, list | tuple)
    own = [h for h in hints if (listed and get_origin(h) in (list, tuple, Sequence)) or _is_own(value, h)]
    for hint in (*own, *hints):
        try:
            return _converted(value, hint)
        except _Unfit:
            continue
    raise _Unfit


def _is_own(value: Any, hint: Any) -> bool:
    return inspect.isclass(hint) and hint is not Any and isinstance(value, hint) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Returns a number of NumPy or a tensor without axes as a plain one; a tensor that wants a gradient would lose it."""
    if (
        isinstance(value, Tensor | np.ndarray | np.generic)
        and value.ndim == 0
        and not getattr(value, "requires_grad", False)
    ):
        return value.item()
    return value


def _whole(value: Any) -> int:
    value = _plain(value)
    return _require(value, isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def _number(value: Any) -> float:
    value = _plain(value)
    _require(value, isinstance(value, int | float) and not isinstance(value, bool))
    return _whole(value) if isinstance(value, int) else float(value)


def _tensor(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value
    _require(value, isinstance(value, np.ndarray | list | tuple))
    try:
        return torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) and value.ndim else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise _Unfit from None


def _tuple(value: Any, args: Sequence[Any]) -> tuple:
    if len(args) == 2 and args[1] is Ellipsis:
        if fits(value, int) and fits(value, args[0]):
            return (_whole(value),)  # a shape of one axis
        return tuple(_sequence(value, args[:1]))
    items = _sequence(value, ())
    _require(value, len(items) == len(args))
    return tuple(_converted(item, hint) for item, hint in zip(items, args, strict=True))


def _sequence(value: Any, args: Sequence[Any]) -> Any:
    _require(value, isinstance(value, Sequence | np.ndarray | Tensor) and not isinstance(value, str | bytes))
    if isinstance(value, np.ndarray | Tensor):
        _require(value, value.ndim == 1 and isinstance(value, np.ndarray))
        value = value.tolist()
    if isinstance(value, range) or not args:
        return value
    items = [_converted(item, args[0]) for item in value]
    return tuple(items) if isinstance(value, tuple) else items


def _words(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        noun = "whole number" if args[0] is int else "number"
        ranges = [a for a in args[1:] if isinstance(a, Range)]
        return ranges[0].words(noun) if ranges else _words(args[0])
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(_words(a) for a in args))
        return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}" if args[1:] else repr(args[0])
    if origin in (list, Sequence, tuple):
        kinds = {int: "whole numbers", float: "numbers", str: "strings"}
        if origin is tuple and args and args[-1] is not Ellipsis:
            return f"{len(args)} {kinds.get(args[0], 'values')}"
        if origin is tuple and args and args[0] is int:
            return "whole numbers such as (1, 64, 64)"
        if args and get_origin(args[0]) is Annotated:
            return f"a list of {_words(args[0]).removeprefix('a ').replace('number', 'numbers', 1)}"
        each = f", each of them {_words(args[0])}" if args and args[0] not in kinds else ""
        return f"a list of {kinds.get(args[0] if args else None, 'values')}{each}"
    names = {None: "None", type(None): "None", bool: "True or False", int: "a whole number", float: "a finite number",
             str: "a string", Tensor: "a tensor"}  # fmt: skip
    if hint in names:
        return names[hint]
    kind = origin or hint
    if kind is Callable:
        return "a function"
    name = getattr(kind, "__name__", str(kind))
    home = " invgen" if getattr(kind, "__module__", "").startswith("invgen") else ""
    return f"a{'n' if (home or name[0] in 'AEIOU') else ''}{home} {name}"


def _advice(value: Any, hint: Any) -> str:
    if inspect.isclass(value) and not fits(value, Callable):
        return ""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if inspect.isclass(value) and any(inspect.isclass(m) and issubclass(value, m) for m in members):
        return f"; make one: {value.__name__}(...)"
    if getattr(value, "requires_grad", False) and getattr(value, "ndim", 1) == 0:
        return " that requires a gradient, which would be lost: pass a plain number"
    words = (text for m in members if get_origin(m) is Annotated for text in get_args(m)[1:] if isinstance(text, str))
    return "".join(f"; {text}" for text in words)
