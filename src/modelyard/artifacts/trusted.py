"""The exact names that a model file may import: module and name, one a line, in the .txt files beside this one.

A prefix such as `sklearn.` is no rule: whatever a package imports can be reached through it. Names with dots are never
listed, because they reach attributes (CPython resolves them since protocol 4).
"""

from __future__ import annotations

from functools import cache
from importlib import resources

PICKLE, SKOPS, TORCH = "pickle", "skops", "torch"
TORCH_OPS, TENSORFLOW, KERAS = "torch_ops", "tensorflow", "keras"


@cache
def names(listed: str) -> frozenset[tuple[str, str]]:
    """The allow-list with that name.

    >>> ("collections", "OrderedDict") in names(PICKLE), ("os", "system") in names(PICKLE)
    (True, False)
    """
    return frozenset((line[0], line[1]) for line in _lines(listed))


@cache
def not_callable(listed: str) -> frozenset[tuple[str, str]]:
    """Names on that list whose objects may be made and filled, but not through their constructor."""
    return frozenset((line[0], line[1]) for line in _lines(listed) if line[2:] == ["new"])


def _lines(listed: str) -> list[list[str]]:
    text = (resources.files("modelyard.artifacts") / f"trusted_{listed}.txt").read_text("utf-8")
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return [line for line in lines if len(line) >= 2 and "." not in line[1]]
