"""The file of a suite: read into keys and values, with the line of each, so that a mistake can be told where it is."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from invgen.errors import FileError, InvgenError, OptionError
from invgen.names import resolve
from invgen.names.spelling import clipped, short

Place = tuple[str | int, ...]  # the way to a value: ("problems", 0, "noise")

SHARED = (
    "data",
    "priors",
    "samplers",
    "baselines",
    "seeds",
    "num_samples",
    "metrics",
    "arrays",
    "max_batch",
    "precision",
)  # a problem may have its own
KEYS = ("title", *SHARED, "problems", "device")
PROBLEM_KEYS = ("name", "operator", "noise", "grid", *SHARED)
SHIPPED = Path(__file__).parents[1] / "suites"
LARGEST = 2**20  # bytes of a file
MOST_VALUES = 100_000  # in a file, those that its aliases repeat counted each time
DEEPEST = 20  # lists and mappings in each other
MOST_CELLS = 100_000  # of a suite: more take days to list, and are better several suites
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True)
class Suite:
    """The content of a suite, and its places in the file.

    Attributes:
        name: the file, or "the suite".
        content: its keys and values.
        lines: of the values, for errors; none for a dict.
        folder: that paths of data are relative to.
    """

    name: str
    content: Mapping[str, Any]
    lines: Mapping[Place, int]
    folder: Path

    def fail(self, place: Place, sentence: str) -> NoReturn:
        """Raises OptionError about the value at a place."""
        known = next((place[:n] for n in range(len(place), 0, -1) if place[:n] in self.lines), None)
        where = f"{self.name}, line {self.lines[known]}" if known is not None else self.name
        shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        raise OptionError(f"{where}: {shown + ': ' if shown else ''}{clipped(sentence, 1500)}")

    def attempt(self, place: Place, make: Callable[..., Any], *args: Any) -> Any:
        """Returns `make(*args)`, whose errors are told with the place."""
        try:
            return make(*args)
        except InvgenError as error:
            self.fail(place, str(error))
        except (OSError, ValueError, OverflowError) as error:  # a path that is too long, or holds what no path may
            self.fail(place, clipped(getattr(error, "strerror", None) or str(error)))


def load(suite: "str | Path | Mapping[str, Any] | Suite") -> Suite:
    """Returns the suite of a name ("photo": one that comes with invgen), of a YAML file, of the variable `suite` in a
    .py file, of
    `module:Name`, or of a dict. A file without a suffix is written with its path, "./photo".

    Raises:
        FileError: the file cannot be read.  OptionError: it is not well formed, or there is no suite of that name.
    """
    if isinstance(suite, Suite):
        return suite
    if isinstance(suite, Mapping):
        return Suite("the suite", suite, {}, Path.cwd())
    if not isinstance(suite, str | Path):
        raise OptionError(
            f"a suite is a name, a file or a dict with the keys {', '.join(KEYS)}, got {type(suite).__name__}"
        )
    text = str(suite)
    if text.endswith(".py") or (":" in text and not os.path.exists(text)):
        module, _, name = text.rpartition(":") if ":" in text else (text, "", "suite")
        found = resolve.user_object(module, name)
        if not isinstance(found, Mapping):
            raise OptionError(f"{text} holds {type(found).__name__}, expected a dict with the keys {', '.join(KEYS)}")
        return Suite(text, found, {}, Path(module).parent if module.endswith(".py") else Path.cwd())
    ours = isinstance(suite, str) and re.fullmatch(r"[\w-]+", text) is not None
    path = shipped(text) if ours else Path(suite)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)  # of a device too, which has no end
        written = raw.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or bytes that are no text
        decoded = isinstance(error, UnicodeDecodeError)
        reason = "it is not text" if decoded else getattr(error, "strerror", None) or str(error)
        raise FileError(f"cannot read the suite {clipped(str(path), 120)}: {reason}") from error
    if len(raw) > LARGEST:
        raise FileError(f"the suite {path} has more than {LARGEST} bytes; name folders in place of files, or split it")
    content, lines = _Reader(path.name).read(written)
    # what a shipped suite reads from a folder lies where it is run
    return Suite(path.name, content, lines, Path.cwd() if ours else path.parent)


def shipped(name: str) -> Path:
    """Returns the file of a suite that comes with invgen.

    Raises:
        OptionError: there is none of that name.
    """
    known = shipped_names()
    if name not in known:
        raise OptionError(
            f"{resolve.unknown('suite', name, known)} (a file is written with its suffix: {clipped(name, 60)}.yaml)"
        )
    return SHIPPED / f"{name}.yaml"


def shipped_names() -> list[str]:
    """Returns the suites that come with invgen."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


