"""Decisions of the serving processes reach the yard once it is there, and say little while it is not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from modelyard.core.errors import Unavailable
from modelyard.core.traffic import GuardTrip, TrafficCounts
from modelyard.serving.guard import Reporter, unrecorded
from modelyard.serving.places import Places, write_once

HERE = f"{__name__}:hook"
away: set[str] = set()
told: list[str] = []


def hook(_: str, trip: GuardTrip) -> None:
    """A yard that some decisions cannot be written into."""
    if trip.rollout_id in away:
        raise Unavailable("The database is away.")
    told.append(trip.rollout_id)


def test_a_decision_that_cannot_be_recorded_is_told_once_and_keeps_no_other_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = Places(tmp_path)
    places.make()
    for name in ("dep_1", "dep_2"):
        counts = TrafficCounts(endpoint="e", generation=2)
        found = {"metric": "errors", "e_value": 1300.0, "threshold": 1250.0, "reason": "8 of 100 failed", "at": 0.0}
        write_once(
            places.trip(name, 0), GuardTrip(endpoint="e", generation=2, rollout_id=name, step=0, counts=counts, **found)
        )
    reporter = Reporter(places, str(tmp_path), HERE)
    reporter._ended.set()  # so that a look waits for nothing
    away.update({"dep_1", "dep_2"})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            reporter.look()
        away.discard("dep_2")
        reporter.look()
        assert told == ["dep_2"]
        away.clear()
        reporter.look()
    assert told == ["dep_2", "dep_1"]
    assert not unrecorded(places)
    assert [record.getMessage() for record in caplog.records] == [
        "A rollback cannot be recorded yet: The database is away."
    ]
    assert caplog.records[0].exc_info is None
