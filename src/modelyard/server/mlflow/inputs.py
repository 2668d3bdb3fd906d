"""The routes by which runs tell what they used and made: datasets and logged models."""

from __future__ import annotations

import json
from typing import Any

from modelyard.server.mlflow import checks, runs
from modelyard.server.mlflow.calls import NOTHING, Call, route
from modelyard.server.mlflow.errors import Refused
from modelyard.server.mlflow.experiments import WRITE
from modelyard.server.mlflow.fields import RUN_ID, as_integer, objects, text, wrong_kind
from modelyard.server.mlflow.runs import TOUCHES, of_run
from modelyard.tracking import Dataset, DatasetInput, ModelOutput

LONGEST = {"name": 500, "digest": 36, "source": 65_535, "schema": 1_048_575, "profile": 16_777_215}
HISTORY_TAG = "mlflow.log-model.history"


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
    with of_run(call, known.run_id):
        tags = {HISTORY_TAG: json.dumps([*before, model])}
        call.yard.tracking.log_batch(known.run_id, tags=tags, user=call.who)
    return NOTHING


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


ROUTES = (
    route(
        "POST", "/runs/log-inputs", WRITE, log_inputs, RUN_ID, objects("datasets"), objects("models"), touches=TOUCHES
    ),
    route("POST", "/runs/outputs", WRITE, log_outputs, RUN_ID, objects("models", required=True), touches=TOUCHES),
    route("POST", "/runs/log-model", WRITE, log_model, RUN_ID, text("model_json", required=True), touches=TOUCHES),
)
