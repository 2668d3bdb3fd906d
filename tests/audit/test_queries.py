"""Questions are answered by indexes, whatever the size of the log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from modelyard.audit import AuditLogger, EventSeverity, EventType, store
from modelyard.audit.reading import _located
from modelyard.core.instants import FixedClock, micros
from modelyard.core.refs import Resource
from modelyard.core.work import Store

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = 3_600
KINDS = (EventType.DATA_ACCESSED, EventType.FEATURES_READ, EventType.SECURITY_VIOLATION)


def filled(logger: AuditLogger, clock: FixedClock, count: int, each: int = 50) -> None:
    """Events of several kinds, an hour's worth of them at once; now and then the clock jumps back."""
    for first in range(0, count, each):
        with logger.store.work("u") as work:
            for number in range(first, min(first + each, count)):
                rare = number % 97 == 0
                work.emit(
                    KINDS[2] if rare else KINDS[number % 2],
                    Resource("set", f"s{number % 13}"),
                    {"n": number},
                    severity=EventSeverity.CRITICAL if rare else EventSeverity.INFO,
                    actor=f"u{number % 7}",
                )
        logger.integrate()
        clock.advance(-5 * HOUR if first % 500 == 250 else HOUR)


CONDITIONS: list[dict[str, Any]] = [
    {"event_type": EventType.SECURITY_VIOLATION},
    {"severity": EventSeverity.CRITICAL},
    {"severity": EventSeverity.INFO},
    {"by": "u3"},
    {"resource_type": "set", "resource_id": "s5"},
    {"start_date": START + timedelta(hours=4)},
    {"end_date": START + timedelta(hours=3)},
    {"start_date": START + timedelta(hours=2), "end_date": START + timedelta(hours=5), "by": "u1"},
    {"event_type": EventType.DATA_ACCESSED, "start_date": START + timedelta(hours=6)},
    {"start_date": START + timedelta(days=400)},
    {"end_date": START - timedelta(days=400)},
]


@pytest.mark.parametrize("conditions", CONDITIONS, ids=range(len(CONDITIONS)))
@pytest.mark.parametrize("waiting", [0, 30], ids=["integrated", "some wait"])
def test_pages_by_any_condition_are_what_reading_everything_gives(
    logger: AuditLogger, clock: FixedClock, conditions: dict[str, Any], waiting: int
) -> None:
    filled(logger, clock, 1_000)
    if waiting:
        (logger.store.folder / "keys" / "audit.ed25519").unlink()  # another host signs
        filled_without_signing(logger, waiting)
    every = logger.query_events(limit=10_000)
    wanted = [event for event in every if meets(event, conditions)]
    for order in ("oldest", "newest"):
        pages, after = [], 0
        while page := logger.query_events(**conditions, after=after, limit=40, order=order):  # type: ignore[arg-type]
            pages += page
            after = page[-1].position or 0
            if after == 1 and order == "newest":
                break
        assert pages == (wanted if order == "oldest" else wanted[::-1])


def filled_without_signing(logger: AuditLogger, count: int) -> None:
    with logger.store.work("u3") as work:
        for number in range(count):
            work.emit(KINDS[number % 3], Resource("set", f"s{number % 13}"), severity=EventSeverity.CRITICAL)


def meets(event: Any, conditions: Mapping[str, Any]) -> bool:
    told = {
        "event_type": lambda value: event.event_type is value,
        "severity": lambda value: event.severity is value,
        "by": lambda value: event.actor == value,
        "resource_type": lambda value: event.resource_type == value,
        "resource_id": lambda value: event.resource_id == value,
        "start_date": lambda value: event.occurred_at >= value,
        "end_date": lambda value: event.occurred_at < value,
    }
    return all(told[name](value) for name, value in conditions.items())


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "type": ({"event_type": "security_violation"}, "events_by_type"),
    "severity": ({"severity": "critical"}, "events_by_severity"),
    "actor": ({"actor": "u3"}, "events_by_actor"),
    "resource": ({"resource_type": "set", "resource_id": "s5"}, "events_by_resource"),
    "type and time": ({"event_type": "security_violation", "start": micros(START)}, "events_by_type"),
    "time": ({"start": micros(START + timedelta(hours=6))}, "PRIMARY KEY"),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("newest", [False, True], ids=["oldest", "newest"])
