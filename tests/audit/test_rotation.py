"""A log goes over to a new key, and whoever trusts an old or the new one can check all of it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from modelyard.audit import AuditLogger, EventType, check_proof
from modelyard.audit.keyring import STATEMENT, Keyring, Rotation, rotation
from modelyard.audit.keys import KeyFolder
from modelyard.audit.notes import PublicKey, SigningKey
from modelyard.core.errors import Conflict, Damaged, Unavailable
from modelyard.core.instants import FixedClock
from modelyard.core.work import Store


def fill(logger: AuditLogger, count: int = 3) -> None:
    for number in range(count):
        logger.log_event(EventType.DATA_ACCESSED, "dataset", f"d{number}", user="u")
    logger.integrate()


def test_old_and_new_keys_check_the_whole_log(logger: AuditLogger, tmp_path: Path) -> None:
    fill(logger)
    keys, proofs = [tmp_path / "0.pub"], [logger.prove(logger.query_events()[0].event_id)]
    keys[0].write_bytes(logger.keys.public_file.read_bytes())
    for number in range(1, 4):
        new = logger.rotate_key(user="ana")
        assert str(logger.keys.public()) == new.public_key
        keys.append(tmp_path / f"{number}.pub")
        keys[-1].write_bytes(logger.keys.public_file.read_bytes())
        fill(logger)
        proofs.append(logger.prove(logger.query_events(order="newest")[0].event_id))
    outside = tmp_path / "checkpoint"
    outside.write_text(logger.checkpoint())
    for key in [None, *keys]:
        found = logger.verify(outside, key)
        assert (found.ok, found.problems, found.against) == (True, (), found.size)
    newest = keys[-1].read_text()
    for proof in proofs:  # the newest file leads back to the first key
        assert check_proof(proof, newest)
    assert check_proof(proofs[0], keys[0].read_text())
    with pytest.raises(Damaged, match="no signature"):
        check_proof(proofs[-1], keys[0].read_text())
    statements = newest.partition("\n\n")[2]
    assert check_proof(proofs[-1], keys[0].read_text() + "\n" + statements)  # and an old one forwards by its statements
    assert logger.query_events(EventType.KEY_ROTATED)[0].actor == "ana"
    assert not logger.keys.next.exists()


def test_the_old_key_signs_nothing_any_more(logger: AuditLogger, folder: Path) -> None:
    fill(logger)
    stolen = logger.keys.secret.read_bytes()
    logger.rotate_key(user="ana")
    fill(logger)
    old = SigningKey.parse(stolen.decode())
    with logger.store.reading() as rows:
        head = logger._head(rows)
    assert head is not None
    with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as raw:
        raw.execute("UPDATE audit_checkpoints SET note = ? WHERE size = ?", (old.sign(head[1].text()), head[1].size))
    assert not logger.verify().ok


def test_another_host_with_the_old_key_is_told_to_fetch_the_new_one(
    logger: AuditLogger, folder: Path, tmp_path: Path
) -> None:
    fill(logger)
    old = {file: file.read_bytes() for file in (logger.keys.secret, logger.keys.public_file)}
    logger.rotate_key(user="ana")
    for file, data in old.items():
        file.write_bytes(data)
    logger.log_model_deployment("m", "v1", "u")
    with pytest.raises(Unavailable, match="newer key"):
        logger.integrate()
    assert logger.verify().waiting == 1


@pytest.mark.parametrize("before", ["promote", "emit"])
def test_a_crash_between_the_keys_loses_neither(
    folder: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    logger = AuditLogger(folder, clock=clock)
    fill(logger)
    with monkeypatch.context() as patched:
        if before == "promote":
            patched.setattr(KeyFolder, "promote", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        else:
            patched.setattr("modelyard.audit.rotation.take_in", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            logger.rotate_key(user="ana")
    again = AuditLogger(folder, clock=clock)
    assert again.verify().ok
    fill(again)
    assert again.verify().ok
    assert len(again.query_events(EventType.KEY_ROTATED)) == (1 if before == "promote" else 0)
    again.rotate_key(user="ana")
    assert again.verify().ok


def statement(old: SigningKey, new: SigningKey, size: int = 4) -> str:
    return Rotation(old=old.public, new=new.public, size=size).signed(old, new)


def test_a_statement_holds_only_with_both_signatures_on_its_very_text() -> None:
    a, b, c = (SigningKey("log", bytes([n]) * 32) for n in range(3))
    note = statement(a, b)
    assert rotation(note).size == 4
    lines = note.split("\n")
    bad = [
        note.replace("\n4\n", "\n5\n"),
        "\n".join(lines[:6] + lines[7:]),
        "\n".join([*lines[:7], ""]),
        Rotation(old=a.public, new=b.public, size=4).signed(a, c),
        Rotation(old=a.public, new=b.public, size=4).signed(c, b),
        statement(a, a),
        note.replace(STATEMENT, "other"),
        note.replace("\nlog\n", "\nlag\n"),
    ]
    for text in bad:
        with pytest.raises(Damaged):
            rotation(text)


def test_keys_are_found_from_any_of_them() -> None:
    keys = [SigningKey("log", bytes([n]) * 32) for n in range(4)]
    notes = [statement(old, new, 10 * n + 10) for n, (old, new) in enumerate(pairwise(keys))]
    stranger = statement(SigningKey("log", b"x" * 32), SigningKey("log", b"y" * 32))
    for key in keys:
        ring = Keyring.around(key.public, [*notes[::-1], stranger, notes[0]])
        assert ring.newest == keys[3].public
        assert [ring.at(size) for size in (0, 9, 10, 19, 20, 30, 99)] == [keys[n].public for n in (0, 0, 1, 1, 2, 3, 3)]
    with pytest.raises(Damaged, match="different successors"):
        Keyring.around(keys[0].public, [notes[0], statement(keys[0], keys[2])])
    with pytest.raises(Damaged, match="sizes"):
        Keyring.around(keys[0].public, [statement(keys[0], keys[1], 9), statement(keys[1], keys[2], 3)])
    with pytest.raises(Damaged, match="sizes"):  # round and round
        Keyring.around(keys[0].public, [statement(keys[0], keys[1], 5), statement(keys[1], keys[0], 9)])


def test_a_statement_that_somebody_only_reports_changes_nothing(logger: AuditLogger) -> None:
    fill(logger)
    own = logger.keys.signing()
    assert own is not None
    evil = SigningKey(own.name, b"e" * 32)
    logger.log_event(
        EventType.KEY_ROTATED, "audit_trail", "key", user="mallory", details={"statement": statement(own, evil, 4)}
    )
    fill(logger)
    assert logger.verify().ok


def test_a_second_signature_stands_on_every_checkpoint_from_then_on(logger: AuditLogger, folder: Path) -> None:
    fill(logger)
    new = logger.add_post_quantum_key(user="ana")
    fill(logger)
    logger.rotate_key(user="ana")
    fill(logger)
    assert logger.checkpoint().count("\n— ") == 2
    assert logger.verify().ok
    with pytest.raises(Conflict, match="already"):
        logger.add_post_quantum_key(user="ana")
    with logger.store.reading() as rows:
        last = rows.one("SELECT size, note FROM audit_checkpoints ORDER BY size DESC LIMIT 1")
    assert last is not None
    lines = last["note"].split("\n")
    with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as raw:
        for note in ("\n".join([*lines[:5], ""]), "\n".join([*lines[:5], lines[5][:-8] + "AAAAAAA=", ""])):
            raw.execute("UPDATE audit_checkpoints SET note = ? WHERE size = ?", (note, last["size"]))
            assert "not the log's" in logger.verify().problems[0]
    assert PublicKey.parse(new.public_key, b"\x06").name == logger.keys.public().name


def test_the_statement_in_the_log_is_the_one_in_the_key_file(logger: AuditLogger) -> None:
    fill(logger)
    new = logger.rotate_key(user="ana")
    assert new.statement in logger.keys.public_file.read_text()
    event = logger.query_events(EventType.KEY_ROTATED)[0]
    assert json.loads(json.dumps(dict(event.details)))["statement"] == new.statement
    assert new.size == 4


@pytest.mark.postgres
def test_keys_change_on_postgresql(postgres_url: str, tmp_path: Path, clock: FixedClock) -> None:
    logger = AuditLogger(Store.at(postgres_url, files=tmp_path, clock=clock))
    fill(logger)
    logger.rotate_key(user="ana")
    logger.add_post_quantum_key(user="ana")
    fill(logger)
    assert logger.verify().ok
