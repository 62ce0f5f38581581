"""The text `module:Name(option=literal, ...)`, read and never evaluated: names, and `ast.literal_eval` for the options."""

import ast
import re
import warnings
from dataclasses import dataclass
from typing import Any

from invgen.errors import InvgenError, OptionError
from invgen.names.spelling import clipped, short

LONGEST = 10_000  # characters of a spec
_SPEC = re.compile(r"(?:(?P<module>[^():]+):)?\s*(?P<name>[A-Za-z_][\w.-]*)\s*(?P<call>\(.*\))?", re.DOTALL)
_FORM = "expected numbers, strings, tuples, lists, True, False or None, as in Name(size=4, shape=(1, 64, 64))"


@dataclass(frozen=True)
class Call:
    """An option that is to be made by a function of the catalogue."""

    name: str
    options: dict[str, Any]


def parse(spec: str) -> tuple[str | None, str, dict[str, Any]]:
    """Returns the module (or None), the name and the options (literals and Calls) of `module:Name(option=literal, ...)`.

    Raises:
        OptionError: the text is not of this form, or an option is not a literal.
    """
    if not isinstance(spec, str):
        raise OptionError(
            f"expected the text Name, Name(option=value, ...) or module:Name(option=value, ...), got {type(spec).__name__}"
        )
    if len(spec) > LONGEST:
        raise OptionError(
            f"{short(spec)} is too long; expected at most {LONGEST} characters, and arrays as names of .npy files"
        )
    match = _SPEC.fullmatch(spec.strip())
    if not match or "\0" in spec:
        cut = spec.count("(") != spec.count(")")
        raise OptionError(
            f"cannot read {short(spec)}; expected Name, Name(option=value, ...) or module:Name(option=value, ...)"
            + (", with all brackets closed (in a list [...] of YAML, put what holds a comma in quotes)" if cut else "")
        )
    return match["module"], match["name"], _keywords(match["call"], spec) if match["call"] else {}


def _keywords(call: str, spec: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of an escape that Python does not know, as in "\d"
            node = ast.parse("f" + call, mode="eval").body
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):  # Name(steps=5)(steps=6)
            raise SyntaxError("something follows the closing bracket")
        if any(isinstance(n, ast.Constant) and type(n.value) is int and n.value >= 2**64 for n in ast.walk(node)):
            raise SyntaxError("a whole number is beyond 64 bits")
        if any(isinstance(n, ast.Constant) and isinstance(n.value, str) and "\0" in n.value for n in ast.walk(node)):
            raise SyntaxError("a string holds a NUL character")
        return _options(node, spec)
    except InvgenError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = clipped(str(error.args[0] if error.args else "it is too deep"), 100)
        raise OptionError(f"the options in {short(spec)} are not well formed ({reason}); {_FORM}") from None


def _options(node: ast.Call, spec: str) -> dict[str, Any]:
    if node.args or any(k.arg is None for k in node.keywords):
        raise OptionError(f"the options in {short(spec)} must be given by name; {_FORM}")
    options = {}
    for keyword in node.keywords:
        value = keyword.value
        if keyword.arg in options:
            raise OptionError(f"option {keyword.arg} of {short(spec)} is given twice; leave one out")
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
            options[keyword.arg] = Call(value.func.id, _options(value, spec))
            continue
        try:
            options[keyword.arg] = ast.literal_eval(value)
        except (ValueError, TypeError):
            shown = clipped(ast.unparse(value), 100)
            raise OptionError(f"option {keyword.arg} = {shown} of {short(spec)} is not a literal; {_FORM}") from None
    return options
