"""The master key that wraps the keys of persons: where it is, that it is needed, and how it is changed."""

from __future__ import annotations

import base64
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from modelyard.audit import AuditLogger, EventType
from modelyard.audit.master import Master, MasterKey
from modelyard.audit.subjects import SubjectKey
from modelyard.core.errors import Damaged, Invalid, Unavailable


def tell(logger: AuditLogger, person: str = "patient-17") -> None:
    logger.log_event(EventType.DATA_ACCESSED, "file", "f7", user="ana", subject=person, details={"told": "asthma"})


def told(logger: AuditLogger) -> list[str]:
    return [str(event.details.get("told", "sealed")) for event in logger.query_events(EventType.DATA_ACCESSED)]


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def rows(folder: Path) -> list[tuple[str, str, bytes]]:
    with closing(sqlite3.connect(folder / "keys" / "subjects.db")) as raw:
        return raw.execute("SELECT key_id, master, wrapped FROM subject_keys").fetchall()


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> str:
    """A master key in the environment."""
    key = new_key()
    monkeypatch.setenv("MODELYARD_MASTER_KEY", "env:OUR_MASTER")
    monkeypatch.setenv("OUR_MASTER", key)
    return key


def test_the_default_key_is_its_owners_alone_and_its_loss_is_told(logger: AuditLogger, folder: Path) -> None:
    tell(logger)
    file = folder / "keys" / "subjects.aes256"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert told(logger) == ["asthma"]
    file.rename(folder / "elsewhere")
    with pytest.raises(Unavailable, match=r"subjects\.aes256: No such file"):
        told(logger)
    with pytest.raises(Unavailable, match=r"subjects\.aes256"):
        tell(logger)
    assert logger.verify().ok  # whoever checks the log need not have it
    assert logger.erase_subject("patient-17", user="dpo", reason="Art. 17").events == 1


def test_a_key_is_wrapped_as_the_standard_says(logger: AuditLogger, folder: Path, named: str) -> None:
    tell(logger)
    ((key_id, _, wrapped),) = rows(folder)
    assert SubjectKey(aes_key_unwrap(base64.b64decode(named), wrapped)).key_id == key_id
    assert not (folder / "keys" / "subjects.aes256").exists()


def test_without_the_named_key_nothing_is_opened_or_made(
    logger: AuditLogger, folder: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(logger)
    monkeypatch.delenv("OUR_MASTER")
    for act in (lambda: told(logger), lambda: tell(logger, "patient-18")):
        with pytest.raises(Unavailable, match="OUR_MASTER with the master key is not set"):
            act()
    monkeypatch.setenv("OUR_MASTER", new_key())
    with pytest.raises(Unavailable, match=r"mk_\w+, which is not in env:OUR_MASTER"):
        told(logger)
    monkeypatch.setenv("OUR_MASTER", named)
    assert told(logger) == ["asthma"]


@pytest.mark.parametrize("value", ["not base64!", "c2hvcnQ=", base64.b64encode(b"x" * 16).decode(), "  "])
def test_what_is_no_key_is_refused(logger: AuditLogger, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MODELYARD_MASTER_KEY", "env:OUR_MASTER")
    monkeypatch.setenv("OUR_MASTER", value)
    with pytest.raises(Invalid, match="openssl rand -base64 32"):
        tell(logger)


def test_the_key_itself_in_place_of_a_reference_is_refused_and_not_shown(
    logger: AuditLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    monkeypatch.setenv("MODELYARD_MASTER_KEY", key)
    with pytest.raises(Invalid, match="env:NAME or file:PATH") as caught:
        tell(logger)
    assert key not in str(caught.value)


def test_the_default_key_is_renewed(logger: AuditLogger, folder: Path) -> None:
    for person in ("patient-17", "patient-18"):
        tell(logger, person)
    old = (folder / "keys" / "subjects.aes256").read_text()
    found = logger.rotate_master_key(user="dpo")
    assert found.persons == 2
    assert {master for _, master, _ in rows(folder)} == {found.master}
    assert old.strip() not in (folder / "keys" / "subjects.aes256").read_text()
    assert told(logger) == ["asthma", "asthma"]
    assert logger.verify().ok
    (folder / "keys" / "subjects.aes256").write_text(old)
    with pytest.raises(Unavailable, match="Restore it"):
        told(logger)


def test_a_named_key_is_renewed_by_its_owner(
    logger: AuditLogger, folder: Path, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tell(logger)
    place = tmp_path / "mounted"
    place.write_text(f"{new_key()}\n{named}\n")
    monkeypatch.setenv("MODELYARD_MASTER_KEY", f"file:{place}")
    again = AuditLogger(folder, clock=logger.store.clock)
    assert told(again) == ["asthma"]
    again.rotate_master_key(user="dpo")
    place.write_text(place.read_text().split()[0])
    assert told(again) == ["asthma"]


def test_a_renewal_that_is_killed_loses_no_person(
    logger: AuditLogger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(logger)
    renewed = Master.renewed

    def stop(master: Master) -> MasterKey:
        renewed(master)
        raise KeyboardInterrupt

    def stop_late(_: Master) -> None:
        raise KeyboardInterrupt

    for step, stopping in (("renewed", stop), ("forget_older", stop_late)):
        with monkeypatch.context() as patched:
            patched.setattr(Master, step, stopping)
            with pytest.raises(KeyboardInterrupt):
                logger.rotate_master_key(user="dpo")
        assert told(logger) == ["asthma"]
    assert logger.rotate_master_key(user="dpo").persons == 1
    assert len((folder / "keys" / "subjects.aes256").read_text().split()) == 1


def test_keys_that_changed_places_are_found(logger: AuditLogger, folder: Path) -> None:
    tell(logger, "a")
    tell(logger, "b")
    with closing(sqlite3.connect(folder / "keys" / "subjects.db", isolation_level=None)) as raw:
        (wrapped,) = raw.execute("SELECT wrapped FROM subject_keys WHERE subject = 'a'").fetchone()
        raw.execute("UPDATE subject_keys SET wrapped = ?", (wrapped,))
    assert "was changed" in logger.verify().problems[0]
    with pytest.raises(Damaged, match="was changed"):
        told(logger)
