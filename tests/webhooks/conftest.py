"""A real receiver on the loopback address, a clock that stands still, and webhooks on both databases."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from receiving import Opening, Receiver, receiving

from modelyard.core.instants import FixedClock
from modelyard.core.work import Store
from modelyard.webhooks import Webhooks


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving(Receiver()) as made:
        yield made


@pytest.fixture
def tls_receiver() -> Callable[[ssl.SSLContext], AbstractContextManager[Receiver]]:
    """Makes a receiver that speaks TLS."""
    return lambda context: receiving(Receiver(), context)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Where a store is, and where its files are."""
    if request.param == "sqlite":
        return str(tmp_path / "yard"), tmp_path / "yard"
    return request.getfixturevalue("postgres_url"), tmp_path / "yard"


@pytest.fixture
def opened(clock: FixedClock) -> Iterator[Opening]:
    """Open webhooks on a place: no jitter, and only this machine may be told."""
    made: list[Webhooks] = []

    def open_at(place: tuple[str, Path], **options: Any) -> Webhooks:
        store = Store.at(place[0], files=place[1], clock=clock)
        made.append(Webhooks(store, **{"hosts": "127.0.0.1", "jitter": lambda: 0.0, **options}))
        return made[-1]

    yield open_at
    for one in made:
        one.close()


@pytest.fixture
def folder(tmp_path: Path) -> tuple[str, Path]:
    """A place on SQLite."""
    return str(tmp_path / "yard"), tmp_path / "yard"


@pytest.fixture
def webhooks(opened: Opening, folder: tuple[str, Path]) -> Webhooks:
    return opened(folder)
