"""The walk over whole subtrees finds what the walk leaf by leaf finds, for any log and any change."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.audit import AuditLogger, EventType, Verification, store
from modelyard.audit.merkle import append, in_order, leaf_hash, levels, number
from modelyard.audit.verification import Walk
from modelyard.core.instants import FixedClock
from modelyard.core.refs import Resource


def walked(logger: AuditLogger, height: int) -> Verification:
    with logger.store.reading() as rows:
        return Walk(logger._ring(rows), height=height).result(rows, logger.store.folder)


@given(st.integers(0, 6), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_subtrees_hashes_are_those_that_appending_makes_known(height: int, before: int) -> None:
    size = before << height
    leaves = [leaf_hash(bytes([n % 256])) for n in range(size + (1 << height))]
    frontier: list[bytes] = []
    known: list[bytes] = []
    for index, leaf in enumerate(leaves):
        known += append(frontier, index, leaf)
    piece = in_order(levels(leaves[size:]))
    start = number(0, size)
    assert piece == b"".join(known[start : start + (2 << height) - 1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A log of 45 events in runs of uneven length, some about a person, some expired, one hold, one new key."""
    folder = tmp_path_factory.mktemp("whole")
    clock = FixedClock(AuditLogger(folder / "x").store.clock.now())
    logger = AuditLogger(folder / "yard", clock=clock)
    for number_, batch in enumerate((1, 2, 7, 4, 9, 1, 1, 8, 3)):
        with logger.store.work("u") as work:
            for n in range(batch):
                work.emit(EventType.FEATURES_READ, Resource("set", f"s{n}"), {"n": n})
        if number_ % 3 == 0:
            logger.log_event(EventType.DATA_ACCESSED, "file", "f", user="ana", subject="p", details={"n": 1})
        logger.integrate()
        clock.advance(86_400 * 40)
    logger.set_retention({"features_read": 200}, user="dpo")
    logger.legal_hold("set", "s1", user="counsel", reason="case")
    logger.expire_events(user="dpo")
    logger.rotate_key(user="ana")
    assert logger.verify().ok
    logger.close()
    for name in ("audit.ed25519", "audit.ed25519.pub", "subjects.db", "subjects.aes256"):
        (folder / name).write_bytes((folder / "yard" / "keys" / name).read_bytes())
    _KEYS[:] = [folder]
    return (folder / "yard" / "modelyard.db").read_bytes()


_KEYS: list[Path] = []
TABLES = {
    "events": (
        "position",
        "event_id",
        "event_type",
        "severity",
        "actor",
        "resource_type",
        "resource_id",
        "occurred_at",
        "details",
    ),
    "audit_leaves": ("leaf_index", "position", "count", "integrated_at", "earliest", "latest"),
    "audit_blocks": ("block", "hashes"),
    "audit_checkpoints": ("size", "note"),
    "audit_payloads": ("position", "key_id", "body"),
    "audit_expired": ("position", "expired_by"),
    "audit_holds": ("hold_id", "resource_type", "resource_id", "reason", "placed_by", "placed_at"),
}
VALUES: tuple[object, ...] = (*range(-3, 60), "", "x", "mallory", b"", b"\0", b"x" * 32, None, 0.5, 7.0, 1e300)


@pytest.mark.parametrize("seed", range(200))
def test_any_change_of_any_cell_and_any_row_is_found_at_every_height(whole: bytes, seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "modelyard.db").write_bytes(whole)
        (folder / "keys").mkdir()
        for file in ("audit.ed25519", "audit.ed25519.pub", "subjects.db", "subjects.aes256"):
            (folder / "keys" / file).write_bytes((_KEYS[0] / file).read_bytes())
        logger = AuditLogger(folder)
        with closing(sqlite3.connect(folder / "modelyard.db", isolation_level=None)) as raw:
            what, changed = change(raw, chance)
        found = [walked(logger, height) for height in (1, 2, 3, 10)]
        logger.close()
    told = {tuple(sorted(verification.problems)) for verification in found}
    assert [verification.ok for verification in found] == [not changed] * 4, (what, told)
    assert len({verification.first_bad for verification in found}) == 1, (what, told)
    assert len(told) == 1, (what, told)


def change(raw: sqlite3.Connection, chance: random.Random) -> tuple[object, bool]:
    """Change one thing by hand; what, and whether anything that is signed is another than before."""
    before = dump(raw)
    table = chance.choice(sorted(TABLES))
    ids = [row[0] for row in raw.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]
    row, other, column = chance.choice(ids), chance.choice(ids), chance.choice(TABLES[table])
    kind = chance.choice(["edit", "edit", "delete", "insert", "swap", "truncate"])
    try:
        if kind == "edit":
            raw.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (chance.choice(VALUES), row))
        elif kind == "delete":
            raw.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
        elif kind == "truncate":
            raw.execute(f"DELETE FROM {table} WHERE rowid >= ?", (row,))
        elif kind == "insert":
            columns = ", ".join(TABLES[table][1:])
            raw.execute(
                f"INSERT INTO {table} SELECT ?, {columns} FROM {table} WHERE rowid = ?", (chance.randint(-3, 60), row)
            )
        elif column != TABLES[table][0]:
            values = dict(raw.execute(f"SELECT rowid, {column} FROM {table}"))
            raw.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (values[other], row))
            raw.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (values[row], other))
    except sqlite3.IntegrityError:
        pass
    now = dump(raw)
    waits = kind == "insert" and table == "events" and now[1:] == before[1:] and now[0][: len(before[0])] == before[0]
    return (kind, table, column, row, other), now != before and not waits


def dump(raw: sqlite3.Connection) -> list[list[object]]:
    return [raw.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in TABLES]


def test_a_log_longer_than_a_chunk_is_walked_the_quick_way(
    logger: AuditLogger, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in (700, 1, 900, 600):
        with logger.store.work("u") as work:
            for n in range(batch):
                work.emit(EventType.FEATURES_READ, Resource("set", f"s{n}"), {"n": n})
        logger.integrate()
        clock.advance(1)
    slowly: list[int] = []
    original = Walk._one_by_one
    monkeypatch.setattr(Walk, "_one_by_one", lambda self, chunk: (slowly.append(chunk.index), original(self, chunk)))
    assert logger.verify().ok
    assert slowly == [2048]  # the rest behind the second chunk
    with closing(sqlite3.connect(logger.store.folder / "modelyard.db", isolation_level=None)) as raw:
        raw.execute("UPDATE events SET actor = 'mallory' WHERE position IN (5, 1500)")
    found = logger.verify()
    assert [problem.partition(":")[0] for problem in found.problems] == ["leaf 4", "leaf 1499"]
    with logger.store.reading() as rows:
        assert len(store.blocks(rows, 0, 10_000)) == (number(0, 2201) - 1) // store.IN_BLOCK + 1
