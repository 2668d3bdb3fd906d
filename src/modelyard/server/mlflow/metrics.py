"""The routes by which runs log: metrics, parameters, tags and batches of them."""

from __future__ import annotations

from typing import Any

from modelyard.core.errors import NotFound
from modelyard.server.mlflow import batches, checks
from modelyard.server.mlflow.batches import Batch, Point
from modelyard.server.mlflow.calls import NOTHING, Call, route
from modelyard.server.mlflow.errors import UNKNOWN, Refused
from modelyard.server.mlflow.experiments import WRITE
from modelyard.server.mlflow.fields import RUN_ID, integer, number, text
from modelyard.server.mlflow.runs import TOUCHES, of_run
from modelyard.tracking import ModelMetric, ParameterChanged


def log_batch(call: Call) -> dict[str, Any]:
    """Log metrics, parameters and tags: all of them, or none."""
    batch: Batch = call["batch"]
    run_id = checks.run_id(batch.run_id)
    points = batch.metrics
    for key in {point.key for point in points}:
        batches.check_key(key, points)
    params = [checks.parameter(one.key, one.value, f"params[{place}].key") for place, one in enumerate(batch.params)]
    tags = [checks.run_tag(one.key, one.value, f"tags[{place}]") for place, one in enumerate(batch.tags)]
    checks.batch(len(points), len(params), len(tags))
    batches.check_once([key for key, _ in params])
    metrics = batches.values(points)
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
        with of_run(call, call["run_id"]):
            call.yard.tracking.log_batch(call["run_id"], params={key: value}, user=call.who)
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


def _log(call: Call, run_id: str, **what: Any) -> None:
    try:
        with of_run(call, run_id):
            call.yard.tracking.log_batch(run_id, user=call.who, **what)
    except ParameterChanged as error:
        changed = [{"key": error.key, "old_value": error.old, "new_value": error.new}]
        raise Refused(
            f"Changing param values is not allowed. Params were already logged='{changed}' for run ID='{run_id}'."
        ) from error


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
    route("POST", "/runs/log-batch", WRITE, log_batch, raw=batches.read, touches=(*TOUCHES, MEASURED)),
)
