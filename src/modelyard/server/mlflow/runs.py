"""The routes of runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modelyard.core.errors import Conflict, NotFound
from modelyard.server.mlflow import checks, experiments, filters, views
from modelyard.server.mlflow.calls import NOTHING, Call, instead, route
from modelyard.server.mlflow.errors import INVALID, Refused
from modelyard.server.mlflow.experiments import READ, WRITE
from modelyard.server.mlflow.fields import RUN_ID, anything, entries, integer, text, texts
from modelyard.tracking import ParameterChanged, Run, RunStatus

STATUSES = {status.value: status for status in RunStatus} | dict(
    enumerate((RunStatus.RUNNING, RunStatus.SCHEDULED, RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED), 1)
)
TOUCHES = (("run", "run_id"),)
RUN_NAME = "mlflow.runName"


def create(call: Call) -> dict[str, Any]:
    """A new run, of the default experiment unless another is given."""
    known = experiments.active(experiments.found(call, call.text("experiment_id")))
    tags = dict(checks.run_tag(key, value) for key, value in call.get("tags", {}).items())
    name, told = call.text("run_name"), tags.get(RUN_NAME, "")
    if name and told and name != told:
        raise Refused(
            "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values "
            f"(run_name='{name}', mlflow.runName='{told}')."
        )
    made = call.yard.tracking.create_run(
        known.experiment_id, name=name, tags=tags, start_time=call.get("start_time"), user=call.who
    )
    return {"run": views.new_run(made)}


def get(call: Call) -> dict[str, Any]:
    """One run."""
    return {"run": views.run(found(call, call["run_id"]))}


def update(call: Call) -> dict[str, Any]:
    """A run with a new status, end time or name."""
    status = call.get("status")
    if status is not None and (not isinstance(status, str | int) or status not in STATUSES):
        raise Refused(checks.invalid("status", status))
    with of_run(call, call["run_id"]):
        made = call.yard.tracking.update_run(
            call["run_id"],
            status=None if status is None else STATUSES[status],
            end_time=call.get("end_time"),
            name=call.text("run_name"),
            user=call.who,
        )
    return {"run_info": views.run_info(made)}


def delete(call: Call) -> dict[str, Any]:
    """Delete a run."""
    with of_run(call, call["run_id"]):
        call.yard.tracking.delete_run(call["run_id"], user=call.who)
    return NOTHING


def restore(call: Call) -> dict[str, Any]:
    """Take a deleted run into use again."""
    with of_run(call, call["run_id"]):
        call.yard.tracking.restore_run(call["run_id"], user=call.who)
    return NOTHING


def search(call: Call) -> dict[str, Any]:
    """A page of runs."""
    page = call.yard.tracking.search_runs(
        [one for one in map(checks.experiment_id, call.get("experiment_ids", [])) if not one.startswith("-")],
        filter=filters.runs(call.text("filter")),
        order_by=[filters.order(one, filters.RUN_ORDER) for one in call.get("order_by", [])],
        view=experiments.view(call.get("run_view_type")),
        limit=checks.results(call.get("max_results", 1000)),
        page_token=filters.token(call.text("page_token")),
    )
    told: dict[str, Any] = {"runs": [views.run(one) for one in page.items]} if page.items else {}
    return told | ({"next_page_token": page.next_page_token} if page.next_page_token else {})


def found(call: Call, run_id: str) -> Run:
    """The run of an id."""
    with instead(NotFound, f"Run with id={run_id} not found"):
        known: Run = call.yard.tracking.get_run(run_id)
        return known


@contextmanager
def of_run(call: Call, run_id: str) -> Iterator[None]:
    """What changes a run, with MLflow's words for one that is not there or deleted."""
    try:
        yield
    except ParameterChanged:
        raise
    except NotFound as error:
        found(call, run_id)
        raise Refused(str(error), "RESOURCE_DOES_NOT_EXIST") from error
    except Conflict as error:
        raise Refused(f"The run {run_id} must be in the 'active' state. Current state is deleted.", INVALID) from error


ROUTES = (
    route(
        "POST",
        "/runs/create",
        WRITE,
        create,
        text("experiment_id"),
        text("user_id"),
        integer("start_time"),
        text("run_name"),
        entries("tags"),
        touches=experiments.TOUCHES,
    ),
    route("GET", "/runs/get", READ, get, RUN_ID, touches=TOUCHES),
    route(
        "POST",
        "/runs/update",
        WRITE,
        update,
        RUN_ID,
        integer("end_time"),
        anything("status"),
        text("run_name"),
        touches=TOUCHES,
    ),
    route("POST", "/runs/delete", WRITE, delete, RUN_ID, touches=TOUCHES),
    route("POST", "/runs/restore", WRITE, restore, RUN_ID, touches=TOUCHES),
    route(
        "POST",
        "/runs/search",
        READ,
        search,
        texts("experiment_ids"),
        text("filter"),
        anything("run_view_type"),
        integer("max_results", most=checks.RESULTS),
        texts("order_by"),
        text("page_token"),
        touches=(("experiment", "experiment_ids"),),
    ),
)
