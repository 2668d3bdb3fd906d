"""The persons that events are about: a random key each, what it seals, and how key and person are forgotten.

An event about a person holds a commitment in place of what it says: HMAC-SHA256 under a key that only that event has. What
it says lies beside it, sealed by AES-256-GCM. Both keys come from the person's own random key, which lies outside the
database, so that a copy of the database holds neither. Without the key the commitment tells nothing, not even to someone
who guesses what was said.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modelyard.audit.rules import MARK
from modelyard.core.canonical import dumps
from modelyard.core.errors import Damaged, Unavailable

SEALED = f'{{"{MARK}":'  # how the details of an event about a person begin
_NONCE = 12  # bytes
_SCHEMA = """
CREATE TABLE IF NOT EXISTS subject_keys (
    subject TEXT PRIMARY KEY, key_id TEXT NOT NULL UNIQUE, key BLOB NOT NULL
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True, repr=False)
class SubjectKey:
    """A person's key. Its id stands for the person in the log."""

    key: bytes

    @property
    def key_id(self) -> str:
        """The name of the key, which tells nothing of the person."""
        return "sk_" + self._derived("key id").hex()[:32]

    def sealed(self, event_id: str, said: Mapping[str, Any]) -> tuple[dict[str, str], bytes]:
        """(what the event tells instead, what lies beside it)."""
        text, nonce = dumps(said).encode(), secrets.token_bytes(_NONCE)
        body = nonce + AESGCM(self._derived("seal")).encrypt(nonce, text, event_id.encode())
        part = {
            "commitment": self._commitment(event_id, text),
            "key": self.key_id,
            "payload": hashlib.sha256(body).hexdigest(),
        }
        return part, body

    def opened(self, event_id: str, part: Mapping[str, str], body: bytes) -> dict[str, Any]:
        """What was said; Damaged if it is not what the event committed to."""
        try:
            text = AESGCM(self._derived("seal")).decrypt(body[:_NONCE], body[_NONCE:], event_id.encode())
        except (InvalidTag, ValueError, TypeError) as error:
            raise Damaged(f"The sealed part of event {event_id} was changed. See: modelyard audit verify") from error
        if not hmac.compare_digest(self._commitment(event_id, text), part["commitment"]):
            raise Damaged(f"The sealed part of event {event_id} is not what it committed to: modelyard audit verify")
        said: dict[str, Any] = json.loads(text)
        return said

    def _commitment(self, event_id: str, text: bytes) -> str:
        own = self._derived(f"commitment {event_id}")  # could be given to a judge without the person's other events
        return hmac.new(own, text, hashlib.sha256).hexdigest()

    def _derived(self, purpose: str) -> bytes:
        return hmac.new(self.key, b"modelyard.audit " + purpose.encode(), hashlib.sha256).digest()


class SubjectKeys:
    """`FOLDER/keys/subjects.db`: persons and their keys, readable by its owner alone. Not in the database, on purpose."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys" / "subjects.db"

    def of(self, subject: str) -> SubjectKey:
        """The person's key, made now unless there is one."""
        found = self.known(subject)
        if found is not None:
            return found
        new = SubjectKey(secrets.token_bytes(32))
        self._make_file()
        with self._open() as raw:
            raw.execute("BEGIN IMMEDIATE")
            raw.execute(
                "INSERT INTO subject_keys (subject, key_id, key) VALUES (?, ?, ?) ON CONFLICT (subject) DO NOTHING",
                (subject, new.key_id, new.key),
            )
            row = raw.execute("SELECT key FROM subject_keys WHERE subject = ?", (subject,)).fetchone()
            raw.execute("COMMIT")
        return SubjectKey(row[0])

    def known(self, subject: str) -> SubjectKey | None:
        """The person's key, None where there is none."""
        return self._one("SELECT key FROM subject_keys WHERE subject = ?", subject)

    def by_id(self, key_id: str) -> SubjectKey | None:
        """A key by its id, None where it is gone."""
        return self._one("SELECT key FROM subject_keys WHERE key_id = ?", key_id)

    def ids(self) -> Iterator[tuple[str, str]]:
        """(id as stored, id that the key itself has) of every key."""
        if self.file.exists():
            with self._open() as raw:
                rows = raw.execute("SELECT key_id, key FROM subject_keys ORDER BY key_id").fetchall()
            yield from ((key_id, SubjectKey(bytes(key)).key_id) for key_id, key in rows)

    def forget(self, key_ids: list[str]) -> int:
        """Destroy keys and what names their persons, down to the file's free pages; returns how many were there."""
        if not key_ids or not self.file.exists():
            return 0
        with self._open() as raw:
            gone = sum(raw.execute("DELETE FROM subject_keys WHERE key_id = ?", (key,)).rowcount for key in key_ids)
            if gone:
                raw.execute("VACUUM")
        return gone

    def _one(self, sql: str, value: str) -> SubjectKey | None:
        if not self.file.exists():
            return None
        with self._open() as raw:
            row = raw.execute(sql, (value,)).fetchone()
        return None if row is None else SubjectKey(bytes(row[0]))

    def _make_file(self) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise Unavailable(f"{self.file} cannot be written: {error.strerror}. Check its permissions.") from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one piece of work: no copy of a key outlives its erasure in another process."""
        try:
            with closing(sqlite3.connect(self.file, timeout=30, isolation_level=None)) as raw:
                for pragma in ("secure_delete=ON", "synchronous=FULL"):
                    raw.execute(f"PRAGMA {pragma}")
                raw.execute(_SCHEMA)
                yield raw
        except sqlite3.DatabaseError as error:
            raise Unavailable(f"{self.file} cannot be used: {error}. Check its permissions, or restore it.") from error


def sealed_part(details: Any) -> dict[str, str] | None:
    """What the details of an event about a person tell instead of what was said; None for other details.

    >>> sealed_part('{"why":"training"}') is None
    True
    """
    if type(details) is not str or not details.startswith(SEALED):
        return None
    try:
        part = json.loads(details)[MARK]
    except ValueError:
        return None
    fits = isinstance(part, dict) and all(type(part.get(name)) is str for name in ("commitment", "key", "payload"))
    return part if fits else None
