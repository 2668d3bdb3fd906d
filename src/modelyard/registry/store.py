"""The rows of versions. Every question about one version is answered through an index, however many the model has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.core.canonical import digest, dumps
from modelyard.core.filters import Bound
from modelyard.core.instants import from_micros, micros
from modelyard.core.models import ModelStage, ModelVersion, References
from modelyard.core.packages import signature_of
from modelyard.core.ports import Connection, Row
from modelyard.registry import store_entries as entries
from modelyard.registry.checks import canonical_version, sort_key, tag_text

TEXTS = (  # columns that hold a value's attribute of the same name as it is
    "name",
    "version",
    "framework",
    "digest",
    "created_by",
    "description",
    "changelog",
    "trained_by",
    "training_data",
    "code_version",
    "run_id",
    "source",
    "parent",
)
COLUMNS = (
    *TEXTS,
    "canonical",
    "sort_key",
    "prerelease",
    "number",
    "stage",
    "size",
    "created_at",
    "updated_at",
    "metrics",
    "parameters",
    "repository",
    "commit_id",
    "dirty",
    "data_digest",
    "lock_digest",
    "signature",
    "example",
    "environment",
    "metadata",
)
ADD = (
    f"INSERT INTO model_versions ({', '.join(COLUMNS)}) VALUES ({', '.join(':' + column for column in COLUMNS)})"
    " ON CONFLICT (name, canonical) DO NOTHING"
)

CHUNK = 100


def add_version(rows: Connection, model: ModelVersion) -> bool:
    """Write a new version; False if it exists."""
    key, canonical = sort_key(model.version), canonical_version(model.version)
    added = rows.run(
        ADD,
        **{column: getattr(model, column) for column in TEXTS},
        canonical=canonical,
        sort_key=key,
        prerelease=int(not key.endswith("~")),
        number=model.number,
        stage=model.stage.value,
        size=model.size,
        created_at=micros(model.created_at),
        updated_at=micros(model.updated_at),
        metrics=dumps(model.metrics),
        parameters=dumps(model.parameters),
        repository=model.references.repository,
        commit_id=model.references.commit,
        dirty=int(model.references.dirty),
        data_digest=model.references.data_digest,
        lock_digest=model.references.lock_digest,
        signature=None if model.signature is None else dumps(model.signature),
        example=None if model.example is None else dumps(model.example),
        environment=dumps(model.environment),
        metadata=dumps(model.metadata),
    )
    if added:
        entries.add_tags(rows, model.name, canonical, model.tags)
        entries.add_metrics(rows, model.name, canonical, model.metrics)
        entries.add_parameters(rows, model.name, canonical, model.parameters)
        entries.add_words(rows, model.name, canonical, (model.description, *model.tags))
    return added == 1


def version(rows: Connection, name: str, number: str) -> ModelVersion | None:
    """One version, or None."""
    sql = "SELECT * FROM model_versions WHERE name = :name AND canonical = :canonical"
    row = rows.one(sql, name=name, canonical=canonical_version(number))
    return None if row is None else versions_of(rows, [row])[0]


def by_number(rows: Connection, name: str, number: int) -> ModelVersion | None:
    """The version with the model's own running number."""
    row = rows.one("SELECT * FROM model_versions WHERE name = :name AND number = :number", name=name, number=number)
    return None if row is None else versions_of(rows, [row])[0]


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
            return versions_of(rows, [row])[0]
    return None


def some_versions(rows: Connection, name: str, limit: int = 5) -> list[str]:
    """The highest few versions of a model, for an error message."""
    sql = "SELECT version FROM model_versions WHERE name = :name ORDER BY sort_key DESC LIMIT :limit"
    return [row["version"] for row in rows.all(sql, name=name, limit=limit)]


def some_in_stage(rows: Connection, name: str, stage: ModelStage) -> str | None:
    """A version of the model that is in the stage."""
    row = rows.one(
        "SELECT version FROM model_versions WHERE stage = :stage AND name = :name ORDER BY sort_key LIMIT 1",
        stage=stage.value,
        name=name,
    )
    return None if row is None else str(row["version"])


