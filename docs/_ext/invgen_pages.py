"""Pages that are written by code: the API from the public names, the tables of `invgen list`, the cards of the priors."""

import importlib
import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]

# The modules of the API pages, each with the sentence that heads its page. Their names are those of `__all__`, else the
# public functions and classes that the module itself defines; CHOSEN has the few of a package that commands use.
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
    "proximal": "Proximal",
    "smc": "Sequential Monte Carlo",
    "mcmc": "Langevin and Markov chains",
    "projection": "Spectral and projection",
    "variational": "Variational and optimisation",
    "plug_and_play": "Plug and play",
    "flow": "Flow matching",
    "few_steps": "Few steps",
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
    """Leads the links from docs/ to pages beside it to their copies on the site; what is no page loses its link."""

    def link(match: re.Match) -> str:
        page = match[2].removesuffix(".md")
        return f"{match[1]}(/generated/project/{page.lower()}.md)" if page in PROJECT else match[1][1:-1]

    if "/" not in name:
        text[0] = re.sub(r"(?<!!)(\[[^]]+\])\(\.\./([^)]+)\)", link, text[0])


def pictures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Moves the pictures that an example has written into the gallery (an image scraper of sphinx-gallery)."""
    from sphinx_gallery.scrapers import figure_rst

    paths = []
    for made in sorted(Path(block_vars["src_file"]).parent.glob("*.png"), key=lambda p: p.stat().st_mtime):
        paths.append(block_vars["image_path_iterator"].next())
        shutil.move(made, paths[-1])
    return figure_rst(paths, gallery_conf["src_dir"])


def setup(app: Any) -> dict[str, Any]:
    """Connects the hooks."""
    app.connect("config-inited", write_pages)  # before the files of the site are listed
    app.connect("source-read", source)
    return {"parallel_read_safe": True}
