"""What one call of log-batch holds: decoded at once where it is as clients send it, field by field where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.server.mlflow import checks
from modelyard.server.mlflow.errors import Refused
from modelyard.server.mlflow.fields import (
    SEE,
    as_integer,
    as_number,
    as_text,
    decoded,
    objects,
    text,
    values_of,
    wrong_kind,
)


class Point(msgspec.Struct):
    """One value of a metric in a batch."""

    key: str
    value: float | str
    timestamp: int | str
    step: int | str = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class Entry(msgspec.Struct):
    """A parameter or a tag in a batch."""

    key: str
    value: str = ""


class Batch(msgspec.Struct):
    """What one call of log-batch holds."""

    run_id: str
    metrics: list[Point] = []
    params: list[Entry] = []
    tags: list[Entry] = []


_BATCH = msgspec.json.Decoder(Batch)


def read(body: bytes) -> dict[str, Any]:
    """The batch, and the names in it that decide which project it touches."""
    batch = _decoded(body)
    if not batch.run_id:
        raise Refused(f"Missing value for required parameter 'run_id'.{SEE}")
    return {"batch": batch, "run_id": batch.run_id, "model_id": {one.model_id for one in batch.metrics} - {""}}


def values(points: Sequence[Point]) -> list[tuple[str, float, int, int]]:
    """The points as the tracker takes them; what clients send as numbers passes as it is."""
    try:
        return [
            (
                one.key,
                one.value if type(one.value) is float else as_number(one.value),
                one.timestamp if type(one.timestamp) is int else as_integer(one.timestamp),
                one.step if type(one.step) is int else as_integer(one.step),
            )
            for one in points
        ]
    except (TypeError, ValueError, OverflowError):
        bad = next(one for one in points if not all(map(_is_number, (one.value, one.timestamp, one.step))))
        raise Refused(wrong_kind("metrics", [msgspec.to_builtins(bad)])) from None


def _is_number(value: float | str) -> bool:
    try:
        as_number(value)
    except ValueError:
        return False
    return True


def _decoded(body: bytes) -> Batch:
    """The batch, decoded at once where it is as clients send it, and field by field where it is not."""
    try:
        batch = _BATCH.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        batch = _slow_batch(decoded(body))
    if b"\\u0000" in body:
        _check_null(batch)
    return batch


def _check_null(batch: Batch) -> None:
    texts_of = [one for entry in (*batch.params, *batch.tags) for one in (entry.key, entry.value)]
    if any("\0" in one for one in (*texts_of, *(point.key for point in batch.metrics))):
        raise Refused("A text has a null character. Leave it out.")


def _slow_batch(sent: dict[str, Any]) -> Batch:
    fields = (text("run_id", required=True), objects("metrics"), objects("params"), objects("tags"))
    read = values_of(fields, sent)
    needed = {"metrics": ("key", "value", "timestamp"), "params": ("key",), "tags": ("key",)}
    for name, keys in needed.items():
        for place, one in enumerate(read.get(name, [])):
            for key in keys:
                if one.get(key) in (None, ""):
                    raise Refused(f"Missing value for required parameter '{name}[{place}].{key}'.{SEE}")
    try:
        return Batch(
            read["run_id"],
            [_slow_point(one) for one in read.get("metrics", [])],
            [_slow_entry(one) for one in read.get("params", [])],
            [_slow_entry(one) for one in read.get("tags", [])],
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused(wrong_kind("metrics", read.get("metrics"))[:2000]) from error


def _slow_point(sent: dict[str, Any]) -> Point:
    def told(name: str, old: str) -> str:
        return as_text(sent.get(name) or sent.get(old) or "")

    return Point(
        as_text(sent["key"]),
        as_number(sent["value"]),
        as_integer(sent["timestamp"]),
        as_integer(sent.get("step") or 0),
        told("model_id", "modelId"),
        told("dataset_name", "datasetName"),
        told("dataset_digest", "datasetDigest"),
    )


def _slow_entry(sent: dict[str, Any]) -> Entry:
    return Entry(as_text(sent["key"]), as_text(sent.get("value") or ""))


def check_key(key: str, points: Sequence[Point]) -> None:
    """Each key is checked once; which of the points has it is looked for only where it is bad."""
    if not key:
        place = next(place for place, point in enumerate(points) if not point.key)
        raise Refused(f"Missing value for required parameter 'metrics[{place}].key'.{SEE}")
    try:
        checks.metric_key(key)
    except Refused:
        place = next(place for place, point in enumerate(points) if point.key == key)
        checks.metric_key(key, f"metrics[{place}].name")


def check_once(keys: Sequence[str]) -> None:
    """Refused if a parameter is there twice."""
    twice = [key for place, key in enumerate(keys) if key in keys[:place]]
    if twice:
        raise Refused(
            f"Duplicate parameter keys have been submitted: {twice}. Please ensure the request contains only one param "
            "value per param key.",
        )
