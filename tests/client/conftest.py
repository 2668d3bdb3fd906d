"""One real server for the whole folder: a yard with tokens for four people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelyard import Client, Yard
from modelyard.testing.serving import YardServer

PEOPLE = {"ana": "contributor", "ben": "approver", "root": "admin", "vic": "viewer"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's own folder."""
    return tmp_path_factory.mktemp("served") / "yard"


@pytest.fixture(scope="session")
def secrets(folder: Path) -> dict[str, str]:
    with Yard(folder) as yard:
        return {
            name: yard.access.create_token(f"{name}@example.com", role=role, created_by="test").secret
            for name, role in PEOPLE.items()
        }


@pytest.fixture(scope="session")
def server(folder: Path, secrets: dict[str, str]) -> Iterator[YardServer]:
    with YardServer(folder) as running:
        yield running


@pytest.fixture(scope="session")
def connect(server: YardServer, secrets: dict[str, str]) -> Iterator[Callable[[str], Client]]:
    """A client for one of the people."""
    made: dict[str, Client] = {}

    def client(name: str) -> Client:
        return made.setdefault(name, Client(server.url, token=secrets[name]))

    yield client
    for one in made.values():
        one.close()


@pytest.fixture
def embedded(folder: Path, server: YardServer) -> Iterator[Yard]:
    """The server's yard, opened beside it."""
    with Yard(folder) as yard:
        yield yard
