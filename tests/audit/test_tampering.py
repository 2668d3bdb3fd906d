"""Whoever changes the database by other means is found out, whatever the change."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from modelyard.audit import AuditLogger, EventType, store
from modelyard.audit.keys import KeyFolder
from modelyard.audit.leaves import leaf_bytes
from modelyard.audit.merkle import append, leaf_hash
from modelyard.core.errors import Damaged, Unavailable
from modelyard.core.instants import FixedClock

EVENTS = 11


def fill(logger: AuditLogger, clock: FixedClock, count: int, batch: int = 4) -> None:
    """Log events a second apart; a checkpoint after every batch."""
    for number in range(count):
        logger.log_event(
            EventType.DATA_ACCESSED,
            "dataset",
            f"d{number % 3}",
            user=f"u{number % 2}",
            details={"n": number, "tag": "é\"'"},
        )
        clock.advance(1)
        if number % batch == batch - 1:
            logger.integrate()


@pytest.fixture
def log(logger: AuditLogger, clock: FixedClock) -> AuditLogger:
    """Eleven events under checkpoints at 4, 8 and 11."""
    fill(logger, clock, EVENTS)
    logger.integrate()
    assert logger.verify().ok
    return logger


@contextmanager
def by_hand(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as raw:
        raw.execute("PRAGMA foreign_keys=OFF")
        yield raw


def tampered(folder: Path, *statements: str) -> None:
    with by_hand(folder) as raw:
        for sql in statements:
            assert raw.execute(sql).rowcount != 0, sql


EVENT_CHANGES = {
    "position": "position = 1000 + position",
    "event_id": "event_id = event_id || 'x'",
    "event_type": "event_type = 'model_deployed'",
    "severity": "severity = 'error'",
    "actor": "actor = 'mallory'",
    "resource_type": "resource_type = 'model'",
    "resource_id": "resource_id = 'other'",
    "occurred_at": "occurred_at = occurred_at + 1",
    "details": """details = '{"n":99}'""",
    "details respelt": "details = replace(details, ',', ', ')",
    "actor as bytes": "actor = CAST(actor AS BLOB)",
    "time as text": "occurred_at = 'yesterday'",
    "time as a fraction": "occurred_at = occurred_at + 0.5",
    "actor that is no text": "actor = CAST(x'ff' AS TEXT)",
    "actor with what was details": """actor = actor || '","details":{}'""",
}


@pytest.mark.parametrize("index", [0, 5, EVENTS - 1])
@pytest.mark.parametrize("change", EVENT_CHANGES)
def test_a_changed_event_is_named(log: AuditLogger, folder: Path, change: str, index: int) -> None:
    tampered(folder, f"UPDATE events SET {EVENT_CHANGES[change]} WHERE position = {index + 1}")
    found = log.verify()
    assert not found.ok
    page = change == "actor that is no text"  # the whole page cannot be read then
    assert found.first_bad == (0 if page else index)
    assert found.problems


def test_every_changed_event_is_named_and_no_other(log: AuditLogger, folder: Path) -> None:
    tampered(folder, "UPDATE events SET actor = 'mallory' WHERE position IN (3, 7)")
    found = log.verify()
    assert [problem.partition(":")[0] for problem in found.problems] == ["leaf 2", "leaf 6"]


@pytest.mark.parametrize("index", [0, 5, EVENTS - 1])
def test_a_deleted_event_is_named(log: AuditLogger, folder: Path, index: int) -> None:
    tampered(folder, f"DELETE FROM events WHERE position = {index + 1}")
    assert log.verify().first_bad == index


def test_an_inserted_event_is_named(log: AuditLogger, folder: Path) -> None:
    tampered(
        folder,
        "DELETE FROM events WHERE position = 6",
        """INSERT INTO events SELECT 6, 'evt_new', event_type, severity, actor, resource_type, resource_id, occurred_at,
        details FROM events WHERE position = 5""",
    )
    assert log.verify().first_bad == 5
    assert "evt_new" in log.verify().problems[0]


def test_an_event_slipped_in_before_the_first_is_named(log: AuditLogger, folder: Path) -> None:
    tampered(
        folder,
        """INSERT INTO events SELECT 0, 'evt_new', event_type, severity, actor, resource_type, resource_id, occurred_at,
        details FROM events WHERE position = 5""",
    )
    found = log.verify()
    assert found.first_bad == 0
    assert "evt_new" in found.problems[0]
    assert "slipped in" in found.problems[0]


def test_events_that_changed_places_are_named(log: AuditLogger, folder: Path) -> None:
    tampered(
        folder,
        "UPDATE events SET position = -1 WHERE position = 3",
        "UPDATE events SET position = 3 WHERE position = 8",
        "UPDATE events SET position = 8 WHERE position = -1",
    )
    found = log.verify()
    assert found.first_bad == 2
    assert len(found.problems) == 2


def with_hash(number: int, new: str) -> str:
    """The statement that puts something in the place of one stored hash."""
    low, high = 32 * number, 32 * (number + 1)
    piece = f"CAST(substr(hashes, 1, {low}) || {new} || substr(hashes, {high + 1}) AS BLOB)"
    return f"UPDATE audit_blocks SET hashes = {piece} WHERE block = 0"


LEAF_CHANGES = {  # the second run holds the leaves 4 to 7
    "leaf_index": "UPDATE audit_leaves SET leaf_index = 100 WHERE leaf_index = 4",
    "position": "UPDATE audit_leaves SET position = 1000 WHERE leaf_index = 4",
    "position before": "UPDATE audit_leaves SET position = -3 WHERE leaf_index = 4",
    "position as text": "UPDATE audit_leaves SET position = 'x' WHERE leaf_index = 4",
    "fewer leaves": "UPDATE audit_leaves SET count = 0 WHERE leaf_index = 4",
    "integrated_at": "UPDATE audit_leaves SET integrated_at = integrated_at - 1 WHERE leaf_index = 4",
    "earliest": "UPDATE audit_leaves SET earliest = earliest + 1 WHERE leaf_index = 4",
    "latest": "UPDATE audit_leaves SET latest = latest - 1 WHERE leaf_index = 4",
    "a run deleted": "DELETE FROM audit_leaves WHERE leaf_index = 4",
    "hash": with_hash(7, "randomblob(32)"),
    "hash as text": "UPDATE audit_blocks SET hashes = 'x' WHERE block = 0",
    "a leaf's hash cut out": with_hash(7, "x''"),
    "block": "UPDATE audit_blocks SET block = 1000 WHERE block = 0",
}


@pytest.mark.parametrize("change", LEAF_CHANGES)
def test_a_changed_leaf_is_named(log: AuditLogger, folder: Path, change: str) -> None:
    tampered(folder, LEAF_CHANGES[change])
    assert log.verify().first_bad == (0 if change in ("hash as text", "block") else 4)


def test_a_run_of_leaves_that_is_longer_than_it_was_is_named(log: AuditLogger, folder: Path) -> None:
    tampered(folder, "UPDATE audit_leaves SET count = 5 WHERE leaf_index = 4")
    assert log.verify().first_bad == 8
    tampered(folder, "UPDATE audit_leaves SET count = 3 WHERE leaf_index = 4")
    assert log.verify().first_bad == 4  # its times are those of four


@pytest.mark.parametrize("number", range(19))
def test_every_stored_hash_is_checked(log: AuditLogger, folder: Path, number: int) -> None:
    with by_hand(folder) as raw:
        assert raw.execute("SELECT sum(length(hashes)) FROM audit_blocks").fetchone() == (19 * 32,)
    tampered(folder, with_hash(number, "randomblob(32)"))
    assert not log.verify().ok
    tampered(folder, with_hash(number, "x''"))
    assert not log.verify().ok


def test_a_hash_too_many_is_found(log: AuditLogger, folder: Path) -> None:
    tampered(folder, "UPDATE audit_blocks SET hashes = CAST(hashes || randomblob(32) AS BLOB)")
    assert "more hashes" in log.verify().problems[0]


CHECKPOINT_CHANGES = {
    "its size": "UPDATE audit_checkpoints SET size = 7 WHERE size = 8",
    "a size of none": "UPDATE audit_checkpoints SET size = -1 WHERE size = 8",
    "its text": "UPDATE audit_checkpoints SET note = replace(note, char(10) || '8' || char(10), '7') WHERE size = 8",
    "another's note": "UPDATE audit_checkpoints SET note = (SELECT note FROM audit_checkpoints WHERE size = 4) WHERE size = 8",
    "no note": "UPDATE audit_checkpoints SET note = '' WHERE size = 8",
    "the last gone": "DELETE FROM audit_checkpoints WHERE size = 11",
    "all gone": "DELETE FROM audit_checkpoints",
    "leaves cut under it": "DELETE FROM audit_leaves WHERE leaf_index >= 8",
    "one too many": "INSERT INTO audit_checkpoints SELECT 99, note FROM audit_checkpoints WHERE size = 8",
}


@pytest.mark.parametrize("change", CHECKPOINT_CHANGES)
def test_a_changed_checkpoint_is_found(log: AuditLogger, folder: Path, change: str) -> None:
    tampered(folder, CHECKPOINT_CHANGES[change])
    assert not log.verify().ok


def test_an_event_rewritten_together_with_its_tree_contradicts_the_checkpoint(log: AuditLogger, folder: Path) -> None:
    """Every hash above it is made anew, but without the key no checkpoint can be signed over them."""
    tampered(folder, "UPDATE events SET actor = 'mallory' WHERE position = 6")
    with log.store.reading() as rows:
        events = store.events_between(rows, 1, EVENTS)
        runs = store.runs(rows, -1, EVENTS)
    times = [run[3] for run in runs for _ in range(run[2])]
    frontier: list[bytes] = []
    hashes: list[bytes] = []
    for index, (event, integrated_at) in enumerate(zip(events, times, strict=True)):
        hashes += append(frontier, index, leaf_hash(leaf_bytes(index, integrated_at, event)))
    with by_hand(folder) as raw:
        raw.execute("INSERT OR REPLACE INTO audit_blocks VALUES (0, ?)", (b"".join(hashes),))
    found = log.verify()
    assert found.first_bad == 4  # somewhere between the checkpoints at 4 and 8
    assert "checkpoint at 8" in found.problems[0]


def rebuilt(log: AuditLogger, folder: Path, *changes: str) -> list[tuple[int, str]]:
    """Change events, then let the log be integrated anew; returns the checkpoints that stood before."""
    with by_hand(folder) as raw:
        notes: list[tuple[int, str]] = raw.execute("SELECT size, note FROM audit_checkpoints").fetchall()
        count = raw.execute("SELECT sum(count) FROM audit_leaves").fetchone()[0]
    tampered(folder, "DELETE FROM audit_checkpoints", "DELETE FROM audit_leaves", "DELETE FROM audit_blocks", *changes)
    assert log.integrate() == count
    return notes


def test_a_log_cut_back_to_an_earlier_checkpoint_is_found_with_an_outside_copy_only(
    log: AuditLogger, folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "checkpoint"
    outside.write_text(log.checkpoint())
    assert log.verify(outside).against == EVENTS
    tampered(
        folder,
        "DELETE FROM events WHERE position > 8",
        "DELETE FROM audit_leaves WHERE leaf_index >= 8",
        "UPDATE audit_blocks SET hashes = substr(hashes, 1, 15 * 32)",
        "DELETE FROM audit_checkpoints WHERE size > 8",
    )
    assert log.verify().ok  # nothing inside can tell
    found = log.verify(outside)
    assert found.first_bad == 8
    assert "was cut" in found.problems[0]


def test_a_log_rewritten_with_its_own_key_is_found_with_an_outside_copy_only(
    log: AuditLogger, folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "checkpoint"
    outside.write_text(log.checkpoint())
    rebuilt(log, folder, "UPDATE events SET actor = 'mallory' WHERE position = 6")
    assert log.verify().ok
    found = log.verify(outside)
    assert not found.ok
    assert "rewritten" in found.problems[0]


def test_a_log_rewritten_with_a_new_key_is_found_with_the_outside_key(
    log: AuditLogger, folder: Path, tmp_path: Path
) -> None:
    outside, key = tmp_path / "checkpoint", tmp_path / "key.pub"
    outside.write_text(log.checkpoint())
    key.write_bytes((folder / "keys" / "audit.ed25519.pub").read_bytes())
    for file in (folder / "keys").iterdir():
        file.unlink()
    rebuilt(log, folder, "UPDATE events SET actor = 'mallory' WHERE position = 6")
    assert log.verify().ok
    assert not log.verify(outside, key).ok
    with pytest.raises(Damaged, match="no signature by"):
        log.verify(outside)  # the new key is not the one that signed it


def test_an_old_outside_checkpoint_fits_the_grown_log(log: AuditLogger, clock: FixedClock, tmp_path: Path) -> None:
    outside = tmp_path / "checkpoint"
    outside.write_text(log.checkpoint())
    fill(log, clock, 30)
    assert log.verify(outside).ok


@pytest.mark.parametrize(
    "change",
    [
        with_hash(14, "randomblob(32)"),
        with_hash(14, "x''"),
        "DELETE FROM audit_blocks",
        "UPDATE audit_blocks SET hashes = CAST(hashes || randomblob(32) AS BLOB)",
        "DELETE FROM audit_checkpoints",
        "DELETE FROM audit_checkpoints WHERE size = 11",
        "DELETE FROM audit_leaves WHERE leaf_index >= 8",
        "UPDATE audit_checkpoints SET note = 'x' WHERE size = 11",
    ],
)
def test_nothing_is_signed_on_top_of_a_changed_log(
    log: AuditLogger, folder: Path, clock: FixedClock, change: str
) -> None:
    tampered(folder, change)
    fill(log, clock, 1)
    with pytest.raises(Damaged, match="audit verify"):
        log.query_events()
    assert not log.verify().ok


def test_an_edited_event_is_no_model_of_python_errors(log: AuditLogger, folder: Path) -> None:
    tampered(folder, "UPDATE events SET event_type = 'nonsense' WHERE position = 4")
    with pytest.raises(Damaged, match="position 4"):
        log.query_events()


def test_a_lost_key_is_told_and_nothing_is_signed_with_another(
    log: AuditLogger, folder: Path, clock: FixedClock
) -> None:
    (folder / "keys" / "audit.ed25519").unlink()
    fill(log, clock, 3)
    with pytest.raises(Unavailable, match="not in"):
        log.integrate()
    assert len(log.query_events()) == EVENTS + 3  # reading goes on
    found = log.verify()
    assert (found.ok, found.size, found.waiting) == (True, EVENTS, 3)
    assert not KeyFolder(folder).secret.exists()
