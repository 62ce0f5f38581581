"""Docstrings, which are plain text with the sections of Google's style, as pages: lists, code, links, short signatures."""

import inspect
import re
from typing import Any


def plain(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Marks up a docstring, which is plain text: stars and bars are themselves, what is indented is a list or code."""
    marked: list[str] = []
    for section, part in _sections(lines):
        marked += [_escaped(line) for line in part] if section else _lists(part)
    lines[:] = marked


def cited(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Ends the page of a sampler with the paper that heads its file."""
    of_file = inspect.getdoc(inspect.getmodule(thing)) or "" if what == "class" else ""
    paper = " ".join(of_file.split("\n\n")[0].split())
    if YEAR.search(paper) and thing.__module__.startswith("invgen.samplers."):
        lines += ["", f"Source: {paper}", ""]


YEAR = re.compile(r"\b(19|20)\d\d\b")
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


def signature(app: Any, what: str, name: str, thing: Any, options: Any, args: str | None, returned: str | None) -> Any:
    """Shortens a signature: hints without what only the checks at the doors read, the options of a dataclass by name."""
    if inspect.isclass(thing) and args and args.startswith("(*args"):
        made = inspect.signature(thing.__init__)
        made = made.replace(parameters=list(made.parameters.values())[1:], return_annotation=inspect.Signature.empty)
        args = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(\w+)", r"\1", str(made))  # names without their modules
    return (_bare(args) if args else args), (_bare(returned) if returned else returned)


def _bare(text: str) -> str:
    """Returns hints with the first argument of each `Annotated[...]` in its place."""
    while found := re.search(r"~?(?:\w+\.)*Annotated\[", text):
        depth, first, k = 1, None, found.end()
        while depth:
            depth += (text[k] in "[({") - (text[k] in "])}")
            if text[k] == "," and depth == 1 and first is None:
                first = k
            k += 1
        text = text[: found.start()] + text[found.end() : first or k - 1] + text[k:]
    return text


def skip(app: Any, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Leaves out attributes that hold a class, such as the operators that a sampler asks for: the tables have them."""
    return True if what == "class" and inspect.isclass(thing) else None


def setup(app: Any) -> dict[str, Any]:
    """Connects the hooks, that of docstrings before napoleon's."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", cited, priority=50)
    app.connect("autodoc-process-docstring", plain, priority=100)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
