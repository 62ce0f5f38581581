"""The values of a suite, read: each reader takes what stands at a place and says what is wrong with it."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invgen.benchmarks.suite import signals
from invgen.benchmarks.suite.file import MOST_CELLS, Place, Suite
from invgen.names import resolve
from invgen.names.prepare import parse_size
from invgen.names.spec import LONGEST, Call, parse
from invgen.names.spelling import clipped, short


def items(suite: Suite, value: Any, place: Place) -> list[tuple[Any, Place]]:
    """Returns a value or a list of values, with their places; not empty."""
    if not isinstance(value, list | tuple):
        return [(value, place)]
    if not value:
        suite.fail(place, "the list is empty; expected one entry or more")
    return [(item, (*place, k)) for k, item in enumerate(value)]


def keys(suite: Suite, value: Any, place: Place, allowed: Sequence[str], needed: Sequence[str] = ()) -> Mapping[str, Any]:
    """Returns a mapping whose keys are `allowed`, the `needed` ones among them.

    Args:
        suite: fails, with the place, where the value does not fit; so for all readers.
        value: as the file has it.
        place: of the value in the file.
        allowed, needed: the keys.
    """
    if not isinstance(value, Mapping):
        suite.fail(place, f"expected the keys {', '.join(allowed)}, got {shown(value)}")
    for key in value:
        if key not in allowed:
            suite.fail((*place, key), str(resolve.unknown("key", str(key), allowed)))
    for key in needed:
        if key not in value:
            suite.fail(place, f"lacks the key {key}")
    return value


def text(suite: Suite, value: Any, place: Place, what: str) -> str:
    """Returns a text that is not empty, without blanks around; suite, value, place: as for `keys`; `what` is expected."""
    if not isinstance(value, str) or not value.strip():
        suite.fail(place, f"expected {what}, got {shown(value)}")
    if len(value) > LONGEST or "\0" in value:
        suite.fail(place, f"expected {what}, of at most {LONGEST} characters and no NUL, got {short(value)}")
    return value.strip()


def shown(value: Any) -> str:
    """Returns a value as an error shows it; numbers with thousands of digits have no text."""
    try:
        return clipped(repr(value), 60)
    except ValueError:
        return f"a {type(value).__name__} with thousands of digits"


def whole(suite: Suite, value: Any, place: Place, low: int, high: int = 2**63 - 1) -> int:
    """Returns a whole number from `low` to `high`; suite, value, place: as for `keys`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        suite.fail(place, f"expected a whole number of {low} or more, got {shown(value)}")
    if value > high:
        suite.fail(place, f"expected a whole number of {high} or less, got {shown(value)}")
    return value


def seeds(suite: Suite, value: Any, place: Place) -> Sequence[int]:
    """Returns the seeds of a list, or 0, 1, ... of a number of them, which is not written out."""
    if not isinstance(value, list | tuple):
        return range(few(suite, whole(suite, value, place, 1), place, f"{shown(value)} seeds"))
    found = [whole(suite, item, where, 0, 2**64 - 1) for item, where in items(suite, value, place)]
    return list(dict.fromkeys(found))


def few(suite: Suite, count: int, place: Place, what: str) -> int:
    """Returns the count, unless it is more cells than a suite may have; `what` at `place` of the suite makes so many."""
    if count > MOST_CELLS:
        suite.fail(place, f"{what} are more than the {MOST_CELLS} cells that a suite may have; split it, or ask for fewer")
    return count


def specs(suite: Suite, value: Any, place: Place, key: str, what: str) -> list[tuple[str, Place]]:
    """Specs with grids: "Name(option=1)", {key: "Name", grid: {option: [1, 2]}}, or a list of those.

    Args:
        suite, value, place: as for `keys`.
        key: of the name.
        what: is expected, for messages.
    """
    found = []
    for item, where in items(suite, value, place):
        if isinstance(item, Mapping):
            item = keys(suite, item, where, (key, "grid"), (key,))
            spec = text(suite, item[key], (*where, key), what)
            found += [(s, where) for s in grid(suite, spec, item.get("grid", {}), (*where, "grid"))]
        else:
            found.append((text(suite, item, where, what), where))
    return found


def grid(suite: Suite, spec: str, grid: Any, place: Place) -> list[str]:
    """Returns the spec with every combination of the grid's values; suite, place: as for `keys`."""
    if not isinstance(grid, Mapping):
        suite.fail(place, f"expected options with lists of values, such as steps: [25, 50], got {shown(grid)}")
    if not grid:
        return [spec]
    module, name, options = suite.attempt(place, parse, spec)
    for option, values in grid.items():
        if not isinstance(values, list | tuple) or not values:
            suite.fail((*place, option), f"expected a list of values, such as [25, 50], got {shown(values)}")
        if option in options:
            suite.fail((*place, option), f"{option} is in {spec!r} already; leave one out")
    count = math.prod(map(len, grid.values()))
    few(suite, count, place, f"the {count} combinations of the grid")
    every = itertools.product(*grid.values())
    return [written(module, name, {**options, **dict(zip(grid, values, strict=True))}) for values in every]


def written(module: str | None, name: str, options: Mapping[str, Any]) -> str:
    """Returns the inverse of `invgen.names.spec.parse`."""

    def shown(value: Any) -> str:
        return written(None, value.name, value.options) if isinstance(value, Call) else repr(value)

    given = f"({', '.join(f'{k}={shown(v)}' for k, v in options.items())})" if options else ""
    return f"{module + ':' if module else ''}{name}{given}"


@dataclass(frozen=True)
class PriorEntry:
    spec: str
    size: tuple[int, ...] | None
    rescale: tuple[float, float]
    place: Place


def priors(suite: Suite, value: Any, place: Place) -> list[PriorEntry]:
    found = []
    for item, where in items(suite, value, place):
        given = item if isinstance(item, Mapping) else {"prior": item}
        given = keys(suite, given, where, ("prior", "size", "rescale"), ("prior",))
        spec = text(suite, given["prior"], where, "the name of a prior, a .safetensors file or module:Name")
        size = given.get("size")
        size = None if size is None else suite.attempt((*where, "size"), parse_size, str(size))
        rescale = given.get("rescale", (1.0, 0.0))
        good = isinstance(rescale, list | tuple) and len(rescale) == 2
        if not good or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in rescale
        ):
            suite.fail((*where, "rescale"), f"expected [scale, shift], two numbers, got {shown(rescale)}")
        found.append(PriorEntry(spec, size, (float(rescale[0]), float(rescale[1])), where))
    return found


def images(suite: Suite, value: Any, place: Place) -> list[tuple[str, str, Place]]:
    """Returns (name, source, place) of each image."""
    found = []
    for item, where in items(suite, value, place):
        given = item if isinstance(item, Mapping) else {"source": item}
        given = keys(suite, given, where, ("source", "limit"), ("source",))
        wanted = text(suite, given["source"], where, f"prior, a folder, a file, or one of {', '.join(signals.SHIPPED)}")
        limit = whole(suite, given["limit"], (*where, "limit"), 1) if "limit" in given else None
        if limit and wanted.startswith(signals.DRAWN):
            few(suite, limit, (*where, "limit"), f"{limit} draws of the prior")
        found += [(n, source, where) for n, source in suite.attempt(where, signals.sources, wanted, suite.folder, limit)]
    seen = [n for n, _, _ in found]
    # one name, one image: where two folders have the same file names, the whole path tells them apart
    return [(n if seen.count(n) == 1 else source, source, where) for n, source, where in found]
