"""Frameworks as data: what each control asks for, read from the TOML files in frameworks/."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from modelyard.core.errors import Invalid, nearest
from modelyard.core.events import EventType
from modelyard.governance.values import ComplianceFramework

FOLDER = Path(__file__).parent / "frameworks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Events of which at least one must be there.

    Model scope: the event is about the model version or something in its lineage. Yard scope: about anything.
    `every` asks for one such event about each thing of that kind in the model's upstream lineage.
    """

    events: tuple[EventType, ...]
    says: str
    scope: str = "model"
    every: str = ""
    present: tuple[str, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    max_age_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One requirement: what events prove of it (`claim`), and what a person must state (`ask`)."""

    id: str
    article: str
    title: str
    ask: str
    claim: str = ""
    names: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """A regulation or set of criteria with its dates and controls."""

    id: str
    title: str
    note: str
    attestation_days: int
    controls: tuple[Control, ...]
    dates: tuple[tuple[date, str], ...] = ()
    data_flag: str = ""

    def control(self, name: str) -> Control:
        """The control with that id or other name; Invalid with the nearest known ones for any other."""
        for control in self.controls:
            if name == control.id or name in control.names:
                return control
        known = [name for control in self.controls for name in (control.id, *control.names)]
        raise Invalid(f"{self.id} has no control {name!r}. {nearest(name, known)}")


@cache
def load_framework(which: ComplianceFramework) -> Framework:
    """The framework's controls as its file states them."""
    raw = tomllib.loads((FOLDER / f"{which.value}.toml").read_text(encoding="utf-8"))
    return Framework(
        id=raw["id"],
        title=raw["title"],
        note=raw["note"],
        attestation_days=raw["attestation_days"],
        data_flag=raw.get("data_flag", ""),
        dates=tuple((entry["date"], entry["what"]) for entry in raw["dates"]) if "dates" in raw else (),
        controls=tuple(_control(entry) for entry in raw["controls"]),
    )


def _control(raw: Mapping[str, Any]) -> Control:
    needs = tuple(_need(entry) for entry in raw.get("needs", ()))
    plain = {key: value for key, value in raw.items() if key not in ("names", "needs")}
    return Control(**plain, names=tuple(raw.get("names", ())), needs=needs)


def _need(raw: Mapping[str, Any]) -> Need:
    events = tuple(EventType(name) for name in raw["events"])
    plain = {key: value for key, value in raw.items() if key not in ("events", "present")}
    return Need(**plain, events=events, present=tuple(raw.get("present", ())))
