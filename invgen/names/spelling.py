"""Which names somebody may have meant: the nearest by the number of slips of the hand."""

import difflib
import os
from collections.abc import Iterable

LONGEST = 60  # letters of a name; what is longer is no slip of the hand


MANY = 20  # names that a sentence may list


def distance(a: str, b: str) -> int:
    """Returns the number of letters to insert, omit, change or exchange with the next one that turn a into b.

    The restricted distance of Damerau and Levenshtein: no letter is moved twice.
    """
    before, row = [], list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        older, before, row = before, row, [i]
        for j, y in enumerate(b, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]


def nearest(name: str, names: Iterable[str], most: int = 3) -> list[str]:
    """Returns the names that are at most a third of the letters of `name` away, and nearest, in any case; at most `most`.

    Of several equally near ones those that begin alike come first. Where none is near, the one that has most in common.
    """
    if len(name) > LONGEST:
        return []
    by_lower = {n.lower(): n for n in names}
    given = name.lower()
    found = {n: d for n in by_lower if (d := distance(given, n)) <= max(1, len(given) // 3) and d < len(given)}
    if found:
        least = [n for n, d in found.items() if d == min(found.values())]
        least.sort(key=lambda n: -len(os.path.commonprefix([given, n])))
        return [by_lower[n] for n in least[:most]]
    return [by_lower[n] for n in difflib.get_close_matches(given, by_lower, 1)]


def hint(name: str, names: Iterable[str]) -> str:
    """Returns the end of a sentence: the nearest names, or all that there are."""
    names = list(names)
    if close := nearest(name, names):
        return f"did you mean {' or '.join(map(repr, close))}?"
    if len(names) > MANY:
        return f"there are {', '.join(names[:MANY])} and {len(names) - MANY} more; `invgen list` shows all"
    return f"there are {', '.join(names) or 'none'}"


def short(text: str, most: int = 120) -> str:
    """Returns the text in quotes, control characters escaped, the middle of a long one left out: as sentences show it."""
    if len(text) > most:
        return f"{text[: 2 * most // 3] + '...' + text[-most // 3 :]!r} ({len(text)} characters)"
    return repr(text)


def clipped(text: str, most: int = 300) -> str:
    """Returns the text on one line, control characters escaped, the middle of a long one left out."""
    if len(text) > most:
        text = f"{text[: 2 * most // 3]}...{text[-most // 3 :]}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
