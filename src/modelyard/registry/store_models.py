"""The rows of registered models and aliases. No statement here reads a model's versions, save the renaming."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.core.instants import from_micros, micros
from modelyard.core.models import RegisteredModel
from modelyard.core.ports import Connection, Row
from modelyard.registry import store_entries as entries
from modelyard.registry.checks import canonical_version, tag_text

CHUNK = 100
NAMED = (
    "registered_models",
    "model_versions",
    "model_aliases",
    "promotion_requests",
    "break_glass_moves",
    "model_renames",
    *entries.TABLES,
)


def add(rows: Connection, model: RegisteredModel, *, last_number: int = 0) -> bool:
    """Write a new model; False if it exists."""
    added = rows.run(
        "INSERT INTO registered_models"
        " (name, project, description, owner, licence, last_number, created_at, updated_at) VALUES"
        " (:name, :project, :description, :owner, :licence, :last_number, :created_at, :updated_at)"
        " ON CONFLICT (name) DO NOTHING",
        name=model.name,
        project=model.project,
        description=model.description,
        owner=model.owner,
        licence=model.licence,
        last_number=last_number,
        created_at=micros(model.created_at),
        updated_at=micros(model.updated_at),
    )
    if added:
        entries.add_tags(rows, model.name, entries.MODEL, model.tags)
        _index(rows, model)
    return added == 1


def next_number(rows: Connection, name: str, *, now: int) -> int | None:
    """The number that the model's next version has, taken; None if there is no such model."""
    row = rows.one(
        "UPDATE registered_models SET last_number = last_number + 1, updated_at = :now WHERE name = :name"
        " RETURNING last_number",
        name=name,
        now=now,
    )
    return None if row is None else int(row["last_number"])


def skip_to(rows: Connection, name: str, number: int) -> bool:
    """Make a number the model's next one; False if that is not greater than all so far, or there is no such model."""
    sql = "UPDATE registered_models SET last_number = :before WHERE name = :name AND last_number <= :before"
    return rows.run(sql, before=number - 1, name=name) == 1


def last_number(rows: Connection, name: str) -> int:
    """The greatest number that the model has given, 0 where there is no such model."""
    row = rows.one("SELECT last_number FROM registered_models WHERE name = :name", name=name)
    return 0 if row is None else int(row["last_number"])


def model(rows: Connection, name: str) -> RegisteredModel | None:
    """One model, or None."""
    row = rows.one("SELECT * FROM registered_models WHERE name = :name", name=name)
    return None if row is None else models_of(rows, [row])[0]


def names(rows: Connection, limit: int = 1_000) -> list[str]:
    """The models there are, by name."""
    found = rows.all("SELECT name FROM registered_models ORDER BY name LIMIT :limit", limit=limit)
    return [row["name"] for row in found]


def update(rows: Connection, model: RegisteredModel) -> None:
    """Write what may change of a model."""
    rows.run(
        "UPDATE registered_models SET project = :project, description = :description, owner = :owner,"
        " licence = :licence, updated_at = :updated_at WHERE name = :name",
        project=model.project,
        description=model.description,
        owner=model.owner,
        licence=model.licence,
        updated_at=micros(model.updated_at),
        name=model.name,
    )
    entries.set_tags(rows, model.name, entries.MODEL, model.tags)
    entries.clear(rows, "model_words", model.name, entries.MODEL)
    _index(rows, model)


def rename(rows: Connection, name: str, new_name: str, *, position: int) -> None:
    """Give everything of a model its new name; `position` is that of the event that tells of it."""
    values = {"name": name, "new": new_name}
    for table in NAMED:
        rows.run(f"UPDATE {table} SET name = :new WHERE name = :name", **values)
    rows.run(
        "UPDATE model_versions SET parent = :new || SUBSTR(parent, :length) WHERE parent >= :first AND parent < :last",
        new=new_name,
        length=len(name) + 1,
        first=f"{name}:",
        last=f"{name};",  # the character behind the colon
    )
    sql = "INSERT INTO model_renames (name, former, position) VALUES (:new, :name, :position)"
    rows.run(sql, **values, position=position)


def delete(rows: Connection, name: str) -> None:
    """Remove a model whose versions are gone."""
    rows.run("DELETE FROM registered_models WHERE name = :name", name=name)
    rows.run("DELETE FROM model_renames WHERE name = :name", name=name)
    for table in entries.TABLES:
        entries.clear(rows, table, name, entries.MODEL)


def bytes_of(rows: Connection, name: str) -> list[tuple[str, str]]:
    """(canonical version, digest) of every version: what a renaming or a deletion has to touch."""
    found = rows.all("SELECT canonical, digest FROM model_versions WHERE name = :name ORDER BY sort_key", name=name)
    return [(row["canonical"], row["digest"]) for row in found]


def aliases_of(rows: Connection, name: str) -> list[str]:
    """The aliases of a model."""
    sql = "SELECT alias FROM model_aliases WHERE name = :name ORDER BY alias"
    return [row["alias"] for row in rows.all(sql, name=name)]


def set_alias(rows: Connection, name: str, alias: str, version: str) -> None:
    """Point an alias at a version."""
    rows.run(
        "INSERT INTO model_aliases (name, alias, canonical) VALUES (:name, :alias, :canonical)"
        " ON CONFLICT (name, alias) DO UPDATE SET canonical = excluded.canonical",
        name=name,
        alias=alias,
        canonical=canonical_version(version),
    )


def remove_alias(rows: Connection, name: str, alias: str) -> bool:
    """Remove an alias; True if it was there."""
    return rows.run("DELETE FROM model_aliases WHERE name = :name AND alias = :alias", name=name, alias=alias) > 0


def models_of(rows: Connection, found: Sequence[Row]) -> list[RegisteredModel]:
    """The values of model rows, with their tags and aliases: two further queries for each hundred models."""
    tags: dict[str, list[str]] = {}
    aliases: dict[str, dict[str, str]] = {}
    for start in range(0, len(found), CHUNK):
        chunk = found[start : start + CHUNK]
        keys = {f"n{number}": row["name"] for number, row in enumerate(chunk)}
        wanted = ", ".join(f":{key}" for key in keys)
        sql = f"SELECT name, key, value FROM model_tags WHERE canonical = '' AND name IN ({wanted})"
        for row in rows.all(sql, **keys):
            tags.setdefault(row["name"], []).append(tag_text(row["key"], row["value"]))
        sql = (
            "SELECT a.name, a.alias, v.version FROM model_aliases a JOIN model_versions v"
            f" ON v.name = a.name AND v.canonical = a.canonical WHERE a.name IN ({wanted}) ORDER BY a.alias"
        )
        for row in rows.all(sql, **keys):
            aliases.setdefault(row["name"], {})[row["alias"]] = row["version"]
    return [
        RegisteredModel(
            name=row["name"],
            created_at=from_micros(row["created_at"]),
            updated_at=from_micros(row["updated_at"]),
            description=row["description"],
            tags=tuple(sorted(tags.get(row["name"], ()))),
            owner=row["owner"],
            project=row["project"],
            licence=row["licence"],
            aliases=aliases.get(row["name"], {}),
        )
        for row in found
    ]


def _index(rows: Connection, model: RegisteredModel) -> None:
    entries.add_words(rows, model.name, entries.MODEL, (model.name, model.description, *model.tags))
