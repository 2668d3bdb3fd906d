"""The embedded online store: the newest packed values of each entity in one SQLite file, or in the main database."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelyard.core.errors import Damaged, Unavailable
from modelyard.core.ports import Database

FILE_NAME = "online.db"
STAMP = 16  # bytes at the start of a packed value that decide between equal event times
CHUNK = 256  # keys asked for in one statement

CREATE = """
CREATE TABLE IF NOT EXISTS online (
    view TEXT NOT NULL, key TEXT NOT NULL, event INTEGER NOT NULL, packed BLOB NOT NULL, PRIMARY KEY (view, key)
) WITHOUT ROWID
"""
PUT = f"""
INSERT INTO online (view, key, event, packed) VALUES (?, ?, ?, ?)
ON CONFLICT (view, key) DO UPDATE SET event = excluded.event, packed = excluded.packed
WHERE (excluded.event, substr(excluded.packed, 1, {STAMP})) >= (event, substr(packed, 1, {STAMP}))
"""
GET = "SELECT event, packed FROM online WHERE view = ? AND key = ?"
DELETE = "DELETE FROM online WHERE view = ? AND key = ?"


class SqliteOnlineStore:
    """`OnlineStore` in `FOLDER/online.db`. Loses nothing when a process dies; the newest writes may go with the machine's
    power (synchronous=NORMAL), and the feature store then writes them again from its segments."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.file = self.folder / FILE_NAME
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._finalizer = weakref.finalize(self, _close_all, self._open)

    def write(self, view: str, rows: Sequence[tuple[str, int, bytes]]) -> int:
        """Store each (key, event time, packed values) that is newer than what is there; returns how many were."""
        with self._writing() as raw:
            return raw.executemany(PUT, ((view, key, event, packed) for key, event, packed in rows)).rowcount

    def read(self, view: str, keys: Sequence[str]) -> list[tuple[int, bytes] | None]:
        """(event time, packed values) for each key in order, None where there is none."""
        with self._errors():
            raw = self._connection()
            if len(keys) <= 4:
                return [raw.execute(GET, (view, key)).fetchone() for key in keys]
            found: dict[str, tuple[int, bytes]] = {}
            for start in range(0, len(keys), CHUNK):
                part = keys[start : start + CHUNK]
                marks = ",".join("?" * len(part))
                sql = f"SELECT key, event, packed FROM online WHERE view = ? AND key IN ({marks})"
                found.update((row[0], row[1:]) for row in raw.execute(sql, (view, *part)))
            return [found.get(key) for key in keys]

    def delete(self, view: str, keys: Sequence[str]) -> int:
        """Forget entities; returns how many were there."""
        with self._writing() as raw:
            return raw.executemany(DELETE, ((view, key) for key in keys)).rowcount if keys else 0

    def close(self) -> None:
        """Close every connection; the next use opens new ones."""
        _close_all(self._open)
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        raw: sqlite3.Connection | None = getattr(self._local, "raw", None)
        if raw is None or self._local.process != os.getpid():
            self.folder.mkdir(parents=True, exist_ok=True)
            raw = sqlite3.connect(self.file, timeout=30, isolation_level=None, check_same_thread=False)
            self._open.append(raw)
            with self._queue():
                raw.execute("PRAGMA journal_mode=WAL")
                raw.execute("PRAGMA synchronous=NORMAL")
                raw.execute(CREATE)
            self._local.raw, self._local.process = raw, os.getpid()
        return raw

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            raw = self._connection()
            with self._queue():
                raw.execute("BEGIN IMMEDIATE")
                try:
                    yield raw
                    raw.execute("COMMIT")
                except BaseException:
                    if raw.in_transaction:
                        raw.execute("ROLLBACK")
                    raise

    @contextmanager
    def _queue(self) -> Iterator[None]:
        """Writers of all threads and processes in the order in which they came."""
        handle = os.open(self.folder / "online.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise Damaged(
                    f"{self.file} is damaged ({error}). Delete it: it is filled again from the stored segments."
                ) from error
            raise Unavailable(f"{self.file} cannot be used: {error}. Check its folder and the free space.") from error


SHARED_PUT = """
INSERT INTO feature_online (view, key, event, stamp, packed) VALUES (:view, :key, :event, :stamp, :packed)
ON CONFLICT (view, key) DO UPDATE SET event = excluded.event, stamp = excluded.stamp, packed = excluded.packed
WHERE (feature_online.event, feature_online.stamp) <= (excluded.event, excluded.stamp)
"""
SHARED_GET = "SELECT event, packed FROM feature_online WHERE view = :view AND key = :key"
SHARED_DELETE = "DELETE FROM feature_online WHERE view = :view AND key = :key"


class DatabaseOnlineStore:
    """`OnlineStore` in the table feature_online of the main database: for a PostgreSQL that several machines share."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def write(self, view: str, rows: Sequence[tuple[str, int, bytes]]) -> int:
        """Store each (key, event time, packed values) that is newer than what is there; returns how many were."""
        with self.database.write() as connection:
            return sum(
                connection.run(SHARED_PUT, view=view, key=key, event=event, stamp=packed[:STAMP], packed=packed)
                for key, event, packed in rows
            )

    def read(self, view: str, keys: Sequence[str]) -> list[tuple[int, bytes] | None]:
        """(event time, packed values) for each key in order, None where there is none."""
        found: list[tuple[int, bytes] | None] = []
        with self.database.read() as connection:
            for key in keys:
                row = connection.one(SHARED_GET, view=view, key=key)
                found.append((row["event"], bytes(row["packed"])) if row else None)
        return found

    def delete(self, view: str, keys: Sequence[str]) -> int:
        """Forget entities; returns how many were there."""
        with self.database.write() as connection:
            return sum(connection.run(SHARED_DELETE, view=view, key=key) for key in keys)

    def close(self) -> None:
        """Nothing is held: the database is its owner's."""


def _close_all(connections: list[sqlite3.Connection]) -> None:
    while connections:
        connections.pop().close()
