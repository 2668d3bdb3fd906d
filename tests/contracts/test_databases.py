"""Both databases keep the same promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.core.ports import Database
from modelyard.storage.postgres import PostgresDatabase
from modelyard.storage.sqlite import SqliteDatabase
from modelyard.testing.contracts import DatabaseContract


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty database file with this version's schema: a copy is faster than a migration."""
    folder = tmp_path_factory.mktemp("migrated")
    SqliteDatabase(folder).close()
    return (folder / "modelyard.db").read_bytes()


class TestSqlite(DatabaseContract):
    @pytest.fixture
    def open_database(self, tmp_path: Path, migrated: bytes) -> Callable[[], Database]:
        (tmp_path / "modelyard.db").write_bytes(migrated)
        return lambda: SqliteDatabase(tmp_path)


@pytest.mark.postgres
class TestPostgres(DatabaseContract):
    @pytest.fixture
    def open_database(self, postgres_url: str) -> Callable[[], Database]:
        return lambda: PostgresDatabase(postgres_url)
