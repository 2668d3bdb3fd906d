"""The serving area's statements."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from modelyard.core.canonical import dumps
from modelyard.core.instants import micros
from modelyard.core.models import Signature
from modelyard.core.ports import Connection, Row
from modelyard.core.traffic import GuardTrip, Traffic
from modelyard.core.work import Work
from modelyard.serving.values import Compiled, EndpointConfig, Installed, Used

LOOKED_UP = 500  # ids in one statement


def traffic_of(rows: Connection, endpoint: str) -> Traffic | None:
    """The endpoint's routing, None for an unknown one."""
    row = rows.one("SELECT traffic FROM serving_endpoints WHERE endpoint = :endpoint", endpoint=endpoint)
    return None if row is None else _value(row["traffic"], Traffic)


def generations(rows: Connection) -> dict[str, int]:
    """The generation of every endpoint's routing."""
    return dict(rows.tuples("SELECT endpoint, generation FROM serving_endpoints"))


def all_traffic(rows: Connection) -> list[Traffic]:
    """The routing of every endpoint, by name."""
    found = rows.all("SELECT traffic FROM serving_endpoints ORDER BY endpoint")
    return [_value(row["traffic"], Traffic) for row in found]


def put_traffic(work: Work, traffic: Traffic) -> None:
    """Make this the endpoint's routing."""
    work.rows.run(
        "INSERT INTO serving_endpoints (endpoint, generation, traffic, created_at, updated_at) "
        "VALUES (:endpoint, :generation, :traffic, :now, :now) "
        "ON CONFLICT (endpoint) DO UPDATE SET generation = :generation, traffic = :traffic, updated_at = :now",
        endpoint=traffic.endpoint,
        generation=traffic.generation,
        traffic=dumps(traffic),
        now=micros(work.now),
    )


def remove_endpoint(work: Work, endpoint: str) -> None:
    """Forget the endpoint's routing and settings."""
    work.rows.run("DELETE FROM serving_endpoints WHERE endpoint = :endpoint", endpoint=endpoint)
    work.rows.run("DELETE FROM serving_settings WHERE endpoint = :endpoint", endpoint=endpoint)
    work.rows.run("DELETE FROM serving_experiments WHERE experiment_id = :endpoint", endpoint=endpoint)
    work.rows.run("DELETE FROM serving_fleet WHERE endpoint = :endpoint", endpoint=endpoint)


def config_of(rows: Connection, endpoint: str) -> EndpointConfig:
    """The endpoint's settings, the defaults where none were given."""
    row = rows.one("SELECT config FROM serving_settings WHERE endpoint = :endpoint", endpoint=endpoint)
    return EndpointConfig() if row is None else _value(row["config"], EndpointConfig)


def put_config(work: Work, endpoint: str, config: EndpointConfig) -> None:
    """Keep the endpoint's settings."""
    work.rows.run(
        "INSERT INTO serving_settings (endpoint, config) VALUES (:endpoint, :config) "
        "ON CONFLICT (endpoint) DO UPDATE SET config = :config",
        endpoint=endpoint,
        config=dumps(config),
    )


def put_model(work: Work, installed: Installed) -> None:
    """Make a version known, or known anew under another path."""
    work.rows.run(
        "INSERT INTO serving_models (model, version, path, framework, compiled, signature, uses, code, installed_at) "
        "VALUES (:model, :version, :path, :framework, :compiled, :signature, :uses, :code, :now) "
        "ON CONFLICT (model, version) DO UPDATE SET path = :path, framework = :framework, compiled = :compiled, "
        "signature = :signature, uses = :uses, code = :code, installed_at = :now",
        model=installed.model,
        version=installed.version,
        path=installed.path,
        framework=installed.framework,
        compiled=dumps(installed.compiled),
        signature=dumps(installed.signature),
        uses=dumps(installed.uses),
        code=installed.code,
        now=micros(work.now),
    )


def all_models(rows: Connection) -> list[Installed]:
    """Every installed version."""
    found = rows.all(
        "SELECT model, version, path, framework, compiled, signature, uses, code FROM serving_models "
        "ORDER BY model, version"
    )
    return [_installed(row) for row in found]


def _installed(row: Row) -> Installed:
    return Installed(
        model=row["model"],
        version=row["version"],
        path=row["path"],
        framework=row["framework"],
        compiled=_value(row["compiled"], Compiled | None),
        signature=_value(row["signature"], Signature | None),
        uses=_value(row["uses"], tuple[Used, ...]),
        code=row["code"],
    )


def add_trip(work: Work, trip: GuardTrip) -> bool:
    """Keep a decision; False if that step's is known already."""
    return bool(
        work.rows.run(
            "INSERT INTO serving_trips (rollout_id, step, endpoint, trip, recorded_at) "
            "VALUES (:rollout_id, :step, :endpoint, :trip, :now) ON CONFLICT (rollout_id, step) DO NOTHING",
            rollout_id=trip.rollout_id,
            step=trip.step,
            endpoint=trip.endpoint,
            trip=dumps(trip),
            now=micros(work.now),
        )
    )


