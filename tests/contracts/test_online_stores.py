"""Every online store keeps the same promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.core.ports import OnlineStore
from modelyard.storage.online import DatabaseOnlineStore, SqliteOnlineStore
from modelyard.storage.postgres import PostgresDatabase
from modelyard.storage.redis import RedisOnlineStore
from modelyard.testing.contracts import OnlineStoreContract


class TestSqlite(OnlineStoreContract):
    @pytest.fixture
    def online(self, tmp_path: Path) -> OnlineStore:
        return SqliteOnlineStore(tmp_path)


@pytest.mark.redis
class TestRedis(OnlineStoreContract):
    @pytest.fixture
    def online(self, redis_url: str) -> OnlineStore:
        return RedisOnlineStore(redis_url)


@pytest.mark.postgres
class TestPostgres(OnlineStoreContract):
    @pytest.fixture
    def online(self, postgres_url: str) -> OnlineStore:
        return DatabaseOnlineStore(PostgresDatabase(postgres_url))
