"""Forgets a person in the feature store: every entity of their name, of whatever type."""

from __future__ import annotations

from typing import Any

from modelyard.core.forgetting import Person


def forget(features: Any, person: Person, user: str, reason: str) -> dict[str, int]:  # noqa: ARG001 - all forgetters alike
    """The stored rows that were removed, by entity type."""
    kinds = sorted({feature.entity_type for feature in features.list_features()})
    return {f"features of {kind}": features.forget_entities(kind, list(person.names), user=user) for kind in kinds}
