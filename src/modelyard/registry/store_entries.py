"""The rows that searches look up by key, value or word: tags, metrics, parameters and words.

Each belongs to a version (name, canonical) or, with "" for canonical, to the model itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.ports import Connection
from modelyard.registry.checks import split_tag, words_of

TABLES = ("model_tags", "model_metrics", "model_parameters", "model_words", "model_scores")
MODEL = ""  # the canonical of rows that belong to the model itself
HEAD = 100  # characters of a value that its index entry has


def clear(rows: Connection, table: str, name: str, canonical: str) -> None:
    """Remove what a table has of a version."""
    rows.run(f"DELETE FROM {table} WHERE name = :name AND canonical = :canonical", name=name, canonical=canonical)


def add_tags(rows: Connection, name: str, canonical: str, tags: Iterable[str]) -> None:
    """Write tags that are not there yet."""
    for tag in tags:
        key, value = split_tag(tag)
        put_tag(rows, name, canonical, key, value)


def put_tag(rows: Connection, name: str, canonical: str, key: str, value: str | None) -> None:
    """Write a tag, in place of the one with this key."""
    rows.run(
        "INSERT INTO model_tags (name, canonical, key, value, head) VALUES (:name, :canonical, :key, :value, :head)"
        " ON CONFLICT (name, canonical, key) DO UPDATE SET value = excluded.value, head = excluded.head",
        name=name,
        canonical=canonical,
        key=key,
        value=value,
        head=None if value is None else value[:HEAD],
    )


def remove_tag(rows: Connection, name: str, canonical: str, key: str) -> bool:
    """Remove a tag; True if it was there."""
    sql = "DELETE FROM model_tags WHERE name = :name AND canonical = :canonical AND key = :key"
    return rows.run(sql, name=name, canonical=canonical, key=key) > 0


def set_tags(rows: Connection, name: str, canonical: str, tags: Iterable[str]) -> None:
    """Replace the tags."""
    clear(rows, "model_tags", name, canonical)
    add_tags(rows, name, canonical, tags)


def tagged(tag: str) -> tuple[str, dict[str, Any]]:
    """The query for what has exactly this tag, and its values."""
    key, value = split_tag(tag)
    if value is None:
        return "SELECT name, canonical FROM model_tags WHERE key = :tag_key AND value IS NULL", {"tag_key": key}
    sql = "SELECT name, canonical FROM model_tags WHERE key = :tag_key AND head = :tag_head AND value = :tag_value"
    return sql, {"tag_key": key, "tag_head": value[:HEAD], "tag_value": value}


def add_metrics(rows: Connection, name: str, canonical: str, metrics: Mapping[str, float]) -> None:
    """Write metrics that are not there yet."""
    if metrics:
        rows.many(
            "INSERT INTO model_metrics (name, canonical, key, value) VALUES (:name, :canonical, :key, :value)",
            [{"name": name, "canonical": canonical, "key": key, "value": value} for key, value in metrics.items()],
        )


def add_parameters(rows: Connection, name: str, canonical: str, parameters: Mapping[str, Any]) -> None:
    """Write parameters that are not there yet: a text as it is, anything else as JSON, a number also as one."""
    found = []
    for key, value in parameters.items():
        text = value if isinstance(value, str) else dumps(value)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        number = float(value) if is_number else None
        row = {"name": name, "canonical": canonical, "key": key}
        found.append({**row, "value": text, "head": text[:HEAD], "number": number})
    if found:
        rows.many(
            "INSERT INTO model_parameters (name, canonical, key, value, head, number)"
            " VALUES (:name, :canonical, :key, :value, :head, :number)",
            found,
        )


def add_words(rows: Connection, name: str, canonical: str, texts: Iterable[str]) -> None:
    """Write the words of texts, where none are written yet."""
    words = words_of(*texts)
    if words:
        rows.many(
            "INSERT INTO model_words (name, canonical, word) VALUES (:name, :canonical, :word)",
            [{"name": name, "canonical": canonical, "word": word} for word in words],
        )


def set_words(rows: Connection, name: str, canonical: str, texts: Iterable[str]) -> None:
    """Replace the words."""
    clear(rows, "model_words", name, canonical)
    add_words(rows, name, canonical, texts)
