"""The SQL of deployment: one function a statement, values in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelyard.core.canonical import dumps, plain
from modelyard.core.decisions import Decision
from modelyard.core.instants import from_micros, micros
from modelyard.core.measures import Measurement
from modelyard.core.ports import Connection, Row
from modelyard.core.refs import ModelRef
from modelyard.core.work import Work
from modelyard.deployment.rollouts import (
    Deployment,
    DeploymentStatus,
    Guardrail,
    HistoryEntry,
    PerformanceMetrics,
    Progress,
    RollbackConfig,
    Rollout,
    ShadowDeployment,
    Step,
    Terms,
    strategy_kept,
)

LIVE, REPORTED = "live", "reported"


def insert_deployment(rows: Connection, values: Mapping[str, Any]) -> None:
    """Add a deployment."""
    rows.run(
        "INSERT INTO deployments (deployment_id, source, endpoint, model_name, model_version, baseline, strategy, status, "
        "step, generation, step_started_at, created_by, created_at, updated_at, reason, plan, state) VALUES "
        "(:deployment_id, :source, :endpoint, :model_name, :model_version, :baseline, :strategy, :status, "
        ":step, :generation, :step_started_at, :created_by, :created_at, :updated_at, :reason, :plan, :state)",
        **values,
    )


def deployment_row(rows: Connection, deployment_id: str) -> Row | None:
    """One deployment."""
    return rows.one("SELECT * FROM deployments WHERE deployment_id = :deployment_id", deployment_id=deployment_id)


def deployment_rows(rows: Connection, endpoint: str, status: str) -> list[Row]:
    """Deployments, oldest first; an empty endpoint or status means any."""
    return rows.all(
        "SELECT * FROM deployments WHERE (:endpoint = '' OR endpoint = :endpoint) "
        "AND (:status = '' OR status = :status) ORDER BY created_at, deployment_id",
        endpoint=endpoint,
        status=status,
    )


def active_on(rows: Connection, endpoint: str) -> Row | None:
    """The live rollout that is under way on an endpoint."""
    return rows.one(
        "SELECT * FROM deployments WHERE endpoint = :endpoint AND source = 'live' "
        "AND status IN ('running', 'waiting', 'paused')",
        endpoint=endpoint,
    )


def active_rows(rows: Connection) -> list[Row]:
    """Every live rollout that is under way, oldest first."""
    return rows.all(
        "SELECT * FROM deployments WHERE source = 'live' AND status IN ('running', 'waiting', 'paused') "
        "ORDER BY created_at, deployment_id"
    )


def keeping(rows: Connection) -> list[Row]:
    """The completed live deployments that decided their endpoint's traffic last."""
    return rows.all(
        "SELECT * FROM deployments WHERE source = 'live' AND status = 'completed' AND generation = "
        "(SELECT max(one.generation) FROM deployments one WHERE one.source = 'live' AND one.endpoint = deployments.endpoint)"
    )


def newest_on(rows: Connection, endpoint: str) -> Row | None:
    """The live deployment that decided an endpoint's traffic last."""
    return rows.one(
        "SELECT * FROM deployments WHERE endpoint = :endpoint AND source = 'live' ORDER BY generation DESC LIMIT 1",
        endpoint=endpoint,
    )


def last_of(rows: Connection, endpoint: str, version: ModelRef) -> Row | None:
    """The last live deployment of a version on an endpoint."""
    return rows.one(
        "SELECT * FROM deployments WHERE endpoint = :endpoint AND source = 'live' AND model_name = :name "
        "AND model_version = :version ORDER BY generation DESC LIMIT 1",
        endpoint=endpoint,
        name=version.name,
        version=version.version,
    )


def save_deployment(rows: Connection, row: Mapping[str, Any]) -> None:
    """Write what changes in a deployment."""
    names = ("deployment_id", "status", "step", "generation", "step_started_at", "updated_at", "reason", "state")
    rows.run(
        "UPDATE deployments SET status = :status, step = :step, generation = :generation, "
        "step_started_at = :step_started_at, updated_at = :updated_at, reason = :reason, state = :state "
        "WHERE deployment_id = :deployment_id",
        **{name: row[name] for name in names},
    )


