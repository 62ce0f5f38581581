"""The file of a suite: read into keys and values, with the line of each, so that a mistake can be told where it is."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from invgen import names
from invgen.errors import FileError, InvgenError, OptionError

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
)  # a problem may have its own
KEYS = ("title", *SHARED, "problems", "device")
PROBLEM_KEYS = ("name", "operator", "noise", "grid", *SHARED)
SHIPPED = Path(__file__).parent / "suites"
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True)
class Suite:
    """What a suite says, and where its file says it.

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
        raise OptionError(f"{where}: {shown + ': ' if shown else ''}{sentence}")

    def attempt(self, place: Place, make: Callable[..., Any], *args: Any) -> Any:
        """`make(*args)`, whose errors are told with the place."""
        try:
            return make(*args)
        except InvgenError as error:
            self.fail(place, str(error))


def load(suite: "str | Path | Mapping[str, Any] | Suite") -> Suite:
    """The suite of a name ("photo": one that comes with invgen), of a YAML file, of the variable `suite` in a .py file, of
    `module:Name`, or of a dict. A file without a suffix is written with its path, "./photo".

    Raises:
        FileError: the file cannot be read.  OptionError: it is not well formed, or there is no suite of that name.
    """
    if isinstance(suite, Suite):
        return suite
    if isinstance(suite, Mapping):
        return Suite("the suite", suite, {}, Path.cwd())
    text = str(suite)
    if text.endswith(".py") or (":" in text and not Path(text).exists()):
        module, _, name = text.rpartition(":") if ":" in text else (text, "", "suite")
        found = names.user_object(module, name)
        if not isinstance(found, Mapping):
            raise OptionError(f"{text} holds {type(found).__name__}, expected a dict with the keys {', '.join(KEYS)}")
        return Suite(text, found, {}, Path(module).parent if module.endswith(".py") else Path.cwd())
    path = shipped(text) if isinstance(suite, str) and re.fullmatch(r"[\w-]+", text) else Path(suite)
    try:
        written = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise FileError(f"cannot read the suite {path}: {reason}") from error
    content, lines = _from_yaml(written, path)
    return Suite(path.name, content, lines, path.parent)


def shipped(name: str) -> Path:
    """The file of a suite that comes with invgen.

    Raises:
        OptionError: there is none of that name.
    """
    known = shipped_names()
    if name not in known:
        raise OptionError(f"{names.unknown('suite', name, known)} (a file is written with its suffix: {name}.yaml)")
    return SHIPPED / f"{name}.yaml"


def shipped_names() -> list[str]:
    """The suites that come with invgen."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _from_yaml(text: str, path: Path) -> tuple[dict[str, Any], dict[Place, int]]:
    """The content of a YAML file and the lines of its values; nothing in it is run."""
    import yaml

    lines: dict[Place, int] = {}
    loader = yaml.SafeLoader(text)

    def build(node: Any, place: Place) -> Any:
        if place not in lines:
            lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            loader.flatten_mapping(node)  # <<: *shared
            found: dict[str, Any] = {}
            own = set()
            for key, value in node.value:
                name = loader.construct_object(key, deep=True)
                if not isinstance(name, str):
                    name = str(name)
                if name in own and key.start_mark.line + 1 > lines[place]:
                    raise OptionError(f"{path.name}, line {key.start_mark.line + 1}: {name} is given twice; leave one out")
                own.add(name)
                lines[(*place, name)] = key.start_mark.line + 1
                found[name] = build(value, (*place, name))
            return found
        if isinstance(node, yaml.SequenceNode):
            return [build(item, (*place, k)) for k, item in enumerate(node.value)]
        if node.style is None and _NUMBER.fullmatch(node.value):
            return float(node.value)  # 1e-3 is text by the rules of YAML 1.1
        return loader.construct_object(node, deep=True)

    try:
        node = loader.get_single_node()
        content = {} if node is None else build(node, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise OptionError(
            f"{path.name}{where}: not well-formed YAML ({getattr(error, 'problem', None) or error})"
        ) from None
    except RecursionError:
        raise OptionError(f"{path.name} holds itself: an anchor is used within what it names") from None
    finally:
        loader.dispose()
    if not isinstance(content, dict):
        raise OptionError(f"{path.name} holds {type(content).__name__}, expected the keys {', '.join(KEYS)}")
    return content, lines
