"""The registry's rows. Every question about one version is answered through an index, however many the model has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelyard.core.canonical import digest, dumps
from modelyard.core.instants import from_micros, micros
from modelyard.core.models import ModelStage, ModelVersion
from modelyard.core.packages import signature_of
from modelyard.core.ports import Connection, Row
from modelyard.registry.rules import Approval, PromotionRequest, RequestStatus, canonical_version, sort_key

COLUMNS = [
    "name",
    "canonical",
    "version",
    "sort_key",
    "prerelease",
    "framework",
    "stage",
    "digest",
    "size",
    "created_by",
    "created_at",
    "updated_at",
    "description",
    "metrics",
    "parameters",
    "trained_by",
    "training_data",
    "code_version",
    "parent",
    "signature",
    "metadata",
]
ADD = (
    f"INSERT INTO model_versions ({', '.join(COLUMNS)}) VALUES ({', '.join(':' + column for column in COLUMNS)})"
    " ON CONFLICT (name, canonical) DO NOTHING"
)

CHUNK = 100


def add_version(rows: Connection, model: ModelVersion) -> bool:
    """Write a new version; False if it exists."""
    key = sort_key(model.version)
    added = rows.run(
        ADD,
        name=model.name,
        canonical=canonical_version(model.version),
        version=model.version,
        sort_key=key,
        prerelease=int(not key.endswith("~")),
        framework=model.framework,
        stage=model.stage.value,
        digest=model.digest,
        size=model.size,
        created_by=model.created_by,
        created_at=micros(model.created_at),
        updated_at=micros(model.updated_at),
        description=model.description,
        metrics=dumps(model.metrics),
        parameters=dumps(model.parameters),
        trained_by=model.trained_by,
        training_data=model.training_data,
        code_version=model.code_version,
        parent=model.parent,
        signature=None if model.signature is None else dumps(model.signature),
        metadata=dumps(model.metadata),
    )
    if added:
        set_tags(rows, model.name, model.version, model.tags)
    return added == 1


def version(rows: Connection, name: str, number: str) -> ModelVersion | None:
    """One version, or None."""
    sql = "SELECT * FROM model_versions WHERE name = :name AND canonical = :canonical"
    row = rows.one(sql, name=name, canonical=canonical_version(number))
    return None if row is None else _versions(rows, [row])[0]


def newest(rows: Connection, name: str) -> ModelVersion | None:
    """The highest release that is not archived, or else the highest pre-release."""
    for prerelease in (0, 1):
        row = rows.one(
            "SELECT * FROM model_versions WHERE name = :name AND prerelease = :prerelease AND stage <> 'archived'"
            " ORDER BY sort_key DESC LIMIT 1",
            name=name,
            prerelease=prerelease,
        )
        if row is not None:
            return _versions(rows, [row])[0]
    return None


def some_versions(rows: Connection, name: str, limit: int = 5) -> list[str]:
    """The highest few versions of a model, for an error message."""
    sql = "SELECT version FROM model_versions WHERE name = :name ORDER BY sort_key DESC LIMIT :limit"
    return [row["version"] for row in rows.all(sql, name=name, limit=limit)]


def model_names(rows: Connection, limit: int = 1_000) -> list[str]:
    """The models there are: one step through the index for each, not one for each version."""
    found: list[str] = []
    row = rows.one("SELECT MIN(name) AS name FROM model_versions")
    while row is not None and row["name"] is not None and len(found) < limit:
        found.append(row["name"])
        row = rows.one("SELECT MIN(name) AS name FROM model_versions WHERE name > :name", name=row["name"])
    return found


def versions(
    rows: Connection,
    *,
    name: str | None,
    stage: ModelStage | None,
    tag: str | None,
    after: tuple[str, str] | None,
    limit: int,
) -> list[ModelVersion]:
    """Versions by name, then as SemVer orders them; `after` is the (name, version) to go on from."""
    wanted: dict[str, Any] = {"limit": limit}
    parts = []
    if name is not None:
        parts.append("v.name = :name")
        wanted["name"] = name
    if stage is not None:
        parts.append("v.stage = :stage")
        wanted["stage"] = stage.value
    if tag is not None:
        parts.append(
            "EXISTS (SELECT 1 FROM model_tags t WHERE t.tag = :tag AND t.name = v.name AND t.canonical = v.canonical)"
        )
        wanted["tag"] = tag
    if after is not None:
        parts.append("(v.name, v.sort_key, v.canonical) > (:after_name, :after_key, :after_version)")
        wanted |= {
            "after_name": after[0],
            "after_key": sort_key(after[1]),
            "after_version": canonical_version(after[1]),
        }
    where = f" WHERE {' AND '.join(parts)}" if parts else ""
    sql = f"SELECT v.* FROM model_versions v{where} ORDER BY v.name, v.sort_key, v.canonical LIMIT :limit"
    return _versions(rows, rows.all(sql, **wanted))


def update(rows: Connection, model: ModelVersion) -> None:
    """Write what may change of a version."""
    rows.run(
        "UPDATE model_versions SET stage = :stage, description = :description, metrics = :metrics,"
        " metadata = :metadata, updated_at = :updated_at WHERE name = :name AND canonical = :canonical",
        stage=model.stage.value,
        description=model.description,
        metrics=dumps(model.metrics),
        metadata=dumps(model.metadata),
        updated_at=micros(model.updated_at),
        name=model.name,
        canonical=canonical_version(model.version),
    )


def delete(rows: Connection, name: str, number: str) -> None:
    """Remove a version and its tags."""
    for table in ("model_versions", "model_tags"):
        sql = f"DELETE FROM {table} WHERE name = :name AND canonical = :canonical"
        rows.run(sql, name=name, canonical=canonical_version(number))


def set_tags(rows: Connection, name: str, number: str, tags: Iterable[str]) -> None:
    """Replace a version's tags."""
    canonical = canonical_version(number)
    rows.run("DELETE FROM model_tags WHERE name = :name AND canonical = :canonical", name=name, canonical=canonical)
    rows.many(
        "INSERT INTO model_tags (name, canonical, tag) VALUES (:name, :canonical, :tag)",
        [{"name": name, "canonical": canonical, "tag": tag} for tag in tags],
    )