def newest_in_stages(rows: Connection, names: Sequence[str]) -> list[ModelVersion]:
    """The version with the highest number in each stage of each of the models."""
    places = ", ".join(f":n{position}" for position in range(len(names)))
    stages = " UNION ALL ".join(f"SELECT '{stage.value}' AS stage" for stage in ModelStage)
    found = rows.all(  # CROSS JOIN also tells SQLite the order of the loops: the versions innermost, by their numbers
        f"SELECT v.* FROM registered_models r CROSS JOIN ({stages}) s CROSS JOIN model_versions v"
        f" WHERE r.name IN ({places}) AND v.name = r.name AND v.number = (SELECT MAX(m.number) FROM model_versions m"
        " WHERE m.name = r.name AND m.stage = s.stage) ORDER BY v.name, v.number",
        **{f"n{position}": name for position, name in enumerate(names)},
    )
    return versions_of(rows, found)


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
        sql, values = entries.tagged(tag)
        parts.append(f"(v.name, v.canonical) IN ({sql})")
        wanted |= values
    if after is not None:
        parts.append("(v.name, v.sort_key, v.canonical) > (:after_name, :after_key, :after_version)")
        wanted |= {
            "after_name": after[0],
            "after_key": sort_key(after[1]),
            "after_version": canonical_version(after[1]),
        }
    where = f" WHERE {' AND '.join(parts)}" if parts else ""
    sql = f"SELECT v.* FROM model_versions v{where} ORDER BY v.name, v.sort_key, v.canonical LIMIT :limit"
    return versions_of(rows, rows.all(sql, **wanted))


def update(rows: Connection, model: ModelVersion) -> None:
    """Write what may change of a version, save its tags."""
    name, canonical = model.name, canonical_version(model.version)
    rows.run(
        "UPDATE model_versions SET description = :description, changelog = :changelog, metrics = :metrics,"
        " metadata = :metadata, updated_at = :updated_at WHERE name = :name AND canonical = :canonical",
        description=model.description,
        changelog=model.changelog,
        metrics=dumps(model.metrics),
        metadata=dumps(model.metadata),
        updated_at=micros(model.updated_at),
        name=name,
        canonical=canonical,
    )
    entries.clear(rows, "model_metrics", name, canonical)
    entries.add_metrics(rows, name, canonical, model.metrics)


def move(rows: Connection, model: ModelVersion) -> None:
    """Write a version's stage."""
    rows.run(
        "UPDATE model_versions SET stage = :stage, updated_at = :updated_at WHERE name = :name AND canonical = :canonical",
        stage=model.stage.value,
        updated_at=micros(model.updated_at),
        name=model.name,
        canonical=canonical_version(model.version),
    )


def delete(rows: Connection, name: str, number: str) -> None:
    """Remove a version and what belongs to it."""
    for table in ("model_versions", *entries.TABLES):
        entries.clear(rows, table, name, canonical_version(number))


def by_alias(rows: Connection, name: str, alias: str) -> ModelVersion | None:
    """The version that an alias points at."""
    row = rows.one(
        "SELECT v.* FROM model_aliases a JOIN model_versions v ON v.name = a.name AND v.canonical = a.canonical"
        " WHERE a.name = :name AND a.alias = :alias",
        name=name,
        alias=alias,
    )
    return None if row is None else versions_of(rows, [row])[0]


def evidence(model: ModelVersion) -> str:
    """The digest of the figures that an approval rests on."""
    return digest({"metrics": model.metrics, "parameters": model.parameters})


def events_of(rows: Connection, name: str, version: str) -> list[Row]:
    """What happened to a version, also under the names its model had before, the oldest first."""
    return rows.all(
        "SELECT e.* FROM events e WHERE e.resource_type = 'model' AND e.resource_id = :resource_id"
        " UNION ALL SELECT e.* FROM model_renames r JOIN events e ON e.resource_type = 'model'"
        " AND e.resource_id = r.former || ':' || :version AND e.position < r.position WHERE r.name = :name"
        " ORDER BY position",
        resource_id=f"{name}:{version}",
        name=name,
        version=version,
    )


