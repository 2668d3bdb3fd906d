"""Which schema this code speaks, and how a database gets there."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from typing import Any

from modelyard.core.errors import Conflict

HEAD = "0014"  # the newest file in migrations/versions; tests hold the two equal


def version_in(one_value: Callable[[str], Any]) -> str | None:
    """The schema version a database has, None for an empty one; a newer one than this code's is refused."""
    found = one_value("SELECT version_num FROM alembic_version")
    return None if found is None else str(found)


def refuse_newer(found: str | None, place: str) -> None:
    """Conflict if the database was written by a newer modelyard."""
    if found is not None and found > HEAD:
        raise Conflict(
            f"{place} has schema {found}, newer than this modelyard's {HEAD}. Upgrade modelyard: pip install -U modelyard"
        )


def migrate_sqlite(raw: sqlite3.Connection, place: str) -> None:
    """Bring an SQLite file to HEAD in one transaction. Loads Alembic only when there is something to do."""

    def one_value(sql: str) -> Any:
        try:
            row = raw.execute(sql).fetchone()
        except sqlite3.OperationalError:
            return None
        return row[0] if row else None

    found = version_in(one_value)
    refuse_newer(found, place)
    if found is None:
        _run_script(raw, _whole_schema())
    elif found != HEAD:
        importlib.import_module("modelyard.storage.migrations.upgrade").upgrade_sqlite(raw)


@cache
def _whole_schema() -> str:
    """What all revisions together make of an empty database, as SQL: they run once a process, not once a folder."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as empty:
        importlib.import_module("modelyard.storage.migrations.upgrade").upgrade_sqlite(empty)
        return "\n".join(empty.iterdump())


def _run_script(raw: sqlite3.Connection, script: str) -> None:
    """Run a dump, which is one transaction."""
    try:
        raw.executescript(script)
    except BaseException:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        raise


def migrate_postgres(raw: Any, place: str) -> None:
    """Bring a PostgreSQL database to HEAD within the given psycopg transaction, which holds the writers' lock."""
    upgrade = importlib.import_module("modelyard.storage.migrations.upgrade")
    found = upgrade.postgres_version(raw)
    refuse_newer(found, place)
    if found != HEAD:
        upgrade.upgrade_postgres(raw)
