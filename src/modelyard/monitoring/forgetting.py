"""Forgets a person in monitors: what was logged of their requests goes, the counts that it is part of stay."""

from __future__ import annotations

from typing import Any

from modelyard.core.forgetting import Person


def forget(monitors: Any, person: Person, user: str, reason: str) -> dict[str, int]:
    """The logged predictions that were removed."""
    ids = [request_id if row == 0 else f"{request_id}:{row}" for request_id, row in sorted(person.asked)]
    return {"predictions in monitors": monitors.forget_requests(ids, reason=reason, user=user)}
