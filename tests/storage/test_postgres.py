"""PostgreSQL: what its errors become, what is shown of its URL, and how statements are translated."""

from __future__ import annotations

import threading
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy.engine import Connection

from modelyard.core.errors import Conflict, Invalid, Unavailable
from modelyard.core.work import Store
from modelyard.storage.migrations import upgrade
from modelyard.storage.postgres import WRITER_LOCK, PostgresDatabase, translated
from modelyard.testing.contracts import CURSOR
from modelyard.testing.postgres import PASSWORD, PostgresServer
from modelyard.testing.servers import free_port

pytestmark = pytest.mark.postgres
SECRET = "p@ss/wörd:%"


def chain(error: BaseException | None) -> str:
    """The whole text of an error and of everything it came from."""
    words = []
    while error is not None:
        words.append(f"{error!r} {error}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(words)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT :a, :a, :b_2", "SELECT %(a)s, %(a)s, %(b_2)s"),
        ("SELECT ':a', \":b\", 'it''s :c'", "SELECT ':a', \":b\", 'it''s :c'"),
        ("SELECT x::text, :x::int", "SELECT x::text, %(x)s::int"),
        ("SELECT 'a%' LIKE :p || '%'", "SELECT 'a%%' LIKE %(p)s || '%%'"),
        ("SELECT 1 -- :no %\n, :yes", "SELECT 1 -- :no %%\n, %(yes)s"),
        ("SELECT a[1:2]", "SELECT a[1:2]"),
    ],
)
def test_a_statement_is_translated(sql: str, expected: str) -> None:
    assert translated(sql) == expected


def test_an_empty_database_is_migrated_on_first_use(empty_postgres_url: str) -> None:
    database = PostgresDatabase(empty_postgres_url)
    with database.write() as rows:
        rows.run(CURSOR, reader="a", position=1)


def test_the_writers_lock_is_held_while_an_empty_database_is_migrated(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, free = upgrade.upgrade, []

    def watched(connection: Connection) -> None:
        with psycopg.connect(empty_postgres_url) as other:
            free.append(other.execute(f"SELECT pg_try_advisory_lock({WRITER_LOCK})").fetchone())
        really(connection)

    monkeypatch.setattr(upgrade, "upgrade", watched)
    PostgresDatabase(empty_postgres_url)
    assert free == [(False,)]


def test_a_newer_schema_is_refused(postgres_url: str) -> None:
    database = PostgresDatabase(postgres_url)
    with database.write() as rows:
        rows.run("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Conflict, match="schema 9999, newer than"):
        PostgresDatabase(postgres_url)


def test_a_wrong_password_is_told_and_not_shown(postgres_server: PostgresServer) -> None:
    with pytest.raises(Unavailable, match="refuses the user or the password") as caught:
        PostgresDatabase(postgres_server.tcp_url(password=SECRET))
    assert SECRET not in chain(caught.value)
    assert quote(SECRET, safe="") not in chain(caught.value)


def test_a_missing_password_is_told(postgres_server: PostgresServer) -> None:
    url = f"postgresql://postgres@127.0.0.1:{postgres_server.port}/postgres?passfile=/dev/null"
    with pytest.raises(Unavailable, match="asks for a password"):
        PostgresDatabase(url)


def test_the_right_password_is_accepted_and_not_shown(postgres_server: PostgresServer, postgres_url: str) -> None:
    name = postgres_url.partition("@/")[2].partition("?")[0]
    store = Store.at(postgres_server.tcp_url(name))
    assert PASSWORD not in store.database.url.replace("modelyard/", "")
    assert store.database.url == f"postgresql://postgres@127.0.0.1:{postgres_server.port}/{name}"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{quote(SECRET, safe='')}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?user=u&password={quote(SECRET, safe='')}",
        f"postgres://u:{quote(SECRET, safe='')}@/db?host=/nowhere",
    ],
)
def test_a_server_that_is_not_there_is_told_without_the_password(url: str) -> None:
    with pytest.raises(Unavailable, match="nothing listens there") as caught:
        PostgresDatabase(url)
    assert SECRET not in chain(caught.value)
    assert quote(SECRET, safe="") not in chain(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%zz@h/db",
        "postgresql://u:secret@h:port:1/db",
        "postgresql://u:secret@h/db?nonsense=1",
        "postgresql://u:se/cret-secret@h/db",
        "postgresql://u:a@secret@h/db",
    ],
)
def test_a_url_that_is_none_is_told_without_the_password(url: str) -> None:
    with pytest.raises(Invalid, match="no PostgreSQL URL") as caught:
        PostgresDatabase(url)
    assert "secret" not in chain(caught.value)
    assert "p%zz" not in chain(caught.value)


