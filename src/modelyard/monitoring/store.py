"""The monitoring area's SQL, one function a statement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modelyard.core.ports import Connection, Row


def monitor(rows: Connection, model: str) -> Row | None:
    """A monitor's reference and watch."""
    return rows.one(
        "SELECT sensitivity, set_at, profile, tally, watch FROM monitors WHERE model = :model",
        model=model,
    )


def models(rows: Connection) -> list[str]:
    """Every model version that has a reference or a logged prediction."""
    found = rows.all("SELECT model FROM monitors UNION SELECT model FROM monitor_minutes ORDER BY model")
    return [row["model"] for row in found]


def put_monitor(rows: Connection, **values: Any) -> None:
    """Set or replace a monitor's reference; the watch starts anew."""
    rows.run(
        """
        INSERT INTO monitors (model, sensitivity, set_at, profile, tally, watch)
        VALUES (:model, :sensitivity, :set_at, :profile, :tally, NULL)
        ON CONFLICT (model) DO UPDATE SET sensitivity = excluded.sensitivity, set_at = excluded.set_at,
            profile = excluded.profile, tally = excluded.tally, watch = NULL
        """,
        **values,
    )


def set_watch(rows: Connection, model: str, watch: str) -> None:
    """Keep the state of the life-long test."""
    rows.run("UPDATE monitors SET watch = :watch WHERE model = :model", model=model, watch=watch)


def known_requests(rows: Connection, model: str, request_ids: Iterable[str]) -> set[str]:
    """Which of the request ids are logged already."""
    sql = "SELECT request_id FROM monitor_predictions WHERE model = :model AND request_id = :request_id"
    return {one for one in request_ids if rows.one(sql, model=model, request_id=one) is not None}


def add_predictions(rows: Connection, entries: Iterable[Mapping[str, Any]]) -> None:
    """Log predictions."""
    rows.many(
        """
        INSERT INTO monitor_predictions
            (model, request_id, at, prediction, probability, features, outcome, latency_ms, failed)
        VALUES (:model, :request_id, :at, :prediction, :probability, :features, :outcome, :latency_ms, :failed)
        """,
        entries,
    )


def prediction(rows: Connection, model: str, request_id: str) -> Row | None:
    """One logged prediction."""
    return rows.one(
        "SELECT request_id, at, prediction, probability, features, outcome, latency_ms, failed "
        "FROM monitor_predictions WHERE model = :model AND request_id = :request_id",
        model=model,
        request_id=request_id,
    )


def set_outcome(rows: Connection, model: str, request_id: str, outcome: str) -> None:
    """Keep what turned out to be true."""
    rows.run(
        "UPDATE monitor_predictions SET outcome = :outcome WHERE model = :model AND request_id = :request_id",
        model=model,
        request_id=request_id,
        outcome=outcome,
    )


def recent_features(rows: Connection, model: str, limit: int) -> list[str]:
    """The features of the newest predictions, newest first, as JSON texts."""
    found = rows.all(
        "SELECT features FROM monitor_predictions WHERE model = :model ORDER BY at DESC LIMIT :limit",
        model=model,
        limit=limit,
    )
    return [row["features"] for row in found]


def forget_before(rows: Connection, model: str, at: int) -> int:
    """Delete the predictions logged for times before `at`; the tallies stay."""
    return rows.run("DELETE FROM monitor_predictions WHERE model = :model AND at < :at", model=model, at=at)


def forget_requests(rows: Connection, request_ids: Iterable[str]) -> int:
    """Delete the predictions of these requests; the tallies stay."""
    sql = "DELETE FROM monitor_predictions WHERE request_id = :request_id"
    return sum(rows.run(sql, request_id=one) for one in request_ids)


def minute(rows: Connection, model: str, minute: int) -> str | None:
    """One minute's tally."""
    row = rows.one(
        "SELECT tally FROM monitor_minutes WHERE model = :model AND minute = :minute",
        model=model,
        minute=minute,
    )
    return None if row is None else str(row["tally"])


def put_minute(rows: Connection, model: str, minute: int, tally: str) -> None:
    """Set one minute's tally."""
    rows.run(
        "INSERT INTO monitor_minutes (model, minute, tally) VALUES (:model, :minute, :tally) "
        "ON CONFLICT (model, minute) DO UPDATE SET tally = excluded.tally",
        model=model,
        minute=minute,
        tally=tally,
    )


def minutes(rows: Connection, model: str, since: int) -> list[str]:
    """The tallies from a minute on."""
    found = rows.all(
        "SELECT tally FROM monitor_minutes WHERE model = :model AND minute >= :since", model=model, since=since
    )
    return [row["tally"] for row in found]


def add_check(rows: Connection, **values: Any) -> None:
    """Keep one look at a window."""
    rows.run(
        "INSERT INTO monitor_checks (model, at, row_count, alert_count, alerts) "
        "VALUES (:model, :at, :row_count, :alert_count, :alerts)",
        **values,
    )


def last_checks(rows: Connection, model: str, limit: int, least: int) -> list[str]:
    """The alerts of the newest checks with at least that many of them, newest first, as JSON texts."""
    found = rows.all(
        "SELECT alerts FROM monitor_checks WHERE model = :model AND alert_count >= :least "
        "ORDER BY check_id DESC LIMIT :limit",
        model=model,
        limit=limit,
        least=least,
    )
    return [row["alerts"] for row in found]
