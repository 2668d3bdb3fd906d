"""What every `Clock` must do."""

from __future__ import annotations

from datetime import UTC, timedelta

import pytest

from modelyard.core.ports import Clock


class ClockContract:
    """For a `Clock`. Needs the fixture `clock`."""

    @pytest.fixture
    def clock(self) -> Clock:
        """Must be given by the subclass."""
        raise NotImplementedError  # a contract alone runs nothing: only its subclass knows what is under test

    def test_it_tells_utc(self, clock: Clock) -> None:
        now = clock.now()
        assert now.tzinfo is not None
        assert now.utcoffset() == timedelta(0)
        assert now.isoformat() == now.astimezone(UTC).isoformat()
