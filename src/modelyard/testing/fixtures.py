"""pytest fixtures for private servers. Register them: `pytest_plugins = ["modelyard.testing.fixtures"]`.

Where a server's program is missing the test is skipped with a line that says what to install; with CI=true in the
environment it fails instead, so that a run that must be complete is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import pytest

from modelyard.core import plugins
from modelyard.testing.postgres import PostgresServer
from modelyard.testing.redis import RedisServer
from modelyard.testing.servers import NotInstalled

Server = TypeVar("Server", bound=AbstractContextManager[object])


def started(make: Callable[[], Server]) -> Server:
    """The server, or a skip (a failure with CI=true) that says what to install."""
    try:
        return make()
    except NotInstalled as error:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A private PostgreSQL for the whole run."""
    with started(PostgresServer) as server:
        yield server


@pytest.fixture(scope="session")
def _migrated(postgres_server: PostgresServer) -> str:
    """The name of a database with this version's schema, to copy: a copy is faster than a migration."""
    name = postgres_server.new_database()
    plugins.load("database", "postgresql")(postgres_server.url(name)).close()
    return name


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database without any table."""
    name = postgres_server.new_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, _migrated: str) -> Iterator[str]:
    """The URL of a fresh database with this version's schema and no rows."""
    name = postgres_server.new_database(_migrated)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A private Redis for the whole run."""
    with started(RedisServer) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis."""
    redis_server.clear()
    return redis_server.url
