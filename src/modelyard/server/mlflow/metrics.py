"""The routes by which runs log: metrics, parameters, tags, batches, datasets and models; and metric histories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.core.errors import NotFound
from modelyard.server.mlflow import checks, filters, runs, views
from modelyard.server.mlflow.calls import NOTHING, Call, route
from modelyard.server.mlflow.errors import INVALID, UNKNOWN, Refused
from modelyard.server.mlflow.experiments import READ, WRITE
from modelyard.server.mlflow.fields import (
    RUN_ID,
    SEE,
    as_integer,
    as_number,
    as_text,
    decoded,
    integer,
    number,
    objects,
    text,
    texts,
    values_of,
    wrong_kind,
)
from modelyard.server.mlflow.runs import TOUCHES, of_run
from modelyard.tracking import Dataset, DatasetInput, Metric, ModelMetric, ModelOutput, ParameterChanged

MOST_RUNS, MOST_POINTS = 100, 2_500  # of one answer with several histories
PAGE = 10_000  # points read at once for a whole history
LONGEST = {"name": 500, "digest": 36, "source": 65_535, "schema": 1_048_575, "profile": 16_777_215}
HISTORY_TAG = "mlflow.log-model.history"


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


def log_batch(call: Call) -> dict[str, Any]:
    """Log metrics, parameters and tags: all of them, or none."""
    batch: Batch = call["batch"]
    run_id = checks.run_id(batch.run_id)
    points = batch.metrics
    for key in {point.key for point in points}:
        _check_key(key, points)
    params = [checks.parameter(one.key, one.value, f"params[{place}].key") for place, one in enumerate(batch.params)]
    tags = [checks.run_tag(one.key, one.value, f"tags[{place}]") for place, one in enumerate(batch.tags)]
    checks.batch(len(points), len(params), len(tags))
    _check_once([key for key, _ in params])
    metrics = _values(points)
    for key, value, timestamp, _ in metrics:
        if timestamp < 0:
            checks.metric_moment(key, value, timestamp)
    measured = [_model_metric(one, values) for one, values in zip(points, metrics, strict=True) if one.model_id]
    _log(call, run_id, metrics=metrics, params=dict(params), tags=dict(tags), model_metrics=measured)
    return NOTHING


def log_metric(call: Call) -> dict[str, Any]:
    """Log one value of a metric."""
    key, value, timestamp, step = call["key"], call["value"], call["timestamp"], call.get("step", 0)
    checks.metric_key(key)
    checks.metric_moment(key, value, timestamp)
    point = (key, value, timestamp, step)
    names = ("model_id", "dataset_name", "dataset_digest")
    told = Point(key, value, timestamp, step, *(call.text(name) for name in names))
    measured = [_model_metric(told, point)] if told.model_id else []
    _log(call, call["run_id"], metrics=[point], model_metrics=measured)
    return NOTHING


def log_parameter(call: Call) -> dict[str, Any]:
    """Log a parameter."""
    key, value = checks.parameter(call["key"], call.text("value"))
    try:
        _log(call, call["run_id"], params={key: value}, alone=True)
    except ParameterChanged as error:
        raise Refused(
            f"Changing param values is not allowed. Param with key='{key}' was already logged with value='{error.old}' "
            f"for run ID='{error.run_id}'. Attempted logging new value '{error.new}'."
        ) from error
    return NOTHING


def set_tag(call: Call) -> dict[str, Any]:
    """Set a tag."""
    key, value = checks.run_tag(call["key"], call.text("value"))
    _log(call, call["run_id"], tags={key: value})
    return NOTHING


def delete_tag(call: Call) -> dict[str, Any]:
    """Remove a tag."""
    run_id, key = call["run_id"], call["key"]
    try:
        with of_run(call, run_id):
            call.yard.tracking.delete_tag(run_id, key, user=call.who)
    except Refused as error:
        if isinstance(error.__cause__, NotFound) and error.code == UNKNOWN and "has no tag" in str(error.__cause__):
            raise Refused(f"No tag with name: {key} in run with id {run_id}", UNKNOWN) from error
        raise
    return NOTHING


def log_inputs(call: Call) -> dict[str, Any]:
    """Note which datasets and logged models a run used."""
    run_id = checks.run_id(call["run_id"])
    datasets = [_dataset_input(one) for one in call.get("datasets", [])]
    models = [_sent_text(one, "model_id") for one in call.get("models", [])]
    with of_run(call, run_id):
        call.yard.tracking.log_inputs(run_id, datasets=datasets, models=models, user=call.who)
    return NOTHING


def log_outputs(call: Call) -> dict[str, Any]:
    """Note which logged models a run made."""
    models = [ModelOutput(model_id=_sent_text(one, "model_id"), step=_step(one)) for one in call["models"]]
    with of_run(call, call["run_id"]):
        call.yard.tracking.log_outputs(call["run_id"], models, user=call.who)
    return NOTHING


def log_model(call: Call) -> dict[str, Any]:
    """Note a model that an older client has logged, in the run's tag of them."""
    try:
        model = json.loads(call["model_json"])
    except (ValueError, RecursionError) as error:
        raise Refused(f"Malformed model info. \n {call['model_json']:.1000} \n is not a valid JSON.") from error
    missing = {"artifact_path", "flavors", "utc_time_created", "run_id"} - set(model if isinstance(model, dict) else ())
    if missing:
        raise Refused(f"Model json is missing mandatory fields: {missing}")
    known = runs.found(call, call["run_id"])
    before = json.loads(known.tags.get(HISTORY_TAG, "[]"))
    _log(call, known.run_id, tags={HISTORY_TAG: json.dumps([*before, model])})
    return NOTHING


