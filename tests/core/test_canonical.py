"""The quick way to canonical JSON writes what the thorough one writes."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.core.canonical import canonical, dumps, plain

TEXT = st.text(st.characters(exclude_categories=()))  # half surrogate pairs too
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXT, children, max_size=4),
    max_leaves=12,
)


def outcome(task: Any) -> Any:
    try:
        return task()
    except (ValueError, TypeError) as error:
        return type(error)


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_any_value_is_written_one_way(value: Any) -> None:
    assert outcome(lambda: dumps(value)) == outcome(lambda: canonical(plain(value)).decode())


@given(st.floats(1e-4, 2**53))
@settings(max_examples=300, deadline=None)
def test_any_everyday_number_is_written_one_way(number: float) -> None:
    assert dumps([number, -number]) == canonical([number, -number]).decode()
