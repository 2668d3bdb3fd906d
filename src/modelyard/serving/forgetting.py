"""Forgets a person in the payload logs: what was asked with their name as the unit, and what was told of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from modelyard.core.forgetting import Asked, Person
from modelyard.serving import reading
from modelyard.serving.places import Places


def asked(serving: Any, names: Sequence[str]) -> Iterator[Asked]:
    """Every logged row that was asked with one of the names."""
    places = Places(serving.store.folder)
    for endpoint in _logged(places):
        for name in names:
            which = reading.wanted(0, "", result=reading.ALL, unit=name)
            yield from ((request_id, row) for _, request_id, row in reading.places(places.payloads(endpoint), which))


def forget(serving: Any, person: Person, user: str, reason: str) -> dict[str, int]:
    """Rows and outcomes that were erased; at endpoints without any too, since a row may be on its way to the log."""
    removed: dict[str, int] = {}
    for endpoint in _logged(Places(serving.store.folder)):
        found = [serving.erase_payloads(endpoint, unit=name, reason=reason, user=user) for name in person.names]
        removed[f"logged rows of {endpoint}"] = sum(one.rows for one in found)
        removed[f"outcomes of {endpoint}"] = sum(one.outcomes for one in found)
    return removed


def _logged(places: Places) -> list[str]:
    """The endpoints that have a payload log."""
    return sorted(path.name for path in places.payloads("").glob("*") if path.is_dir())