def test_a_missing_database_is_told(postgres_server: PostgresServer) -> None:
    with pytest.raises(Unavailable, match="no such database or user"):
        PostgresDatabase(postgres_server.url("nowhere"))


def test_a_standby_is_told(postgres_server: PostgresServer, postgres_url: str) -> None:
    name = postgres_url.partition("@/")[2].partition("?")[0]
    postgres_server.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    database = PostgresDatabase(postgres_url)
    with pytest.raises(Unavailable, match="can only be read"), database.write() as rows:
        rows.run(CURSOR, reader="a", position=1)


def test_text_with_a_nul_is_told(postgres_url: str) -> None:
    with pytest.raises(Invalid, match="cannot store"), PostgresDatabase(postgres_url).write() as rows:
        rows.run(CURSOR, reader="a\x00b", position=1)


# Of clients alone, since PostgreSQL itself may be vacuuming there; and it waits until each has gone.
ENDING = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
    "WHERE datname = '{name}' AND backend_type = 'client backend'"
)


def test_connections_that_the_server_dropped_are_replaced(postgres_server: PostgresServer, postgres_url: str) -> None:
    database = PostgresDatabase(postgres_url)
    name = postgres_url.partition("@/")[2].partition("?")[0]
    ending = f"SELECT count(*) FROM ({ENDING.format(name=name)}) AS ended"
    for _ in range(3):
        with database.write() as rows:
            rows.run("DELETE FROM event_cursors")
            rows.run(CURSOR, reader="a", position=1)
        assert postgres_server.sql(ending) == "1"
    with database.read() as rows:
        assert rows.one("SELECT count(*) AS n FROM event_cursors") == {"n": 1}


def test_a_connection_lost_within_a_transaction_is_told_and_undoes_it(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    database = PostgresDatabase(postgres_url)
    name = postgres_url.partition("@/")[2].partition("?")[0]
    with pytest.raises(Unavailable, match="is undone"), database.write() as rows:  # noqa: PT012
        rows.run(CURSOR, reader="a", position=1)
        postgres_server.sql(ENDING.format(name=name))
        rows.run(CURSOR, reader="b", position=1)
    with database.read() as rows:
        assert rows.one("SELECT count(*) AS n FROM event_cursors") == {"n": 0}


def test_writers_wait_in_turn_and_readers_wait_for_none(postgres_url: str) -> None:
    """While one writes, eight others and a reader want in: the reader is served at once, the writers afterwards."""
    database, others = PostgresDatabase(postgres_url), [PostgresDatabase(postgres_url) for _ in range(4)]

    def write(number: int) -> None:
        with others[number % 4].write() as rows:
            rows.run(CURSOR, reader=str(number), position=number)

    with database.write() as rows:
        rows.run(CURSOR, reader="first", position=0)
        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        seen = []
        reader = threading.Thread(target=lambda: seen.append(count(others[0])))
        reader.start()
        reader.join()
        assert seen == [0]
    for thread in threads:
        thread.join()
    assert count(database) == 9


def count(database: PostgresDatabase) -> int:
    with database.read() as rows:
        found = rows.one("SELECT count(*) AS n FROM event_cursors")
    assert found is not None
    return int(found["n"])


def test_a_private_server_leaves_nothing_behind() -> None:
    with PostgresServer() as server:
        folder = Path(server.folder)
        assert server.sql("SELECT 1") == "1"
    assert not folder.exists()
    with pytest.raises(Unavailable):
        PostgresDatabase(server.url())
    assert free_port() != 0
