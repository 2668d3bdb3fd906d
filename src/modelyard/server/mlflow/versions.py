"""The routes of versions: registered from what runs logged, admitted by content, and moved as the model's policy lets them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from modelyard.core.errors import Conflict, Forbidden, NotFound
from modelyard.core.models import ModelStage, ModelVersion
from modelyard.portable.mlflow import admitting
from modelyard.server.mlflow import checks, filters, sources, stored, views
from modelyard.server.mlflow.calls import NOTHING, Call, instead, route
from modelyard.server.mlflow.errors import DENIED, Refused
from modelyard.server.mlflow.fields import entries, flag, integer, text, texts

READ, WRITE = "registry.read", "registry.write"
NAME = text("name", required=True)
VERSION = text("version", required=True)
TOUCHES = (("model", "name"),)
MOST, PAGE = 200_000, 10_000  # versions that may be asked for, and that one page has
STAGES: Mapping[str, ModelStage] = {told.lower(): stage for stage, told in views.STAGES.items()}
ORDERS = {
    "name": "name",
    "version_number": "number",
    "creation_timestamp": "created_at",
    "last_updated_timestamp": "updated_at",
}
NEWEST_FIRST = ("last_updated_timestamp DESC", "name ASC", "version_number DESC")
VERSIONS_TAG = "mlflow.modelVersions"


def create(call: Call) -> dict[str, Any]:
    """A new version of a model that is there, from what its source holds now."""
    if call["source"].startswith("models:"):
        sources.check_seen(call, call["source"])
    source = sources.resolved(call, call["source"])
    name = checks.model_name(call["name"])
    tags = checks.tags(call.get("tags", {}), checks.MODEL_TAG)
    with instead(NotFound, f"Registered Model with name={name} not found"):
        call.yard.registry.get_registered_model(name)
    made = call.yard.registry.register_version(
        replace(
            admitting.drafted(call.yard, source, call.who),
            name=name,
            tags=tuple(tag_texts(tags | ({admitting.ADMISSION: "quarantined"} if source.quarantined else {}))),
            description=call.text("description"),
            metadata={
                admitting.OURS: admitting.noted(source)
                | ({"run_link": link} if (link := call.text("run_link")) else {})
            },
        )
    )
    if source.model_id:
        _tell_logged_model(call, source.model_id, made)
    return {"model_version": views.version(made)}


def get(call: Call) -> dict[str, Any]:
    """One version."""
    return {"model_version": views.version(found(call, call["name"], call["version"]))}


def update(call: Call) -> dict[str, Any]:
    """A version with another description."""
    known = found(call, call["name"], call["version"])
    made = call.yard.registry.update(known.name, known.version, call.who, description=call.text("description"))
    return {"model_version": views.version(made)}


def delete(call: Call) -> dict[str, Any]:
    """Remove a version with its aliases, unless it is in production."""
    known = found(call, call["name"], call["version"])
    if known.stage is not ModelStage.PRODUCTION:
        for alias in known.aliases:
            call.yard.registry.delete_alias(known.name, alias, call.who)
    with as_denied():
        call.yard.registry.delete(known.name, known.version, call.who)
    return NOTHING


def search(call: Call) -> dict[str, Any]:
    """A page of versions."""
    limit = call.get("max_results", MOST)
    if limit < 1:
        raise Refused(f"Invalid value for max_results. It must be a positive integer, but got {limit}")
    page = call.visible(
        call.yard.registry.find_versions(
            filters.versions(call.text("filter")),
            filters.registry_orders(call.get("order_by") or NEWEST_FIRST, ORDERS),
            token=filters.token(call.text("page_token")),
            limit=min(limit, PAGE),
        )
    )
    told: dict[str, Any] = {"model_versions": [views.version(one) for one in page.items]} if page.items else {}
    return told | ({"next_page_token": page.next_page_token} if page.next_page_token else {})


def transition(call: Call) -> dict[str, Any]:
    """A version in another stage, as far as the model's policy lets it go without an approval."""
    stage = stage_of(call["stage"])
    others = call.get("archive_existing_versions", False)
    if others and stage not in (ModelStage.STAGING, ModelStage.PRODUCTION):
        raise Refused(
            "Model version transition cannot archive existing model versions because "
            f"'{call['stage']}' is not an Active stage. Valid stages are ['Staging', 'Production']",
            "INVALID_STATE",
        )
    known = found(call, call["name"], call["version"])
    moved = known if known.stage is stage else _moved(call, known, stage)
    if others:
        for version in call.yard.registry.list_models(known.name, stage):
            if version.number != known.number:
                call.yard.registry.archive(version.name, version.version, call.who)
    return {"model_version": views.version(moved)}


