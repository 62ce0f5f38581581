"""Texts of results that other programs show: what would act in a terminal, a page or a spreadsheet does not."""

import unicodedata
from collections.abc import Mapping
from typing import Any

# marks that turn the order of what follows, so that a text reads as another than it is
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are wide forms


def visible(value: Any) -> Any:
    """Returns texts in dicts and lists without control characters and bidirectional marks; anything else as it is."""
    if isinstance(value, str):
        return "".join(_shown(c) for c in value)
    if isinstance(value, Mapping):
        return {visible(k): visible(v) for k, v in value.items()}
    return [visible(v) for v in value] if isinstance(value, list | tuple) else value


def _shown(character: str) -> str:
    kind = unicodedata.category(character)
    if character in _BIDI or (kind == "Cc" and character not in "\n\t"):
        return ""
    return "\ufffd" if kind == "Cs" else character  # half a pair, which no file can hold


def to_cell(text: str) -> str:
    """Returns a text as a cell of a table that a spreadsheet may open: with an apostrophe where it would be run as a
    formula."""
    return f"'{text}" if _acts(text) else text


def from_cell(text: str) -> str:
    """Returns the text that `to_cell` has written."""
    return text[1:] if text.startswith("'") and _acts(text[1:]) else text


def _acts(text: str) -> bool:
    bare = text.lstrip("'")  # what has an apostrophe of its own gets one more, so that `from_cell` finds it
    if not bare.startswith(_FORMULA) and not bare.lstrip().startswith(_FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False  # -0.5 is a number
