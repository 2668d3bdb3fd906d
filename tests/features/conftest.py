"""A database with the schema in it, copied into each test's folder: a copy is faster than a migration."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from modelyard.storage.sqlite import FILE_NAME, SqliteDatabase


@pytest.fixture(scope="session")
def _sqlite_with_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = SqliteDatabase(tmp_path_factory.mktemp("migrated"))
    database.close()
    return database.file


@pytest.fixture(autouse=True)
def _with_schema(tmp_path: Path, _sqlite_with_schema: Path) -> None:
    shutil.copyfile(_sqlite_with_schema, tmp_path / FILE_NAME)
