"""The default database: one SQLite file in a folder, in WAL mode, with a fair lock for writers of all processes."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelyard.core.errors import Conflict, Damaged, Invalid, Unavailable, YardError
from modelyard.core.ports import Row
from modelyard.storage import schema

FILE_NAME = "modelyard.db"
PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "cache_size=-32000",  # 32 MB: with the 2 MB of SQLite itself a commit rereads pages once a yard has grown
    "case_sensitive_like=ON",  # LIKE minds the case, as it does in PostgreSQL
    "secure_delete=ON",  # what is deleted is overwritten with zeros
)
_LEFT_BEHIND: list[sqlite3.Connection] = []  # a parent's connections after a fork


class SqliteConnection:
    """A transaction on one SQLite connection."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw

    def all(self, sql: str, **values: Any) -> list[Row]:
        """Every row of the answer."""
        return _dicts(self._execute(sql, values))

    def tuples(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Every row of the answer as a plain tuple: for reading very many."""
        return self._execute(sql, values).fetchall()

    def one(self, sql: str, **values: Any) -> Row | None:
        """The first row, or None."""
        rows = _dicts(self._execute(sql, values))  # fetched whole, so that RETURNING finishes
        return rows[0] if rows else None

    def run(self, sql: str, **values: Any) -> int:
        """Change rows; returns how many."""
        return self._execute(sql, values).rowcount

    def many(self, sql: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """The same change for many rows."""
        try:
            self.raw.executemany(sql, rows)
        except (UnicodeEncodeError, OverflowError) as error:
            raise _unstorable(error) from error

    def _execute(self, sql: str, values: Mapping[str, Any]) -> sqlite3.Cursor:
        try:
            return self.raw.execute(sql, values)
        except (UnicodeEncodeError, OverflowError) as error:
            raise _unstorable(error) from error


class SqliteDatabase:
    """`Database` on `FOLDER/modelyard.db`.

    Readers never wait. Writers of all processes queue on a lock file, which the kernel serves in order; SQLite's own
    busy handler polls instead and starves the unlucky.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.file = self.folder / FILE_NAME
        self._open: list[sqlite3.Connection] = []
        self._locked: list[int] = []
        self._fresh()
        self._finalizer = weakref.finalize(self, _close_all, self._open)
        _DATABASES.add(self)
        self._prepare()

    @property
    def url(self) -> str:
        """The database file's path."""
        return str(self.file)

    @contextmanager
    def write(self) -> Iterator[SqliteConnection]:
        """A transaction that no other writer shares."""
        self._refuse_nested()
        with self._mutex, self._queue(), self._errors():
            raw = self._connection()
            try:
                raw.execute("BEGIN IMMEDIATE")
                yield SqliteConnection(raw)
                raw.execute("COMMIT")
            except BaseException:
                if raw.in_transaction:
                    raw.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[SqliteConnection]:
        """A consistent view for reading; inside this thread's own transaction it sees that transaction's rows."""
        with self._errors():
            raw = self._connection()
            if raw.in_transaction:
                yield SqliteConnection(raw)
                return
            raw.execute("BEGIN")
            try:
                yield SqliteConnection(raw)
            finally:
                raw.execute("ROLLBACK")

    def scrub(self) -> None:
        """Write the file anew without what was deleted, and empty the write-ahead log.

        Unavailable while another process goes on reading an older state: what was deleted is gone from it, but stands in
        the log's file until the next scrub.
        """
        self._refuse_nested()
        with self._mutex, self._queue(), self._errors():
            raw = self._connection()
            raw.execute("VACUUM")
            busy, *_ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise Unavailable(f"{self.file} is being read by another process. Try again when it has finished.")

    def close(self) -> None:
        """Close every connection; the next use opens new ones."""
        _close_all(self._open)
        self._local = threading.local()

    def _refuse_nested(self) -> None:
        current: sqlite3.Connection | None = getattr(self._local, "raw", None)
        if current is not None and current.in_transaction:
            raise YardError(
                "A transaction is open in this thread already. Pass its Work on instead of opening another."
            )

    def _fresh(self) -> None:
        """Start with no connection: when made, and in a forked child. There the parent's connections must not be used,
        and not even closed (https://sqlite.org/howtocorrupt.html, 2.6), and its writers' lock must be let go."""
        _LEFT_BEHIND.extend(self._open)
        self._open.clear()
        while self._locked:
            os.close(self._locked.pop())
        self._local = threading.local()
        self._mutex = threading.Lock()

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"The folder {self.folder} cannot be made: {error.strerror}. Choose a folder you may write to."
            ) from error
        with self._errors():
            found = schema.version_in(self._one_value)
            if found != schema.HEAD:
                with self._mutex, self._queue():
                    schema.migrate_sqlite(self._connection(), self.url)

    def _one_value(self, sql: str) -> Any:
        """The first value of a query, or None where its table does not exist yet."""
        try:
            row = self._connection().execute(sql).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise
        return row[0] if row else None

    def _connection(self) -> sqlite3.Connection:
        raw: sqlite3.Connection | None = getattr(self._local, "raw", None)
        if raw is None:
            raw = sqlite3.connect(self.file, timeout=30, isolation_level=None, check_same_thread=False)
            try:
                for pragma in PRAGMAS:
                    raw.execute(f"PRAGMA {pragma}")
            except sqlite3.Error:
                raw.close()
                raise
            self._open.append(raw)
            self._local.raw = raw
        return raw

    @contextmanager
    def _queue(self) -> Iterator[None]:
        try:
            handle = os.open(self.folder / "modelyard.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Unavailable(f"{self.folder} cannot be written: {error.strerror}. Check its permissions.") from error
        self._locked.append(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            if handle in self._locked:  # not in a child forked by this very block
                fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough while a forked child holds a copy
                self._locked.remove(handle)
                os.close(handle)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            told = _told(error, self.file)
            if told is None:
                raise
            raise told from error


def _unstorable(error: Exception) -> Invalid:
    """A text with half a surrogate pair, or an integer of more than 64 bits."""
    return Invalid(f"A value cannot be stored: {error}. Send whole characters, and integers of 64 bits.")


def _dicts(cursor: sqlite3.Cursor) -> list[Row]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _close_all(connections: list[sqlite3.Connection]) -> None:
    while connections:
        connections.pop().close()


def _told(error: sqlite3.DatabaseError, file: Path) -> YardError | None:
    """What an error of the file itself means; None for a fault of a statement, which is ours."""
    name = getattr(error, "sqlite_errorname", "")
    if name in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"):
        return Conflict(f"{file} holds that already: {error}")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "Could not decode to UTF-8" in str(error):
        return Damaged(
            f"{file} is damaged ({error}). Restore it from a backup, or move it away to start with an empty yard."
        )
    if name.startswith("SQLITE_FULL"):
        return Unavailable(f"The disk that holds {file} is full. Nothing was written. Free some space and try again.")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return Unavailable(f"{file} cannot be opened for writing ({error}). Check the permissions of its folder.")
    if name.startswith("SQLITE_IOERR"):
        return Unavailable(f"The disk that holds {file} failed ({error}). Nothing was written. Check the disk.")
    if name.startswith("SQLITE_BUSY"):
        return Unavailable(f"{file} is locked by a program that is not modelyard. Close it and try again.")
    return None


_DATABASES: weakref.WeakSet[SqliteDatabase] = weakref.WeakSet()


def _after_fork() -> None:
    for database in list(_DATABASES):
        database._fresh()


os.register_at_fork(after_in_child=_after_fork)