def by_alias(rows: Connection, name: str, alias: str) -> ModelVersion | None:
    """The version that an alias points at."""
    row = rows.one(
        "SELECT v.* FROM model_aliases a JOIN model_versions v ON v.name = a.name AND v.canonical = a.canonical"
        " WHERE a.name = :name AND a.alias = :alias",
        name=name,
        alias=alias,
    )
    return None if row is None else _versions(rows, [row])[0]


def aliases_of(rows: Connection, name: str) -> list[str]:
    """The aliases of a model."""
    sql = "SELECT alias FROM model_aliases WHERE name = :name ORDER BY alias"
    return [row["alias"] for row in rows.all(sql, name=name)]


def set_alias(rows: Connection, name: str, alias: str, number: str) -> None:
    """Point an alias at a version."""
    rows.run(
        "INSERT INTO model_aliases (name, alias, canonical) VALUES (:name, :alias, :canonical)"
        " ON CONFLICT (name, alias) DO UPDATE SET canonical = excluded.canonical",
        name=name,
        alias=alias,
        canonical=canonical_version(number),
    )


def remove_alias(rows: Connection, name: str, alias: str) -> bool:
    """Remove an alias; True if it was there."""
    return rows.run("DELETE FROM model_aliases WHERE name = :name AND alias = :alias", name=name, alias=alias) > 0


def evidence(model: ModelVersion) -> str:
    """The digest of the figures that an approval rests on."""
    return digest({"metrics": model.metrics, "parameters": model.parameters})


def add_request(rows: Connection, request: PromotionRequest) -> None:
    """Write a new request."""
    columns: dict[str, Any] = {
        "request_id": request.request_id,
        "name": request.name,
        "canonical": canonical_version(request.version),
        "version": request.version,
        "from_stage": request.from_stage.value,
        "target_stage": request.target_stage.value,
        "digest": request.digest,
        "evidence": request.evidence,
        "requested_by": request.requested_by,
        "justification": request.justification,
        "reviewers": dumps(request.reviewers),
        "quorum": request.quorum,
        "status": request.status.value,
        "created_at": micros(request.created_at),
        "decided_at": None,
        "reason": "",
    }
    names = ", ".join(columns)
    values = ", ".join(":" + column for column in columns)
    rows.run(f"INSERT INTO promotion_requests ({names}) VALUES ({values})", **columns)


def open_request(rows: Connection, name: str, number: str) -> PromotionRequest | None:
    """The one open request of a version."""
    row = rows.one(
        "SELECT * FROM promotion_requests WHERE name = :name AND canonical = :canonical AND status = 'open'",
        name=name,
        canonical=canonical_version(number),
    )
    return None if row is None else _request(rows, row)


def requests(
    rows: Connection, *, name: str | None, version: str | None, status: RequestStatus | None, limit: int
) -> list[PromotionRequest]:
    """Requests, the newest first."""
    wanted: dict[str, Any] = {"limit": limit}
    parts = []
    if name is not None:
        parts.append("name = :name")
        wanted["name"] = name
    if version is not None:
        parts.append("canonical = :canonical")
        wanted["canonical"] = canonical_version(version)
    if status is not None:
        parts.append("status = :status")
        wanted["status"] = status.value
    where = f" WHERE {' AND '.join(parts)}" if parts else ""
    sql = f"SELECT * FROM promotion_requests{where} ORDER BY created_at DESC, request_id LIMIT :limit"
    return [_request(rows, row) for row in rows.all(sql, **wanted)]


