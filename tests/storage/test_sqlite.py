"""The embedded database under several processes, kills, and disks and folders that refuse."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from modelyard.audit import AuditLogger
from modelyard.core.errors import Conflict, Damaged, Unavailable, YardError
from modelyard.core.events import EventType
from modelyard.core.ports import Database
from modelyard.core.refs import Resource
from modelyard.core.work import Store
from modelyard.storage import schema
from modelyard.storage.postgres import PostgresDatabase
from modelyard.storage.sqlite import SqliteDatabase
from modelyard.testing.contracts import CURSOR, in_child

NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else or to mount")


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("migrated")
    SqliteDatabase(folder).close()
    return (folder / "modelyard.db").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, migrated: bytes) -> Path:
    (tmp_path / "modelyard.db").write_bytes(migrated)
    return tmp_path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """An empty folder that every user can reach."""
    place = Path(tempfile.mkdtemp(prefix="modelyard-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def together(code: str, count: int, *arguments: str) -> list[str]:
    """What several processes print that run the code at once: each says it is ready, then all are let go."""
    gate = "import sys\nprint('ready', flush=True)\nsys.stdin.readline()\n"
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", gate + code, *arguments, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(count)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * count, "\n".join(said)
    return said


OPEN = """
from modelyard.core.work import Store
from modelyard.core.events import EventType
from modelyard.core.refs import Resource
with Store.at(sys.argv[1]).work() as work:
    work.emit(EventType.MODEL_REGISTERED, Resource("model", sys.argv[2]))
"""


def test_processes_that_open_a_new_folder_at_once_migrate_it_once(tmp_path: Path) -> None:
    assert together(OPEN, 3, str(tmp_path / "yard")) == ["", "", ""]
    assert len(AuditLogger(tmp_path / "yard").query_events()) == 3


@pytest.mark.postgres
def test_processes_that_open_a_new_postgresql_database_at_once_migrate_it_once(empty_postgres_url: str) -> None:
    assert together(OPEN, 2, empty_postgres_url) == ["", ""]


WRITE = """
from modelyard.core.work import Store
from modelyard.core.events import EventType
from modelyard.core.refs import Resource
store = Store.at(sys.argv[1])
for number in range(25):
    with store.work() as work:
        work.rows.run("INSERT INTO event_cursors (reader, position) VALUES (:reader, 0)", reader=f"{sys.argv[2]}/{number}")
        work.emit(EventType.MODEL_REGISTERED, Resource("model", f"{sys.argv[2]}/{number}"))