def _moved(call: Call, known: ModelVersion, stage: ModelStage) -> ModelVersion:
    """The version in its new stage. One that is archived is restored on its way, once it is sure that it may go on."""
    registry = call.yard.registry
    if known.stage is ModelStage.ARCHIVED and stage is not ModelStage.DEVELOPMENT:
        if registry.policy_of(known.name, stage).protected:
            raise Forbidden(
                f"{known.name} {known.version} needs an approval to move from archived to {stage.value}. Restore it and ask "
                f"for one: modelyard registry request-promotion {known.name} {known.version} {stage.value}"
            )
        registry.restore(known.name, known.version, call.who)
    return registry.transition(known.name, known.version, stage, call.who)


def download_uri(call: Call) -> dict[str, Any]:
    """Where a client finds the version's files: for bytes that were admitted here, those very bytes."""
    known = found(call, call["name"], call["version"])
    if not known.digest:
        return {"artifact_uri": (known.metadata.get(admitting.OURS) or {}).get("location") or known.source}
    stored.check_released(call.yard, known)
    return {"artifact_uri": f"mlflow-artifacts:/{stored.place_of(known)}"}


def set_tag(call: Call) -> dict[str, Any]:
    """Set a tag."""
    checks.model_name(call["name"])
    checks.version_number(call["version"])
    checks.tags({call["key"]: call.text("value")}, checks.MODEL_TAG)
    known = found(call, call["name"], call["version"])
    call.yard.registry.set_tag(known.name, known.version, call["key"], call.who, value=call.text("value"))
    return NOTHING


def delete_tag(call: Call) -> dict[str, Any]:
    """Remove a tag, if it is there."""
    checks.name(call["key"], "key")
    known = found(call, call["name"], call["version"])
    if any(tag["key"] == call["key"] for tag in views.tags(known.tags)):
        call.yard.registry.delete_tag(known.name, known.version, call["key"], call.who)
    return NOTHING


def found(call: Call, name: str, version: str) -> ModelVersion:
    """The version of a number."""
    checks.model_name(name)
    number = checks.version_number(version)
    with instead(NotFound, f"Model Version (name={name}, version={number}) not found"):
        known: ModelVersion = call.yard.registry.version_by_number(name, number)
        return known


def stage_of(stage: str) -> ModelStage:
    """Our stage for one of MLflow's."""
    if stage.lower() not in STAGES:
        raise Refused(
            f"Invalid Model Version stage: {stage}. Value must be one of None, Staging, Production, Archived."
        )
    return STAGES[stage.lower()]


def tag_texts(tags: Mapping[str, str]) -> list[str]:
    """Keys and values as the registry's tags."""
    return [f"{key}={value}" for key, value in tags.items()]


@contextmanager
def as_denied() -> Iterator[None]:
    """A conflict with what is in use is a refusal: it says what must be done first."""
    try:
        yield
    except Conflict as error:
        raise Refused(str(error), DENIED) from error


def _tell_logged_model(call: Call, model_id: str, made: ModelVersion) -> None:
    """Note on a logged model which versions were made of it, where its clients look."""
    tracking = call.yard.tracking
    before = json.loads(tracking.get_logged_model(model_id).tags.get(VERSIONS_TAG, "[]"))
    told = json.dumps([*before, {"name": made.name, "version": made.number}])
    tracking.set_logged_model_tags(model_id, {VERSIONS_TAG: told}, user=call.who)


ROUTES = (
    route(
        "POST",
        "/model-versions/create",
        WRITE,
        create,
        NAME,
        text("source", required=True),
        text("run_id"),
        entries("tags"),
        text("run_link"),
        text("description"),
        text("model_id"),
        touches=(*TOUCHES, ("run", "run_id"), ("logged_model", "model_id")),
    ),
    route("GET", "/model-versions/get", READ, get, NAME, VERSION, touches=TOUCHES),
    route("PATCH", "/model-versions/update", WRITE, update, NAME, VERSION, text("description"), touches=TOUCHES),
    route("DELETE", "/model-versions/delete", WRITE, delete, NAME, VERSION, touches=TOUCHES),
    route(
        "GET",
        "/model-versions/search",
        READ,
        search,
        text("filter"),
        integer("max_results", most=MOST),
        texts("order_by"),
        text("page_token"),
        shows=("model", "name"),
    ),
    route(
        "POST",
        "/model-versions/transition-stage",
        WRITE,
        transition,
        NAME,
        VERSION,
        text("stage", required=True),
        flag("archive_existing_versions"),
        touches=TOUCHES,
    ),
    route("GET", "/model-versions/get-download-uri", READ, download_uri, NAME, VERSION, touches=TOUCHES),
    route(
        "POST",
        "/model-versions/set-tag",
        WRITE,
        set_tag,
        NAME,
        VERSION,
        text("key", required=True),
        text("value"),
        touches=TOUCHES,
    ),
    route(
        "DELETE",
        "/model-versions/delete-tag",
        WRITE,
        delete_tag,
        NAME,
        VERSION,
        text("key", required=True),
        touches=TOUCHES,
    ),
)
