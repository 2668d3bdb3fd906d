"""Sizes that a model file gives as text: read as arithmetic, so that nothing in them can run."""

from __future__ import annotations

import ast
import re

_NAME = re.compile(r"\w+", re.ASCII)
_PLAIN = (ast.Expression, ast.Load, ast.keyword, ast.UnaryOp, ast.USub, ast.Tuple, ast.List)


def is_size(text: str) -> bool:
    """True for an expression in SymPy's own constructors, which is how PyTorch writes a size that is not fixed.

    Constructors have capital letters and take words as strings at most, since SymPy evaluates strings that it is given.

    >>> is_size("Mul(Integer(2), Symbol('s0', positive=True))"), is_size("__import__('os').system('x')")
    (True, False)
    """
    try:
        return all(map(_is_plain, ast.walk(ast.parse(text, mode="eval"))))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def _is_plain(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name()) | ast.Constant(value=int() | float()):
            return True
        case ast.Constant(value=str(word)):
            return _NAME.fullmatch(word) is not None
        case ast.Name(id=name):
            return name[0].isupper() or re.fullmatch(r"[suz]+\d+|true|false|oo|int_oo", name) is not None
    return isinstance(node, _PLAIN)