def history(call: Call) -> dict[str, Any]:
    """All values of a metric, or a page of them; none of a run that is not there."""
    run_id, key, limit = call["run_id"], call["metric_key"], call.get("max_results")
    if limit is not None and limit <= 0:
        raise Refused(f"Invalid value {limit} for parameter 'max_results' supplied. It must be a positive integer.")
    token = filters.token(call.text("page_token"))
    try:
        found, token = _history(call, run_id, key, None if limit is None else min(limit, checks.RESULTS), token)
    except NotFound:
        return NOTHING
    told: dict[str, Any] = {"metrics": [views.metric(one) for one in found]} if found else {}
    return told | ({"next_page_token": token} if token else {})


def histories(call: Call) -> dict[str, Any]:
    """Some values of a metric of several runs, evenly spread, for drawing curves."""
    run_ids, most = call["run_ids"], call.get("max_results", MOST_POINTS)
    if len(run_ids) > MOST_RUNS:
        raise Refused(
            f"GetMetricHistoryBulkInterval request must specify at most {MOST_RUNS} run_ids. "
            f"Received {len(run_ids)} run_ids.{SEE}"
        )
    if not 1 <= most <= MOST_POINTS:
        raise Refused(f"max_results must be between 1 and {MOST_POINTS}.{SEE}")
    first, last = call.get("start_step"), call.get("end_step")
    if (first is None) != (last is None):
        raise Refused("If either start step or end step are specified, both must be specified.")
    if first is not None and first > last:
        raise Refused(f"end_step must be greater than start_step. Found start_step={first} and end_step={last}.")
    told = []
    for run_id in run_ids:
        try:
            found = call.yard.tracking.sample_history(
                [run_id], call["metric_key"], most=most, first_step=first, last_step=last
            )
        except NotFound:
            continue
        told += [views.metric(one) | {"run_id": run_id} for one in found[run_id]]
    return {"metrics": told} if told else {}


def _history(call: Call, run_id: str, key: str, limit: int | None, token: str) -> tuple[Sequence[Metric], str]:
    page = call.yard.tracking.metric_history(run_id, key, limit=limit or PAGE, page_token=token)
    if limit is not None:
        return page.items, page.next_page_token
    found = list(page.items)
    while page.next_page_token:
        page = call.yard.tracking.metric_history(run_id, key, limit=PAGE, page_token=page.next_page_token)
        found += page.items
    return found, ""


def _log(call: Call, run_id: str, *, alone: bool = False, **what: Any) -> None:
    try:
        with of_run(call, run_id):
            call.yard.tracking.log_batch(run_id, user=call.who, **what)
    except ParameterChanged as error:
        if alone:
            raise
        changed = [{"key": error.key, "old_value": error.old, "new_value": error.new}]
        raise Refused(
            f"Changing param values is not allowed. Params were already logged='{changed}' for run ID='{run_id}'."
        ) from error


def _values(points: Sequence[Point]) -> list[tuple[str, float, int, int]]:
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


def _read_batch(body: bytes) -> dict[str, Any]:
    batch = _batch(body)
    if not batch.run_id:
        raise Refused(f"Missing value for required parameter 'run_id'.{SEE}")
    return {"batch": batch, "run_id": batch.run_id, "model_id": {one.model_id for one in batch.metrics} - {""}}


