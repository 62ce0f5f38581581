"""Pages that are written by code: the API from the public names, the tables of `invgen list`, the cards of the priors."""

import importlib
import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]

# The modules of the API pages, each with the sentence that heads its page. Their names are those of `__all__`, else the public
# functions and classes that the module itself defines, or, where it defines too many that only the command line uses, these.
MODULES: dict[str, str] = {
    "invgen": "The contracts (operators, noise, priors, samplers), what is done with them, and every error.",
    "invgen.operators": "The operators of the catalogue and the functions that make their masks, kernels, angles and maps.",
    "invgen.priors": "Exact laws, the loaders of trained and published networks, and what wraps a network into a prior.",
    "invgen.samplers": "The posterior samplers, one file a paper, and those that draw from the prior alone.",
    "invgen.metrics": "Scores of pictures and of samples, distances between laws, ranks and coverage.",
    "invgen.plots": "Figures of a result, of samples and of a calibration.",
    "invgen.files": "Files to signals, and signals to the units and the shape of a prior.",
    "invgen.linalg": "Batched linear solvers.",
    "invgen.benchmarks": "Suites from Python: run one, read its results, compare two folders.",
}
CHOSEN: dict[str, list[str]] = {
    "invgen.benchmarks": [
        "invgen.benchmarks.engine.runner.run",
        "invgen.benchmarks.report.results.read",
        "invgen.benchmarks.report.compare.compare",
    ],
}
# Headings of the pages that are long, by the folder that a name lies in
FAMILIES = {
    "guided": "Guided denoisers",
    "smc": "Sequential Monte Carlo",
    "mcmc": "Langevin and Markov chains",
    "projection": "Spectral and projection",
    "variational": "Variational and optimisation",
    "plug_and_play": "Plug and play",
    "flow": "Flow matching",
    "latent": "Latent",
    "derivative_free": "Derivative-free",
    "editing": "Editing",
    "unconditional": "The prior alone",
    "ct": "Computed tomography",
    "mri": "Magnetic resonance imaging",
    "peers": "Operators of other libraries",
    "laws": "Exact laws",
    "wrappers": "Networks and decoders as priors",
    "checkpoints": "Checkpoints of other projects",
}
TABLES = {
    "operators": "With an SVD, every solve that a sampler asks for is exact; \"own solve\" stands for a method faster than "
    "conjugate gradients, which the others use.",
    "priors": "The trained priors come first. Each has a card with its data, licences, training and figures.",
    "samplers": "A sampler refuses a problem that it cannot solve, and names those that can. "
    "How far each is from the exact posterior, and what it costs: [Posterior samplers](../../samplers.md).",
}  # fmt: skip


def public(module: str) -> list[str]:
    """Returns the full names of what a module offers, modules left out."""
    if module in CHOSEN:
        return CHOSEN[module]
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None) or [
        n for n, thing in vars(found).items() if n[0] != "_" and getattr(thing, "__module__", "") == module
    ]
    return [f"{module}.{n}" for n in sorted(names, key=str.lower) if callable(getattr(found, n))]


def _thing(name: str) -> Any:
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def _grouped(module: str) -> Iterator[tuple[str, list[str]]]:
    """Yields the headings of an API page and the names under each, the order of FAMILIES after what has no family."""
    groups: dict[str, list[str]] = {"": []} | {heading: [] for heading in FAMILIES.values()}
    for name in public(module):
        parts = _thing(name).__module__.split(".")
        groups[FAMILIES.get(parts[2], "") if len(parts) > 3 and module.count(".") == 1 else ""].append(name)
    if module == "invgen":
        errors = [n for n in groups[""] if inspect.isclass(_thing(n)) and issubclass(_thing(n), Exception)]
        groups[""] = [n for n in groups[""] if n not in errors]
        groups["Errors"] = errors
    return ((heading, names) for heading, names in groups.items() if names)


def api_page(module: str) -> str:
    """Returns the page of a module in reStructuredText: a table of its names, each linked to its own page."""
    lines = [module, "=" * len(module), "", MODULES[module], ""]
    for heading, names in _grouped(module):
        lines += [heading, "-" * len(heading), ""] if heading else []
        lines += [".. autosummary::", "   :toctree: .", "   :nosignatures:", "", *(f"   ~{n}" for n in names), ""]
    return "\n".join(lines)


def table_page(kind: str) -> str:
    """Returns the page with the table of `invgen list KIND`, each name linked to its API page."""
    from invgen.commands import catalogue

    known = {name.rpartition(".")[2]: name for name in public(f"invgen.{kind}")}

    def linked(match: re.Match) -> str:
        name = match[1]
        if name in known:
            return f"| [`{name}`](../api/{known[name]}.rst) |"
        return f"| [`{name}`](../cards/{name}.md) |" if (CARDS / f"{name}.md").exists() else match[0]

    table = re.sub(r"^\| `([\w-]+)` \|", linked, catalogue.markdown(kind), flags=re.MULTILINE)
    return f"# {kind.capitalize()}\n\n{TABLES[kind]}\n\n{table}\n"


PROJECT = ("CONTRIBUTING", "CHANGELOG", "SECURITY")  # pages beside docs/ that the site has too
CARDS = DOCS.parent / "priors" / "weights"


