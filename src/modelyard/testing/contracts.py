"""What every adapter of a port must do. Subclass the suite, give it the fixture it names, and pytest runs it:

class TestMyBlobs(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path):
        return MyBlobs(tmp_path)
"""

from __future__ import annotations

import gc
import io
import os
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, timedelta
from typing import Any

import pytest

from modelyard.core.errors import Conflict, Invalid, NotFound, YardError
from modelyard.core.ports import Blobs, Clock, Connection, Database, OnlineStore
from modelyard.core.work import INSERT_EVENT, insert_events

CURSOR = "INSERT INTO event_cursors (reader, position) VALUES (:reader, :position)"
COUNT = "SELECT count(*) AS n FROM event_cursors"
TEXTS = ("", "'; DROP TABLE events; --", '"', "100 %s %(x)s %", ":name", "a\\nb\\", "línea\n🦉", "x" * 100_000)
NUMBERS = (0, -1, 2**31, 2**62, -(2**62))


def in_threads(count: int, task: Callable[[int], object]) -> None:
    """Run task(0) to task(count - 1) in as many threads, begun together; the first error is raised here."""
    gate, failed = threading.Barrier(count), []

    def run(number: int) -> None:
        gate.wait()
        try:
            task(number)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def in_child(task: Callable[[], object]) -> int:
    """The exit status of a forked child that ran the task: 0 if it raised nothing."""
    child = os.fork()
    if child == 0:
        try:
            task()
        except BaseException:  # noqa: BLE001 - the child must not go on as a second test run
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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
        raise NotImplementedError

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