class _Reader:
    """The content of a YAML file and the lines of its values; nothing in it is run, and what it grows to is counted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Place, int] = {}
        self.count = 0

    def read(self, text: str) -> tuple[dict[str, Any], dict[Place, int]]:
        """Raises OptionError: it is not well formed, or grows beyond what a suite may hold."""
        import yaml

        try:
            self.loader = yaml.SafeLoader(text)
            node = self.loader.get_single_node()
            content = {} if node is None else self._value(node, (), 0)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            reason = clipped(str(getattr(error, "problem", None) or getattr(error, "reason", None) or error))
            raise OptionError(f"{self.name}{where}: not well-formed YAML ({reason})") from None
        except RecursionError:
            raise OptionError(f"{self.name} is nested too deep; a suite has at most {DEEPEST} levels") from None
        if not isinstance(content, dict):
            raise OptionError(f"{self.name} holds {type(content).__name__}, expected the keys {', '.join(KEYS)}")
        return content, self.lines

    def _fail(self, node: Any, sentence: str) -> NoReturn:
        raise OptionError(f"{self.name}, line {node.start_mark.line + 1}: {sentence}")

    def _value(self, node: Any, place: Place, depth: int) -> Any:
        import yaml

        self.count += 1
        if self.count > MOST_VALUES:
            self._fail(node, f"its aliases make more than {MOST_VALUES} values of the file; write out what the suite needs")
        if depth > DEEPEST:
            self._fail(node, f"nested more than {DEEPEST} levels deep, or an anchor holds itself")
        self.lines.setdefault(place, node.start_mark.line + 1)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN:
            self._fail(node, f"the tag {clipped(node.tag, 60)} is not for suites; leave it out")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*place, k), depth + 1) for k, item in enumerate(node.value)]
        if node.style is None and _NUMBER.fullmatch(node.value):
            return float(node.value)  # 1e-3 is text by the rules of YAML 1.1
        return self._scalar(node)

    def _scalar(self, node: Any) -> Any:
        import yaml

        if not isinstance(node, yaml.ScalarNode):
            self._fail(node, "a key is a list or a mapping; expected a word")
        try:
            return self.loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception as error:  # a date that does not exist, a number with too many digits, a tag that does not fit
            self._fail(node, f"cannot read {short(node.value, 60)} ({clipped(str(error), 100)}); put text in quotes")

    def _mapping(self, node: Any, place: Place, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged = [part for key, value in node.value if key.tag == _MERGE for part in _parts(value)]  # <<: *shared
        for part in reversed(merged):  # the first of several goes before
            shared = self._value(part, place, depth + 1)
            if not isinstance(shared, dict):
                self._fail(part, "<< takes a mapping or a list of mappings")
            found |= shared
        own: set[str] = set()
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            name = str(self._scalar(key))
            if name in own:
                self._fail(key, f"{clipped(name, 60)} is given twice; leave one out")
            own.add(name)
            self.lines[*place, name] = key.start_mark.line + 1
            found.pop(name, None)
            found[name] = self._value(value, (*place, name), depth + 1)
        return found


def _parts(node: Any) -> list[Any]:
    """Returns the mappings of a merge: one, or a list of them."""
    return node.value if node.id == "sequence" else [node]
