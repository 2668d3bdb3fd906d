"""Forgets a person in experiments: their rows go, the sums that they are part of stay."""

from __future__ import annotations

from typing import Any

from modelyard.core.forgetting import Person


def forget(tests: Any, person: Person, user: str, reason: str) -> dict[str, int]:
    """The rows of units, assignments and results that were removed."""
    return {"rows of units in A/B tests": tests.forget_units(list(person.names), reason=reason, user=user)}
