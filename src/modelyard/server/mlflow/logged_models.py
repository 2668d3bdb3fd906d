"""The routes of logged models."""

from __future__ import annotations

import re
from typing import Any

from modelyard.core.errors import NotFound
from modelyard.server.mlflow import artifacts, checks, experiments, filters, views
from modelyard.server.mlflow.calls import NOTHING, Call, instead, route
from modelyard.server.mlflow.errors import UNKNOWN, Refused
from modelyard.server.mlflow.experiments import READ, WRITE
from modelyard.server.mlflow.fields import anything, entries, integer, objects, text, texts
from modelyard.tracking import DatasetFilter, LoggedModel, LoggedModelStatus, ModelOrder

ONE = "/logged-models/{model_id}"
TOUCHES = (("logged_model", "model_id"),)
NOT_IN_NAMES = ("/", ":", ".", "%", '"', "'")
STATUSES = {
    1: LoggedModelStatus.PENDING,
    2: LoggedModelStatus.READY,
    3: LoggedModelStatus.FAILED,
    "LOGGED_MODEL_PENDING": LoggedModelStatus.PENDING,
    "LOGGED_MODEL_READY": LoggedModelStatus.READY,
    "LOGGED_MODEL_UPLOAD_FAILED": LoggedModelStatus.FAILED,
}


def create(call: Call) -> dict[str, Any]:
    """A new logged model."""
    name = call.text("name")
    if any(character in name for character in NOT_IN_NAMES):
        raise Refused(
            f"Invalid model name ({name!r}) provided. Model name must be a non-empty string and cannot contain the following "
            f"characters: {NOT_IN_NAMES}"
        )
    known = experiments.active(experiments.found(call, call["experiment_id"]))
    made = call.yard.tracking.create_logged_model(
        known.experiment_id,
        name=name,
        source_run_id=call.text("source_run_id") or None,
        model_type=call.text("model_type") or None,
        tags=call.get("tags", {}),
        params=call.get("params", {}),
        user=call.who,
    )
    return {"model": views.logged_model(made)}


def get(call: Call) -> dict[str, Any]:
    """One logged model."""
    return {"model": views.logged_model(found(call))}


def finalize(call: Call) -> dict[str, Any]:
    """A logged model, ready or failed."""
    status = call.get("status")
    if not isinstance(status, str | int) or status not in STATUSES:
        raise Refused(checks.invalid("status", status))
    with told_missing(call):
        made = call.yard.tracking.finalize_logged_model(call["model_id"], STATUSES[status], user=call.who)
    return {"model": views.logged_model(made)}


def delete(call: Call) -> dict[str, Any]:
    """Remove a logged model."""
    with told_missing(call):
        call.yard.tracking.delete_logged_model(call["model_id"], user=call.who)
    return NOTHING


def set_tags(call: Call) -> dict[str, Any]:
    """Set tags."""
    with told_missing(call):
        call.yard.tracking.set_logged_model_tags(call["model_id"], call.get("tags", {}), user=call.who)
    return NOTHING


def delete_tag(call: Call) -> dict[str, Any]:
    """Remove a tag."""
    found(call)
    with instead(NotFound, f"No tag with key {call['tag_key']!r} found for model with ID {call['model_id']!r}."):
        call.yard.tracking.delete_logged_model_tag(call["model_id"], call["tag_key"], user=call.who)
    return NOTHING


def log_params(call: Call) -> dict[str, Any]:
    """Log parameters."""
    with told_missing(call):
        call.yard.tracking.log_model_parameters(call["model_id"], call.get("params", {}), user=call.who)
    return NOTHING


def search(call: Call) -> dict[str, Any]:
    """A page of logged models."""
    wanted = [one for one in map(checks.experiment_id, call["experiment_ids"]) if not one.startswith("-")]
    page = call.yard.tracking.search_logged_models(
        wanted,
        filter=filters.logged_models(call.text("filter")),
        datasets=[_dataset(one) for one in call.get("datasets", [])],
        order_by=[_order(one) for one in call.get("order_by", [])],
        limit=checks.results(call.get("max_results", 50) or 50),
        page_token=filters.token(call.text("page_token")),
    )
    told: dict[str, Any] = {"models": [views.logged_model(one) for one in page.items]} if page.items else {}
    return told | ({"next_page_token": page.next_page_token} if page.next_page_token else {})


def found(call: Call) -> LoggedModel:
    """The logged model of the call."""
    with told_missing(call):
        known: LoggedModel = call.yard.tracking.get_logged_model(call["model_id"])
        return known


def told_missing(call: Call) -> Any:
    """MLflow's words for a logged model that is not there."""
    return instead(NotFound, f"Logged model with ID '{call['model_id']}' not found.", UNKNOWN)


def _dataset(sent: dict[str, Any]) -> DatasetFilter:
    name, digest = _sent(sent, "dataset_name"), _sent(sent, "dataset_digest")
    if not name:
        raise Refused("`dataset_name` in the `datasets` clause must be specified.")
    return DatasetFilter(name=name, digest=digest or None)


def _order(sent: dict[str, Any]) -> ModelOrder:
    field, name = _sent(sent, "field_name"), _sent(sent, "dataset_name")
    kind, dot, key = field.partition(".")
    if dot and kind != "metrics":
        raise Refused(f"Invalid order by field name: {field}. Only metrics are supported.")
    if dot and not re.fullmatch(r"`[^`]*`|\"[^\"]*\"|[\w./-]+", key):
        field = f"metrics.`{key}`"
    return ModelOrder(
        field=field,
        descending=sent.get("ascending", True) is False,
        dataset=DatasetFilter(name=name, digest=_sent(sent, "dataset_digest") or None) if name else None,
    )


def _sent(sent: dict[str, Any], name: str) -> str:
    value = sent.get(name)
    if value is not None and not isinstance(value, str):
        raise Refused(checks.invalid(name, value))
    return value or ""


ROUTES = (
    route(
        "POST",
        "/logged-models",
        WRITE,
        create,
        text("experiment_id", required=True),
        text("name"),
        text("model_type"),
        text("source_run_id"),
        entries("params"),
        entries("tags"),
        touches=experiments.TOUCHES,
    ),
    route(
        "POST",
        "/logged-models/search",
        READ,
        search,
        texts("experiment_ids", required=True),
        text("filter"),
        objects("datasets"),
        integer("max_results"),
        objects("order_by"),
        text("page_token"),
        touches=(("experiment", "experiment_ids"),),
    ),
    route("GET", ONE, READ, get, touches=TOUCHES),
    route("PATCH", ONE, WRITE, finalize, anything("status"), touches=TOUCHES),
    route("DELETE", ONE, WRITE, delete, touches=TOUCHES),
    route("PATCH", f"{ONE}/tags", WRITE, set_tags, entries("tags"), touches=TOUCHES),
    route("DELETE", f"{ONE}/tags/{{tag_key:path}}", WRITE, delete_tag, touches=TOUCHES),
    route("POST", f"{ONE}/params", WRITE, log_params, entries("params"), touches=TOUCHES),
    route(
        "GET",
        f"{ONE}/artifacts/directories",
        READ,
        artifacts.listed_of_model,
        text("artifact_directory_path"),
        text("page_token"),
        touches=TOUCHES,
    ),
)