def decide(rows: Connection, request_id: str, status: RequestStatus, *, now: int, reason: str) -> None:
    """Close a request."""
    rows.run(
        "UPDATE promotion_requests SET status = :status, decided_at = :now, reason = :reason"
        " WHERE request_id = :request_id",
        status=status.value,
        now=now,
        reason=reason,
        request_id=request_id,
    )


def add_approval(rows: Connection, request_id: str, person: str, approval: Approval) -> bool:
    """Write a person's yes; False if the person said it before."""
    return (
        rows.run(
            "INSERT INTO promotion_approvals (request_id, person, approver, comment, approved_at)"
            " VALUES (:request_id, :person, :approver, :comment, :approved_at)"
            " ON CONFLICT (request_id, person) DO NOTHING",
            request_id=request_id,
            person=person,
            approver=approval.approver,
            comment=approval.comment,
            approved_at=micros(approval.at),
        )
        == 1
    )


def events_of(rows: Connection, resource_id: str) -> list[Row]:
    """What happened to a version, the oldest first."""
    return rows.all(
        "SELECT * FROM events WHERE resource_type = 'model' AND resource_id = :resource_id ORDER BY position",
        resource_id=resource_id,
    )


def _versions(rows: Connection, found: Sequence[Row]) -> list[ModelVersion]:
    """The values of version rows, with their tags and aliases: two further queries for each hundred versions."""
    tags: dict[tuple[str, str], list[str]] = {}
    aliases: dict[tuple[str, str], list[str]] = {}
    for start in range(0, len(found), CHUNK):
        chunk = found[start : start + CHUNK]
        wanted = ", ".join(f"(:n{number}, :c{number})" for number in range(len(chunk)))
        keys = {f"n{number}": row["name"] for number, row in enumerate(chunk)}
        keys |= {f"c{number}": row["canonical"] for number, row in enumerate(chunk)}
        for column, table, words in (("tag", "model_tags", tags), ("alias", "model_aliases", aliases)):
            sql = f"SELECT name, canonical, {column} AS word FROM {table} WHERE (name, canonical) IN (VALUES {wanted})"
            for row in rows.all(sql, **keys):
                words.setdefault((row["name"], row["canonical"]), []).append(row["word"])
    return [_version(row, tags, aliases) for row in found]


def _version(
    row: Row, tags: Mapping[tuple[str, str], list[str]], aliases: Mapping[tuple[str, str], list[str]]
) -> ModelVersion:
    key = (row["name"], row["canonical"])
    return ModelVersion(
        name=row["name"],
        version=row["version"],
        framework=row["framework"],
        stage=ModelStage(row["stage"]),
        digest=row["digest"],
        size=row["size"],
        created_by=row["created_by"],
        created_at=from_micros(row["created_at"]),
        updated_at=from_micros(row["updated_at"]),
        description=row["description"],
        metrics={name: float(value) for name, value in json.loads(row["metrics"]).items()},
        parameters=json.loads(row["parameters"]),
        tags=tuple(sorted(tags.get(key, ()))),
        aliases=tuple(sorted(aliases.get(key, ()))),
        trained_by=row["trained_by"],
        training_data=row["training_data"],
        code_version=row["code_version"],
        parent=row["parent"],
        signature=None if row["signature"] is None else signature_of(json.loads(row["signature"])),
        metadata=json.loads(row["metadata"]),
    )


def _request(rows: Connection, row: Row) -> PromotionRequest:
    given = rows.all(
        "SELECT approver, comment, approved_at FROM promotion_approvals WHERE request_id = :request_id"
        " ORDER BY approved_at, person",
        request_id=row["request_id"],
    )
    return PromotionRequest(
        request_id=row["request_id"],
        name=row["name"],
        version=row["version"],
        from_stage=ModelStage(row["from_stage"]),
        target_stage=ModelStage(row["target_stage"]),
        digest=row["digest"],
        evidence=row["evidence"],
        requested_by=row["requested_by"],
        justification=row["justification"],
        reviewers=tuple(json.loads(row["reviewers"])),
        quorum=row["quorum"],
        status=RequestStatus(row["status"]),
        created_at=from_micros(row["created_at"]),
        decided_at=None if row["decided_at"] is None else from_micros(row["decided_at"]),
        reason=row["reason"],
        approvals=tuple(
            Approval(approver=one["approver"], comment=one["comment"], at=from_micros(one["approved_at"]))
            for one in given
        ),
    )
