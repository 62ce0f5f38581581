"""Tables of operators, priors and samplers, read off the classes, for `invgen list` and the site."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

from invgen.errors import FileError
from invgen.names.resolve import SHAPE_NAMES, classes, constructors, parameters

Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]  # headings, and the rows under them


def operators() -> Rows:
    """Returns the name, options, kind and first sentence of each operator."""
    from invgen import operators as package
    from invgen.forward import LinearOperator, Operator, SVDOperator

    def kind(cls: type) -> str:
        if issubclass(cls, SVDOperator):
            return "linear, SVD"
        if not issubclass(cls, LinearOperator):
            return "nonlinear"
        if hasattr(cls, "svd") or any(issubclass(sub, SVDOperator) for sub in cls.__subclasses__()):
            return "linear, SVD for some options"  # by a method, or by a constructor that chooses the subclass
        return "linear" if cls.solve is LinearOperator.solve else "linear, own solve"

    found = classes(package, Operator)
    rows = [(name, kind(cls), _sentence(cls), _options(cls)) for name, cls in sorted(found.items(), key=_by_name)]
    return ("operator", "kind", "what it measures", "options"), rows


def priors() -> Rows:
    """Returns the name, signals and a sentence for each prior, the shipped ones first."""
    from invgen import priors as package
    from invgen.diffusion import Prior
    from invgen.priors.load import load, metadata, names

    rows = []
    for name in names():
        about, net = metadata(name), load(name)
        size = sum(p.numel() for p in net.parameters()) / 1e6
        units = about.get("units") or "values of {:g} to {:g}".format(*net.value_range)
        rows.append((name, _shape(net.shape), f"trained, {size:.1f}M parameters; {units}"))
    rows += [(name, "any", _sentence(cls)) for name, cls in sorted(classes(package, Prior).items(), key=_by_name)]
    return ("prior", "signals", "what it is"), rows


def samplers() -> Rows:
    """Returns the name, needs, a sentence and the paper of each sampler."""
    from invgen import samplers as package
    from invgen.forward import LinearOperator, Operator
    from invgen.noise import Noise
    from invgen.samplers.unconditional.ancestral import Unconditional

    kinds = {Operator: "any operator", LinearOperator: "linear operator"}
    rows = []
    for cls in sorted(package.catalogue().values(), key=lambda c: c.__name__.lower()):
        noise = "any noise" if cls.noise is Noise else f"{cls.noise.__name__} noise"
        kind = "operator with SVD" if cls.svd else kinds.get(cls.A, cls.A.__name__)
        needs = f"{kind}, {noise}{' or none' if cls.noiseless else ''}"
        needs += ", a consistency function" if cls.consistency else ""
        needs = "a prior alone, no measurement" if issubclass(cls, Unconditional) else needs
        source = _sentence(inspect.getmodule(cls))
        own = re.search(rf"\b{cls.__name__}\b[^()\"]*\(([^)]*)\)", source, re.IGNORECASE)  # in a file of several
        rows.append((cls.__name__, needs, _sentence(cls), own[1] if own else source))
    return ("sampler", "needs", "what it does", "source"), rows


TABLES: dict[str, Callable[[], Rows]] = {"operators": operators, "priors": priors, "samplers": samplers}


def text(kind: str, width: int = 100) -> str:
    """Returns the table of a kind for a terminal: two lines an entry."""
    import textwrap

    headings, rows = TABLES[kind]()
    lines = [f"{kind.capitalize()} ({len(rows)})"]
    for name, second, third, *rest in rows:
        lines.append(f"  {name}  [{second}]")
        for part in (third, *rest):
            heading = "options: " if part in rest and headings[-1] == "options" else ""
            lines += textwrap.wrap(heading + part, width, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def markdown(kind: str) -> str:
    """Returns the table of a kind for a page: without the options, and papers by first author and venue."""
    headings, rows = TABLES[kind]()
    keep = [k for k, heading in enumerate(headings) if heading != "options"]
    if headings[-1] == "source":
        rows = [(*row[:-1], _short(row[-1])) for row in rows]
    lines = ["| " + " | ".join(headings[k] for k in keep) + " |", "|" + " --- |" * len(keep)]
    for row in rows:
        cells = [row[k].replace("|", "\\|") for k in keep]
        lines.append("| " + " | ".join([f"`{cells[0]}`", *cells[1:]]) + " |")
    return "\n".join(lines)


def between(page: str, name: str, content: str) -> str:
    """Returns the page with new content between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

    Raises:
        FileError: the page lacks the markers.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise FileError(f"the page lacks the markers {begin} and {end}, between which the {name} go")
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", page)


def write(path: str | Path, refresh: Callable[[str], str]) -> bool:
    """Brings a page up to date; whether anything changed.

    Raises:
        FileError: the page cannot be read or written, or lacks the markers.
    """
    from invgen.files.writing import write_text

    path = Path(path)
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    new = refresh(page)
    if new != page:
        write_text(path, new)
    return new != page


def _short(source: str) -> str:
    """Returns `Zhang, Chu & Song, "Title" (CVPR 2025), Algorithm 1` as `Zhang et al., CVPR 2025`."""
    paper = re.match(r"(?P<first>\w+)(?P<more>,? .*?)?, \".+?\" \((?P<venue>.+?)\)", source)
    if not paper:
        return source
    return f"{paper['first']}{' et al.' if paper['more'] else ''}, {paper['venue']}"


def _by_name(item: tuple[str, type]) -> str:
    return item[0].lower()


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _sentence(thing: object) -> str:
    """Returns the first sentence of a docstring, on one line and without its full stop."""
    paragraph = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[\w)\]'\"`*])\.(?=\s+[A-Z`]|$)", paragraph)[0]


def _options(cls: type) -> str:
    """Returns the constructor's options with their defaults, without the shape of the signal, which the prior gives."""
    named, others = parameters(cls)
    if others:  # told by the docstring alone
        section = (inspect.getdoc(cls) or "").partition("Args:")[2].partition("\n\n")[0]
        shown = ", ".join(n for n in re.findall(r"^    (\w+):", section, re.MULTILINE) if n not in SHAPE_NAMES[:2])
    else:
        shown = _listed(named)
    for name, make in constructors(cls).items():
        shown += f"; or {cls.__name__}.{name}({_listed(parameters(make)[0])})"
    return shown or "none"


def _listed(named: dict[str, inspect.Parameter]) -> str:
    shown = {n: p for n, p in named.items() if n not in SHAPE_NAMES[:2]}
    return ", ".join(n if p.default is p.empty else f"{n}={p.default!r}" for n, p in shown.items())