def next_generation(rows: Connection, endpoint: str, after: int = 0) -> int:
    """A generation of the endpoint's traffic above every earlier one, and above `after`."""
    row = rows.one(
        "INSERT INTO deployment_generations (endpoint, generation) VALUES (:endpoint, :first) "
        "ON CONFLICT (endpoint) DO UPDATE SET generation = CASE WHEN deployment_generations.generation >= :first "
        "THEN deployment_generations.generation + 1 ELSE :first END RETURNING generation",
        endpoint=endpoint,
        first=after + 1,
    )
    assert row is not None  # RETURNING always answers
    return int(row["generation"])


def add_history(work: Work, rollout_row: Mapping[str, Any], what: str, share: float, decision: Decision) -> None:
    """Write down what was decided and from which numbers."""
    work.rows.run(
        "INSERT INTO deployment_history (deployment_id, at, actor, what, step, share, generation, reasons, measurements) "
        "VALUES (:deployment_id, :at, :actor, :what, :step, :share, :generation, :reasons, :measurements)",
        deployment_id=rollout_row["deployment_id"],
        at=micros(work.now),
        actor=work.actor,
        what=what,
        step=rollout_row["step"],
        share=share,
        generation=rollout_row["generation"],
        reasons=dumps(decision.reasons),
        measurements=dumps(decision.measurements),
    )


def history_rows(rows: Connection, deployment_id: str) -> list[Row]:
    """What was decided about a deployment, oldest first."""
    return rows.all(
        "SELECT * FROM deployment_history WHERE deployment_id = :deployment_id ORDER BY position",
        deployment_id=deployment_id,
    )


def insert_shadow(rows: Connection, shadow: ShadowDeployment) -> None:
    """Add a shadow that is compared by hand."""
    rows.run(
        "INSERT INTO shadow_deployments (shadow_id, primary_model, shadow_model, traffic_percentage, created_by, "
        "created_at, counts) VALUES (:shadow_id, :primary_model, :shadow_model, :traffic_percentage, :created_by, "
        ":created_at, '{}')",
        shadow_id=shadow.shadow_id,
        primary_model=shadow.primary_model,
        shadow_model=shadow.shadow_model,
        traffic_percentage=shadow.traffic_percentage,
        created_by=shadow.created_by,
        created_at=micros(shadow.created_at),
    )


def shadow_row(rows: Connection, shadow_id: str) -> Row | None:
    """One shadow."""
    return rows.one("SELECT * FROM shadow_deployments WHERE shadow_id = :shadow_id", shadow_id=shadow_id)


def shadow_rows(rows: Connection) -> list[Row]:
    """Every shadow, oldest first."""
    return rows.all("SELECT * FROM shadow_deployments ORDER BY created_at, shadow_id")


def save_shadow_counts(rows: Connection, shadow_id: str, counts: Mapping[str, Any]) -> None:
    """Write a shadow's counts."""
    rows.run(
        "UPDATE shadow_deployments SET counts = :counts WHERE shadow_id = :shadow_id",
        shadow_id=shadow_id,
        counts=dumps(counts),
    )


def save_plan(rows: Connection, deployment_id: str, plan: str) -> None:
    """Write an amended plan."""
    rows.run(
        "UPDATE deployments SET plan = :plan WHERE deployment_id = :deployment_id",
        deployment_id=deployment_id,
        plan=plan,
    )


def look_row(rows: Connection, deployment_id: str) -> Row | None:
    """The last look at a deployment and who holds its lease."""
    return rows.one("SELECT * FROM deployment_looks WHERE deployment_id = :deployment_id", deployment_id=deployment_id)


def put_look(rows: Connection, deployment_id: str, *, controller: str, until: int, at: int, seen: str) -> None:
    """Write the last look and the lease."""
    rows.run(
        "INSERT INTO deployment_looks (deployment_id, controller, lease_until, at, seen) VALUES "
        "(:deployment_id, :controller, :until, :at, :seen) ON CONFLICT (deployment_id) DO UPDATE SET "
        "controller = excluded.controller, lease_until = excluded.lease_until, at = excluded.at, seen = excluded.seen",
        deployment_id=deployment_id,
        controller=controller,
        until=until,
        at=at,
        seen=seen,
    )


def end_leases(rows: Connection, controller: str) -> int:
    """Let go of every deployment that a controller holds; returns how many."""
    return rows.run(
        "UPDATE deployment_looks SET controller = '', lease_until = 0 WHERE controller = :controller",
        controller=controller,
    )


def ids(rows: Connection, table: str, column: str) -> list[str]:
    """Known identifiers, for the hint in an error; table and column are this module's own constants."""
    return [row["id"] for row in rows.all(f"SELECT {column} AS id FROM {table} ORDER BY created_at DESC LIMIT 20")]


