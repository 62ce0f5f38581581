"""Suites: one YAML file, or a Python dict, that says what to compute; expanded into cells named by what determines them.

    data: photo                                  # or a folder, files, a list of those
    priors: photo
    problems:
      - {name: sr, operator: Downsample(factor=4), noise: 0.05}
    samplers: [PiGDM(steps=25), {sampler: DAPS, grid: {steps: [25, 50]}}]
    seeds: 2
    num_samples: 4
    metrics: [psnr, residual]

docs/suites.md has every key. What is wrong is said with its line, its place, and what is allowed there.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from invgen import __version__, names
from invgen.benchmarks import cells, fingerprint, pictures, scores, store
from invgen.benchmarks.cells import Cell
from invgen.diffusion import Prior
from invgen.errors import FileError, InvgenError, OptionError
from invgen.forward import Operator
from invgen.inference import Result
from invgen.noise import Noise
from invgen.posterior import Posterior
from invgen.reconstruct import parse_size
from invgen.spec import Call, parse

Place = tuple[str | int, ...]  # the way to a value: ("problems", 0, "noise")

SHARED = (
    "data",
    "priors",
    "samplers",
    "seeds",
    "num_samples",
    "metrics",
    "arrays",
    "max_batch",
)  # a problem may have its own
KEYS = ("title", *SHARED, "problems", "device")
PROBLEM_KEYS = ("name", "operator", "noise", "grid", *SHARED)
ARRAYS = ("none", "summary", "all")
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
    """The suite of a YAML file, of the variable `suite` in a .py file, of `module:Name`, or of a dict.

    Raises:
        FileError: the file cannot be read.  OptionError: it is not well formed.
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
    path = Path(suite)
    try:
        written = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise FileError(f"cannot read the suite {path}: {reason}") from error
    content, lines = _from_yaml(written, path)
    return Suite(path.name, content, lines, path.parent)


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


# -- reading of values ---------------------------------------------------------------------------------------------------


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _items(suite: Suite, value: Any, place: Place) -> list[tuple[Any, Place]]:
    """A value or a list of values, with their places; not empty."""
    if not isinstance(value, list | tuple):
        return [(value, place)]
    if not value:
        suite.fail(place, "the list is empty; expected one entry or more")
    return [(item, (*place, k)) for k, item in enumerate(value)]


def _keys(suite: Suite, value: Any, place: Place, allowed: Sequence[str], needed: Sequence[str] = ()) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        suite.fail(place, f"expected the keys {', '.join(allowed)}, got {value!r:.60}")
    for key in value:
        if key not in allowed:
            suite.fail((*place, key), str(names.unknown("key", str(key), allowed)))
    for key in needed:
        if key not in value:
            suite.fail(place, f"lacks the key {key}")
    return value


