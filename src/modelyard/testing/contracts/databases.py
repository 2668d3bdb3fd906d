"""What every `Database` must do."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from modelyard.core.errors import Conflict, YardError
from modelyard.core.ports import Connection, Database
from modelyard.core.work import INSERT_EVENT, insert_events
from modelyard.testing.contracts.concurrency import in_child, in_threads

CURSOR = "INSERT INTO event_cursors (reader, position) VALUES (:reader, :position)"
COUNT = "SELECT count(*) AS n FROM event_cursors"
TEXTS = ("", "'; DROP TABLE events; --", '"', "100 %s %(x)s %", ":name", "a\\nb\\", "línea\n🦉", "x" * 100_000)
NUMBERS = (0, -1, 2**31, 2**62, -(2**62))


def event(number: int) -> dict[str, Any]:
    """The values of an event's row."""
    return {
        "event_id": f"evt_{number}",
        "event_type": "model_registered",
        "severity": "info",
        "actor": "contract",
        "resource_type": "model",
        "resource_id": "m:v1",
        "occurred_at": number,
        "details": "{}",
    }


def only(database: Database, sql: str, **values: Any) -> dict[str, Any]:
    """The one row that a query gives."""
    with database.read() as rows:
        row = rows.one(sql, **values)
    assert row is not None
    return dict(row)


def cursors(database: Database) -> int:
    """How many rows the tests' table has."""
    return int(only(database, COUNT)["n"])


def _none_there(database: Database) -> None:
    assert cursors(database) == 0


def _increment(rows: Connection) -> None:
    """Read, then write: loses updates unless writers are exclusive."""
    row = rows.one("SELECT position FROM event_cursors WHERE reader = 'sum'")
    assert row is not None
    rows.run("UPDATE event_cursors SET position = :position WHERE reader = 'sum'", position=row["position"] + 1)


class ValuesContract:
    """What a database must do with values. Subclass `DatabaseContract`, which gives the fixtures."""

    @pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
    def test_texts_come_back_as_they_were(self, database: Database, text: str) -> None:
        with database.write() as rows:
            rows.run(CURSOR, reader=text, position=1)
            rows.many(CURSOR, [{"reader": text + "2", "position": 1}])
        with database.read() as rows:
            found = rows.all("SELECT reader FROM event_cursors WHERE reader IN (:a, :b)", a=text, b=text + "2")
        assert {row["reader"] for row in found} == {text, text + "2"}

    @pytest.mark.parametrize("number", NUMBERS)
    def test_integers_come_back_as_they_were(self, database: Database, number: int) -> None:
        with database.write() as rows:
            rows.run(CURSOR, reader="n", position=number)
        found = only(database, "SELECT position FROM event_cursors WHERE position = :number", number=number)
        assert found == {"position": number}

    def test_bytes_come_back_as_bytes(self, database: Database) -> None:
        data = bytes(range(256)) * 10
        with database.write() as rows:
            rows.run("INSERT INTO audit_blocks (block, hashes) VALUES (:block, :hashes)", block=0, hashes=data)
            rows.many(
                "INSERT INTO audit_blocks (block, hashes) VALUES (:block, :hashes)", [{"block": 1, "hashes": b""}]
            )
        found = only(database, "SELECT hashes FROM audit_blocks WHERE block = 0")
        assert found == {"hashes": data}
        assert type(found["hashes"]) is bytes

    def test_a_bool_is_stored_as_0_or_1(self, database: Database) -> None:
        with database.write() as rows:
            rows.run(CURSOR, reader="t", position=True)
            rows.many(CURSOR, [{"reader": "f", "position": False}])
        with database.read() as rows:
            found = rows.all("SELECT position FROM event_cursors ORDER BY position")
        assert found == [{"position": 0}, {"position": 1}]

    def test_percent_signs_colons_and_quotes_in_a_statement_are_left_alone(self, database: Database) -> None:
        sql = "SELECT ':x %s' AS \"a:b\", 7 % 4 AS rest, :x AS x -- :not a parameter %d\n"
        assert only(database, sql, x="y") == {"a:b": ":x %s", "rest": 3, "x": "y"}

    @pytest.mark.parametrize(("start", "n"), [(None, 3), (1, 2), (9, 0)])
    def test_a_parameter_may_be_none_and_stand_alone(self, database: Database, start: int | None, n: int) -> None:
        with database.write() as rows:
            rows.many(CURSOR, [{"reader": str(i), "position": i} for i in range(3)])
        sql = "SELECT count(*) AS n FROM event_cursors WHERE (:start IS NULL OR position >= :start)"
        assert only(database, sql, start=start) == {"n": n}

    def test_sums_and_means_of_integers_are_plain_numbers(self, database: Database) -> None:
        with database.write() as rows:
            rows.many(CURSOR, [{"reader": str(i), "position": i} for i in range(4)])
        found = only(database, "SELECT sum(position) AS total, avg(position) AS mean FROM event_cursors")
        assert found == {"total": 6, "mean": 1.5}
        assert (type(found["total"]), type(found["mean"])) == (int, float)


