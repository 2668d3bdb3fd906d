"""Processes are killed at any moment, and nothing that was answered is lost."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from modelyard.audit import AuditLogger

FILE = Path(__file__).with_name("writers.py")


def writers() -> Any:
    spec = importlib.util.spec_from_file_location("audit_writers", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check(found: dict[str, Any]) -> None:
    assert (found["lost"], found["apart"], found["ok"], found["problems"], found["waiting"]) == (0, 0, True, (), 0)
    assert found["leaves"] == found["events"] >= found["acknowledged"] > 0


def test_killed_writers_lose_nothing_on_sqlite(folder: Path, tmp_path: Path) -> None:
    AuditLogger(folder).close()
    check(writers().kill_often(str(folder), "", tmp_path, kills=6, seed=1))


@pytest.mark.postgres
def test_killed_writers_lose_nothing_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    check(writers().kill_often(postgres_url, str(tmp_path / "files"), tmp_path, kills=6, seed=2))
