"""References: which model, which version, which thing an event is about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from modelyard.core.errors import Invalid
from modelyard.core.ids import checked_name

_SEMVER = re.compile(  # https://semver.org, with an optional leading v
    r"(?P<v>v?)(?P<major>0|[1-9]\d*)\.(?P<minor>0|[1-9]\d*)\.(?P<patch>0|[1-9]\d*)"
    r"(?:-(?P<pre>(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?\Z",
    re.ASCII,  # else \d takes the digits of every script
)


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class SemVer:
    """A semantic version (semver.org 2.0.0); the text as written is kept.

    >>> SemVer.parse("v1.2.0-rc.1") < SemVer.parse("1.2.0") < SemVer.parse("v1.10.0")
    True
    """

    text: str
    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> SemVer:
        """The version that the text names; Invalid for anything else."""
        match = _SEMVER.match(text) if isinstance(text, str) and len(text) <= 128 else None
        if match is None:
            raise Invalid(f"{text!r} is no semantic version. Write it as v1.2.3 or 1.2.3-rc.1 (https://semver.org).")
        pre = tuple(match["pre"].split(".")) if match["pre"] else ()
        return cls(text, int(match["major"]), int(match["minor"]), int(match["patch"]), pre)

    @property
    def key(self) -> tuple[object, ...]:
        """What orders versions: numbers, then a release after its pre-releases (semver.org, item 11)."""
        parts = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in self.pre)
        return (self.major, self.minor, self.patch, not self.pre, parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SemVer) and self.key == other.key

    def __lt__(self, other: SemVer) -> bool:
        return self.key < other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model and one of its versions, written `name:version`.

    >>> ModelRef.parse("fraud_detector:v1.0.0")
    ModelRef(name='fraud_detector', version='v1.0.0')
    """

    name: str
    version: str

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """The reference that `name:version` spells."""
        name, colon, version = text.rpartition(":")
        if not colon or not version:
            raise Invalid(
                f"{text!r} names no model version. Write it as name:version, for example fraud_detector:v1.0.0."
            )
        return cls(checked_name(name, "model"), version)

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class Resource:
    """What an event is about: a kind and an identifier."""

    kind: str
    id: str
