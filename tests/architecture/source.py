"""Reads the package's source as syntax trees: modules, imports and sizes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import modelyard

ROOT = Path(modelyard.__file__).parent


@dataclass(frozen=True)
class Module:
    name: str
    file: Path
    tree: ast.Module
    lines: int


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for file in sorted(ROOT.rglob("*.py")):
        if "versions" in file.parts:
            continue
        parts = file.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = file.read_text()
        found.append(Module(name, file, ast.parse(text), text.count("\n")))
    return tuple(found)


@cache
def names() -> frozenset[str]:
    return frozenset(module.name for module in modules())


def imports(module: Module) -> Iterator[str]:
    """Every module named by an import, also inside functions; those for type checking only are left out."""
    for node in _running(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            submodules = [name for name in inner if name in names()]
            yield from submodules
            if len(submodules) < len(inner):  # a name of the module itself
                yield node.module


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _running(node)


def own_lines(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    """Lines of a definition without its docstrings."""
    return (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)


def docstring_lines(tree: ast.AST) -> int:
    """Lines of the docstrings in it, its own included."""
    total = 0
    for inner in ast.walk(tree):
        kinds = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if isinstance(inner, kinds) and ast.get_docstring(inner):
            text = inner.body[0]
            total += (text.end_lineno or text.lineno) - text.lineno + 1
    return total
