"""The routes of registered models and their aliases."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from modelyard.core.errors import Conflict, NotFound
from modelyard.core.models import RegisteredModel
from modelyard.server.mlflow import checks, filters, versions, views
from modelyard.server.mlflow.calls import NOTHING, Call, instead, route
from modelyard.server.mlflow.errors import INVALID, TAKEN, Refused
from modelyard.server.mlflow.fields import entries, integer, text, texts
from modelyard.server.mlflow.versions import NAME, READ, TOUCHES, WRITE

MOST = 1_000  # models of one page
ORDERS = {"name": "name", "timestamp": "updated_at", "last_updated_timestamp": "updated_at"}


def create(call: Call) -> dict[str, Any]:
    """A new model."""
    name = checks.model_name(call["name"])
    tags = checks.tags(call.get("tags", {}), checks.MODEL_TAG)
    with instead(Conflict, f"Registered Model (name={name}) already exists.", TAKEN):
        made = call.yard.registry.create_model(
            name, call.who, description=call.text("description"), tags=versions.tag_texts(tags)
        )
    return {"registered_model": views.registered_model(made, {}, ())}


def get(call: Call) -> dict[str, Any]:
    """One model."""
    return {"registered_model": told(call, [found(call, call["name"])])[0]}


def update(call: Call) -> dict[str, Any]:
    """A model with another description."""
    known = found(call, call["name"])
    made = call.yard.registry.update_model(known.name, call.who, description=call.text("description"))
    return {"registered_model": told(call, [made])[0]}


def rename(call: Call) -> dict[str, Any]:
    """A model under another name."""
    new_name = checks.model_name(call["new_name"], "new_name")
    known = found(call, call["name"])
    try:
        made = call.yard.registry.rename_model(known.name, new_name, call.who)
    except Conflict as error:
        if "already" in str(error):
            raise Refused(f"Registered Model (name={new_name}) already exists.", TAKEN) from error
        raise Refused(str(error), "PERMISSION_DENIED") from error
    return {"registered_model": told(call, [made])[0]}


def delete(call: Call) -> dict[str, Any]:
    """Remove a model with its versions and aliases, unless one is in production."""
    known = found(call, call["name"])
    registry = call.yard.registry
    if not any(one.stage.value == "production" for one in registry.newest_in_stages([known.name])[known.name]):
        for alias in known.aliases:
            registry.delete_alias(known.name, alias, call.who)
    with versions.as_denied():
        registry.delete_model(known.name, call.who)
    return NOTHING


def search(call: Call) -> dict[str, Any]:
    """A page of models."""
    limit = call.get("max_results", 100)
    if limit < 1:
        raise Refused(f"Invalid value for max_results. It must be a positive integer, but got {limit}")
    page = call.visible(
        call.yard.registry.find_models(
            filters.models(call.text("filter")),
            filters.registry_orders(call.get("order_by", []), ORDERS),
            token=filters.token(call.text("page_token")),
            limit=limit,
        )
    )
    answer: dict[str, Any] = {"registered_models": told(call, page.items)} if page.items else {}
    return answer | ({"next_page_token": page.next_page_token} if page.next_page_token else {})


def latest(call: Call) -> dict[str, Any]:
    """The newest version in each stage, or in each of some stages."""
    known = found(call, call["name"])
    wanted = [versions.stage_of(stage) for stage in call.get("stages", [])]
    newest = call.yard.registry.newest_in_stages([known.name])[known.name]
    shown = [views.version(one) for one in newest if not wanted or one.stage in wanted]
    return {"model_versions": shown} if shown else {}


def set_tag(call: Call) -> dict[str, Any]:
    """Set a tag."""
    checks.model_name(call["name"])
    checks.tags({call["key"]: call.text("value")}, checks.MODEL_TAG)
    known = found(call, call["name"])
    call.yard.registry.set_model_tag(known.name, call["key"], call.who, value=call.text("value"))
    return NOTHING


def delete_tag(call: Call) -> dict[str, Any]:
    """Remove a tag, if it is there."""
    checks.model_name(call["name"])
    checks.name(call["key"], "key")
    known = found(call, call["name"])
    if any(tag["key"] == call["key"] for tag in views.tags(known.tags)):
        call.yard.registry.delete_model_tag(known.name, call["key"], call.who)
    return NOTHING


def set_alias(call: Call) -> dict[str, Any]:
    """Point an alias at a version; `champion` only where the model's policy lets it."""
    name, alias = checks.model_name(call["name"]), checks.alias(call["alias"])
    version = versions.found(call, name, call["version"])
    call.yard.registry.set_alias(name, alias, version.version, user=call.who)
    return NOTHING


