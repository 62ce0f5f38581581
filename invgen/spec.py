"""The text `module:Name(option=literal, ...)`, read and never evaluated: names, and `ast.literal_eval` for the options."""

import ast
import re
from dataclasses import dataclass
from typing import Any

from invgen.errors import InvgenError, OptionError

_SPEC = re.compile(r"\s*(?:(?P<module>[^():]+):)?\s*(?P<name>[A-Za-z_][\w.-]*)\s*(?P<call>\(.*\))?\s*", re.DOTALL)
_FORM = "expected numbers, strings, tuples, lists, True, False or None, as in Name(size=4, shape=(1, 64, 64))"


@dataclass(frozen=True)
class Call:
    """An option that is to be made by a function of the catalogue."""

    name: str
    options: dict[str, Any]


def parse(spec: str) -> tuple[str | None, str, dict[str, Any]]:
    """The module (or None), the name and the options (literals and Calls) of `module:Name(option=literal, ...)`.

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
    return _options(node, spec)


def _options(node: ast.expr, spec: str) -> dict[str, Any]:
    if not isinstance(node, ast.Call) or node.args or any(k.arg is None for k in node.keywords):
        raise OptionError(f"the options in {spec!r} must be given by name; {_FORM}")
    options = {}
    for keyword in node.keywords:
        value = keyword.value
        if keyword.arg in options:
            raise OptionError(f"option {keyword.arg} of {spec!r} is given twice; leave one out")
        try:
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
                options[keyword.arg] = Call(value.func.id, _options(value, spec))
            else:
                options[keyword.arg] = ast.literal_eval(value)
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            if isinstance(error, InvgenError):
                raise
            shown = ast.unparse(value)
            raise OptionError(f"option {keyword.arg} = {shown} of {spec!r} is not a literal; {_FORM}") from None
    return options