"""


def test_eight_writing_processes_lose_nothing_and_none_is_told_that_it_is_locked(folder: Path) -> None:
    assert together(WRITE, 8, str(folder)) == [""] * 8
    expected = {f"{process}/{number}" for process in range(8) for number in range(25)}
    logger = AuditLogger(folder)
    assert {event.resource_id for event in logger.query_events()} == expected
    assert readers(logger.store.database) == expected
    assert logger.verify().ok


def readers(database: Database) -> set[str]:
    with database.read() as rows:
        return {row["reader"] for row in rows.all("SELECT reader FROM event_cursors")}


def write_until_killed(open_store: Callable[[], Store], name: str, pipe: int) -> None:
    """Commit a row with its event, then say so; every third time the log is integrated too."""
    logger = AuditLogger(open_store())
    number = 0
    while True:
        with logger.store.work() as work:
            work.rows.run(CURSOR, reader=f"{name}/{number}", position=number)
            work.emit(EventType.MODEL_REGISTERED, Resource("model", f"{name}/{number}"))
        os.write(pipe, f"{name}/{number}\n".encode())
        number += 1
        if number % 3 == 0:
            logger.integrate()


def killed_round(open_store: Callable[[], Store], round_: int, rng: random.Random) -> set[str]:
    """Three writers, killed with SIGKILL after a random number of commits; returns what they had acknowledged."""
    out, into = os.pipe()
    children = []
    for writer in range(3):
        child = os.fork()
        if child == 0:
            try:
                os.close(out)
                write_until_killed(open_store, f"{round_}.{writer}", into)
            finally:
                os._exit(1)
        children.append(child)
    os.close(into)
    said, enough = b"", rng.randint(1, 40)
    while said.count(b"\n") < enough:
        data = os.read(out, 64)
        assert data, "every writer ended by itself"
        said += data
    for child in children:
        os.kill(child, signal.SIGKILL)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert statuses == [-signal.SIGKILL] * 3
    while data := os.read(out, 65_536):
        said += data
    os.close(out)
    return set(said.decode().split("\n")[:-1])


def survives(open_store: Callable[[], Store], rounds: int) -> None:
    rng, acknowledged = random.Random(7), set[str]()
    for round_ in range(rounds):
        acknowledged |= killed_round(open_store, round_, rng)
        logger = AuditLogger(open_store())
        rows = readers(logger.store.database)
        assert acknowledged <= rows  # nothing acknowledged is lost
        assert rows == {event.resource_id for event in logger.query_events(limit=100_000)}  # no row without its event
        found = logger.verify()
        assert found.ok, found.problems
        assert found.waiting == 0
        logger.close()


def test_writers_killed_at_random_lose_nothing_that_was_acknowledged(folder: Path) -> None:
    survives(lambda: Store.at(folder), 15)


@pytest.mark.postgres
def test_writers_killed_at_random_lose_nothing_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    survives(lambda: Store.at(postgres_url, files=tmp_path), 6)


def test_a_newer_schema_is_refused(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Conflict, match=r"schema 9999, newer than.*pip install -U modelyard"):
        SqliteDatabase(folder)


def test_the_schema_this_code_speaks_is_the_newest_revision() -> None:
    files = (Path(schema.__file__).parent / "migrations" / "versions").glob("[0-9]*.py")
    assert max(file.name[:4] for file in files) == schema.HEAD


@pytest.mark.parametrize("damage", ["not a database", "cut", "a page overwritten"])
def test_a_damaged_file_is_told_and_left_alone(folder: Path, damage: str) -> None:
    file = folder / "modelyard.db"
    whole = file.read_bytes()
    if damage == "not a database":
        file.write_bytes(b"this is no database" * 500)
    elif damage == "cut":
        file.write_bytes(whole[: len(whole) // 3])
    else:
        file.write_bytes(whole[:100] + b"\xff" * 4_000 + whole[4_100:])
    before = file.read_bytes()
    with pytest.raises(Damaged, match="Restore it from a backup"):
        AuditLogger(folder).log_model_deployment("m", "v1", "bob")
    assert file.read_bytes() == before


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "yard").write_text("")
    with pytest.raises(Unavailable, match="cannot be made"):
        SqliteDatabase(tmp_path / "yard")
    with pytest.raises(Unavailable, match="cannot be made"):
        SqliteDatabase(tmp_path / "yard" / "below")


def as_nobody(task: Callable[[], object]) -> int:
    def run() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        task()

    return in_child(run)


@as_root
def test_a_folder_that_may_not_be_written_is_told(open_folder: Path) -> None:
    def make() -> None:
        with pytest.raises(Unavailable, match=r"cannot be made.*Choose a folder"):
            SqliteDatabase(open_folder / "yard")
        with pytest.raises(Unavailable, match="permissions"):
            SqliteDatabase(open_folder)

    assert as_nobody(make) == 0


@as_root
@pytest.mark.parametrize("mode", [0o555, 0o755])
def test_a_yard_that_may_not_be_written_is_told(open_folder: Path, migrated: bytes, mode: int) -> None:
    (open_folder / "modelyard.db").write_bytes(migrated)
    (open_folder / "modelyard.db").chmod(0o644)
    open_folder.chmod(mode)

    def write() -> None:
        with pytest.raises(Unavailable, match="permissions"), SqliteDatabase(open_folder).write() as rows:
            rows.run(CURSOR, reader="a", position=1)

    assert as_nobody(write) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill_until_refused(folder: Path) -> tuple[int, YardError]:
    store, number = Store.at(folder), 0
    with pytest.raises(YardError) as caught:  # noqa: PT012 - until one of them fails
        while number < 10_000:
            with store.work() as work:
                work.rows.run(CURSOR, reader=f"{number}{'x' * 2_000}", position=number)
                work.emit(EventType.MODEL_REGISTERED, Resource("model", f"{number}"))
            number += 1
    store.close()
    return number, caught.value


@as_root
def test_a_full_disk_is_told_and_what_was_committed_stays(small_disk: Path, migrated: bytes) -> None:
    (small_disk / "modelyard.db").write_bytes(migrated)
    committed, error = fill_until_refused(small_disk)
    assert isinstance(error, Unavailable)
    assert "is full" in str(error)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    database = SqliteDatabase(small_disk)
    assert len(readers(database)) == committed
    with database.write() as rows:
        rows.run(CURSOR, reader="again", position=1)
    logger = AuditLogger(small_disk)
    assert len(logger.query_events(limit=10_000)) == committed
    assert logger.verify().ok
    database.close()
    logger.close()


def test_a_file_that_may_not_grow_is_told(folder: Path) -> None:
    def write() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        _, error = fill_until_refused(folder)
        assert isinstance(error, Unavailable), error
        assert "Nothing was written" in str(error)

    assert in_child(write) == 0
    assert readers(SqliteDatabase(folder))


def test_a_lock_held_by_a_stranger_is_told(folder: Path) -> None:
    database = SqliteDatabase(folder)
    with database.read() as rows:
        rows.one("SELECT 1")
    database._idle[-1].execute("PRAGMA busy_timeout=1")
    with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="not modelyard"), database.write():
            pass
    with database.write() as rows:  # the database goes on once the stranger has left
        rows.run(CURSOR, reader="a", position=1)


def test_both_databases_have_the_same_tables(folder: Path, request: pytest.FixtureRequest) -> None:
    with SqliteDatabase(folder).read() as rows:
        names = {row["name"] for row in rows.all("SELECT name FROM sqlite_master WHERE type = 'table'")}
    with PostgresDatabase(request.getfixturevalue("postgres_url")).read() as rows:
        found = rows.all("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    assert {row["table_name"] for row in found} == {name for name in names if not name.startswith("sqlite_")}


def test_scrubbing_leaves_nothing_of_what_was_deleted_in_any_file(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path)
    with database.write() as rows:
        rows.many(
            "INSERT INTO event_cursors (reader, position) VALUES (:reader, 0)",
            ({"reader": f"{'secret' if n % 2 else 'open'}-{n}-{'x' * 50}"} for n in range(2_000)),
        )
    with database.write() as rows:
        rows.run("DELETE FROM event_cursors WHERE reader LIKE 'secret%'")
    database.scrub()
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"secret-" not in left
    assert left.count(b"open-") >= 1_000


def test_scrubbing_says_so_while_another_reads_an_older_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **{**kwargs, "timeout": 0.05}))
    database = SqliteDatabase(tmp_path)
    with database.write() as rows:
        rows.run("INSERT INTO event_cursors (reader, position) VALUES ('a', 0)")
    with closing(connect(tmp_path / "modelyard.db", isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM event_cursors").fetchall()
        with pytest.raises(Unavailable, match="being read"):
            database.scrub()
        other.execute("ROLLBACK")
    database.scrub()
    with database.read(), pytest.raises(YardError, match="open in this thread"):
        database.scrub()


def test_threads_that_come_and_go_share_connections_and_leave_none_behind(folder: Path) -> None:
    database = SqliteDatabase(folder)

    def use(number: int) -> None:
        with database.write() as rows:
            rows.run(CURSOR, reader=str(number), position=1)
        with database.read() as rows:
            rows.one("SELECT 1")

    for number in range(50):
        thread = threading.Thread(target=use, args=(number,))
        thread.start()
        thread.join()
    assert len(database._open) == 1


def test_a_view_that_another_thread_gives_up_leaves_both_threads_free(folder: Path) -> None:
    database = SqliteDatabase(folder)
    view = database.read()
    view.__enter__()
    thread = threading.Thread(target=view.__exit__, args=(None, None, None))  # as a garbage collector may
    thread.start()
    thread.join()
    with database.write() as rows:
        rows.run(CURSOR, reader="a", position=1)
    assert readers(database) == {"a"}
