"""The default database: one SQLite file in a folder, in WAL mode, with a fair lock for writers of all processes."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
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
IDLE = 16  # connections kept for the next transaction, each with its pages and statements
_LEFT_BEHIND: list[sqlite3.Connection] = []  # a parent's connections after a fork


class SqliteConnection:
    """A transaction on one SQLite connection. Once it is `over`, the connection may be another's."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw
        self.over = False

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
        with self._mutex, self._queue(), self._transaction("BEGIN IMMEDIATE") as rows:
            yield rows
            rows.raw.execute("COMMIT")

    def read(self) -> AbstractContextManager[SqliteConnection]:
        """A consistent view for reading; inside this thread's own transaction it sees that transaction's rows."""
        current = self._current()
        return self._transaction("BEGIN") if current is None else self._part(current)

    def scrub(self) -> None:
        """Write the file anew without what was deleted, and empty the write-ahead log.

        Unavailable while another process goes on reading an older state: what was deleted is gone from it, but stands in
        the log's file until the next scrub.
        """
        self._refuse_nested()
        with self._mutex, self._queue(), self._errors(), self._connection() as raw:
            raw.execute("VACUUM")
            busy, *_ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise Unavailable(f"{self.file} is being read by another process. Try again when it has finished.")

    def close(self) -> None:
        """Close every connection; the next use opens new ones."""
        self._idle.clear()
        _close_all(self._open)
        self._local = threading.local()

    def _current(self) -> SqliteConnection | None:
        """This thread's open transaction."""
        found: SqliteConnection | None = getattr(self._local, "rows", None)
        return None if found is None or found.over else found

    def _refuse_nested(self) -> None:
        if self._current() is not None:
            raise YardError(
                "A transaction is open in this thread already. Pass its Work on instead of opening another."
            )

    def _fresh(self) -> None:
        """Start with no connection: when made, and in a forked child. There the parent's connections must not be used,
        and not even closed (https://sqlite.org/howtocorrupt.html, 2.6), and its writers' lock must be let go."""
        _LEFT_BEHIND.extend(self._open)
        self._open.clear()
        self._idle: list[sqlite3.Connection] = []
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
                with self._mutex, self._queue(), self._connection() as raw:
                    schema.migrate_sqlite(raw, self.url)

    def _one_value(self, sql: str) -> Any:
        """The first value of a query, or None where its table does not exist yet."""
        try:
            with self._connection() as raw:
                row = raw.execute(sql).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise
        return row[0] if row else None

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[SqliteConnection]:
        """This thread's transaction, undone unless the block committed it."""
        try:  # not by _errors and _connection: three contexts in one another take longer than SQLite
            raw = self._taken()
            rows = self._local.rows = SqliteConnection(raw)
            try:
                raw.execute(begin)
                yield rows
            finally:
                rows.over = True
                self._give_back(raw)
        except sqlite3.DatabaseError as error:
            self._explain(error)
            raise

    @contextmanager
    def _part(self, rows: SqliteConnection) -> Iterator[SqliteConnection]:
        """A part of a transaction that is under way."""
        with self._errors():
            yield rows

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for this use alone, in no transaction."""
        raw = self._taken()
        try:
            yield raw
        finally:
            self._give_back(raw)

    def _taken(self) -> sqlite3.Connection:
        """The connection used last, whose pages are still in memory, or a new one.

        Threads that write by turns share it so: a connection of their own would read anew what the others wrote.
        """
        try:
            return self._idle.pop()
        except IndexError:
            return self._connected()

    def _give_back(self, raw: sqlite3.Connection) -> None:
        if raw not in self._open:  # it was closed meanwhile, or this is a child that was forked within the block
            return
        try:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            if len(self._idle) < IDLE:
                self._idle.append(raw)
                return
        except sqlite3.Error:
            self._drop(raw)
            raise
        self._drop(raw)

    def _drop(self, raw: sqlite3.Connection) -> None:
        self._open.remove(raw)
        raw.close()

    def _connected(self) -> sqlite3.Connection:
        raw = sqlite3.connect(self.file, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            for pragma in PRAGMAS:
                raw.execute(f"PRAGMA {pragma}")
        except sqlite3.Error:
            raw.close()
            raise
        self._open.append(raw)
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
            self._explain(error)
            raise

    def _explain(self, error: sqlite3.DatabaseError) -> None:
        """Raise what the error means, if it is not a fault of ours."""
        told = _told(error, self.file)
        if told is not None:
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
