"""Checkpoints are copied to second places by rule, and the log is held against the copies."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from modelyard.audit import AuditLogger, EventSeverity, EventType
from modelyard.audit.copies import checked_target, copies_at
from modelyard.audit.service import LEASE
from modelyard.core.errors import Conflict, Invalid, NotFound, Unavailable
from modelyard.core.instants import FixedClock
from modelyard.testing.servers import until


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere"


@pytest.fixture
def watched(logger: AuditLogger, place: Path) -> AuditLogger:
    logger.add_witness(str(place), user="ana", within_seconds=60)
    logger.integrate()
    return logger


def tell(logger: AuditLogger, count: int = 1) -> None:
    for _ in range(count):
        logger.log_model_deployment("m", "v1", "bob")
    logger.integrate()


def test_a_checkpoint_is_copied_when_it_is_due(watched: AuditLogger, place: Path, clock: FixedClock) -> None:
    assert watched.copy_as("one") == 1
    assert copies_at(place) == [watched.checkpoint()]
    assert watched.copy_as("one") == 0  # there is nothing new
    tell(watched)
    clock.advance(30)
    assert watched.copy_as("one") == 0  # there is, but it has time
    clock.advance(29)
    assert watched.copy_as("one") == 1
    assert copies_at(place)[-1] == watched.checkpoint()
    assert len(copies_at(place)) == 2
    assert watched.list_witnesses()[0].copied_size == 2
    assert watched.integrate() == 0  # a copy is no event, else it would never end
    assert watched.verify(against=place).ok


def test_only_one_of_several_sequencers_copies(watched: AuditLogger, clock: FixedClock) -> None:
    tell(watched)
    watched.integrate_as("one")
    assert watched.copy_as("one") == 1
    tell(watched)
    clock.advance(60)
    watched.integrate_as("one")
    assert watched.copy_as("one") == 1
    tell(watched)
    clock.advance(59)
    with watched.store.work() as work:
        assert LEASE.take(work, "other")
    assert watched.copy_as("one") == 0


def test_a_clock_that_jumps_back_holds_no_copy_up(watched: AuditLogger, place: Path, clock: FixedClock) -> None:
    assert watched.copy_as("one") == 1
    clock.advance(-86_400)
    tell(watched)
    assert watched.copy_as("one") == 1
    shutil.rmtree(place)
    place.write_text("in the way")
    clock.advance(60)
    tell(watched)
    assert watched.copy_as("one") == 0
    assert watched.list_witnesses()[0].failures == 1
    place.unlink()
    clock.advance(-86_400)
    assert watched.copy_as("one") == 1


def test_the_sequencer_copies_in_the_background(logger: AuditLogger, place: Path) -> None:
    logger.add_witness(str(place), user="ana", within_seconds=1)
    logger.start_sequencer(interval=0.001)
    until(lambda: place.exists() and list(place.glob("*.checkpoint")))
    logger.close()
    assert len(copies_at(place)) == 1


def test_a_place_that_fails_is_told_once_and_tried_again(watched: AuditLogger, place: Path, clock: FixedClock) -> None:
    place.write_text("in the way")
    for _ in range(10):
        watched.copy_as("one")
        watched.integrate()
        clock.advance(1)
    failures = watched.query_events(EventType.CHECKPOINT_COPIED)
    assert [event.severity for event in failures] == [EventSeverity.ERROR]
    assert failures[0].details["target"] == str(place)
    tries = watched.list_witnesses()[0].failures
    assert 2 <= tries <= 4  # after 2, 4, 8 seconds and so on
    place.unlink()
    clock.advance(600)
    assert watched.copy_as("one") == 1
    told = watched.query_events(EventType.CHECKPOINT_COPIED)[1]
    assert (told.details["copied"], told.details["failures"]) == (True, tries)
    clock.advance(600)
    assert watched.copy_as("one") == 1  # of the event that told it
    clock.advance(600)
    assert watched.copy_as("one") == 0
    assert watched.verify(against=place).ok


def test_copies_show_a_log_that_was_cut_or_rewritten(watched: AuditLogger, place: Path, folder: Path) -> None:
    tell(watched, 5)
    watched.copy_as("one")
    tell(watched, 5)
    assert watched.verify(against=place).ok
    with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as raw:
        for table in ("audit_checkpoints", "audit_leaves", "audit_blocks"):
            raw.execute(f"DELETE FROM {table}")
        raw.execute("UPDATE events SET actor = 'mallory' WHERE position = 3")
    watched.integrate()
    assert watched.verify().ok  # nothing inside can tell
    assert "rewritten" in watched.verify(against=place).problems[0]


def test_two_logs_of_one_size_do_not_hide_each_other(tmp_path: Path, place: Path, clock: FixedClock) -> None:
    first = AuditLogger(tmp_path / "a", clock=clock)
    first.add_witness(str(place), user="ana")
    first.integrate()
    first.copy_as("one")
    shutil.copytree(tmp_path / "a" / "keys", tmp_path / "b" / "keys")
    second = AuditLogger(tmp_path / "b", clock=clock)  # the owner starts again with the same key
    second.add_witness(str(place), user="mallory")
    second.integrate()
    second.copy_as("one")
    assert len(copies_at(place)) == 2
    assert not first.verify(against=place).ok
    assert not second.verify(against=place).ok


def test_places_come_and_go(watched: AuditLogger, place: Path, folder: Path) -> None:
    with pytest.raises(Conflict, match="already"):
        watched.add_witness(str(place), user="ana")
    with pytest.raises(NotFound, match="Did you mean"):
        watched.remove_witness(str(place)[:-1], user="ana")
    watched.remove_witness(str(place), user="ana")
    assert watched.list_witnesses() == []
    assert watched.verify().ok
    watched.add_witness(str(place), user="ana", within_seconds=5)
    assert watched.verify().ok
    with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as raw:
        raw.execute("DELETE FROM audit_witnesses")  # so that copies quietly end
    assert "witness" in watched.verify().problems[0]


@pytest.mark.parametrize(
    "target", ["elsewhere", "http://example.org/x", "https://", "https://a:b@example.org/", "s3://", "ftp://x/y", ""]
)
def test_a_place_that_cannot_be_one_is_refused(logger: AuditLogger, target: str) -> None:
    with pytest.raises(Invalid, match="cannot be copied"):
        logger.add_witness(target, user="ana")
    assert logger.query_events() == []


def test_an_address_that_nobody_answers_is_a_failure(logger: AuditLogger) -> None:
    logger.add_witness("https://127.0.0.1:9/x", user="ana")
    logger.integrate()
    assert logger.copy_as("one") == 0
    assert logger.list_witnesses()[0].failures == 1
    assert checked_target("s3://bucket/prefix") == "s3://bucket/prefix"


def test_copies_are_looked_for_where_they_can_be(logger: AuditLogger, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no folder"):
        logger.verify(against=tmp_path / "none")
    with pytest.raises(NotFound, match="no checkpoints"):
        logger.verify(against=tmp_path)
    with pytest.raises(Invalid, match="Fetch them"):
        logger.verify(against="https://example.org/x")
    tell(logger)
    (tmp_path / f"{1:020d}-{'0' * 16}.checkpoint").write_text(logger.checkpoint())
    logger.keys.public_file.unlink()
    logger.keys.secret.unlink()
    with pytest.raises(Unavailable):
        logger.verify(against=tmp_path)
