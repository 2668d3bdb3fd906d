"""Runs Alembic on a connection that the caller owns."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection
from sqlalchemy.pool import StaticPool


def upgrade_sqlite(raw: sqlite3.Connection) -> None:
    """Upgrade within one transaction of the given connection."""
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    try:
        with engine.connect() as connection:
            raw.execute("BEGIN IMMEDIATE")
            upgrade(connection)
            connection.commit()
            if raw.in_transaction:
                raw.execute("COMMIT")
    except BaseException:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        raise


def upgrade(connection: Connection) -> None:
    """Upgrade through an SQLAlchemy connection; the caller commits."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    attributes: dict[str, Any] = config.attributes
    attributes["connection"] = connection
    command.upgrade(config, "head")


def postgres_version(raw: Any) -> str | None:
    """The schema version of a database as its open transaction sees it, None for an empty one."""
    row = raw.execute("SELECT to_regclass('alembic_version')").fetchone()
    found = raw.execute("SELECT version_num FROM alembic_version").fetchone() if row[0] else None
    return None if found is None else str(found[0])


def upgrade_postgres(raw: Any, begin: str, check: Callable[[str | None], object]) -> None:
    """Upgrade within one transaction of the given psycopg connection; `begin` is its first statement, which takes the
    lock that writers queue on, and `check` is shown the version that is found under it.

    SQLAlchemy rolls back what a connection has open when it first sees it, so a lock taken before would be lost.
    """
    engine = create_engine("postgresql+psycopg://", creator=lambda: raw, poolclass=StaticPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(begin)
        check(postgres_version(raw))
        upgrade(connection)
        connection.commit()
