"""The persons that events are about: a random key each, what it seals, and how key and person are forgotten.

An event about a person holds a commitment in place of what it says: HMAC-SHA256 under a key that only that event has. What
it says lies beside it, sealed by AES-256-GCM. Both keys come from the person's own random key, which lies outside the
database, wrapped by a master key that can lie elsewhere again: a copy of the database holds neither. Without the person's
key the commitment tells nothing, not even to someone who guesses what was said.
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
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modelyard.audit.master import Master, MasterKey
from modelyard.audit.rules import MARK
from modelyard.core.canonical import dumps
from modelyard.core.errors import Damaged, Invalid, Unavailable

SEALED = f'{{"{MARK}":'  # how the details of an event about a person begin
_NONCE = 12  # bytes
_SCHEMA = """
CREATE TABLE IF NOT EXISTS subject_keys (
    subject TEXT PRIMARY KEY, key_id TEXT NOT NULL UNIQUE, master TEXT NOT NULL, wrapped BLOB NOT NULL
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
    """`FOLDER/keys/subjects.db`: persons and their wrapped keys, readable by its owner alone. Not in the database, on purpose."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys" / "subjects.db"
        self.master = Master(folder)

    def of(self, subject: str) -> SubjectKey:
        """The person's key, made now unless there is one."""
        found = self._one("subject", subject)
        if found is not None:
            return found
        new = SubjectKey(secrets.token_bytes(32))
        self._make_file()
        with self._open() as raw:
            raw.execute("BEGIN IMMEDIATE")
            master = self.master.newest()  # within the transaction: a rotation ends before or begins after it
            raw.execute(
                "INSERT INTO subject_keys (subject, key_id, master, wrapped) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (subject) DO NOTHING",
                (subject, new.key_id, master.key_id, master.wrapped(new.key)),
            )
            raw.execute("COMMIT")
        return self._one("subject", subject) or new

    def id_of(self, subject: str) -> str | None:
        """The name of the person's key, which needs no master key; None where there is none."""
        found = self._row("subject", subject)
        return None if found is None else str(found[0])

    def by_id(self, key_id: str) -> SubjectKey | None:
        """A key by its id, None where it is gone."""
        return self._one("key_id", key_id)

    def has(self, key_id: str) -> bool:
        """Whether there is a key of this id."""
        return self._row("key_id", key_id) is not None

    def ids(self) -> Iterator[tuple[str, str | None]]:
        """(id as stored, id that the key itself has, "" for one that was changed) of every key. The second is None where
        the master key is not at hand: whoever checks the log need not have it."""
        if self.file.exists():
            with self._open() as raw:
                rows = raw.execute("SELECT key_id, master, wrapped FROM subject_keys ORDER BY key_id").fetchall()
            for key_id, master, wrapped in rows:
                try:
                    yield key_id, SubjectKey(self.master.named(master).unwrapped(wrapped)).key_id
                except Damaged:
                    yield key_id, ""
                except (Unavailable, Invalid):
                    yield key_id, None

    def rewrap(self) -> tuple[int, MasterKey]:
        """Wrap every key by the newest master key; (how many there are, that key)."""
        self._make_file()
        with self._open() as raw:
            raw.execute("BEGIN IMMEDIATE")
            new = self.master.renewed()
            rows = raw.execute("SELECT subject, master, wrapped FROM subject_keys").fetchall()
            for subject, master, wrapped in rows:
                again = new.wrapped(self.master.named(master).unwrapped(wrapped))
                raw.execute(
                    "UPDATE subject_keys SET master = ?, wrapped = ? WHERE subject = ?", (new.key_id, again, subject)
                )
            raw.execute("COMMIT")
            raw.execute("VACUUM")
        self.master.forget_older()
        return len(rows), new

    def forget(self, key_ids: list[str]) -> int:
        """Destroy keys and what names their persons, down to the file's free pages; returns how many were there."""
        if not key_ids or not self.file.exists():
            return 0
        with self._open() as raw:
            gone = sum(raw.execute("DELETE FROM subject_keys WHERE key_id = ?", (key,)).rowcount for key in key_ids)
            if gone:
                raw.execute("VACUUM")
        return gone

    def _one(self, column: Literal["subject", "key_id"], value: str) -> SubjectKey | None:
        row = self._row(column, value)
        if row is None:
            return None
        key = SubjectKey(self.master.named(row[1]).unwrapped(row[2]))
        if key.key_id != row[0]:
            raise Damaged(f"The key {row[0]} of a person was changed. See what was changed: modelyard audit verify")
        return key

    def _row(self, column: Literal["subject", "key_id"], value: str) -> tuple[Any, ...] | None:
        """(key id, master key's id, wrapped key)."""
        if not self.file.exists():
            return None
        with self._open() as raw:
            sql = f"SELECT key_id, master, wrapped FROM subject_keys WHERE {column} = ?"
            found: tuple[Any, ...] | None = raw.execute(sql, (value,)).fetchone()
        return found

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
