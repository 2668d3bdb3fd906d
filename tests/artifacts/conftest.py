"""A fresh yard for each test, copied from one that is migrated once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelyard.core.instants import FixedClock
from modelyard.core.work import Store

sys.path.insert(0, str(Path(__file__).parent))  # for the samples that several tests share


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrated")
    Store.at(folder).close()
    return folder


@pytest.fixture
def yard(migrated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(migrated, tmp_path / "yard"))


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="session")
def cyclonedx_schemas(peer: Callable[[str], Path]) -> Path:
    """The folder of CycloneDX's own JSON schemas."""
    return next((peer("cyclonedx") / "lib").glob("python3*/site-packages/cyclonedx/schema/_res"))
