"""A/B tests and holdouts as documents of the portable layout: plans, every arm's exact sums, units, rounds, spent looks."""

from __future__ import annotations

from collections.abc import Iterator

from modelyard.ab_testing.recording import Recorder
from modelyard.core.documents import Document, Kind, Table
from modelyard.core.ports import Connection
from modelyard.core.work import Store, Work

TESTS = Table(
    name="ab_tests",
    columns=(
        "test_id",
        "name",
        "description",
        "strategy",
        "status",
        "created_by",
        "created_at",
        "started_at",
        "ended_at",
        "exclusive_group",
        "group_start",
        "winner",
        "conclusion",
        "plan",
    ),
    times=frozenset({"created_at", "started_at", "ended_at"}),
    values=frozenset({"plan"}),
)
PARTS = {  # name in the document -> (table, what orders its rows); every row has the test's id besides
    "arms": (
        Table(name="ab_arms", columns=("variant", "round", "tally"), values=frozenset({"tally"})),
        "variant, round",
    ),
    "rounds": (
        Table(
            name="ab_rounds",
            columns=("round", "shares", "assigned", "started_at"),
            times=frozenset({"started_at"}),
            values=frozenset({"shares"}),
        ),
        "round",
    ),
    "assignments": (Table(name="ab_assignments", columns=("unit", "variant", "round")), "unit"),
    "sources": (
        Table(
            name="ab_sources",
            columns=("variant", "source", "generation", "requests", "errors", "latency"),
            values=frozenset({"latency"}),
        ),
        "variant, source, generation",
    ),
    "looks": (
        Table(
            name="ab_looks",
            columns=("look", "at", "fraction", "alpha", "significant", "p_values", "guardrails"),
            times=frozenset({"at"}),
            values=frozenset({"significant", "p_values", "guardrails"}),
        ),
        "look",
    ),
}


UNITS = Table(name="ab_parts", columns=("variant", "unit", "requests", "successes", "sums"), values=frozenset({"sums"}))
RESULTS = Table(
    name="ab_parts",
    columns=("result_id", "variant", "round", "unit", "success", "latency", "metrics"),
    values=frozenset({"metrics"}),
)


def fold(store: Store) -> None:
    """Bring what was recorded into the database, so that documents have it. Before the transaction that reads them."""
    Recorder(store).fold()


def _document(rows: Connection, test_id: str) -> Document | None:
    row = rows.one("SELECT * FROM ab_tests WHERE test_id = :test_id", test_id=test_id)
    if row is None:
        return None
    found: Document = {"test": TESTS.document(row)}
    for name, (table, order) in PARTS.items():
        sql = f"SELECT * FROM {table.name} WHERE test_id = :test_id"
        parts = [table.document(one) for one in rows.all(sql, test_id=test_id)]
        keys = order.split(", ")
        found[name] = sorted(parts, key=lambda part: [part[key] for key in keys])  # as no database's collation would
    from modelyard.ab_testing.remembered import results, units  # needs numpy

    found["units"] = [UNITS.document(one) for one in units(rows, test_id)]
    found["results"] = [RESULTS.document(one) for one in results(rows, test_id)]
    return found


def _every(rows: Connection) -> Iterator[Document]:
    for row in rows.all("SELECT test_id FROM ab_tests ORDER BY created_at, test_id"):
        found = _document(rows, row["test_id"])
        if found is not None:
            yield found


def _standing(rows: Connection, document: Document) -> Document | None:
    return _document(rows, document["test"]["test_id"])


def _write(work: Work, document: Document) -> None:
    TESTS.insert(work.rows, [document["test"]])
    test_id = document["test"]["test_id"]
    for name, (table, _) in PARTS.items():
        table.insert(work.rows, document[name], test_id=test_id)
    from modelyard.ab_testing.remembered import write_results_of, write_units_of  # needs numpy

    write_units_of(work.rows, test_id, [UNITS.row(one) for one in document["units"]])
    write_results_of(work.rows, test_id, [RESULTS.row(one) for one in document["results"]])


def _check(rows: Connection, document: Document) -> None:
    """A test that is not there can always be written."""


KIND = Kind(name="ab_tests", every=_every, standing=_standing, write=_write, check=_check)


HOLDOUT = Table(
    name="ab_holdouts",
    columns=("name", "share", "created_at", "created_by", "ended_at"),
    times=frozenset({"created_at", "ended_at"}),
)


def _holdouts(rows: Connection) -> Iterator[Document]:
    for row in rows.all("SELECT * FROM ab_holdouts ORDER BY name"):
        yield {"holdout": HOLDOUT.document(row)}


def _holdout(rows: Connection, document: Document) -> Document | None:
    row = rows.one("SELECT * FROM ab_holdouts WHERE name = :name", name=document["holdout"]["name"])
    return None if row is None else {"holdout": HOLDOUT.document(row)}


def _write_holdout(work: Work, document: Document) -> None:
    HOLDOUT.insert(work.rows, [document["holdout"]])


HOLDOUTS = Kind(name="holdouts", every=_holdouts, standing=_holdout, write=_write_holdout, check=_check)
