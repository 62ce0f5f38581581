"""Docstrings have one order: a line that says what is returned or done, then Args, Returns, Raises, Source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("invgen", "operators", "priors", "benchmarks")
MANY = 4  # from so many parameters on, each is described


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
    return [a.arg for a in every if a.arg not in ("self", "cls") and not a.arg.startswith("_")]


def documented(node, outer):
    """The docstring of a function, and that of its class, where the arguments of a constructor are described."""
    return f"{ast.get_docstring(node) or ''}\n{ast.get_docstring(outer) if outer else ''}"


FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_of_many_parameters_describe_each(folder):
    missing = []
    for path in FILES:
        if path.relative_to(ROOT).parts[0] != folder:
            continue
        for node, outer in public(ast.parse(path.read_text(encoding="utf-8")).body):
            if isinstance(node, ast.ClassDef) or len(parameters(node)) < MANY or inherited(node, outer):
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
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = (ast.get_docstring(node) or "").split("\n")[0]
                if first.startswith("What "):
                    riddles.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {first}")
    assert not riddles, "\n".join(riddles)
