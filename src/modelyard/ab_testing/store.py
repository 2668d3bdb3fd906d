"""The SQL of experiments: one function a statement, values in and out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from modelyard.ab_testing.experiments import ABTest, TestStatus, TrafficSplitStrategy, Variant
from modelyard.ab_testing.rules import Look
from modelyard.ab_testing.tally import Tally
from modelyard.core.canonical import dumps
from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.ports import Connection, Row


def insert_test(rows: Connection, test: ABTest) -> None:
    """Add a test."""
    plan = {
        "variants": test.variants,
        "planned_units": test.planned_units,
        "horizon": test.horizon,
        "ramp_seconds": test.ramp_seconds,
        "group_share": test.group_share,
    }
    rows.run(
        "INSERT INTO ab_tests (test_id, name, description, strategy, status, created_by, created_at, started_at, ended_at, "
        "exclusive_group, group_start, winner, conclusion, plan) VALUES (:test_id, :name, :description, :strategy, "
        ":status, :created_by, :created_at, NULL, NULL, :exclusive_group, 0.0, '', '', :plan)",
        test_id=test.test_id,
        name=test.name,
        description=test.description,
        strategy=test.strategy.value,
        status=test.status.value,
        created_by=test.created_by,
        created_at=micros(test.created_at),
        exclusive_group=test.exclusive_group,
        plan=dumps(plan),
    )


def find_test(rows: Connection, test_id: str) -> ABTest | None:
    """One test."""
    row = rows.one("SELECT * FROM ab_tests WHERE test_id = :test_id", test_id=test_id)
    return test_from(row) if row else None


def find_tests(rows: Connection, status: str) -> list[ABTest]:
    """Tests, oldest first; an empty status means any."""
    found = rows.all(
        "SELECT * FROM ab_tests WHERE :status = '' OR status = :status ORDER BY created_at, test_id", status=status
    )
    return [test_from(row) for row in found]


def running_in_group(rows: Connection, group: str) -> list[ABTest]:
    """The running tests of an exclusive group."""
    found = rows.all(
        "SELECT * FROM ab_tests WHERE exclusive_group = :exclusive_group AND status = 'running' ORDER BY group_start",
        exclusive_group=group,
    )
    return [test_from(row) for row in found]


def test_ids(rows: Connection) -> list[str]:
    """The newest test ids, for the hint in an error."""
    return [row["test_id"] for row in rows.all("SELECT test_id FROM ab_tests ORDER BY created_at DESC LIMIT 20")]


def set_status(rows: Connection, test: ABTest) -> None:
    """Write what changes in a test."""
    rows.run(
        "UPDATE ab_tests SET status = :status, started_at = :started_at, ended_at = :ended_at, group_start = :group_start, "
        "winner = :winner, conclusion = :conclusion WHERE test_id = :test_id",
        test_id=test.test_id,
        status=test.status.value,
        started_at=_micros(test.started_at),
        ended_at=_micros(test.ended_at),
        group_start=test.group_start,
        winner=test.winner,
        conclusion=test.conclusion,
    )


def arm_tally(rows: Connection, test_id: str, variant: str) -> Tally:
    """What was recorded for an arm."""
    row = rows.one(
        "SELECT tally FROM ab_arms WHERE test_id = :test_id AND variant = :variant", test_id=test_id, variant=variant
    )
    return Tally.from_plain(json.loads(row["tally"])) if row else Tally()


def save_tally(rows: Connection, test_id: str, variant: str, tally: Tally) -> None:
    """Write what was recorded for an arm."""
    rows.run(
        "INSERT INTO ab_arms (test_id, variant, tally) VALUES (:test_id, :variant, :tally) "
        "ON CONFLICT (test_id, variant) DO UPDATE SET tally = :tally",
        test_id=test_id,
        variant=variant,
        tally=dumps(tally.plain()),
    )


def unit_counts(rows: Connection, test_id: str, variant: str, unit: str) -> tuple[int, int]:
    """(requests, successes) of one unit so far."""
    row = rows.one(
        "SELECT requests, successes FROM ab_units WHERE test_id = :test_id AND variant = :variant AND unit = :unit",
        test_id=test_id,
        variant=variant,
        unit=unit,
    )
    return (row["requests"], row["successes"]) if row else (0, 0)


def add_units(rows: Connection, values: Iterable[Mapping[str, Any]]) -> None:
    """Add requests and successes to units."""
    rows.many(
        "INSERT INTO ab_units (test_id, variant, unit, requests, successes) "
        "VALUES (:test_id, :variant, :unit, :requests, :successes) ON CONFLICT (test_id, variant, unit) "
        "DO UPDATE SET requests = ab_units.requests + :requests, successes = ab_units.successes + :successes",
        values,
    )


def save_source(rows: Connection, values: Mapping[str, Any]) -> None:
    """Write a source's running totals of one generation; totals lower than those known change nothing."""
    rows.run(
        "INSERT INTO ab_sources (test_id, variant, source, generation, requests, errors, latency) "
        "VALUES (:test_id, :variant, :source, :generation, :requests, :errors, :latency) "
        "ON CONFLICT (test_id, variant, source, generation) DO UPDATE SET requests = :requests, errors = :errors, "
        "latency = :latency WHERE ab_sources.requests <= :requests",
        **values,
    )


