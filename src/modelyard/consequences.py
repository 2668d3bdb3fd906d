"""What follows from a change once it has been made: each hears an event of one area and acts in another.

`wiring.py` says who hears what. Each is called at least once and in order, so that doing it again changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from modelyard.core.errors import Conflict, Damaged, Forbidden, Invalid, NotFound
from modelyard.core.events import Event, EventType
from modelyard.core.refs import ModelRef
from modelyard.core.traffic import GuardTrip, Traffic, versions_in
from modelyard.core.work import Work
from modelyard.tracking.following import Training
from modelyard.tracking.values import Dataset, RunStatus

log = logging.getLogger("modelyard.wiring")

Areas = Callable[[str], Any]


def provide(areas: Areas, event: Event) -> None:
    """The serving processes know the registered versions that a deployment routes to."""
    serving, registry = areas("serving"), areas("registry")
    known = serving.places.read_models()
    for model, version in versions_in(event.details.get("traffic")):
        if (model, version) in known:
            continue
        try:
            framework = registry.get_model(model, version).framework
            serving.install(event.details["endpoint"], model, version, registry.path(model, version), framework)
        except (NotFound, Forbidden, Damaged) as error:  # the serving processes keep the old routing and say why
            log.warning("%s %s cannot be served: %s", model, version, error)


def route(areas: Areas, event: Event) -> None:
    """Carry out the routing that a deployment decided."""
    if not event.details.get("traffic"):
        return
    try:
        areas("serving").apply(msgspec.convert(event.details["traffic"], Traffic, strict=False))
    except (Conflict, Invalid) as error:  # a newer routing is in force already, or it never can be
        log.info("routing of %s skipped: %s", event.resource_id, error)


def crown(areas: Areas, event: Event) -> None:
    """A version whose rollout completed becomes its model's champion, unless one was named since."""
    if event.details.get("strategy") == "shadow":
        return
    name, version = event.details["model"], event.details["version"]
    registry = areas("registry")
    try:
        with registry.store.work(event.actor) as work:
            if not _named_since(work, name, event.position or 0):
                registry.set_alias_within(work, name, "champion", version, completed=event.position)
    except (NotFound, Forbidden) as error:  # not registered here, or not in production
        log.info("%s has no new champion: %s", name, error)


def _named_since(work: Work, name: str, position: int) -> bool:
    """Whether the champion was named for this completion or a later one, or by a person since: then it stays."""
    rows = work.rows.all(
        "SELECT position, resource_id, details FROM events WHERE event_type = :kind AND position > :position",
        kind=EventType.ALIAS_SET.value,
        position=position,
    )
    named = [(row["position"], row["resource_id"], json.loads(row["details"])) for row in rows]
    return any(
        told["alias"] == "champion" and ModelRef.parse(model).name == name and (told.get("completed") or at) >= position
        for at, model, told in named
    )


def settle(areas: Areas, event: Event) -> None:
    """A rollback that the serving processes decided becomes the deployment's state."""
    try:
        areas("deployment").record_trip(msgspec.convert(event.details["trip"], GuardTrip, strict=False))
    except NotFound as error:  # a guard that somebody published by hand, without a deployment
        log.info("the rollback of %s belongs to no deployment: %s", event.resource_id, error)


def enrol(areas: Areas, event: Event) -> None:
    """An experiment that serving splits traffic for is an A/B test of the same name: one analysis for both."""
    planned = event.details.get("experiment")
    tests = areas("ab_testing")
    if not planned or any(test.name == event.resource_id for test in tests.list_tests()):
        return
    test = tests.create_test(
        event.resource_id,
        control_variant="{model}:{version}".format(**planned["control"]),
        treatment_variant=["{model}:{version}".format(**variant) for variant in planned["variants"]],
        traffic_split=[planned["split"].get(variant["endpoint"], 0.0) for variant in planned["variants"]],
        description="traffic that serving splits between endpoints",
        created_by=event.actor,
    )
    tests.start_test(test.test_id, user=event.actor)


def track(areas: Areas, event: Event) -> None:
    """A pipeline's training is a run too, under the same id, in the experiment of the pipeline's name."""
    try:
        areas("tracking").follow(_training(areas("pipeline").get_run(event.resource_id), event))
    except (NotFound, Conflict, Invalid) as error:  # the run or its experiment was deleted meanwhile
        log.info("the training %s is not tracked: %s", event.resource_id, error)


def _training(record: Any, event: Event) -> Training:
    """What a pipeline's record says of its run, as far as the event has it come."""
    settings = {name: value for name, value in record.config.items() if value not in ("", None)}
    given = {f"model_params.{name}": value for name, value in (settings.pop("model_params", None) or {}).items()}
    told = Training(
        run_id=record.run_id,
        experiment=record.name,
        user=record.created_by,
        started=record.started_at,
        params={**settings, **given},
    )
    if event.event_type is EventType.TRAINING_STARTED:
        return told
    timings = event.details.get("timings") or {}
    source = record.data_source or "frame"
    return replace(
        told,
        ended=event.occurred_at,
        status=RunStatus.FAILED if record.error else RunStatus.FINISHED,
        params={**told.params, **{f"best {name}": value for name, value in record.best_params.items()}},
        metrics={**record.metrics, **{f"seconds {stage}": seconds for stage, seconds in timings.items()}},
        tags={"error.stage": record.failed_stage, "error.message": record.error} if record.error else {},
        dataset=Dataset(name=source, digest=record.data_digest[:36], source_type="local", source=source)
        if record.data_digest
        else None,
        files=tuple(record.artifacts[name] for name in ("model", "report") if name in record.artifacts),
    )
