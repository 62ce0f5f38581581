"""Code without docstrings and type hints, which compute nothing, as `fingerprint` hashes it."""

import ast
from typing import Any

HINTS = ("typing", "typing_extensions", "collections.abc")  # modules that hints are made of
VARIABLES = ("TypeVar", "ParamSpec")


def bare(tree: ast.Module) -> ast.Module:
    """Returns a module, changed in place: without docstrings and type hints.

    The fields of a class with a decorator keep their hints. They may be options of a dataclass, which are made what their
    hints say.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    _WithoutHints().visit(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.If) and not node.body:
            node.body = [ast.Pass()]
    return tree


class _WithoutHints(ast.NodeTransformer):
    def visit_arg(self, node: ast.arg) -> Any:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.returns = None
        return None if any(_is(d, "overload") for d in node.decorator_list) else self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        node.bases = [b for b in node.bases if not (isinstance(b, ast.Subscript) and _is(b.value, "Generic"))]
        fields = {id(part): part for part in node.body if isinstance(part, ast.AnnAssign) and node.decorator_list}
        body = [fields.get(id(part)) or self.visit(part) for part in node.body]
        node.body = [s for part in body if part is not None for s in (part if isinstance(part, list) else [part])]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        return None if node.value is None else ast.Assign([node.target], self.visit(node.value), lineno=node.lineno)

    def visit_Assign(self, node: ast.Assign) -> Any:
        made = node.value.func if isinstance(node.value, ast.Call) else None
        return None if any(_is(made, name) for name in VARIABLES) else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        return node.orelse if _is(node.test, "TYPE_CHECKING") else node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        return None if node.module in HINTS else node


def _is(node: ast.AST | None, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