class DatabaseContract(ValuesContract):
    """For a `Database`. Needs the fixture `open_database`: a function that opens the same, at first empty place anew."""

    @pytest.fixture
    def open_database(self) -> Callable[[], Database]:
        """Must be given by the subclass."""
        raise NotImplementedError  # a contract alone runs nothing: only its subclass knows what is under test

    @pytest.fixture
    def database(self, open_database: Callable[[], Database]) -> Database:
        """One opened database."""
        return open_database()

    def test_it_is_a_database(self, database: Database) -> None:
        assert isinstance(database, Database)
        assert isinstance(database.url, str)

    def test_what_is_committed_is_read_by_another_opener(
        self, database: Database, open_database: Callable[[], Database]
    ) -> None:
        with database.write() as rows:
            assert rows.run(CURSOR, reader="a", position=1) == 1
        with open_database().read() as rows:
            assert rows.all("SELECT reader, position FROM event_cursors") == [{"reader": "a", "position": 1}]

    def test_an_exception_undoes_everything(self, database: Database) -> None:
        with pytest.raises(ZeroDivisionError), database.write() as rows:  # noqa: PT012 - the write comes first
            rows.run(CURSOR, reader="a", position=1)
            raise ZeroDivisionError
        assert cursors(database) == 0
        with database.write() as rows:
            rows.run(CURSOR, reader="b", position=1)
        assert cursors(database) == 1

    def test_a_fault_in_a_statement_undoes_everything_and_the_database_goes_on(self, database: Database) -> None:
        with pytest.raises(Exception, match="nonsense"), database.write() as rows:  # noqa: PT012 - the write comes first
            rows.run(CURSOR, reader="a", position=1)
            rows.run("UPDATE nonsense SET x = 1")
        assert cursors(database) == 0

    def test_one_gives_the_first_row_or_none(self, database: Database) -> None:
        with database.write() as rows:
            rows.many(CURSOR, [{"reader": str(i), "position": i} for i in range(3)])
            found = rows.one("SELECT position FROM event_cursors ORDER BY position DESC")
            assert found is not None
            assert dict(found) == {"position": 2}
            assert rows.one("SELECT * FROM event_cursors WHERE reader = :reader", reader="none") is None

    def test_run_tells_how_many_rows_changed(self, database: Database) -> None:
        with database.write() as rows:
            rows.many(CURSOR, ({"reader": str(i), "position": i} for i in range(5)))
            assert rows.run("UPDATE event_cursors SET position = 0 WHERE position >= :least", least=2) == 3
            assert rows.run("DELETE FROM event_cursors WHERE position = :position", position=99) == 0

    def test_many_takes_no_rows_at_all(self, database: Database) -> None:
        with database.write() as rows:
            rows.many(CURSOR, [])
        assert cursors(database) == 0

    def test_returning_gives_growing_positions(self, database: Database) -> None:
        positions = []
        for number in range(4):
            with database.write() as rows:
                row = rows.one(INSERT_EVENT, **event(number))
                assert row is not None
                positions.append(row["position"])
        assert positions == sorted(set(positions))

    def test_events_of_one_statement_get_positions_in_their_order(self, database: Database) -> None:
        with pytest.raises(ZeroDivisionError), database.write() as rows:  # noqa: PT012 - PostgreSQL keeps a gap of this
            insert_events(rows, [event(number) for number in range(1_000, 1_003)])
            raise ZeroDivisionError
        with database.write() as rows:
            positions = insert_events(rows, [event(number) for number in range(150)])
            positions += insert_events(rows, [event(150)])
        with database.read() as rows:
            found = rows.tuples("SELECT position, event_id FROM events ORDER BY position")
        assert found == [(position, f"evt_{number}") for number, position in enumerate(positions)]

    def test_tuples_are_the_values_of_the_rows_in_order(self, database: Database) -> None:
        with database.write() as rows:
            rows.many(CURSOR, [{"reader": str(i), "position": i} for i in range(3)])
            found = rows.tuples(
                "SELECT position, reader FROM event_cursors WHERE position > :least ORDER BY 1", least=0
            )
            assert found == [(1, "1"), (2, "2")]
            assert rows.tuples("SELECT reader FROM event_cursors WHERE position = 9") == []

    def test_scrubbing_keeps_what_was_not_deleted(self, database: Database) -> None:
        with database.write() as rows:
            rows.many(CURSOR, [{"reader": str(i), "position": i} for i in range(100)])
        with database.write() as rows:
            rows.run("DELETE FROM event_cursors WHERE position >= 3")
        database.scrub()
        assert cursors(database) == 3
        with database.write() as rows:
            rows.run(CURSOR, reader="new", position=1)
        assert cursors(database) == 4

    def test_an_upsert_replaces_only_where_its_condition_holds(self, database: Database) -> None:
        sql = (
            CURSOR + " ON CONFLICT (reader) DO UPDATE SET position = excluded.position "
            "WHERE event_cursors.position < excluded.position"
        )
        with database.write() as rows:
            assert [rows.run(sql, reader="a", position=position) for position in (1, 3, 2)] == [1, 1, 0]
        assert only(database, "SELECT position FROM event_cursors") == {"position": 3}

    def test_a_second_row_with_the_same_key_is_a_conflict_and_undoes_everything(self, database: Database) -> None:
        with pytest.raises(Conflict), database.write() as rows:  # noqa: PT012 - the second write is the conflict
            rows.run(CURSOR, reader="a", position=1)
            rows.run(CURSOR, reader="a", position=2)
        assert cursors(database) == 0

    def test_reading_within_the_own_transaction_sees_its_rows(self, database: Database) -> None:
        with database.write() as rows:
            rows.run(CURSOR, reader="a", position=1)
            with database.read() as inner, database.read() as innermost:
                assert inner.one(COUNT) == innermost.one(COUNT) == {"n": 1}
            rows.run(CURSOR, reader="b", position=1)
        assert cursors(database) == 2

    def test_a_transaction_within_another_is_refused_and_harms_neither(self, database: Database) -> None:
        with database.write() as rows:
            rows.run(CURSOR, reader="a", position=1)
            with pytest.raises(YardError, match="Pass its Work on"), database.write():
                pass
        with database.read() as rows:
            with pytest.raises(YardError, match="Pass its Work on"), database.write():
                pass
            assert rows.one(COUNT) == {"n": 1}
        assert cursors(database) == 1

    def test_a_reader_keeps_its_view_and_waits_for_no_writer(self, database: Database) -> None:
        def written(number: int) -> None:
            with database.write() as rows:
                rows.run(CURSOR, reader=f"w{number}", position=1)

        with database.write() as rows:
            rows.run(CURSOR, reader="a", position=1)
            in_threads(1, lambda _: _none_there(database))  # waits for nothing: the writer is still at it
        with database.read() as rows:
            assert rows.one(COUNT) == {"n": 1}
            in_threads(1, written)
            assert rows.one(COUNT) == {"n": 1}
        assert cursors(database) == 2

    def test_writers_in_threads_are_exclusive(self, database: Database, open_database: Callable[[], Database]) -> None:
        others = [database, open_database()]
        with database.write() as rows:
            rows.run(CURSOR, reader="sum", position=0)

        def add(number: int) -> None:
            for _ in range(10):
                with others[number % 2].write() as rows:
                    _increment(rows)

        in_threads(6, add)
        assert only(database, "SELECT position FROM event_cursors") == {"position": 60}

    def test_more_threads_read_than_there_are_connections(self, database: Database) -> None:
        in_threads(24, lambda _: _none_there(database))

    def test_a_forked_child_works_on_its_own_while_the_parent_goes_on(self, database: Database) -> None:
        assert cursors(database) == 0

        def child() -> None:
            with database.write() as rows:
                rows.run(CURSOR, reader="child", position=1)
            database.close()

        assert in_child(child) == 0
        with database.write() as rows:
            rows.run(CURSOR, reader="parent", position=1)
        assert cursors(database) == 2

    def test_a_child_forked_while_a_thread_writes_neither_waits_nor_holds_the_writer_up(
        self, database: Database
    ) -> None:
        inside, forked = threading.Event(), threading.Event()
        status: list[int] = []

        def write() -> None:
            with database.write() as rows:
                rows.run(CURSOR, reader="thread", position=1)
                inside.set()
                forked.wait()

        thread = threading.Thread(target=write)
        thread.start()
        inside.wait()
        ready, go = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(ready, 1)  # lives on while the parent writes
            status.append(cursors(database))
            os._exit(0 if status == [2] else 1)
        forked.set()
        thread.join()
        with database.write() as rows:  # the child must not keep the writers' lock
            rows.run(CURSOR, reader="main", position=1)
        os.write(go, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(ready)
        os.close(go)

    def test_it_can_be_used_after_it_was_closed(self, database: Database) -> None:
        database.close()
        assert cursors(database) == 0
        database.close()
        database.close()

    def test_dropping_it_open_loses_nothing_and_warns_of_nothing(self, open_database: Callable[[], Database]) -> None:
        dropped = open_database()
        with dropped.write() as rows:
            rows.run(CURSOR, reader="a", position=1)
        del dropped, rows
        gc.collect()
        assert cursors(open_database()) == 1