class Failing(io.RawIOBase):
    """A stream that breaks after some bytes."""

    def __init__(self, good: bytes) -> None:
        self._left = good

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The good bytes, then an error."""
        if not self._left:
            raise ConnectionResetError("the stream broke")
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n


class BlobsContract:
    """For `Blobs`. Needs the fixture `blobs`: an empty store."""

    @pytest.fixture
    def blobs(self) -> Blobs:
        """Must be given by the subclass."""
        raise NotImplementedError

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 8_192], ids=["empty", "one byte", "2 MiB"])
    def test_bytes_come_back_as_they_were(self, blobs: Blobs, data: bytes) -> None:
        assert blobs.put("a/b", io.BytesIO(data)) is True
        with blobs.open("a/b") as stream:
            assert stream.read() == data
        assert blobs.path("a/b").read_bytes() == data

    def test_a_taken_key_keeps_its_first_bytes(self, blobs: Blobs) -> None:
        assert blobs.put("k", io.BytesIO(b"first")) is True
        assert blobs.put("k", io.BytesIO(b"second")) is False
        assert blobs.path("k").read_bytes() == b"first"

    def test_an_unknown_key_is_not_found(self, blobs: Blobs) -> None:
        with pytest.raises(NotFound, match="nothing/here"):
            blobs.open("nothing/here")
        with pytest.raises(NotFound, match="nothing/here"):
            blobs.path("nothing/here")

    def test_delete_tells_whether_the_blob_was_there(self, blobs: Blobs) -> None:
        blobs.put("k", io.BytesIO(b"x"))
        assert [blobs.delete("k"), blobs.delete("k")] == [True, False]
        with pytest.raises(NotFound):
            blobs.open("k")
        assert blobs.put("k", io.BytesIO(b"again")) is True
        assert blobs.path("k").read_bytes() == b"again"

    def test_keys_are_listed_in_order_by_prefix(self, blobs: Blobs) -> None:
        keys = ["a/x", "a-b", "a/b/c", "ab", "b", "a/b/a"]
        for key in keys:
            blobs.put(key, io.BytesIO(b""))
        assert list(blobs.keys()) == sorted(keys)
        for prefix in ("a", "a/", "a/b", "a/b/", "b", "zz"):
            assert list(blobs.keys(prefix)) == sorted(key for key in keys if key.startswith(prefix))

    @pytest.mark.parametrize(
        "key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a/./b", ".hidden", "a\\b", "a\x00b", "a\nb"]
    )
    def test_a_key_that_could_lead_elsewhere_is_refused(self, blobs: Blobs, key: str) -> None:
        for call in (blobs.open, blobs.path, blobs.delete):
            with pytest.raises(Invalid):
                call(key)
        with pytest.raises(Invalid):
            blobs.put(key, io.BytesIO(b"x"))
        assert list(blobs.keys()) == []

    def test_a_broken_upload_leaves_nothing(self, blobs: Blobs) -> None:
        with pytest.raises(ConnectionResetError):
            blobs.put("k", io.BufferedReader(Failing(b"half")))
        assert list(blobs.keys()) == []
        assert blobs.put("k", io.BytesIO(b"whole")) is True

    def test_of_several_writers_one_wins_and_no_bytes_mix(self, blobs: Blobs) -> None:
        wins: list[int] = []

        def put(number: int) -> None:
            if blobs.put("k", io.BytesIO(bytes([number]) * 300_000)):
                wins.append(number)

        in_threads(6, put)
        assert len(wins) == 1
        assert blobs.path("k").read_bytes() == bytes([wins[0]]) * 300_000


def packed(stamp: int, text: str = "") -> bytes:
    """Packed values as the feature store writes them: 16 bytes that order equal event times, then the values."""
    return stamp.to_bytes(16, "big") + text.encode()


class OnlineStoreContract:
    """For an `OnlineStore`. Needs the fixture `online`: an empty store."""

    @pytest.fixture
    def online(self) -> OnlineStore:
        """Must be given by the subclass."""
        raise NotImplementedError

    def test_values_come_back_in_the_order_of_the_keys(self, online: OnlineStore) -> None:
        assert online.write("v", [("a", 1, packed(1, "A")), ("b", 2, packed(1, "B"))]) == 2
        assert online.read("v", ["b", "none", "a", "b"]) == [
            (2, packed(1, "B")),
            None,
            (1, packed(1, "A")),
            (2, packed(1, "B")),
        ]

    def test_only_something_newer_replaces(self, online: OnlineStore) -> None:
        online.write("v", [("a", 10, packed(1, "ten"))])
        assert online.write("v", [("a", 9, packed(2, "nine"))]) == 0
        assert online.read("v", ["a"]) == [(10, packed(1, "ten"))]
        assert online.write("v", [("a", 11, packed(0, "eleven"))]) == 1
        assert online.read("v", ["a"]) == [(11, packed(0, "eleven"))]

    @pytest.mark.parametrize("times", [(-5, 3), (-(2**60), -1), (255, 256), (2**31 - 1, 2**31), (2**62 - 1, 2**62)])
    def test_times_are_compared_as_numbers(self, online: OnlineStore, times: tuple[int, int]) -> None:
        older, newer = times
        for order in ((older, newer), (newer, older)):
            key = str(order)
            for time in order:
                online.write("v", [(key, time, packed(1))])
            assert online.read("v", [key]) == [(newer, packed(1))]

    def test_one_call_may_hold_a_key_twice(self, online: OnlineStore) -> None:
        online.write("v", [("a", 2, packed(1, "two")), ("a", 1, packed(1, "one")), ("a", 3, packed(1, "three"))])
        assert online.read("v", ["a"]) == [(3, packed(1, "three"))]

    def test_views_are_apart(self, online: OnlineStore) -> None:
        online.write("v", [("a", 1, packed(1, "v"))])
        online.write("w", [("a", 1, packed(1, "w"))])
        assert online.read("v", ["a"]) == [(1, packed(1, "v"))]
        assert online.delete("v", ["a"]) == 1
        assert online.read("w", ["a"]) == [(1, packed(1, "w"))]

    @pytest.mark.parametrize("key", ["", "a:b", "ключ", "a b\n", "'", "%s", "x" * 1_000])
    def test_any_text_is_a_key(self, online: OnlineStore, key: str) -> None:
        online.write("v", [(key, 1, packed(1, "x"))])
        assert online.read("v", [key, key + "!"]) == [(1, packed(1, "x")), None]

    def test_many_rows_at_once(self, online: OnlineStore) -> None:
        rows = [(f"k{i}", i, packed(1, str(i))) for i in range(1_203)]
        assert online.write("v", rows) == len(rows)
        assert online.read("v", [key for key, _, _ in rows]) == [(time, data) for _, time, data in rows]

    def test_nothing_is_a_valid_request(self, online: OnlineStore) -> None:
        assert (online.write("v", []), online.read("v", []), online.delete("v", [])) == (0, [], 0)

    def test_delete_tells_how_many_were_there(self, online: OnlineStore) -> None:
        online.write("v", [("a", 5, packed(1)), ("b", 5, packed(1))])
        assert online.delete("v", ["a", "none"]) == 1
        assert online.read("v", ["a", "b"]) == [None, (5, packed(1))]
        assert online.write("v", [("a", 1, packed(1))]) == 1  # nothing is remembered of what was forgotten

    def test_writers_in_threads_leave_the_newest(self, online: OnlineStore) -> None:
        in_threads(4, lambda n: [online.write("v", [("a", 4 * i + n, packed(1, str(n)))]) for i in range(10)])
        assert online.read("v", ["a"]) == [(39, packed(1, "3"))]

    def test_closing_twice_is_allowed(self, online: OnlineStore) -> None:
        online.write("v", [("a", 1, packed(1))])
        online.close()
        online.close()


class ClockContract:
    """For a `Clock`. Needs the fixture `clock`."""

    @pytest.fixture
    def clock(self) -> Clock:
        """Must be given by the subclass."""
        raise NotImplementedError

    def test_it_tells_utc(self, clock: Clock) -> None:
        now = clock.now()
        assert now.tzinfo is not None
        assert now.utcoffset() == timedelta(0)
        assert now.isoformat() == now.astimezone(UTC).isoformat()
