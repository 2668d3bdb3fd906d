"""The routes of experiments."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

from modelyard.core.errors import Conflict, NotFound
from modelyard.server.mlflow import checks, filters, views
from modelyard.server.mlflow.calls import NOTHING, Call, instead, route
from modelyard.server.mlflow.errors import TAKEN, UNKNOWN, Refused
from modelyard.server.mlflow.fields import anything, entries, integer, text, texts
from modelyard.tracking import Experiment, Lifecycle, View

READ, WRITE = "tracking.read", "tracking.write"
ELSEWHERE = frozenset({"s3", "gs", "az", "abfs", "abfss", "wasb", "wasbs", "r2", "oss", "b2"})
VIEWS = {
    "ACTIVE_ONLY": View.ACTIVE,
    "DELETED_ONLY": View.DELETED,
    "ALL": View.ALL,
    1: View.ACTIVE,
    2: View.DELETED,
    3: View.ALL,
}
ID = text("experiment_id", required=True)
TOUCHES = (("experiment", "experiment_id"),)


def create(call: Call) -> dict[str, Any]:
    """A new experiment."""
    name = checks.length(call["name"], checks.EXPERIMENT_NAME, "name")
    location = artifact_location(call.text("artifact_location"))
    tags = checks.tags(call.get("tags", {}), checks.EXPERIMENT_TAG)
    with instead(
        Conflict, f"Experiment(name={name}) already exists. Choose another name, or restore the deleted one.", TAKEN
    ):
        made = call.yard.tracking.create_experiment(name, artifact_location=location, tags=tags, user=call.who)
    return {"experiment_id": made.experiment_id}


def get(call: Call) -> dict[str, Any]:
    """One experiment."""
    return {"experiment": views.experiment(found(call, call["experiment_id"]))}


def get_by_name(call: Call) -> dict[str, Any]:
    """The experiment of a name, if the caller may see it."""
    name = call["experiment_name"]
    with instead(NotFound, f"Could not find experiment with name '{name}'"):
        known = call.yard.tracking.get_experiment_by_name(name)
    if not call.seen([known]):
        raise Refused(f"Could not find experiment with name '{name}'", UNKNOWN)
    return {"experiment": views.experiment(known)}


def delete(call: Call) -> dict[str, Any]:
    """Delete an experiment with its runs."""
    known = in_stage(call, Lifecycle.ACTIVE)
    call.yard.tracking.delete_experiment(known.experiment_id, user=call.who)
    return NOTHING


def restore(call: Call) -> dict[str, Any]:
    """Take a deleted experiment into use again."""
    known = in_stage(call, Lifecycle.DELETED)
    call.yard.tracking.restore_experiment(known.experiment_id, user=call.who)
    return NOTHING


def update(call: Call) -> dict[str, Any]:
    """Rename an experiment."""
    name = checks.length(call["new_name"], checks.EXPERIMENT_NAME, "name")
    known = found(call, call["experiment_id"])
    if known.lifecycle_stage is not Lifecycle.ACTIVE:
        raise Refused("Cannot rename a non-active experiment.", "INVALID_STATE")
    with instead(Conflict, f"Experiment(name={name}) already exists.", TAKEN):
        call.yard.tracking.rename_experiment(known.experiment_id, name, user=call.who)
    return NOTHING


def set_tag(call: Call) -> dict[str, Any]:
    """Set a tag."""
    checks.tags({call["key"]: call.text("value")}, checks.EXPERIMENT_TAG)
    known = active(found(call, call["experiment_id"]))
    call.yard.tracking.set_experiment_tag(known.experiment_id, call["key"], call.text("value"), user=call.who)
    return NOTHING


def delete_tag(call: Call) -> dict[str, Any]:
    """Remove a tag."""
    known, key = active(found(call, call["experiment_id"])), call["key"]
    with instead(NotFound, f"No tag with name: {key} in experiment with id {known.experiment_id}"):
        call.yard.tracking.delete_experiment_tag(known.experiment_id, key, user=call.who)
    return NOTHING


def search(call: Call) -> dict[str, Any]:
    """A page of experiments."""
    limit = checks.results(call.get("max_results", 0))
    page = call.visible(
        call.yard.tracking.search_experiments(
            filter=filters.experiments(call.text("filter")),
            order_by=[filters.order(one, filters.EXPERIMENT_ORDER) for one in call.get("order_by", [])],
            view=view(call.get("view_type")),
            limit=limit,
            page_token=filters.token(call.text("page_token")),
        )
    )
    told: dict[str, Any] = {"experiments": [views.experiment(one) for one in page.items]} if page.items else {}
    return told | ({"next_page_token": page.next_page_token} if page.next_page_token else {})


def found(call: Call, experiment_id: str) -> Experiment:
    """The experiment of an id; without one, the default experiment."""
    number = checks.experiment_id(experiment_id or "0")
    with instead(NotFound, f"No Experiment with id={number} exists"):
        if number.startswith("-"):
            raise NotFound(number)
        known: Experiment = call.yard.tracking.get_experiment(number)
        return known


def active(known: Experiment) -> Experiment:
    """The experiment itself if it is in use."""
    if known.lifecycle_stage is not Lifecycle.ACTIVE:
        raise Refused(
            f"The experiment {known.experiment_id} must be in the 'active' state. "
            f"Current state is {known.lifecycle_stage.value}."
        )
    return known


def in_stage(call: Call, stage: Lifecycle) -> Experiment:
    """The experiment of the call; one in another stage counts as none, as in MLflow."""
    known = found(call, call["experiment_id"])
    if known.lifecycle_stage is not stage:
        raise Refused(f"No Experiment with id={known.experiment_id} exists", UNKNOWN)
    return known


def view(asked: Any) -> View:
    """Which things a search looks at."""
    if asked is None:
        return View.ACTIVE
    asked = int(asked) if isinstance(asked, str) and asked.isdigit() else asked
    if not isinstance(asked, str | int) or asked not in VIEWS:
        raise Refused(checks.invalid("view_type", asked))
    return VIEWS[asked]


def artifact_location(location: str) -> str:
    """The place itself if files of runs may lie there: below our own root, or in an object store that clients reach.

    A folder or a host of the server's own side is refused (CVE-2023-6909, CVE-2024-1483).
    """
    if not location:
        return location
    parts = urlsplit(location)
    if parts.fragment or ";" in parts.path:
        raise Refused("'artifact_location' URL can't include fragments or params.")
    if ".." in unquote(unquote(parts.query)):
        raise Refused("Invalid query string")
    if parts.scheme == "mlflow-artifacts" and not parts.netloc and not parts.query:
        inner = re.sub(r"^mlflow-artifacts:/*", "", location).rstrip("/")
        return location if not inner else f"mlflow-artifacts:/{checks.artifact_path(inner)}"
    if parts.scheme in ELSEWHERE and parts.netloc and ".." not in unquote(unquote(parts.path)).split("/"):
        return location
    raise Refused(
        f"'artifact_location' cannot be {location[:200]!r}. Leave it out, or give a path below mlflow-artifacts:/ or an "
        f"object store that the clients reach themselves: {', '.join(sorted(ELSEWHERE))}."
    )


_SEARCH = (integer("max_results"), text("page_token"), text("filter"), texts("order_by"), anything("view_type"))
ROUTES = (
    route(
        "POST",
        "/experiments/create",
        WRITE,
        create,
        text("name", required=True),
        text("artifact_location"),
        entries("tags"),
        touches=(("experiment", "name"),),  # a new one is in the project `default`
    ),
    route("GET", "/experiments/get", READ, get, ID, touches=TOUCHES),
    route(
        "GET",
        "/experiments/get-by-name",
        READ,
        get_by_name,
        text("experiment_name", required=True),
        shows=("experiment", "experiment_id"),
    ),
    route("POST", "/experiments/delete", WRITE, delete, ID, touches=TOUCHES),
    route("POST", "/experiments/restore", WRITE, restore, ID, touches=TOUCHES),
    route("POST", "/experiments/update", WRITE, update, ID, text("new_name", required=True), touches=TOUCHES),
    route(
        "POST",
        "/experiments/set-experiment-tag",
        WRITE,
        set_tag,
        ID,
        text("key", required=True),
        text("value"),
        touches=TOUCHES,
    ),
    route(
        "POST", "/experiments/delete-experiment-tag", WRITE, delete_tag, ID, text("key", required=True), touches=TOUCHES
    ),
    route("GET", "/experiments/search", READ, search, *_SEARCH, shows=("experiment", "experiment_id")),
    route("POST", "/experiments/search", READ, search, *_SEARCH, shows=("experiment", "experiment_id")),
)
