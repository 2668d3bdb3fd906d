"""The SQL of experiments: one function a statement, values in and out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.ab_testing.design import Look
from modelyard.ab_testing.experiments import ABTest, Held, Inference, Round, TestStatus, TrafficSplitStrategy, Variant
from modelyard.ab_testing.metrics import LATENCY, from_plain
from modelyard.ab_testing.tally import Tally
from modelyard.core.canonical import dumps
from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.ports import Connection, Row

HALF = 1 << 63  # between an unsigned number of 64 bits and a signed one, which is all that databases have
PLAIN = (  # what of a plan is a number or a text
    "unit",
    "endpoint",
    "planned_units",
    "horizon",
    "ramp_seconds",
    "group_share",
    "tolerated_loss",
    "round_units",
    "guard_alpha",
    "latency_margin",
    "latency_floor_ms",
    "taken_back",
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a run: the range of its keys' first halves, and how many they are."""

    name: str
    test_id: str
    owner: str
    run: int
    first: int
    last: int
    entries: int


def insert_test(rows: Connection, test: ABTest) -> None:
    """Add a test."""
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
        plan=_plan(test),
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


def newest_named(rows: Connection, name: str) -> ABTest | None:
    """The newest test of a name."""
    row = rows.one(
        "SELECT * FROM ab_tests WHERE name = :name ORDER BY created_at DESC, test_id DESC LIMIT 1", name=name
    )
    return test_from(row) if row else None


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
        "winner = :winner, conclusion = :conclusion, plan = :plan WHERE test_id = :test_id",
        test_id=test.test_id,
        plan=_plan(test),
        status=test.status.value,
        started_at=_micros(test.started_at),
        ended_at=_micros(test.ended_at),
        group_start=test.group_start,
        winner=test.winner,
        conclusion=test.conclusion,
    )


def set_plan(rows: Connection, test: ABTest) -> None:
    """Write what is planned."""
    rows.run(
        "UPDATE ab_tests SET description = :description, strategy = :strategy, exclusive_group = :exclusive_group, "
        "plan = :plan WHERE test_id = :test_id",
        test_id=test.test_id,
        description=test.description,
        strategy=test.strategy.value,
        exclusive_group=test.exclusive_group,
        plan=_plan(test),
    )


def arm_tally(rows: Connection, test_id: str, variant: str, number: int = 0) -> Tally:
    """What was recorded for an arm in a round (0: the test has none)."""
    row = rows.one(
        "SELECT tally FROM ab_arms WHERE test_id = :test_id AND variant = :variant AND round = :number",
        test_id=test_id,
        variant=variant,
        number=number,
    )
    return Tally.from_plain(json.loads(row["tally"])) if row else Tally()


def save_tally(rows: Connection, test_id: str, variant: str, number: int, tally: Tally) -> None:
    """Write what was recorded for an arm in a round."""
    rows.run(
        "INSERT INTO ab_arms (test_id, variant, round, tally) VALUES (:test_id, :variant, :number, :tally) "
        "ON CONFLICT (test_id, variant, round) DO UPDATE SET tally = :tally",
        test_id=test_id,
        variant=variant,
        number=number,
        tally=dumps(tally.plain()),
    )


def parts(rows: Connection, test_id: str, owner: str) -> list[Part]:
    """The parts of an owner's runs, the oldest run first, each in the order of its keys."""
    found = rows.tuples(
        "SELECT part, run, first_key, last_key, entries FROM ab_parts WHERE test_id = :test_id AND owner = :owner "
        "ORDER BY run, first_key",
        test_id=test_id,
        owner=owner,
    )
    return [
        Part(name, test_id, owner, run, first + HALF, last + HALF, entries) for name, run, first, last, entries in found
    ]


def part_keys(rows: Connection, part: str) -> bytes:
    """The first halves of a part's keys."""
    return bytes(rows.tuples("SELECT keys FROM ab_parts WHERE part = :part", part=part)[0][0])


def part_rest(rows: Connection, part: str) -> bytes:
    """All else that a part holds."""
    return bytes(rows.tuples("SELECT rest FROM ab_parts WHERE part = :part", part=part)[0][0])


def add_part(rows: Connection, part: Part, keys: bytes, rest: bytes) -> None:
    """Write a part, which never changes."""
    rows.many(
        "INSERT INTO ab_parts (part, test_id, owner, run, first_key, last_key, entries, keys, rest) "
        "VALUES (:part, :test_id, :owner, :run, :first, :last, :entries, :keys, :rest)",
        [
            {
                "part": part.name,
                "test_id": part.test_id,
                "owner": part.owner,
                "run": part.run,
                "first": part.first - HALF,
                "last": part.last - HALF,
                "entries": part.entries,
                "keys": keys,
                "rest": rest,
            }
        ],
    )


def drop_parts(rows: Connection, gone: Iterable[Part]) -> None:
    """Delete parts."""
    rows.many("DELETE FROM ab_parts WHERE part = :part", [{"part": part.name} for part in gone])


def owners(rows: Connection) -> list[tuple[str, str]]:
    """Every (test, owner) that has parts."""
    found = rows.tuples("SELECT DISTINCT test_id, owner FROM ab_parts ORDER BY test_id, owner")
    return [(test_id, owner) for test_id, owner in found]


def layouts(rows: Connection, test_id: str) -> dict[str, int]:
    """How the values of a test's parts are written, by what says so."""
    found = rows.tuples("SELECT told, layout FROM ab_layouts WHERE test_id = :test_id", test_id=test_id)
    return dict(found)


