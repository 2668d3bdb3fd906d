"""What looking at a file's bytes can say."""

from __future__ import annotations

from dataclasses import dataclass


class Malformed(ValueError):
    """The bytes are not what they begin as, or readers would disagree about them. Such a file is never kept."""


class Unsound(Malformed):
    """The bytes break off, or are no such file at all."""


class Foreign(Malformed):
    """A well-formed file that does what cannot be vouched for. It may be kept in quarantine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """Bytes of another file that a file refers to, by relative path."""

    path: str
    offset: int = 0
    length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The format found, why the file is unsafe to load (empty: it is safe), and which other files it needs."""

    format: str
    unsafe: tuple[str, ...] = ()
    needs: tuple[External, ...] = ()