def delete_alias(call: Call) -> dict[str, Any]:
    """Remove an alias, if it is there."""
    known = found(call, call["name"])
    if call["alias"] in known.aliases:
        call.yard.registry.delete_alias(known.name, call["alias"], user=call.who)
    return NOTHING


def by_alias(call: Call) -> dict[str, Any]:
    """The version that an alias points at."""
    name, alias = checks.model_name(call["name"]), call["alias"]
    try:
        version = call.yard.registry.get_by_alias(name, alias)
    except NotFound as error:
        found(call, name)
        raise Refused(f"Registered model alias {alias} not found.", INVALID) from error
    return {"model_version": views.version(version)}


def found(call: Call, name: str) -> RegisteredModel:
    """The model of a name."""
    checks.model_name(name)
    with instead(NotFound, f"Registered Model with name={name} not found"):
        known: RegisteredModel = call.yard.registry.get_registered_model(name)
        return known


def told(call: Call, models: Sequence[RegisteredModel]) -> list[dict[str, Any]]:
    """Models with their newest versions and the numbers that their aliases stand for."""
    registry = call.yard.registry
    newest = registry.newest_in_stages([model.name for model in models])
    found = []
    for model in models:  # one indexed question for each alias: a question for all of them would look at every version
        numbers = {}
        for alias in model.aliases:
            with suppress(NotFound):  # removed since the model was read
                numbers[alias] = registry.get_by_alias(model.name, alias).number
        found.append(views.registered_model(model, numbers, newest[model.name]))
    return found


ROUTES = (
    route(
        "POST", "/registered-models/create", WRITE, create, NAME, entries("tags"), text("description"), touches=TOUCHES
    ),
    route("GET", "/registered-models/get", READ, get, NAME, touches=TOUCHES),
    route("PATCH", "/registered-models/update", WRITE, update, NAME, text("description"), touches=TOUCHES),
    route("POST", "/registered-models/rename", WRITE, rename, NAME, text("new_name", required=True), touches=TOUCHES),
    route("DELETE", "/registered-models/delete", WRITE, delete, NAME, touches=TOUCHES),
    route(
        "GET",
        "/registered-models/search",
        READ,
        search,
        text("filter"),
        integer("max_results", most=MOST),
        texts("order_by"),
        text("page_token"),
        shows=("model", "name"),
    ),
    route("GET", "/registered-models/get-latest-versions", READ, latest, NAME, texts("stages"), touches=TOUCHES),
    route("POST", "/registered-models/get-latest-versions", READ, latest, NAME, texts("stages"), touches=TOUCHES),
    route(
        "POST",
        "/registered-models/set-tag",
        WRITE,
        set_tag,
        NAME,
        text("key", required=True),
        text("value"),
        touches=TOUCHES,
    ),
    route(
        "DELETE", "/registered-models/delete-tag", WRITE, delete_tag, NAME, text("key", required=True), touches=TOUCHES
    ),
    route(
        "POST",
        "/registered-models/alias",
        WRITE,
        set_alias,
        NAME,
        text("alias", required=True),
        text("version", required=True),
        touches=TOUCHES,
    ),
    route(
        "DELETE", "/registered-models/alias", WRITE, delete_alias, NAME, text("alias", required=True), touches=TOUCHES
    ),
    route("GET", "/registered-models/alias", READ, by_alias, NAME, text("alias", required=True), touches=TOUCHES),
)
