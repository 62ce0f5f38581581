"""Docstrings have one order: a line that says what is returned or done, then Args, Returns, Raises, Source."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("invgen", "operators", "priors", "benchmarks")
MANY = 4  # from so many parameters on, each is described
# what these are in a sampler is in the docstring of invgen.samplers, once
EVERYWHERE = ("self", "cls", "post", "randn", "s", "s_next", "cloud")


def public(nodes, outer=None):
    """The public functions, methods and classes of a file: (node, the class around it or None)."""
    for node in nodes:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_") and node.name not in ("__init__", "__call__"):
            continue
        yield node, outer
        if isinstance(node, ast.ClassDef):
            yield from public(node.body, node)


def parameters(node):
    spec = node.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]
    return [a.arg for a in every if a.arg not in EVERYWHERE and not a.arg.startswith("_")]


FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def classes():
    """Every class of the package, by its name."""
    return {node.name: node for path in FILES for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)}


def documented(node, outer):
    """The docstring of a function, and those of its class and its bases, which describe the arguments of a constructor."""
    text = [ast.get_docstring(node) or ""]
    above = [outer] if outer else []
    while above:
        cls = above.pop()
        text.append(ast.get_docstring(cls) or "")
        above += [classes()[base.id] for base in cls.bases if isinstance(base, ast.Name) and base.id in classes()]
    return "\n".join(text)


def is_command(node):
    """Whether typer makes a command of the function: the help of its options stands in their annotations."""
    return any(".command" in ast.unparse(decorator) for decorator in node.decorator_list)


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_of_many_parameters_describe_each(folder):
    missing = []
    for path in FILES:
        if path.relative_to(ROOT).parts[0] != folder:
            continue
        for node, outer in public(tree(path).body):
            if isinstance(node, ast.ClassDef) or len(parameters(node)) < MANY:
                continue
            if inherited(node, outer) or is_command(node):
                continue
            text = documented(node, outer)
            lacking = [name for name in parameters(node) if not re.search(rf"\b{name}\b", text)]
            if lacking:
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {', '.join(lacking)}")
    assert not missing, "\n".join(missing)


def inherited(node, outer):
    """Whether a method fills in one that its base class describes: it has no docstring of its own."""
    return outer is not None and bool(outer.bases) and node.name != "__init__" and not ast.get_docstring(node)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_docstring_begins_with_what(folder):
    riddles = []
    for path in FILES:
        if path.relative_to(ROOT).parts[0] != folder:
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = (ast.get_docstring(node) or "").split("\n")[0]
                if first.startswith("What "):
                    riddles.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {first}")
    assert not riddles, "\n".join(riddles)


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_of_functions_begin_with_a_verb(folder):
    """A function that returns something says so: no article, no "how" or "where" in front."""
    nouns = []
    for path in FILES:
        if path.relative_to(ROOT).parts[0] != folder:
            continue
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.FunctionDef) or "property" in " ".join(map(ast.unparse, node.decorator_list)):
                continue
            if any("contextmanager" in ast.unparse(decorator) for decorator in node.decorator_list) or is_command(node):
                continue
            first = (ast.get_docstring(node) or "").split("\n")[0]
            if (
                node.returns is not None
                and ast.unparse(node.returns) != "None"
                and re.match("(The|An?|How|Where) [a-z]", first)
            ):
                nouns.append(f"{path.relative_to(ROOT)}:{node.lineno} {first}")
    assert not nouns, "\n".join(nouns)
