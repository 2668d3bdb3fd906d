"""A migrated empty store to copy, and a log with some events in it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelyard.audit import AuditLogger
from modelyard.core.instants import FixedClock
from modelyard.storage.sqlite import SqliteDatabase

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("migrated")
    SqliteDatabase(folder).close()
    return (folder / "modelyard.db").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, migrated: bytes) -> Path:
    place = tmp_path / "yard"
    place.mkdir()
    (place / "modelyard.db").write_bytes(migrated)
    return place


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(START)


@pytest.fixture
def logger(folder: Path, clock: FixedClock) -> AuditLogger:
    return AuditLogger(folder, clock=clock)