def uploader(rows: Connection, digest: str) -> str:
    """Who brought the bytes here first; "" where they are not stored, or nobody is known to have."""
    row = rows.one("SELECT created_by FROM artifacts WHERE digest = :digest", digest=digest)
    return "" if row is None or row["created_by"] == "system" else str(row["created_by"])


def named_since(rows: Connection, name: str, spellings: Sequence[str]) -> int:
    """The position of the last event that gave the version its name: it was registered, or its model was renamed."""
    places = {f"r{number}": one for number, one in enumerate(spellings)}
    row = rows.one(
        "SELECT MAX(position) AS position FROM (SELECT MAX(position) AS position FROM events"
        " WHERE resource_type = 'model' AND event_type = 'model_registered'"
        f" AND resource_id IN ({', '.join(':' + place for place in places)})"
        " UNION ALL SELECT MAX(position) FROM model_renames WHERE name = :name) AS named",
        name=name,
        **places,
    )
    return int(row["position"] or 0) if row is not None else 0


def former_champions(rows: Connection, name: str, limit: int = 20) -> list[str]:
    """The versions of a model that were named its champion, the last one first."""
    escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    found = rows.all(
        "SELECT resource_id, details FROM events WHERE event_type = 'alias_set' AND resource_type = 'model'"
        " AND resource_id LIKE :of ESCAPE '\\' AND details LIKE '%\"champion\"%' ORDER BY position DESC LIMIT :limit",
        of=f"{escaped}:%",
        limit=limit,
    )
    return [row["resource_id"].rpartition(":")[2] for row in found if json.loads(row["details"])["alias"] == "champion"]


def versions_of(rows: Connection, found: Sequence[Row]) -> list[ModelVersion]:
    """The values of version rows, with their tags and aliases: two further queries for each hundred versions."""
    tags: dict[tuple[str, str], list[str]] = {}
    aliases: dict[tuple[str, str], list[str]] = {}
    for start in range(0, len(found), CHUNK):
        which, keys = _any_of(found[start : start + CHUNK])
        for row in rows.all(f"SELECT name, canonical, key, value FROM model_tags WHERE {which}", **keys):
            tags.setdefault((row["name"], row["canonical"]), []).append(tag_text(row["key"], row["value"]))
        for row in rows.all(f"SELECT name, canonical, alias FROM model_aliases WHERE {which}", **keys):
            aliases.setdefault((row["name"], row["canonical"]), []).append(row["alias"])
    return [_version(row, tags, aliases) for row in found]


def _any_of(found: Sequence[Row]) -> tuple[str, dict[str, Any]]:
    """What holds for the entries of these versions, model by model: for (name, canonical) IN (...) SQLite reads them all."""
    bound = Bound()
    by_name: dict[str, list[str]] = {}
    for row in found:
        by_name.setdefault(row["name"], []).append(bound.bind(row["canonical"]))
    parts = [f"(name = {bound.bind(name)} AND canonical IN ({', '.join(of)}))" for name, of in by_name.items()]
    return " OR ".join(parts), bound.values


def _version(
    row: Row, tags: Mapping[tuple[str, str], list[str]], aliases: Mapping[tuple[str, str], list[str]]
) -> ModelVersion:
    key = (row["name"], row["canonical"])
    texts: dict[str, Any] = {column: row[column] for column in TEXTS}
    return ModelVersion(
        **texts,
        number=row["number"],
        stage=ModelStage(row["stage"]),
        size=row["size"],
        created_at=from_micros(row["created_at"]),
        updated_at=from_micros(row["updated_at"]),
        metrics={name: float(value) for name, value in json.loads(row["metrics"]).items()},
        parameters=json.loads(row["parameters"]),
        tags=tuple(sorted(tags.get(key, ()))),
        aliases=tuple(sorted(aliases.get(key, ()))),
        references=References(
            repository=row["repository"],
            commit=row["commit_id"],
            dirty=bool(row["dirty"]),
            data_digest=row["data_digest"],
            lock_digest=row["lock_digest"],
        ),
        signature=None if row["signature"] is None else signature_of(json.loads(row["signature"])),
        example=None if row["example"] is None else json.loads(row["example"]),
        environment=json.loads(row["environment"]),
        metadata=json.loads(row["metadata"]),
    )
