"""What was there and what is here, kind by kind, with the reasons for each difference."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

KINDS = (
    "experiments",
    "runs",
    "parameters",
    "tags",
    "metric values",
    "datasets",
    "run files",
    "logged models",
    "model files",
    "registered models",
    "versions",
    "aliases",
)
MOST = 200  # reasons and notes that are told in full


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many of a kind the source has, how many of those are here now, and why some are not."""

    kind: str
    there: int
    here: int
    missing: int
    new: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """What an import brought over. `notes` is what arrived otherwise than it was: other ids, stages, places."""

    source: str
    counts: tuple[Count, ...]
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything that is there is here."""
        return all(count.missing == 0 for count in self.counts)

    @property
    def new(self) -> int:
        """How much was not here before."""
        return sum(count.new for count in self.counts)


@dataclass(slots=True)
class Tally:
    """Counts while an import goes on."""

    there: Counter[str] = field(default_factory=Counter)
    here: Counter[str] = field(default_factory=Counter)
    new: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    more: Counter[str] = field(default_factory=Counter)

    def reason(self, kind: str, text: str) -> None:
        """Tell why something of a kind is not here."""
        self._add(self.reasons.setdefault(kind, []), kind, text)

    def note(self, text: str) -> None:
        """Tell what arrived otherwise than it was."""
        self._add(self.notes, "notes", text)

    def brought(self, source: str) -> Brought:
        """The result."""
        counts = tuple(
            Count(
                kind=kind,
                there=self.there[kind],
                here=self.here[kind],
                missing=self.there[kind] - self.here[kind],
                new=self.new[kind],
                reasons=self._told(self.reasons.get(kind, []), kind),
            )
            for kind in KINDS
        )
        return Brought(source=source, counts=counts, notes=self._told(self.notes, "notes"))

    def _add(self, told: list[str], kind: str, text: str) -> None:
        if len(told) < MOST:
            told.append(text)
        else:
            self.more[kind] += 1

    def _told(self, told: list[str], kind: str) -> tuple[str, ...]:
        return (*told, f"and {self.more[kind]:,} more") if self.more[kind] else tuple(told)
