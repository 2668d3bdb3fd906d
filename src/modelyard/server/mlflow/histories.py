"""The routes of metric histories: whole, in pages, and evenly spread for drawing curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelyard.core.errors import NotFound
from modelyard.server.mlflow import checks, filters, views
from modelyard.server.mlflow.calls import NOTHING, Call, route
from modelyard.server.mlflow.errors import Refused
from modelyard.server.mlflow.experiments import READ
from modelyard.server.mlflow.fields import RUN_ID, SEE, integer, text, texts
from modelyard.server.mlflow.runs import TOUCHES
from modelyard.tracking import Metric

MOST_RUNS, MOST_POINTS = 100, 2_500  # of one answer with several histories
PAGE = 10_000  # points read at once for a whole history


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


ROUTES = (
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