def test_sqlite_answers_from_the_index_without_sorting(
    logger: AuditLogger, clock: FixedClock, name: str, newest: bool
) -> None:
    filled(logger, clock, 200)
    conditions, index = PLANS[name]
    plan = " ".join(row["detail"] for row in explained(logger, conditions, newest, "EXPLAIN QUERY PLAN "))
    assert index in plan
    assert "SCAN" not in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.postgres
def test_postgresql_answers_from_the_index_without_sorting(
    postgres_url: str, tmp_path: Path, clock: FixedClock
) -> None:
    logger = AuditLogger(Store.at(postgres_url, files=tmp_path, clock=clock))
    filled(logger, clock, 20_000, each=2_000)
    with logger.store.database.write() as rows:
        rows.run("ANALYZE events")
    for name in ("type", "severity", "type and time", "time"):
        conditions, index = PLANS[name]
        for newest in (False, True):
            plan = "\n".join(next(iter(row.values())) for row in explained(logger, conditions, newest, "EXPLAIN "))
            assert {"PRIMARY KEY": "events_pkey"}.get(index, index) in plan, plan
            assert "Sort" not in plan
            assert "Seq Scan" not in plan


def explained(logger: AuditLogger, conditions: dict[str, Any], newest: bool, word: str) -> list[Any]:
    """The plan of the very statement that a query runs."""
    asked: list[tuple[str, dict[str, Any]]] = []

    class Spy:
        def all(self, sql: str, **values: Any) -> list[Any]:
            asked.append((sql, values))
            return []

    with logger.store.reading() as rows:
        located = _located(rows, conditions)
        if newest:
            store.newest_events(Spy(), located, before=2**62, limit=100)  # type: ignore[arg-type]
        else:
            store.events(Spy(), located, after=0, limit=100)  # type: ignore[arg-type]
        sql, values = asked[0]
        return rows.all(word + sql, **values)


def test_a_parquet_export_holds_every_event(logger: AuditLogger, clock: FixedClock, tmp_path: Path) -> None:
    filled(logger, clock, 300)
    logger.log_event(
        EventType.DATA_ACCESSED, "set", "é\"'\n", user="=cmd()", details={"deep": {"a": [1, None, "x\ny"]}}
    )
    events = logger.query_events(limit=1_000)
    done = logger.export_audit_trail(tmp_path / "out" / "t.parquet", format="parquet")
    assert (done.events, done.format) == (301, "parquet")
    assert done.sha256 == hashlib.sha256((tmp_path / "out" / "t.parquet").read_bytes()).hexdigest()
    rows = duckdb.sql(
        f"SELECT event_id, position, epoch_us(occurred_at), details, actor, resource_id FROM '{tmp_path}/out/t.parquet'"
    ).fetchall()
    assert [row[:3] for row in rows] == [
        (event.event_id, event.position, micros(event.occurred_at)) for event in events
    ]
    assert [json.loads(row[3]) for row in rows] == [dict(event.details) for event in events]
    assert rows[-1][4:] == ("=cmd()", "é\"'\n")
    beside = dict(duckdb.sql(f"SELECT key, value FROM parquet_kv_metadata('{tmp_path}/out/t.parquet')").fetchall())
    assert beside[b"checkpoint"].split(b"\n")[1] == b"301"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["t.parquet"]


def test_a_parquet_export_of_nothing_has_its_columns(logger: AuditLogger, tmp_path: Path) -> None:
    done = logger.export_audit_trail(tmp_path / "t.parquet", format="parquet", end_date=START)
    assert done.events == 0
    assert duckdb.sql(f"SELECT details FROM '{tmp_path}/t.parquet'").fetchall() == []