def _batch(body: bytes) -> Batch:
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


def _check_key(key: str, points: Sequence[Point]) -> None:
    """Each key is checked once; which of the points has it is looked for only where it is bad."""
    if not key:
        place = next(place for place, point in enumerate(points) if not point.key)
        raise Refused(f"Missing value for required parameter 'metrics[{place}].key'.{SEE}")
    try:
        checks.metric_key(key)
    except Refused:
        place = next(place for place, point in enumerate(points) if point.key == key)
        checks.metric_key(key, f"metrics[{place}].name")


def _check_once(keys: Sequence[str]) -> None:
    twice = [key for place, key in enumerate(keys) if key in keys[:place]]
    if twice:
        raise Refused(
            f"Duplicate parameter keys have been submitted: {twice}. Please ensure the request contains only one param "
            "value per param key.",
            INVALID,
        )


def _model_metric(point: Point, values: tuple[str, float, int, int]) -> ModelMetric:
    key, value, timestamp, step = values
    return ModelMetric(
        model_id=point.model_id,
        key=key,
        value=value,
        timestamp=timestamp,
        step=step,
        dataset_name=point.dataset_name or None,
        dataset_digest=point.dataset_digest or None,
    )


def _dataset_input(sent: dict[str, Any]) -> DatasetInput:
    told = sent.get("dataset")
    if not isinstance(told, dict):
        raise Refused("Dataset cannot be None")
    texts_of = {name: _sent_text(told, name) for name in ("name", "digest", "source_type", "source")}
    more = {name: as_sent for name in ("schema", "profile") if (as_sent := told.get(name)) is not None}
    for name, longest in LONGEST.items():
        checks.length(_sent_text({**texts_of, **more}, name), longest, name)
    tags = {}
    for tag in sent.get("tags") or []:
        if not isinstance(tag, dict):
            raise Refused(wrong_kind("datasets.tags", tag))
        key, value = _sent_text(tag, "key"), _sent_text(tag, "value")
        tags[checks.length(key, 255, "key")] = checks.length(value, 500, "value")
    return DatasetInput(dataset=Dataset(**texts_of, **more), tags=tags)


def _sent_text(sent: dict[str, Any], name: str) -> str:
    value = sent.get(name)
    if value is not None and not isinstance(value, str):
        raise Refused(wrong_kind(name, value))
    return value or ""


def _step(sent: dict[str, Any]) -> int:
    try:
        return as_integer(sent.get("step") or 0)
    except (TypeError, ValueError, OverflowError):
        raise Refused(wrong_kind("step", sent.get("step"))) from None


MEASURED = ("logged_model", "model_id")
_KEY = text("key", required=True)
ROUTES = (
    route(
        "POST",
        "/runs/log-metric",
        WRITE,
        log_metric,
        RUN_ID,
        _KEY,
        number("value", required=True),
        integer("timestamp", required=True),
        integer("step"),
        text("model_id"),
        text("dataset_name"),
        text("dataset_digest"),
        touches=(*TOUCHES, MEASURED),
    ),
    route("POST", "/runs/log-parameter", WRITE, log_parameter, RUN_ID, _KEY, text("value"), touches=TOUCHES),
    route("POST", "/runs/set-tag", WRITE, set_tag, RUN_ID, _KEY, text("value"), touches=TOUCHES),
    route("POST", "/runs/delete-tag", WRITE, delete_tag, RUN_ID, _KEY, touches=TOUCHES),
    route("POST", "/runs/log-batch", WRITE, log_batch, raw=_read_batch, touches=(*TOUCHES, MEASURED)),
    route(
        "POST", "/runs/log-inputs", WRITE, log_inputs, RUN_ID, objects("datasets"), objects("models"), touches=TOUCHES
    ),
    route("POST", "/runs/outputs", WRITE, log_outputs, RUN_ID, objects("models", required=True), touches=TOUCHES),
    route("POST", "/runs/log-model", WRITE, log_model, RUN_ID, text("model_json", required=True), touches=TOUCHES),
    route(
        "GET",
        "/metrics/get-history",
        READ,
        history,
        RUN_ID,
        text("metric_key", required=True),
        text("page_token"),
        integer("max_results"),
        touches=TOUCHES,
    ),
    route(
        "GET",
        "/metrics/get-history-bulk-interval",
        READ,
        histories,
        texts("run_ids", required=True),
        text("metric_key", required=True),
        integer("start_step"),
        integer("end_step"),
        integer("max_results"),
        touches=(("run", "run_ids"),),
    ),
)
