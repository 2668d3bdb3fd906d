"""What is old enough expires, what is held stays, and the log knows of every bit of it."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from modelyard.audit import AuditLogger, EventType, check_proof, is_held
from modelyard.core.errors import Invalid, NotFound
from modelyard.core.instants import FixedClock
from modelyard.core.refs import Resource
from modelyard.core.work import Store

DAYS = 86_400


def year(logger: AuditLogger, clock: FixedClock, months: int = 12) -> None:
    """Two reads, one about a person, and a deployment every thirty days."""
    for month in range(months):
        for n in range(2):
            logger.log_event(
                EventType.DATA_ACCESSED,
                "model",
                f"fraud:v{month}",
                user="ana@secret.example",
                details={"why": f"reason-{month}"},
                subject="patient-17" if n else None,
            )
        logger.log_model_deployment("fraud", f"v{month}", "bob")
        logger.integrate()
        clock.advance(30 * DAYS)


@pytest.fixture
def old(logger: AuditLogger, clock: FixedClock) -> AuditLogger:
    """A year of events of which those of the first five months are too old by the rules."""
    year(logger, clock)
    logger.set_retention({"data_accessed": 200}, user="dpo")
    return logger


def test_what_is_older_than_its_rule_loses_what_it_said(old: AuditLogger, folder: Path) -> None:
    before = old.query_events(EventType.DATA_ACCESSED)
    early = old.prove(before[0].event_id)
    done = old.expire_events(user="dpo")
    gone = [event for event in before if event.occurred_at < old.store.clock.now() - timedelta(days=200)]
    assert (done.events, done.by_type) == (len(gone), {"data_accessed": len(gone)})
    assert len(gone) == 12
    after = old.query_events(EventType.DATA_ACCESSED)
    assert [event.event_id for event in after] == [event.event_id for event in before]
    assert all(event.actor == "expired" and event.details == {"expired": True} for event in after[:12])
    assert after[12:] == before[12:]
    found = old.verify()
    assert (found.ok, found.problems) == (True, ())
    assert check_proof(early, str(old.keys.public())).record["actor"] == "ana@secret.example"
    with pytest.raises(NotFound, match="has expired"):
        old.prove(before[0].event_id)
    assert old.prove(before[12].event_id)
    text = b"".join(file.read_bytes() for file in folder.glob("modelyard.db*"))
    assert b"reason-3" not in text
    assert b"reason-11" in text


def test_expiry_is_told_and_comes_to_an_end(old: AuditLogger, clock: FixedClock) -> None:
    count = old.expire_events(user="dpo").events
    told = old.query_events(EventType.EVENTS_EXPIRED)[0]
    assert (told.actor, told.details["events"], len(told.details["remains"])) == ("dpo", count, 64)
    assert old.expire_events(user="dpo").events == 0
    clock.advance(60 * DAYS)
    assert old.expire_events(user="dpo").events == 4
    assert old.verify().ok


def test_without_rules_nothing_expires(logger: AuditLogger, clock: FixedClock) -> None:
    year(logger, clock)
    assert logger.expire_events(user="dpo").events == 0
    logger.set_retention({"data_accessed": 200}, user="dpo")
    assert logger.expire_events(user="dpo").events > 0
    logger.set_retention({}, user="dpo")
    assert logger.retention().days == {}
    clock.advance(1_000 * DAYS)
    assert logger.expire_events(user="dpo").events == 0


def test_what_is_held_stays_whole(old: AuditLogger) -> None:
    hold = old.legal_hold("model", "fraud:v1", user="counsel", reason="case 7")
    person = old.legal_hold("subject", "patient-17", user="counsel", reason="case 8")
    before = old.query_events(EventType.DATA_ACCESSED)
    assert old.expire_events(user="dpo").events == 5  # six reads not about the person, one of them of the held version
    after = old.query_events(EventType.DATA_ACCESSED)
    assert [event for event in after if event.details == {"expired": True}] == [
        after[n] for n in range(0, 12, 2) if n != 2
    ]
    assert after[2] == before[2]
    assert {hold.hold_id, person.hold_id} == {found.hold_id for found in old.list_holds()}
    assert old.verify().ok
    old.lift_hold(person.hold_id, user="counsel", reason="settled")
    assert old.expire_events(user="dpo").events == 5
    old.lift_hold(hold.hold_id, user="counsel", reason="settled")
    assert old.expire_events(user="dpo").events == 2
    assert old.verify().ok
    with pytest.raises(NotFound, match="There is no hold"):
        old.lift_hold(hold.hold_id, user="counsel", reason="settled")


def test_a_hold_on_a_model_lies_on_its_versions(logger: AuditLogger) -> None:
    logger.legal_hold("model", "fraud", user="counsel", reason="case 7")
    with logger.store.reading() as rows:
        assert is_held(rows, "model", "fraud")
        assert is_held(rows, "model", "fraud:v1.0.0")
        assert not is_held(rows, "model", "fraud_two:v1.0.0")
        assert not is_held(rows, "dataset", "fraud")
    with pytest.raises(NotFound, match="No event is about that person"):
        logger.legal_hold("subject", "nobody", user="counsel", reason="case 7")


@pytest.mark.parametrize(
    ("days", "words"),
    [
        ({"data_acessed": 400}, "Did you mean data_accessed"),
        ({"data_accessed": 30}, "at least 184 days"),
        ({"key_rotated": 4000}, "never expire"),
        ({"data_accessed": "400"}, "at least"),
        ({"data_accessed": True}, "at least"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(logger: AuditLogger, days: dict[str, int], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        logger.set_retention(days, user="dpo")
    assert logger.query_events() == []


def test_the_longest_law_rules(logger: AuditLogger) -> None:
    with pytest.raises(Invalid, match="2192 days"):
        logger.set_retention({"data_accessed": 400}, user="dpo", frameworks=["eu_ai_act", "hipaa"])
    with pytest.raises(Invalid, match="no framework"):
        logger.set_retention({"data_accessed": 400}, user="dpo", frameworks=["hippa"])
    assert logger.set_retention({"data_accessed": 2192}, user="dpo", frameworks=["hipaa"]).minimum_days == 2192


def test_rules_that_somebody_only_reports_are_none(old: AuditLogger) -> None:
    old.log_event(
        EventType.CONFIGURATION_CHANGED,
        "audit_trail",
        "retention",
        user="mallory",
        details={"days": {"data_accessed": 1}, "frameworks": [], "minimum_days": 1},
    )
    assert old.retention().days == {"data_accessed": 200}


def test_an_event_dated_back_does_not_expire_early(logger: AuditLogger, clock: FixedClock) -> None:
    clock.advance(-1_000 * DAYS)  # the clock was wrong
    logger.log_event(EventType.DATA_ACCESSED, "model", "m", user="u", details={"n": 1})
    clock.advance(1_000 * DAYS)
    logger.set_retention({"data_accessed": 200}, user="dpo")
    logger.integrate()
    assert logger.expire_events(user="dpo").events == 0


CHANGES = {
    "what is left: who": "UPDATE events SET actor = 'mallory' WHERE position = 1",
    "what is left: what": """UPDATE events SET details = '{"n":1}' WHERE position = 1""",
    "what is left: when": "UPDATE events SET occurred_at = occurred_at + 1 WHERE position = 2",
    "what is left: of what": "UPDATE events SET resource_id = 'other' WHERE position = 2",
    "what is left: a wrong type": "UPDATE events SET event_type = x'00' WHERE position = 2",
    "what is left, gone": "DELETE FROM events WHERE position = 1",
    "the mark": "DELETE FROM audit_expired WHERE position = 1",
    "all marks": "DELETE FROM audit_expired",
    "another's mark": "UPDATE audit_expired SET expired_by = 'evt_x' WHERE position = 1",
    "a mark more": "INSERT INTO audit_expired SELECT 3, expired_by FROM audit_expired WHERE position = 1",
    "a mark of none": "INSERT INTO audit_expired SELECT 999, expired_by FROM audit_expired WHERE position = 1",
    "a mark of its own": "INSERT INTO audit_expired VALUES (3, 'evt_x')",
    "a hold gone": "DELETE FROM audit_holds",
    "a hold moved": "UPDATE audit_holds SET resource_id = 'other'",
    "a hold by another": "UPDATE audit_holds SET placed_by = 'mallory'",
    "a hold more": "INSERT INTO audit_holds SELECT 'hold_2', resource_type, resource_id, reason, placed_by, placed_at FROM audit_holds",
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_to_what_expired_or_is_held_is_found(old: AuditLogger, folder: Path, change: str) -> None:
    old.legal_hold("model", "kept", user="counsel", reason="case 7")
    old.expire_events(user="dpo")
    assert old.verify().ok
    with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as raw:
        assert raw.execute(CHANGES[change]).rowcount
    found = old.verify()
    assert not found.ok
    assert found.problems
    if "mark" not in change and "hold" not in change:
        assert found.first_bad in (0, 1)


def test_an_event_that_is_made_to_look_expired_is_found(old: AuditLogger, folder: Path) -> None:
    old.expire_events(user="dpo")
    with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as raw:
        raw.execute("INSERT INTO audit_expired SELECT 30, expired_by FROM audit_expired WHERE position = 1")
        raw.execute("""UPDATE events SET actor = 'expired', details = '{"expired":true}' WHERE position = 30""")
    assert not old.verify().ok


def test_many_events_expire_in_several_transactions(
    logger: AuditLogger, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelyard.audit.retention.BATCH", 7)
    chance = random.Random(4)
    with logger.store.work("u") as work:
        for number in range(100):
            kind = EventType.DATA_ACCESSED if chance.random() < 0.5 else EventType.FEATURES_READ
            work.emit(kind, Resource("dataset", str(number)), {"n": number})
    logger.integrate()
    logger.set_retention({"data_accessed": 200, "features_read": 300}, user="dpo")
    clock.advance(250 * DAYS)
    done = logger.expire_events(user="dpo")
    assert done.events == len(logger.query_events(EventType.DATA_ACCESSED))
    assert logger.verify().ok
    clock.advance(100 * DAYS)
    assert done.events + logger.expire_events(user="dpo").events == 100
    assert logger.verify().ok


@pytest.mark.postgres
def test_events_expire_on_postgresql(postgres_url: str, tmp_path: Path, clock: FixedClock) -> None:
    logger = AuditLogger(Store.at(postgres_url, files=tmp_path, clock=clock))
    year(logger, clock)
    logger.set_retention({"data_accessed": 200}, user="dpo")
    logger.legal_hold("model", "fraud:v1", user="counsel", reason="case 7")
    assert logger.expire_events(user="dpo").events == 10
    assert logger.verify().ok
    with logger.store.database.write() as rows:
        rows.run("UPDATE events SET resource_id = 'other' WHERE position = 1")
    assert logger.verify().first_bad == 0