def add_layout(rows: Connection, test_id: str, layout: int, told: str) -> None:
    """Number a way to write values."""
    rows.run(
        "INSERT INTO ab_layouts (test_id, layout, told) VALUES (:test_id, :layout, :told)",
        test_id=test_id,
        layout=layout,
        told=told,
    )


def forget_assignments(rows: Connection, unit: str) -> int:
    """Delete what a unit was given, in whichever test; returns how many rows that were."""
    return rows.run("DELETE FROM ab_assignments WHERE unit = :unit", unit=unit)


def insert_holdout(rows: Connection, holdout: Held, at: Instant, by: str) -> None:
    """Add a holdout."""
    rows.run(
        "INSERT INTO ab_holdouts (name, share, created_at, created_by, ended_at) VALUES (:name, :share, :at, :by, NULL)",
        name=holdout.name,
        share=holdout.share,
        at=micros(at),
        by=by,
    )


def end_holdout(rows: Connection, name: str, at: Instant) -> None:
    """Let a holdout hold no further test."""
    rows.run("UPDATE ab_holdouts SET ended_at = :at WHERE name = :name", name=name, at=micros(at))


def find_holdouts(rows: Connection, *, ended: bool) -> list[Held]:
    """The holdouts by name, those that have ended too if asked for."""
    found = rows.all(
        "SELECT name, share FROM ab_holdouts WHERE :ended = 1 OR ended_at IS NULL ORDER BY name", ended=int(ended)
    )
    return [Held(name=row["name"], share=row["share"]) for row in found]


def find_rounds(rows: Connection, test_id: str) -> list[Round]:
    """The rounds of a Thompson-sampling test, in order."""
    found = rows.all("SELECT * FROM ab_rounds WHERE test_id = :test_id ORDER BY round", test_id=test_id)
    return [_round_from(row) for row in found]


def last_round(rows: Connection, test_id: str) -> Round:
    """The round that runs."""
    (row,) = rows.all("SELECT * FROM ab_rounds WHERE test_id = :test_id ORDER BY round DESC LIMIT 1", test_id=test_id)
    return _round_from(row)


def add_round(rows: Connection, test_id: str, one: Round) -> None:
    """Begin a round."""
    rows.run(
        "INSERT INTO ab_rounds (test_id, round, shares, assigned, started_at) "
        "VALUES (:test_id, :number, :shares, :assigned, :started_at)",
        test_id=test_id,
        number=one.number,
        shares=dumps(dict(one.shares)),
        assigned=one.assigned,
        started_at=micros(one.started_at),
    )


def assignment(rows: Connection, test_id: str, unit: str) -> tuple[str, int] | None:
    """The (variant, round) that a unit was given."""
    row = rows.one(
        "SELECT variant, round FROM ab_assignments WHERE test_id = :test_id AND unit = :unit",
        test_id=test_id,
        unit=unit,
    )
    return (row["variant"], row["round"]) if row else None


def assign(rows: Connection, test_id: str, unit: str, variant: str, number: int) -> None:
    """Give a unit its variant for good, and count it in its round."""
    rows.run(
        "INSERT INTO ab_assignments (test_id, unit, variant, round) VALUES (:test_id, :unit, :variant, :number)",
        test_id=test_id,
        unit=unit,
        variant=variant,
        number=number,
    )
    rows.run(
        "UPDATE ab_rounds SET assigned = assigned + 1 WHERE test_id = :test_id AND round = :number",
        test_id=test_id,
        number=number,
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


def drop_source(rows: Connection, test_id: str, source: str) -> int:
    """Forget a source's totals."""
    return rows.run(
        "DELETE FROM ab_sources WHERE test_id = :test_id AND source = :source", test_id=test_id, source=source
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
        tally.merge(Tally(histograms={LATENCY: histogram} if histogram else {}))
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
        Look(
            fraction=row["fraction"],
            alpha=row["alpha"],
            significant=tuple(json.loads(row["significant"])),
            p_values=json.loads(row["p_values"]),
            guardrails=json.loads(row["guardrails"]),
        )
        for row in found
    ]


def add_look(rows: Connection, test_id: str, number: int, look: Look, at: Instant) -> None:
    """Add a look."""
    rows.run(
        "INSERT INTO ab_looks (test_id, look, at, fraction, alpha, significant, p_values, guardrails) "
        "VALUES (:test_id, :look, :at, :fraction, :alpha, :significant, :p_values, :guardrails)",
        test_id=test_id,
        look=number,
        at=micros(at),
        fraction=look.fraction,
        alpha=look.alpha,
        significant=dumps(look.significant),
        p_values=dumps(look.p_values),
        guardrails=dumps(look.guardrails),
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
        exclusive_group=row["exclusive_group"],
        group_start=row["group_start"],
        metrics=from_plain(plan["metrics"]),
        inference=Inference(plan["inference"]),
        prior=None if plan["prior"] is None else (plan["prior"][0], plan["prior"][1]),
        holdouts=tuple(Held(**one) for one in plan["holdouts"]),
        winner=row["winner"],
        conclusion=row["conclusion"],
        **{name: plan[name] for name in PLAIN},
    )


def _plan(test: ABTest) -> str:
    """What is planned, as JSON; a start changes some of it, and what may be amended under way."""
    return dumps(
        {name: getattr(test, name) for name in (*PLAIN, "variants", "metrics", "inference", "prior", "holdouts")}
    )


def _round_from(row: Row) -> Round:
    return Round(
        number=row["round"],
        shares=json.loads(row["shares"]),
        assigned=row["assigned"],
        started_at=from_micros(row["started_at"]),
    )


def _micros(moment: Instant | None) -> int | None:
    return None if moment is None else micros(moment)


def _instant(value: int | None) -> Instant | None:
    return None if value is None else from_micros(value)
