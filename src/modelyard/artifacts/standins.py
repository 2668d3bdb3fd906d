"""What stands for a pickle's values while it is walked: what it would import, and what it would make of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class _Opaque:
    """A value whose content does not matter."""

    def __repr__(self) -> str:
        return "?"


OPAQUE = _Opaque()


@dataclass(frozen=True, slots=True)
class Name:
    """A global: a module and an object's name in it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True)
class Made:
    """What calling a global gave."""

    maker: Any
    arguments: Any
    state: Any = None
    built: bool = False
