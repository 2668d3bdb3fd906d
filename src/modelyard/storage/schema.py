"""Which schema this code speaks, and how a database gets there."""

from __future__ import annotations

import hashlib
import importlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from modelyard.core.errors import Conflict

HEAD = "0014"  # the newest file in migrations/versions; tests hold the two equal
KEPT = Path(__file__).with_name("schema.sql")


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
    """What all revisions together make of an empty SQLite file, as SQL.

    It is kept in KEPT, since running them takes a second and 25 MB; where a revision has changed since, they run.
    """
    first, _, script = KEPT.read_text().partition("\n")
    return script if first == _marked() else made_by_revisions()


def made_by_revisions() -> str:
    """The schema as the revisions make it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as empty:
        importlib.import_module("modelyard.storage.migrations.upgrade").upgrade_sqlite(empty)
        return "\n".join(empty.iterdump()) + "\n"


def keep() -> None:
    """Write what the revisions make to KEPT: after every change of a revision, `python scripts/keep_schema.py`."""
    KEPT.write_text(f"{_marked()}\n{made_by_revisions()}")


def _marked() -> str:
    """The first line of KEPT: which revisions it comes from."""
    files = sorted((Path(__file__).parent / "migrations" / "versions").glob("*.py"))
    return f"-- made by revisions {hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()}"


def _run_script(raw: sqlite3.Connection, script: str) -> None:
    """Run a dump, which is one transaction."""
    try:
        raw.executescript(script)
    except BaseException:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        raise


def migrate_postgres(raw: Any, place: str, begin: str) -> None:
    """Bring a PostgreSQL database to HEAD within a psycopg transaction whose first statement takes the writers' lock."""
    upgrade = importlib.import_module("modelyard.storage.migrations.upgrade")
    upgrade.upgrade_postgres(raw, begin, lambda found: refuse_newer(found, place))
