"""Moments are the same ones wherever they are read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from modelyard.core.instants import written


@pytest.fixture(params=["UTC0", "NZST-12NZDT", "PST8PDT"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """A zone that the machine is in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize("text", ["2026-01-31T12:00:08", "2026-01-31T12:00:08Z", "2026-02-01T01:00:08+13:00"])
def test_a_written_moment_is_the_same_on_every_machine_and_in_utc_where_it_names_no_zone(text: str) -> None:
    assert written(text) == datetime(2026, 1, 31, 12, 0, 8, tzinfo=UTC)
