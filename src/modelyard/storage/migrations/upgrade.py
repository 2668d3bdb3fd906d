"""Runs Alembic on a connection that the caller owns."""

from __future__ import annotations

import sqlite3
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


def upgrade_postgres(raw: Any) -> None:
    """Upgrade within the open transaction of the given psycopg connection and commit it."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: raw, poolclass=StaticPool)
    with engine.connect() as connection:
        upgrade(connection)
        connection.commit()
