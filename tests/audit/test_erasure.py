"""A person is forgotten, and the log stays whole."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from modelyard.audit import AuditLogger, EventType, check_proof
from modelyard.audit.subjects import SubjectKeys
from modelyard.core.errors import Conflict, Damaged, Invalid, NotFound
from modelyard.core.instants import FixedClock
from modelyard.core.work import Store

SECRETS = (b"patient-17", b"asthma-of-the-rarest-kind", b"Musterstrasse 9")


def tell(logger: AuditLogger, count: int = 20) -> list[str]:
    """Events about two persons and about none; the ids of those about patient-17."""
    ids = []
    for number in range(count):
        who = ("patient-17", "patient-18", None)[number % 3]
        event = logger.log_event(
            EventType.DATA_ACCESSED,
            "file",
            who or f"f{number}",
            user=who if number % 2 and who else "ana",
            subject=who,
            details={"diagnosis": "asthma-of-the-rarest-kind", "home": "Musterstrasse 9"}
            if who == "patient-17"
            else {},
        )
        if who == "patient-17":
            ids.append(event.event_id)
        if number == count // 2:
            logger.integrate()
    return ids


def test_what_is_told_of_a_person_comes_back_while_the_key_is_there(logger: AuditLogger) -> None:
    ids = tell(logger)
    found = logger.query_events(subject="patient-17")
    assert [event.event_id for event in found] == ids
    assert {event.resource_id for event in found} == {"patient-17"}
    assert {event.actor for event in found} == {"ana", "patient-17"}
    assert all(event.details["home"] == "Musterstrasse 9" and event.details["reported"] for event in found)
    assert logger.query_events(subject="patient-99") == []
    assert logger.verify().ok


def test_the_database_and_exports_and_proofs_tell_nothing_of_a_person(
    logger: AuditLogger, folder: Path, tmp_path: Path
) -> None:
    ids = tell(logger)
    for form in ("json", "csv", "yaml", "parquet"):
        logger.export_audit_trail(tmp_path / f"t.{form}", format=form)
    proof = logger.prove(ids[0])
    logger.close()
    files = [folder / "modelyard.db", folder / "modelyard.db-wal", *tmp_path.glob("t.*")]
    texts = [file.read_bytes() for file in files if file.exists()]
    record = str(check_proof(proof, str(logger.keys.public())).record).encode()
    assert not [secret for secret in SECRETS for text in [*texts, record] if secret in text]


def test_an_erased_person_is_gone_from_every_file_and_the_log_is_whole(logger: AuditLogger, folder: Path) -> None:
    ids = tell(logger)
    early = logger.prove(ids[0])
    done = logger.erase_subject("patient-17", user="dpo@example.org", reason="Art. 17")
    assert (done.events, done.scrubbed) == (len(ids), True)
    everything = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert not [secret for secret in SECRETS if secret in everything]
    assert b"patient-18" in everything  # in keys/ only
    found = logger.verify()
    assert (found.ok, found.problems) == (True, ())
    assert check_proof(early, str(logger.keys.public())).record["event_id"] == ids[0]
    assert check_proof(logger.prove(ids[0]), str(logger.keys.public())).record["event_id"] == ids[0]
    assert logger.query_events(subject="patient-17") == []
    gone = [event for event in logger.query_events() if event.event_id in ids]
    assert len(gone) == len(ids)
    assert all("home" not in event.details and "$sealed" in event.details for event in gone)
    assert len(logger.query_events(subject="patient-18")) > 0
    told = logger.query_events(EventType.SUBJECT_ERASED)[0]
    assert (told.actor, told.details["events"], told.resource_id) == ("dpo@example.org", len(ids), done.key)


def test_a_copy_of_the_database_made_before_the_erasure_tells_nothing_either(
    logger: AuditLogger, folder: Path, tmp_path: Path
) -> None:
    tell(logger)
    backup = tmp_path / "backup"
    backup.mkdir()
    with closing(sqlite3.connect(folder / "modelyard.db")) as raw:
        raw.execute("VACUUM INTO ?", (str(backup / "modelyard.db"),))
    logger.erase_subject("patient-17", user="dpo", reason="Art. 17")
    (backup / "keys").mkdir()
    for file in (folder / "keys").iterdir():
        (backup / "keys" / file.name).write_bytes(file.read_bytes())
    restored = AuditLogger(backup)
    assert restored.query_events(subject="patient-17") == []
    assert not [event for event in restored.query_events() if "home" in event.details]


def test_an_erased_person_may_be_told_of_again_under_another_name(logger: AuditLogger) -> None:
    tell(logger)
    first = logger.erase_subject("patient-17", user="dpo", reason="Art. 17")
    event = logger.log_event(EventType.DATA_ACCESSED, "file", "f", user="ana", subject="patient-17", details={"n": 1})
    assert [found.event_id for found in logger.query_events(subject="patient-17")] == [event.event_id]
    assert logger.erase_subject("patient-17", user="dpo", reason="again").key != first.key
    assert logger.verify().ok


def test_nobody_is_erased_whom_no_event_is_about(logger: AuditLogger) -> None:
    with pytest.raises(NotFound, match="Nothing is kept of that person"):
        logger.erase_subject("nobody", user="dpo", reason="Art. 17")
    with pytest.raises(Invalid, match="reason is empty"):
        logger.erase_subject("nobody", user="dpo", reason=" ")
    assert logger.query_events() == []


@pytest.mark.parametrize("on", [("subject", "patient-17"), ("file", "patient-17")])
def test_a_person_under_a_legal_hold_is_not_erased(logger: AuditLogger, on: tuple[str, str]) -> None:
    tell(logger)
    if on[0] == "file":  # the resource is the person, so the log has it under the person's other name
        on = ("file", SubjectKeys(logger.store.folder).of("patient-17").key_id)
    hold = logger.legal_hold(*on, user="counsel", reason="case 7")
    with pytest.raises(Conflict, match="legal hold"):
        logger.erase_subject("patient-17", user="dpo", reason="Art. 17")
    assert logger.query_events(subject="patient-17")[0].details["home"]
    assert logger.verify().ok
    logger.lift_hold(hold.hold_id, user="counsel", reason="settled")
    assert logger.erase_subject("patient-17", user="dpo", reason="Art. 17").events
    assert logger.verify().ok


def test_a_crash_before_the_key_was_destroyed_is_told_and_finished(
    logger: AuditLogger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(logger)
    with monkeypatch.context() as patched:
        patched.setattr(SubjectKeys, "forget", lambda self, ids: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            logger.erase_subject("patient-17", user="dpo", reason="Art. 17")
    found = logger.verify()
    assert "is still there" in found.problems[0]
    assert logger.finish_erasures() == 1
    assert logger.verify().ok


def test_the_keys_of_persons_are_their_owners_alone(logger: AuditLogger, folder: Path) -> None:
    tell(logger)
    assert stat.S_IMODE((folder / "keys" / "subjects.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700


def test_names_that_are_the_logs_own_are_refused(logger: AuditLogger) -> None:
    with pytest.raises(Invalid, match="sealed"):
        logger.log_event(EventType.DATA_ACCESSED, "file", "f", user="u", details={"$sealed": {}})


CHANGES = {
    "a sealed part": "UPDATE audit_payloads SET body = CAST(body || x'00' AS BLOB) WHERE position = 4",
    "a sealed part as text": "UPDATE audit_payloads SET body = 'x' WHERE position = 4",
    "a sealed part's key": "UPDATE audit_payloads SET key_id = 'sk_0' WHERE position = 4",
    "a sealed part gone": "DELETE FROM audit_payloads WHERE position = 4",
    "sealed parts gone": "DELETE FROM audit_payloads",
    "sealed parts swapped": "UPDATE audit_payloads SET position = CASE position WHEN 4 THEN -1 ELSE position END",
    "a sealed part for another event": "INSERT INTO audit_payloads SELECT 3, key_id, body FROM audit_payloads WHERE position = 4",
    "a sealed part for no event": "INSERT INTO audit_payloads SELECT 999, key_id, body FROM audit_payloads WHERE position = 4",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_sealed_part_is_found(logger: AuditLogger, folder: Path, change: str) -> None:
    tell(logger)
    assert logger.verify().ok
    with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as raw:
        assert raw.execute(CHANGES[change]).rowcount
    assert not logger.verify().ok
    if change in ("a sealed part", "a sealed part as text"):
        with pytest.raises(Damaged):
            logger.query_events(subject="patient-17")


def test_a_changed_key_of_a_person_is_found(logger: AuditLogger, folder: Path) -> None:
    tell(logger)
    with closing(sqlite3.connect(folder / "keys" / "subjects.db", isolation_level=None)) as raw:
        raw.execute("UPDATE subject_keys SET wrapped = randomblob(40) WHERE subject = 'patient-17'")
    assert "was changed" in logger.verify().problems[0]


def test_an_erasure_that_somebody_only_reports_explains_nothing(logger: AuditLogger, folder: Path) -> None:
    tell(logger)
    key = SubjectKeys(folder).of("patient-17").key_id
    logger.log_event(EventType.SUBJECT_ERASED, "subject", key, user="mallory", details={"key": key, "events": 7})
    assert logger.verify().ok
    with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as raw:
        raw.execute("DELETE FROM audit_payloads WHERE key_id = ?", (key,))
    assert not logger.verify().ok


@pytest.mark.postgres
def test_a_person_is_erased_on_postgresql(postgres_url: str, tmp_path: Path, clock: FixedClock) -> None:
    logger = AuditLogger(Store.at(postgres_url, files=tmp_path, clock=clock))
    ids = tell(logger)
    assert [event.event_id for event in logger.query_events(subject="patient-17")] == ids
    assert logger.erase_subject("patient-17", user="dpo", reason="Art. 17").events == len(ids)
    assert logger.query_events(subject="patient-17") == []
    assert logger.verify().ok
    with logger.store.reading() as rows:
        assert not [row for row in rows.all("SELECT * FROM events") if any(s.decode() in str(row) for s in SECRETS)]