def plan_text(steps: tuple[Step, ...], terms: Terms | None, reported: Mapping[str, Any] | None = None) -> str:
    """The part of a deployment that never changes, as JSON."""
    return dumps({"steps": steps, "terms": terms, **(reported or {})})


def state_text(progress: Progress) -> str:
    """What a controller resumes from, as JSON."""
    return dumps(plain(progress))


def progress_from(text: str) -> Progress:
    """The progress that `state_text` wrote."""
    data = json.loads(text)
    if "carried" not in data:
        return Progress()
    carried = {test: tuple(map(float, numbers)) for test, numbers in data["carried"].items()}
    guardrails = {name: tuple(map(float, numbers)) for name, numbers in data.get("guardrails", {}).items()}
    return Progress(**{**data, "carried": carried, "guardrails": guardrails, "held": tuple(data.get("held", ()))})


def rollout_from(row: Row) -> Rollout:
    """The rollout that a row holds. Its terms are those of the step that it is in."""
    plan = json.loads(row["plan"])
    steps, terms = tuple(Step(**step) for step in plan["steps"]), terms_from(plan["terms"]) or Terms()
    return Rollout(
        deployment_id=row["deployment_id"],
        endpoint=row["endpoint"],
        candidate=ModelRef(row["model_name"], row["model_version"]),
        baseline=ModelRef.parse(row["baseline"]) if row["baseline"] else None,
        strategy=strategy_kept(row["strategy"]),
        status=DeploymentStatus(row["status"]),
        steps=steps,
        terms=terms_in(terms, steps[row["step"]]),
        step=row["step"],
        generation=row["generation"],
        step_started_at=from_micros(row["step_started_at"]),
        progress=progress_from(row["state"]),
    )


def terms_from(data: Mapping[str, Any] | None) -> Terms | None:
    """The terms that a plan holds."""
    if not data:
        return None
    guardrails = tuple(Guardrail(**one) for one in data.get("guardrails", ()))
    return Terms(**{**data, "freeze": tuple(data.get("freeze", ())), "guardrails": guardrails})


def terms_in(terms: Terms, step: Step) -> Terms:
    """The terms as they hold in a step, which may ask for more or less than the others."""
    units = terms.minimum_units if step.minimum_units is None else step.minimum_units
    seconds = terms.minimum_seconds if step.minimum_seconds is None else step.minimum_seconds
    return replace(terms, minimum_units=units, minimum_seconds=seconds)


def deployment_from(row: Row, traffic: Any) -> Deployment:
    """The deployment that a row holds."""
    plan, state = json.loads(row["plan"]), json.loads(row["state"])
    return Deployment(
        deployment_id=row["deployment_id"],
        endpoint=row["endpoint"],
        model_name=row["model_name"],
        model_version=row["model_version"],
        baseline=row["baseline"],
        strategy=strategy_kept(row["strategy"]),
        status=DeploymentStatus(row["status"]),
        created_by=row["created_by"],
        created_at=from_micros(row["created_at"]),
        updated_at=from_micros(row["updated_at"]),
        step=row["step"],
        steps=tuple(Step(**step) for step in plan["steps"]),
        generation=row["generation"],
        reason=row["reason"],
        traffic=traffic,
        metrics=_metrics(state.get("metrics")),
        baseline_metrics=_metrics(plan.get("baseline_metrics")),
        rollback_config=RollbackConfig(**plan["rollback_config"]) if plan.get("rollback_config") else None,
        terms=terms_from(plan["terms"]),
    )


def _metrics(data: Mapping[str, Any] | None) -> PerformanceMetrics | None:
    return PerformanceMetrics(**data) if data is not None else None


def entry_from(row: Row) -> HistoryEntry:
    """The history entry that a row holds."""
    return HistoryEntry(
        at=from_micros(row["at"]),
        actor=row["actor"],
        what=row["what"],
        step=row["step"],
        share=row["share"],
        generation=row["generation"],
        reasons=tuple(json.loads(row["reasons"])),
        measurements=tuple(Measurement(**data) for data in json.loads(row["measurements"])),
    )


def shadow_from(row: Row) -> ShadowDeployment:
    """The shadow that a row holds."""
    return ShadowDeployment(
        shadow_id=row["shadow_id"],
        primary_model=row["primary_model"],
        shadow_model=row["shadow_model"],
        traffic_percentage=row["traffic_percentage"],
        created_by=row["created_by"],
        created_at=from_micros(row["created_at"]),
    )
