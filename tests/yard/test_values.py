"""What neither database can store is told in the same way by both, and undoes what was begun."""

from __future__ import annotations

from typing import Any

import pytest

from modelyard import Yard
from modelyard.core.errors import Invalid

INSERT = "INSERT INTO event_cursors (reader, position) VALUES (:reader, :position)"


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(("reader", "position"), [("half \ud800", 1), ("a", 2**70), ("a", -(2**63) - 1)])
def test_a_value_that_cannot_be_stored_is_invalid(yard: Yard, reader: str, position: int, many: bool) -> None:
    values: dict[str, Any] = {"reader": reader, "position": position}
    with pytest.raises(Invalid, match="cannot"), yard.store.work() as work:  # noqa: PT012 - the first write is undone
        work.rows.run(INSERT, reader="first", position=1)
        work.rows.many(INSERT, [values]) if many else work.rows.run(INSERT, **values)
    with yard.store.reading() as rows:
        assert rows.all("SELECT * FROM event_cursors") == []
