"""PostgreSQL as the database: the same SQL, the same exclusive writers, the same errors in plain words as on SQLite."""

from __future__ import annotations

import math
import os
import re
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row, tuple_row

from modelyard.core.errors import Conflict, Invalid, Unavailable, YardError
from modelyard.core.ports import Row
from modelyard.storage import schema

CONNECTIONS = 8  # a process: a server's default is 100 in all, and only one of ours writes at a time
WRITER_LOCK = 0x6D6F64656C796172  # "modelyar": the advisory lock that writers of one database queue on
CONNECT_SECONDS = "10"
_BEGIN_WRITE = f"BEGIN; SELECT pg_advisory_xact_lock({WRITER_LOCK})"
_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_TOKEN = re.compile(
    r"'(?:[^']|'')*'"  # a string
    r'|"(?:[^"]|"")*"'  # a quoted name
    r"|--[^\n]*"  # a comment
    r"|::"  # a cast
    r"|:(?P<name>[A-Za-z_]\w*)"
    r"|%"
)
_LEFT_BEHIND: list[Any] = []  # a parent's connections after a fork: kept, so that nothing here ever closes them


class NumberLoader(Loader):
    """NUMERIC, which sums and means of integers are, as SQLite gives it: int where it is whole, else float."""

    def load(self, data: Any) -> int | float:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