def write(path: Path, text: str) -> None:
    """Writes a page where it has changed, so that an unchanged one is not built again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def write_pages(app: Any, config: Any) -> None:
    """Writes all generated pages into docs/generated."""
    made = Path(app.srcdir) / "generated"
    for module in MODULES:
        write(made / "api" / f"{module}.rst", api_page(module))
    for kind in TABLES:
        write(made / "tables" / f"{kind}.md", table_page(kind))
    for card in sorted(CARDS.glob("*.md")):
        write(made / "cards" / card.name, relinked(card.read_text(encoding="utf-8")))
    for name in PROJECT:
        write(made / "project" / f"{name.lower()}.md", relinked((DOCS.parent / f"{name}.md").read_text(encoding="utf-8")))


def relinked(page: str) -> str:
    """Returns a page from outside of docs/ with its links as they are inside; what is no page loses its link."""

    def link(match: re.Match) -> str:
        text, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        if found := re.search(r"(?:^|/)docs/(.+)", target):
            return f"{text}(/{found[1]})"
        name = target.rpartition("/")[2].removesuffix(".md")
        return f"{text}(/generated/project/{name.lower()}.md)" if name in PROJECT else text[1:-1]

    return re.sub(r"(?<!!)(\[[^]]+\])\(([^)]+)\)", link, re.sub(r"(!\[[^]]*\]\()(?:\.\./)*docs/", r"\1/", page))


def source(app: Any, name: str, text: list[str]) -> None:
    """Leads the links from docs/ to pages beside it to their copies on the site."""
    text[0] = re.sub(r"\]\(\.\./(\w+)\.md", lambda m: f"](/generated/project/{m[1].lower()}.md" if m[1] in PROJECT else m[0], text[0])


def plain(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Marks up a docstring, which is plain text: stars and bars are themselves, what is indented is a list or code."""
    marked: list[str] = []
    for section, part in _sections(lines):
        marked += [_escaped(line) for line in part] if section else _lists(part)
    lines[:] = marked


SECTION = re.compile(r"(Args|Arguments|Attributes|Returns|Yields|Raises|Warns|Examples?|Source|Sources|Notes?):$")


def _sections(lines: list[str]) -> list[tuple[bool, list[str]]]:
    """Splits a docstring into free text and the sections of Google's style, which napoleon reads: (is one, its lines)."""
    parts: list[tuple[bool, list[str]]] = [(False, [])]
    for line in lines:
        if SECTION.match(line):
            parts.append((True, []))
        elif parts[-1][0] and line and line[0] != " ":
            parts.append((False, []))
        parts[-1][1].append(line)
    return parts


def _lists(lines: list[str]) -> list[str]:
    """Marks up free text, in which an indented run is a list of terms, or else code or formulas to be shown as they are."""
    marked: list[str] = []
    while lines:
        width = next((k for k, line in enumerate(lines) if line and line[0] != " "), len(lines))
        run = lines[:width]  # indented lines, with the empty ones between
        lines = lines[width:]
        if any(run):
            marked += ["", *_run(run), ""]
        elif run:
            marked.append("")
        if lines:
            head, lines = lines[0], lines[1:]
            hanging = bool(lines) and lines[0][:1] == " " and not head.endswith(":")
            if hanging:  # a term at the margin, its text indented below
                text = next((k for k, line in enumerate(lines) if line[:1] != " "), len(lines))
                marked += ["", "- " + _escaped(head), *("  " + _escaped(line.strip()) for line in lines[:text])]
                lines = ["", *lines[text:]]
            else:
                marked.append(_escaped(head))
    return marked


def _run(lines: list[str]) -> list[str]:
    """Returns a bullet list where each item is `term: text` or `"term"  text`, a literal block otherwise."""
    margin = min(len(line) - len(line.lstrip()) for line in lines if line)
    lines = [line[margin:] for line in lines]
    items = [line for line in lines if line and line[0] != " "]
    term = re.compile(r'[\w"(][^:=]*: \S|"\w+" +\S(?:(?! {2}).)*$')
    if not all(term.match(item) for item in items):
        return ["::", "", *("    " + line if line else "" for line in lines)]
    marked: list[str] = []
    for line in lines:
        item = bool(line) and line[0] != " "
        text = re.sub(r'^("\w+") +', r"\1: ", line) if item else line.strip()
        marked.append(("- " if item else "  ") + _escaped(text) if text else "")
    return marked


def _escaped(line: str) -> str:
    """Returns a line with backticks as code, or as a link where they hold a name, and nothing else marked up."""

    def code(match: re.Match) -> str:
        text = match[1]
        return f"`{text}`" if re.fullmatch(r"[A-Za-z][\w.]*\w", text) else f"``{text}``"

    parts = re.split(r"(:\w+:`[^`]+`|``[^`]+``|`[^`]+`)", line)
    for k, part in enumerate(parts):
        if k % 2 == 0:
            parts[k] = re.sub(r"([*|`]|(?<=\w)_(?!\w))", r"\\\1", part)
        elif part[0] == "`" and part[1] != "`":
            parts[k] = re.sub(r"`([^`]+)`", code, part)
    return "".join(parts)


def pictures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Moves the pictures that an example has written into the gallery (an image scraper of sphinx-gallery)."""
    from sphinx_gallery.scrapers import figure_rst

    paths = []
    for made in sorted(Path(block_vars["src_file"]).parent.glob("*.png"), key=lambda p: p.stat().st_mtime):
        paths.append(block_vars["image_path_iterator"].next())
        shutil.move(made, paths[-1])
    return figure_rst(paths, gallery_conf["src_dir"])


def setup(app: Any) -> dict[str, Any]:
    """Connects the hooks, before those of autosummary, autodoc and napoleon."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("config-inited", write_pages)  # before the files of the site are listed
    app.connect("source-read", source)
    app.connect("autodoc-process-docstring", plain, priority=100)
    return {"parallel_read_safe": True}