def all_trips(rows: Connection) -> list[GuardTrip]:
    """Every decision that is kept, in the order of recording."""
    found = rows.all("SELECT trip FROM serving_trips ORDER BY recorded_at, rollout_id, step")
    return [_value(row["trip"], GuardTrip) for row in found]


def add_experiment(work: Work, experiment_id: str, control: str) -> bool:
    """Note an experiment's control; False if the experiment is known already."""
    return bool(
        work.rows.run(
            "INSERT INTO serving_experiments (experiment_id, control, created_at) VALUES (:experiment_id, :control, :now) "
            "ON CONFLICT (experiment_id) DO NOTHING",
            experiment_id=experiment_id,
            control=control,
            now=micros(work.now),
        )
    )


def control_of(rows: Connection, experiment_id: str) -> str | None:
    """The experiment's control, None for an unknown one."""
    row = rows.one("SELECT control FROM serving_experiments WHERE experiment_id = :id", id=experiment_id)
    return None if row is None else str(row["control"])


def outcomes_of(rows: Connection, endpoint: str, ids: Sequence[str]) -> dict[tuple[str, int], tuple[str, int]]:
    """(request id, row) -> (outcome as canonical JSON, when it became known in microseconds), of these requests."""
    found: dict[tuple[str, int], tuple[str, int]] = {}
    for start in range(0, len(ids), LOOKED_UP):
        some = {f"id{place}": one for place, one in enumerate(ids[start : start + LOOKED_UP])}
        names = ", ".join(f":{name}" for name in some)
        for request_id, row, value, at in rows.tuples(
            "SELECT request_id, row_number, value, known_at FROM serving_outcomes "
            f"WHERE endpoint = :endpoint AND request_id IN ({names})",
            endpoint=endpoint,
            **some,
        ):
            found[request_id, row] = (value, at)
    return found


def outcome_value(text: str) -> Any:
    """The outcome that canonical JSON tells."""
    return json.loads(text)


def put_outcomes(work: Work, endpoint: str, told: Iterable[Any]) -> None:
    """Keep outcomes, each in the place of the one before."""
    now = micros(work.now)
    work.rows.many(
        "INSERT INTO serving_outcomes (endpoint, request_id, row_number, value, known_at, recorded_at, told) "
        "VALUES (:endpoint, :request_id, :row, :value, :at, :now, 0) "
        "ON CONFLICT (endpoint, request_id, row_number) "
        "DO UPDATE SET value = :value, known_at = :at, recorded_at = :now, told = 0",
        [
            {
                "endpoint": endpoint,
                "request_id": one.request_id,
                "row": one.row,
                "value": dumps(one.value),
                "at": one.at,
                "now": now,
            }
            for one in told
        ],
    )


def untold_outcomes(rows: Connection, endpoint: str, told: int, since: int, most: int) -> list[Row]:
    """The outcomes in a state that were recorded from a moment on, oldest first."""
    return rows.all(
        "SELECT request_id, row_number, value, known_at FROM serving_outcomes WHERE endpoint = :endpoint AND told = :told "
        "AND recorded_at >= :since ORDER BY recorded_at, request_id, row_number LIMIT :most",
        endpoint=endpoint,
        told=told,
        since=since,
        most=most,
    )


def set_told(work: Work, endpoint: str, keys: Iterable[tuple[str, int]], told: int) -> None:
    """Note what became of outcomes."""
    work.rows.many(
        "UPDATE serving_outcomes SET told = :told "
        "WHERE endpoint = :endpoint AND request_id = :request_id AND row_number = :row",
        [{"told": told, "endpoint": endpoint, "request_id": one, "row": row} for one, row in keys],
    )


def confirm_told(work: Work, endpoint: str, told: Iterable[tuple[str, int, Any]]) -> None:
    """Note that outcomes (request id, row, value) have been handed on; one that was corrected meanwhile is news again."""
    work.rows.many(
        "UPDATE serving_outcomes SET told = CASE WHEN value = :value THEN 1 ELSE 0 END "
        "WHERE endpoint = :endpoint AND request_id = :request_id AND row_number = :row",
        [{"endpoint": endpoint, "request_id": one, "row": row, "value": dumps(value)} for one, row, value in told],
    )


def erase_outcomes(work: Work, endpoint: str, ids: Sequence[str]) -> int:
    """Forget the outcomes of these requests; returns how many."""
    sql = "DELETE FROM serving_outcomes WHERE endpoint = :endpoint AND request_id = :request_id"
    return sum(work.rows.run(sql, endpoint=endpoint, request_id=one) for one in ids)


def drop_outcomes(work: Work, endpoint: str, *, before: int) -> int:
    """Forget the outcomes that were recorded before a moment in microseconds; returns how many."""
    return work.rows.run(
        "DELETE FROM serving_outcomes WHERE endpoint = :endpoint AND recorded_at < :before",
        endpoint=endpoint,
        before=before,
    )


def _value(text: str, kind: Any) -> Any:
    return msgspec.convert(json.loads(text), kind, str_keys=True)