def _text(suite: Suite, value: Any, place: Place, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        suite.fail(place, f"expected {what}, got {value!r:.60}")
    return value.strip()


def _whole(suite: Suite, value: Any, place: Place, low: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        suite.fail(place, f"expected a whole number of {low} or more, got {value!r:.60}")
    return value


def _seeds(suite: Suite, value: Any, place: Place) -> list[int]:
    if not isinstance(value, list | tuple):
        return list(range(_whole(suite, value, place, 1)))
    found = [_whole(suite, item, where, 0) for item, where in _items(suite, value, place)]
    return list(dict.fromkeys(found))


def _specs(suite: Suite, value: Any, place: Place, key: str, what: str) -> list[tuple[str, Place]]:
    """Specs with grids: "Name(option=1)", {key: "Name", grid: {option: [1, 2]}}, or a list of those."""
    found = []
    for item, where in _items(suite, value, place):
        if isinstance(item, Mapping):
            item = _keys(suite, item, where, (key, "grid"), (key,))
            spec = _text(suite, item[key], (*where, key), what)
            found += [(s, where) for s in _grid(suite, spec, item.get("grid", {}), (*where, "grid"))]
        else:
            found.append((_text(suite, item, where, what), where))
    return found


def _grid(suite: Suite, spec: str, grid: Any, place: Place) -> list[str]:
    """The spec with every combination of the grid's values."""
    if not isinstance(grid, Mapping):
        suite.fail(place, f"expected options with lists of values, such as steps: [25, 50], got {grid!r:.60}")
    if not grid:
        return [spec]
    module, name, options = suite.attempt(place, parse, spec)
    for option, values in grid.items():
        if not isinstance(values, list | tuple) or not values:
            suite.fail((*place, option), f"expected a list of values, such as [25, 50], got {values!r:.60}")
        if option in options:
            suite.fail((*place, option), f"{option} is in {spec!r} already; leave one out")
    every = itertools.product(*grid.values())
    return [_written(module, name, {**options, **dict(zip(grid, values, strict=True))}) for values in every]


def _written(module: str | None, name: str, options: Mapping[str, Any]) -> str:
    """The inverse of `invgen.spec.parse`."""

    def shown(value: Any) -> str:
        return _written(None, value.name, value.options) if isinstance(value, Call) else repr(value)

    given = f"({', '.join(f'{k}={shown(v)}' for k, v in options.items())})" if options else ""
    return f"{module + ':' if module else ''}{name}{given}"


@dataclass(frozen=True)
class _Prior:
    spec: str
    size: tuple[int, ...] | None
    rescale: tuple[float, float]
    place: Place


def _priors(suite: Suite, value: Any, place: Place) -> list[_Prior]:
    found = []
    for item, where in _items(suite, value, place):
        given = item if isinstance(item, Mapping) else {"prior": item}
        given = _keys(suite, given, where, ("prior", "size", "rescale"), ("prior",))
        spec = _text(suite, given["prior"], where, "the name of a prior, a .safetensors file or module:Name")
        size = given.get("size")
        size = None if size is None else suite.attempt((*where, "size"), parse_size, str(size))
        rescale = given.get("rescale", (1.0, 0.0))
        good = isinstance(rescale, list | tuple) and len(rescale) == 2
        if not good or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in rescale
        ):
            suite.fail((*where, "rescale"), f"expected [scale, shift], two numbers, got {rescale!r:.60}")
        found.append(_Prior(spec, size, (float(rescale[0]), float(rescale[1])), where))
    return found


def _images(suite: Suite, value: Any, place: Place) -> list[tuple[str, str, Place]]:
    """(name, source, place) of each image."""
    found = []
    for item, where in _items(suite, value, place):
        given = item if isinstance(item, Mapping) else {"source": item}
        given = _keys(suite, given, where, ("source", "limit"), ("source",))
        text = _text(suite, given["source"], where, f"a folder, a file, or one of {', '.join(pictures.SHIPPED)}")
        limit = _whole(suite, given["limit"], (*where, "limit"), 1) if "limit" in given else None
        kind, _, name = text.partition("/")
        if kind in pictures.SHIPPED:
            known = pictures.shipped(kind)
            if name and name not in known:
                suite.fail(where, str(names.unknown(f"image of {kind}", name, known)))
            chosen = [(f"{kind}/{n}", f"shipped:{kind}/{n}") for n in ([name] if name else known)]
        else:
            path = suite.folder / Path(text).expanduser()
            if path.is_dir():
                chosen = [(str(p.relative_to(path)), str(p.resolve())) for p in pictures.image_files(path)]
                if not chosen:
                    suite.fail(where, f"the folder {path} has no PNG, JPEG, TIFF, NPY or DICOM files")
            elif path.is_file():
                chosen = [(path.name, str(path.resolve()))]
            else:
                suite.fail(where, f"there is no file or folder {path}; shipped images are {', '.join(pictures.SHIPPED)}")
        found += [(n, source, where) for n, source in chosen[:limit]]
    seen = [n for n, _, _ in found]
    # one name, one image: where two folders have the same file names, the whole path tells them apart
    return [(n if seen.count(n) == 1 else source, source, where) for n, source, where in found]


# -- expansion -----------------------------------------------------------------------------------------------------------


def expand(suite: "str | Path | Mapping[str, Any] | Suite") -> list[Cell]:
    """Every cell of a suite, once, ordered by prior, so that a process loads few; all that can be checked is checked.

    Raises:
        OptionError, FileError: with the line, the place and what is allowed.
    """
    suite = load(suite)
    content = _keys(suite, suite.content, (), KEYS, ("problems",))
    cells.forget()
    device = _text(suite, content.get("device", "cpu"), ("device",), "cpu or cuda")
    found: list[Cell] = []
    for problem, place in _items(suite, content["problems"], ("problems",)):
        problem = _keys(suite, problem, place, PROBLEM_KEYS, ("operator", "noise"))
        # a problem's own value goes before that of the suite
        parts = {key: (problem[key], (*place, key)) if key in problem else (content.get(key), (key,)) for key in SHARED}
        for key in ("data", "priors", "samplers"):
            if parts[key][0] is None:
                suite.fail(place, f"lacks the key {key}, for all problems or for this one")
        found += _problem(suite, problem, place, parts, device)
    order = {spec: k for k, spec in enumerate(dict.fromkeys((c.prior, c.size, c.rescale) for c in found))}
    unique: dict[str, Cell] = {}
    for cell in found:  # the same cell may stand in two grids
        unique.setdefault(cell.key, cell)
    return sorted(unique.values(), key=lambda c: (order[c.prior, c.size, c.rescale], c.seed))


def _problem(
    suite: Suite, problem: Mapping[str, Any], place: Place, parts: Mapping[str, tuple[Any, Place]], device: str
) -> Iterable[Cell]:
    """The cells of one problem, over its grid and its noises."""
    shared = _shared(suite, parts)
    priors, images = _priors(suite, *parts["priors"]), _images(suite, *parts["data"])
    samplers = _specs(suite, *parts["samplers"], "sampler", "a sampler, such as PiGDM(steps=25)")
    samplers = {spec: fingerprint.of_object(suite.attempt(where, names.sampler, spec)) for spec, where in samplers}
    spec = _text(suite, problem["operator"], (*place, "operator"), "an operator, such as Downsample(factor=4)")
    operators = _grid(suite, spec, problem.get("grid", {}), (*place, "grid"))
    noises = [str(n) for n in _list(problem["noise"])]
    for noise, operator, prior in itertools.product(noises, operators, priors):
        law = suite.attempt((*place, "noise"), names.noise, noise)
        net, prior_hash = suite.attempt(prior.place, cells.prior_of, prior.spec, prior.size, prior.rescale, device)
        A, A_hash = suite.attempt((*place, "operator"), cells.operator_of, operator, tuple(net.shape), device)
        truths = {src: suite.attempt(where, pictures.truth_of, src, net) for _, src, where in images}
        hashes = {source: fingerprint.of_tensor(x) for source, x in truths.items()}
        _rehearse(suite, (*place, "operator"), parts["metrics"][1], net, A, law, next(iter(truths.values())), shared)
        measured = [A_hash, fingerprint.of_spec(noise, law) if not _is_number(noise) else float(noise)]
        name = _text(suite, problem.get("name", f"{operator}, {noise}"), (*place, "name"), "a name")
        if "name" in problem and len(noises) * len(operators) > 1:
            name = f"{name}: {operator}, {noise}"
        fixed = {"device": device, **{k: shared[k] for k in ("num_samples", "metrics", "arrays", "max_batch")}}
        for seed, (image, source, _), (sampler, sampler_hash) in itertools.product(
            shared["seeds"], images, samplers.items()
        ):
            paired = [seed, hashes[source]]
            key = fingerprint.digest([store.VERSION, __version__, measured, prior_hash, sampler_hash, paired,
                                      shared["metric_hashes"], fixed])  # fmt: skip
            yield Cell(
                key, name, operator, noise, prior.spec, sampler, image, seed,
                source=source, image_hash=hashes[source], prior_hash=prior_hash,
                noise_seed=_number([paired, "noise"]), sampler_seed=_number([paired, "sampler"]),
                size=prior.size, rescale=prior.rescale, **fixed,
            )  # fmt: skip


def _shared(suite: Suite, parts: Mapping[str, tuple[Any, Place]]) -> dict[str, Any]:
    """What is no list of things to combine, with defaults filled in."""

    def value(key: str, default: Any) -> tuple[Any, Place]:
        given, place = parts[key]
        return (default if given is None else given), place

    chosen = _items(suite, *value("metrics", ["psnr", "residual"]))
    metrics = [(_text(suite, item, where, "the name of a metric"), where) for item, where in chosen]
    for spec, where in metrics:
        suite.attempt(where, scores.metric, spec)
    arrays, where = value("arrays", "summary")
    if arrays not in ARRAYS:
        suite.fail(where, str(names.unknown("choice", str(arrays), ARRAYS)))
    max_batch, at = value("max_batch", None)
    modules = {spec: parse(spec)[:2] for spec, _ in metrics}
    own = {spec: fingerprint.plain(names.user_object(*found)) if found[0] else spec for spec, found in modules.items()}
    return {
        "seeds": _seeds(suite, *value("seeds", [0])),
        "num_samples": _whole(suite, *value("num_samples", 1), 1),
        "metrics": tuple(dict.fromkeys(spec for spec, _ in metrics)),
        "metric_hashes": own,
        "arrays": arrays,
        "max_batch": None if max_batch is None else _whole(suite, max_batch, at, 1),
    }


def _rehearse(
    suite: Suite,
    place: Place,
    of_metrics: Place,
    net: Prior,
    A: Operator,
    law: Noise,
    truth: Tensor,
    shared: Mapping[str, Any],
) -> None:
    """Measures and scores once without a sampler: what does not fit is known before the first cell, not after it."""

    def measure() -> Posterior:
        with torch.no_grad():
            y = law.sample(A(truth).cpu(), torch.Generator().manual_seed(0)).to(truth.device)
        return Posterior(net, A, law, y)

    post = suite.attempt(place, measure)
    noise = torch.randn(shared["num_samples"], *truth.shape, generator=torch.Generator().manual_seed(0)).to(truth)
    result = Result(truth + net.data_std * noise, post, None, 0, 0.0, 0.0)
    for spec in shared["metrics"]:
        try:
            with torch.no_grad():
                scores.metric(spec)(result, truth)
        except Exception as error:  # a user's metric may raise anything
            suite.fail(of_metrics, f"{spec} cannot be computed: {error}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: Any) -> int:
    """A seed below 2^31 from a hash."""
    return int(fingerprint.digest(value), 16) % 2**31


def shard_of(suite_cells: Sequence[Cell], shard: tuple[int, int] | None) -> list[Cell]:
    """The cells of shard i of n, counted from 1, by their keys: n machines share a suite unknown to each other."""
    if shard is None:
        return list(suite_cells)
    i, n = shard
    if not 1 <= i <= n:
        raise OptionError(f"a shard is i/n with 1 <= i <= n, got {i}/{n}")
    return [cell for cell in suite_cells if int(cell.key, 16) % n == i - 1]