class PostgresConnection:
    """A transaction on one PostgreSQL connection.

    Values are bound on the client's side (libpq quotes them), because a server-side parameter has no type in
    `:start IS NULL OR ...`, which SQLite accepts.
    """

    def __init__(self, raw: psycopg.Connection[dict[str, Any]]) -> None:
        self.raw = raw

    def all(self, sql: str, **values: Any) -> list[Row]:
        """Every row of the answer."""
        return list(self._execute(sql, values).fetchall())

    def tuples(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Every row of the answer as a plain tuple: for reading very many."""
        return self._execute(sql, values, tuple_row).fetchall()

    def one(self, sql: str, **values: Any) -> Row | None:
        """The first row, or None."""
        rows = self._execute(sql, values).fetchall()
        return rows[0] if rows else None

    def run(self, sql: str, **values: Any) -> int:
        """Change rows; returns how many."""
        return self._execute(sql, values).rowcount

    def many(self, sql: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """The same change for many rows, sent without waiting for each answer."""
        with psycopg.Cursor(self.raw) as cursor:
            try:
                cursor.executemany(translated(sql), [adapted(row) for row in rows])
            except UnicodeEncodeError as error:
                raise _unstorable(error) from error

    def _execute(self, sql: str, values: Mapping[str, Any], factory: Any = dict_row) -> psycopg.ClientCursor[Any]:
        try:
            return psycopg.ClientCursor(self.raw, row_factory=factory).execute(translated(sql), adapted(values))
        except UnicodeEncodeError as error:
            raise _unstorable(error) from error


class PostgresDatabase:
    """`Database` on a PostgreSQL URL.

    Writers take a transaction-level advisory lock, which the server grants in order, so they are as exclusive as on
    SQLite and positions of events are in the order of commits. Readers wait for nobody.
    """

    def __init__(self, url: str) -> None:
        self._conninfo, self._url = _parsed(url)
        self._closing: list[psycopg.Connection[dict[str, Any]]] = []
        self._fresh()
        self._finalizer = weakref.finalize(self, _close_all, self._closing)
        _OPEN.add(self)
        self._prepare()

    @property
    def url(self) -> str:
        """Server, database and user; never the password."""
        return self._url

    @contextmanager
    def write(self) -> Iterator[PostgresConnection]:
        """A transaction that no other writer shares."""
        if self._current() is not None:
            raise YardError(
                "A transaction is open in this thread already. Pass its Work on instead of opening another."
            )
        with self._errors(), self._mutex, self._transaction(_BEGIN_WRITE) as raw:
            yield PostgresConnection(raw)
            raw.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[PostgresConnection]:
        """A consistent view for reading; inside this thread's own transaction it sees that transaction's rows."""
        current = self._current()
        with self._errors():
            if current is not None:
                yield PostgresConnection(current)
                return
            with self._transaction(_BEGIN_READ) as raw:
                yield PostgresConnection(raw)

    def scrub(self) -> None:
        """Vacuum every table of this schema's: dead rows are given back. The server's write-ahead log ages by its own
        settings, and its backups by yours."""
        with self._errors(), psycopg.connect(self._conninfo, autocommit=True) as raw:
            raw.execute("VACUUM")

    def close(self) -> None:
        """Close idle connections; the next use opens new ones."""
        while self._idle:
            self._drop(self._idle.pop())

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """A connection in a transaction, rolled back unless the block committed it."""
        with self._slots:
            raw = self._begun(begin)
            self._local.raw = raw
            try:
                yield raw
            finally:
                self._local.raw = None
                self._give_back(raw)

    def _begun(self, begin: str) -> psycopg.Connection[dict[str, Any]]:
        """A connection that has begun; an idle one that the server has dropped meanwhile is replaced."""
        while self._idle:
            with suppress(IndexError):
                raw = self._idle.pop()
                try:
                    raw.execute(begin)
                    return raw
                except psycopg.OperationalError:
                    alive = not raw.closed
                    self._drop(raw)
                    if alive:
                        raise
        raw = self._connected()
        try:
            raw.execute(begin)
        except BaseException:
            self._drop(raw)
            raise
        return raw

    def _give_back(self, raw: psycopg.Connection[dict[str, Any]]) -> None:
        status = raw.info.transaction_status
        try:
            if status == psycopg.pq.TransactionStatus.ACTIVE:  # interrupted within a statement
                self._drop(raw)
                return
            if not raw.closed and status != psycopg.pq.TransactionStatus.IDLE:
                raw.execute("ROLLBACK")
        except psycopg.Error:
            self._drop(raw)
            return
        if raw.closed or len(self._idle) >= CONNECTIONS:
            self._drop(raw)
        else:
            self._idle.append(raw)

    def _connected(self) -> psycopg.Connection[dict[str, Any]]:
        raw = psycopg.connect(self._conninfo, autocommit=True, row_factory=dict_row)
        raw.adapters.register_loader("numeric", NumberLoader)
        self._closing.append(raw)
        return raw

    def _drop(self, raw: psycopg.Connection[dict[str, Any]]) -> None:
        raw.close()
        with suppress(ValueError):
            self._closing.remove(raw)

    def _current(self) -> psycopg.Connection[dict[str, Any]] | None:
        """The connection whose transaction this thread is in."""
        found: psycopg.Connection[dict[str, Any]] | None = getattr(self._local, "raw", None)
        return found

    def _fresh(self) -> None:
        """Start with no connection: when made, and in a forked child, which must not touch its parent's sockets."""
        _LEFT_BEHIND.extend(self._closing)
        self._closing.clear()
        self._idle: list[psycopg.Connection[dict[str, Any]]] = []
        self._local = threading.local()
        self._mutex = threading.Lock()
        self._slots = threading.BoundedSemaphore(CONNECTIONS)

    def _prepare(self) -> None:
        with self._errors():
            with self._slots:
                raw = self._begun("BEGIN")
                try:
                    found = schema.version_in(lambda sql: _one_value(raw, sql))
                finally:
                    self._give_back(raw)
            if found != schema.HEAD:
                schema.refuse_newer(found, self._url)
                with psycopg.connect(self._conninfo) as connection:
                    schema.migrate_postgres(connection, self._url, f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            told = _told(error, self._url)
            if told is None:
                raise
            raise told from error


@lru_cache(maxsize=4096)
def translated(sql: str) -> str:
    """The statement with psycopg's parameters for ours.

    >>> translated("SELECT ':a', x::text, 7 % 2 FROM t WHERE y = :y")
    "SELECT ':a', x::text, 7 %% 2 FROM t WHERE y = %(y)s"
    """

    def one(match: re.Match[str]) -> str:
        name = match["name"]
        return f"%({name})s" if name else match[0].replace("%", "%%")

    return _TOKEN.sub(one, sql)


def adapted(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as SQLite would store them: a bool is 0 or 1, not-a-number is NULL."""
    return {name: _adapted(value) if isinstance(value, (bool, float)) else value for name, value in values.items()}


def _adapted(value: bool | float) -> int | float | None:
    if isinstance(value, bool):
        return int(value)
    return None if math.isnan(value) else float(value)


def _unstorable(error: UnicodeEncodeError) -> Invalid:
    """A text with half a surrogate pair."""
    return Invalid(f"A value cannot be stored: {error}. Send whole characters.")


def _one_value(raw: psycopg.Connection[dict[str, Any]], sql: str) -> Any:
    """The first value of a query, or None where its table does not exist yet."""
    try:
        row = raw.execute(sql.encode()).fetchone()
    except pg.UndefinedTable:
        return None
    return next(iter(row.values())) if row else None


def _parsed(url: str) -> tuple[str, str]:
    """(conninfo, the URL without secrets). The driver's own words are left out, since they may quote the password."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise Invalid(_NO_URL) from None
    # With a bare @ or / in the password, libpq takes parts of it for the host, the port or the database.
    if not re.fullmatch(r"[0-9,]*", str(parts.get("port") or "")) or any(
        sign in str(parts.get(name) or "") for name, sign in (("host", "@"), ("dbname", "@"), ("dbname", "/"))
    ):
        raise Invalid(_NO_URL)
    parts.setdefault("connect_timeout", CONNECT_SECONDS)
    conninfo = make_conninfo("", **{"application_name": "modelyard", "client_encoding": "utf8", **parts})
    user = f"{parts['user']}@" if parts.get("user") else ""
    host, port = str(parts.get("host") or "localhost"), f":{parts['port']}" if parts.get("port") else ""
    database = f"/{parts['dbname']}" if parts.get("dbname") else ""
    if host.startswith("/"):
        return conninfo, f"postgresql://{user}{port}{database}?host={host}"
    return conninfo, f"postgresql://{user}{host}{port}{database}"


def _told(error: psycopg.Error, place: str) -> YardError | None:
    """What an error of the server means; None for a fault of a statement, which is ours."""
    if isinstance(error, pg.UniqueViolation):
        return Conflict(f"{place} holds that already: {error.diag.message_detail or error.diag.constraint_name}")
    if isinstance(error, pg.DataError):
        return Invalid(f"{place} cannot store a value: {_first_line(error)}")
    if isinstance(error, pg.DiskFull):
        return Unavailable(f"The disk of {place} is full. Nothing was written. Free some space and try again.")
    if isinstance(error, pg.InsufficientPrivilege):
        return Unavailable(f"{place} refuses: {_first_line(error)}. Grant the user the right to it.")
    if isinstance(error, pg.ReadOnlySqlTransaction):
        return Unavailable(f"{place} can only be read (a standby?). Use the primary's URL.")
    if isinstance(error, psycopg.OperationalError):
        return _unreachable(error, place)
    return None


def _unreachable(error: psycopg.OperationalError, place: str) -> YardError:
    text = str(error)
    for sign, words in _UNREACHABLE:
        if sign in text:
            return Unavailable(words.format(place=place))
    return Unavailable(f"{place} cannot be used: {_first_line(error)}. What was not committed is undone.")


_NO_URL = (
    "This is no PostgreSQL URL. Write it as postgresql://user:password@host:5432/database, "
    "with %40 for an @ and %2F for a / in the password."
)
_UNREACHABLE = (
    ("password authentication failed", "{place} refuses the user or the password. Correct them in the URL."),
    ("no password supplied", "{place} asks for a password. Put it into the URL or into ~/.pgpass."),
    ("does not exist", "{place}: there is no such database or user. Make it first, for example: createdb NAME"),
    ("Connection refused", "{place} cannot be reached: nothing listens there. Start PostgreSQL or correct the URL."),
    (
        "No such file or directory",
        "{place} cannot be reached: nothing listens there. Start PostgreSQL or correct the URL.",
    ),
    ("could not translate host name", "{place} cannot be reached: its host name is unknown. Correct the URL."),
    ("failed to resolve host", "{place} cannot be reached: its host name is unknown. Correct the URL."),
    ("timeout expired", "{place} cannot be reached: it did not answer in time. Check the address and the firewall."),
    ("too many clients", "{place} has no connection left. Raise its max_connections or run fewer processes."),
    ("starting up", "{place} is starting up. Try again in a moment."),
)


def _first_line(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error).partition("\n")[0]).removeprefix("connection failed: ").rstrip(".")


def _close_all(connections: list[psycopg.Connection[dict[str, Any]]]) -> None:
    while connections:
        connections.pop().close()


_OPEN: weakref.WeakSet[PostgresDatabase] = weakref.WeakSet()


def _after_fork() -> None:
    for database in list(_OPEN):
        database._fresh()


os.register_at_fork(after_in_child=_after_fork)
