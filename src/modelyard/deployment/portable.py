"""Deployments, with every decision about them, and shadows as documents of the portable layout."""

from __future__ import annotations

from collections.abc import Iterator

from modelyard.core.documents import Document, Kind, Table
from modelyard.core.errors import Conflict
from modelyard.core.ports import Connection
from modelyard.core.work import Work
from modelyard.deployment import store
from modelyard.deployment.rollouts import DeploymentStatus

DEPLOYMENTS = Table(
    name="deployments",
    columns=(
        "deployment_id",
        "source",
        "endpoint",
        "model_name",
        "model_version",
        "baseline",
        "strategy",
        "status",
        "step",
        "generation",
        "step_started_at",
        "created_by",
        "created_at",
        "updated_at",
        "reason",
        "plan",
        "state",
    ),
    times=frozenset({"step_started_at", "created_at", "updated_at"}),
    values=frozenset({"plan", "state"}),
)
HISTORY = Table(
    name="deployment_history",
    columns=("at", "actor", "what", "step", "share", "generation", "reasons", "measurements"),
    times=frozenset({"at"}),
    values=frozenset({"reasons", "measurements"}),
)
SHADOWS = Table(
    name="shadow_deployments",
    columns=("shadow_id", "primary_model", "shadow_model", "traffic_percentage", "created_by", "created_at", "counts"),
    times=frozenset({"created_at"}),
    values=frozenset({"counts"}),
)
KEEP_ABOVE = """
INSERT INTO deployment_generations (endpoint, generation) VALUES (:endpoint, :generation)
ON CONFLICT (endpoint) DO UPDATE SET generation = excluded.generation
WHERE deployment_generations.generation < excluded.generation
"""


def _document(rows: Connection, deployment_id: str) -> Document | None:
    row = store.deployment_row(rows, deployment_id)
    if row is None:
        return None
    history = [HISTORY.document(one) for one in store.history_rows(rows, deployment_id)]
    return {"deployment": DEPLOYMENTS.document(row), "history": history}


def _every(rows: Connection) -> Iterator[Document]:
    for row in rows.all("SELECT deployment_id FROM deployments ORDER BY created_at, deployment_id"):
        found = _document(rows, row["deployment_id"])
        if found is not None:
            yield found


def _standing(rows: Connection, document: Document) -> Document | None:
    return _document(rows, document["deployment"]["deployment_id"])


def _check(rows: Connection, document: Document) -> None:
    """One rollout at a time may be under way on an endpoint."""
    row = document["deployment"]
    if row["source"] != store.LIVE or not DeploymentStatus(row["status"]).active:
        return
    other = store.active_on(rows, row["endpoint"])
    if other is not None:
        raise Conflict(
            f"The deployment {row['deployment_id']} is under way on {row['endpoint']}, and so is {other['deployment_id']} "
            "here. End one of them first."
        )


def _write(work: Work, document: Document) -> None:
    row = document["deployment"]
    DEPLOYMENTS.insert(work.rows, [row])
    HISTORY.insert(work.rows, document["history"], deployment_id=row["deployment_id"])
    if row["source"] == store.LIVE:
        work.rows.run(KEEP_ABOVE, endpoint=row["endpoint"], generation=row["generation"])


def _shadow(rows: Connection, shadow_id: str) -> Document | None:
    row = store.shadow_row(rows, shadow_id)
    return None if row is None else {"shadow": SHADOWS.document(row)}


def _every_shadow(rows: Connection) -> Iterator[Document]:
    for row in store.shadow_rows(rows):
        yield {"shadow": SHADOWS.document(row)}


def _standing_shadow(rows: Connection, document: Document) -> Document | None:
    return _shadow(rows, document["shadow"]["shadow_id"])


def _write_shadow(work: Work, document: Document) -> None:
    SHADOWS.insert(work.rows, [document["shadow"]])


def _check_shadow(rows: Connection, document: Document) -> None:
    """A shadow that is not there can always be written."""


KIND = Kind(name="deployments", every=_every, standing=_standing, write=_write, check=_check)
SHADOW_KIND = Kind(
    name="shadows", every=_every_shadow, standing=_standing_shadow, write=_write_shadow, check=_check_shadow
)
