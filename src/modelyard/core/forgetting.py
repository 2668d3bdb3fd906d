"""Forgetting a person: each area that keeps something of persons registers a function that forgets it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelyard.core import plugins

Asked = tuple[str, int]  # a request's id and a row in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who is to be forgotten: what they are called (as units, entities, subjects), and what was asked with these names."""

    names: tuple[str, ...]
    asked: frozenset[Asked] = frozenset()


def forget(area: Callable[[str], Any], person: Person, *, user: str, reason: str) -> dict[str, int]:
    """How many rows were removed where, by every registered `forgetter`; `area` gives an open area by name.

    A forgetter is a function of (area, person, user, reason) that returns place -> rows. What was asked is found before
    anything is removed, and the log that it is found in comes last, so that a call that was cut short can be repeated.
    """
    finders: Iterable[str] = plugins.names("asked")
    asked = {one for name in finders for one in plugins.load("asked", name)(area(name), person.names)}
    whole = replace(person, asked=frozenset(asked))
    removed: dict[str, int] = {}
    for name in sorted(plugins.names("forgetter"), key=lambda name: name in plugins.names("asked")):
        found: Mapping[str, int] = plugins.load("forgetter", name)(area(name), whole, user, reason)
        removed |= {place: count for place, count in found.items() if count}
    return removed