def source_tally(rows: Connection, test_id: str, variant: str) -> Tally:
    """What serving has counted for an arm."""
    tally = Tally()
    for row in rows.all(
        "SELECT requests, errors, latency FROM ab_sources WHERE test_id = :test_id AND variant = :variant",
        test_id=test_id,
        variant=variant,
    ):
        tally.count(1, row["requests"] - row["errors"])
        tally.count(0, row["errors"])
        histogram = {int(index): count for index, count in json.loads(row["latency"]).items()}
        tally.merge(Tally(histogram=histogram))
    return tally


def folded(rows: Connection, journal: str) -> int:
    """How many bytes of a journal are in the tallies already."""
    row = rows.one("SELECT folded FROM ab_journals WHERE journal = :journal", journal=journal)
    return int(row["folded"]) if row else 0


def save_folded(rows: Connection, journal: str, end: int) -> None:
    """Remember how much of a journal is in the tallies."""
    rows.run(
        "INSERT INTO ab_journals (journal, folded) VALUES (:journal, :folded) "
        "ON CONFLICT (journal) DO UPDATE SET folded = :folded",
        journal=journal,
        folded=end,
    )


def forget_journal(rows: Connection, journal: str) -> None:
    """Forget a journal whose file is gone."""
    rows.run("DELETE FROM ab_journals WHERE journal = :journal", journal=journal)


def find_looks(rows: Connection, test_id: str) -> list[Look]:
    """The looks that a test has spent, in order."""
    found = rows.all("SELECT * FROM ab_looks WHERE test_id = :test_id ORDER BY look", test_id=test_id)
    return [
        Look(fraction=row["fraction"], alpha=row["alpha"], significant=tuple(json.loads(row["significant"])))
        for row in found
    ]


def add_look(rows: Connection, test_id: str, number: int, look: Look, at: Instant) -> None:
    """Add a look."""
    rows.run(
        "INSERT INTO ab_looks (test_id, look, at, fraction, alpha, significant) "
        "VALUES (:test_id, :look, :at, :fraction, :alpha, :significant)",
        test_id=test_id,
        look=number,
        at=micros(at),
        fraction=look.fraction,
        alpha=look.alpha,
        significant=dumps(look.significant),
    )


def test_from(row: Row) -> ABTest:
    """The test that a row holds."""
    plan = json.loads(row["plan"])
    return ABTest(
        test_id=row["test_id"],
        name=row["name"],
        description=row["description"],
        strategy=TrafficSplitStrategy(row["strategy"]),
        status=TestStatus(row["status"]),
        variants=tuple(Variant(**variant) for variant in plan["variants"]),
        created_by=row["created_by"],
        created_at=from_micros(row["created_at"]),
        started_at=_instant(row["started_at"]),
        ended_at=_instant(row["ended_at"]),
        planned_units=plan["planned_units"],
        horizon=plan["horizon"],
        ramp_seconds=plan["ramp_seconds"],
        exclusive_group=row["exclusive_group"],
        group_share=plan["group_share"],
        group_start=row["group_start"],
        winner=row["winner"],
        conclusion=row["conclusion"],
    )


def _micros(moment: Instant | None) -> int | None:
    return None if moment is None else micros(moment)


def _instant(value: int | None) -> Instant | None:
    return None if value is None else from_micros(value)
