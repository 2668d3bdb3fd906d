"""Who hears of what: one table from events to handlers. Areas never call each other; they meet here.

INSIDE handlers run in the transaction of the event and may refuse it. AFTER handlers run once it has committed, each
with a cursor of its own over the event table: at least once and in order, so they are idempotent. A new one begins with
the first event. None acts on what an import brought (`Store.quietly`): it has had its effects where it happened.
"""

from __future__ import annotations

import json
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from modelyard.access.persons import only_named_roles, only_other_people
from modelyard.audit.tables import is_held
from modelyard.core.errors import Conflict, Damaged, Forbidden, Invalid, NotFound, YardError
from modelyard.core.events import Event, EventType
from modelyard.core.refs import ModelRef
from modelyard.core.traffic import GuardTrip, Traffic
from modelyard.core.work import HEARD, Handler, Store, Work, event_from_row
from modelyard.marketplace.hearing import follow_renaming, withdraw_deleted
from modelyard.registry.checks import canonical_version
from modelyard.tracking.following import Training
from modelyard.tracking.runs import OURS, in_store
from modelyard.tracking.values import Dataset, RunStatus

log = logging.getLogger("modelyard.wiring")

Areas = Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One AFTER handler: the events it hears and the events it may cause."""

    name: str
    hears: tuple[EventType, ...]
    causes: tuple[EventType, ...]
    handle: Callable[[Areas, Event], None]


def only_approved_versions(work: Work, event: Event) -> None:
    """Live traffic goes only to versions whose stage allows it; a shadow's answers reach nobody, so it may be new."""
    name, version = event.details["model"], event.details["version"]
    stage = _stage(work, name, version)
    if stage in (None, "staging", "production") or event.details["strategy"] == "shadow":
        return
    raise Forbidden(
        f"{name} {version} cannot get live traffic: its stage is {stage}. "
        f"Ask for approval: modelyard registry request-promotion {name} {version} --target-stage production"
    )


def only_known_versions(work: Work, event: Event) -> None:
    """Traffic goes only to versions that the serving processes can load: registered ones, or ones installed by hand."""
    for model, version in _routed(event):
        installed = work.rows.one(
            "SELECT path FROM serving_models WHERE model = :model AND version = :version", model=model, version=version
        )
        if installed is None and _stage(work, model, version) is None:
            raise NotFound(
                f"{model} {version} cannot be deployed: it is not registered. "
                f"Register it: modelyard registry register-model {model} {version} PATH --framework NAME"
            )


def _stage(work: Work, name: str, version: str) -> str | None:
    """The stage of a registered version, however its number is written (v1.0.0, 1.0.0); None for an unknown one."""
    try:
        canonical = canonical_version(version)
    except Invalid:  # no version of the registry's: one that was installed by hand
        return None
    row = work.rows.one(
        "SELECT stage FROM model_versions WHERE name = :name AND canonical = :canonical", name=name, canonical=canonical
    )
    return None if row is None else str(row["stage"])


def _routed(event: Event) -> list[tuple[str, str]]:
    """Model and version of everything that the event's traffic goes to."""
    return _arms(event.details.get("traffic") or {"arms": []})


def _arms(traffic: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model and version of each arm, the shadow's included."""
    arms = [*traffic["arms"], *([traffic["shadow"]] if traffic.get("shadow") else [])]
    return [(arm["model"], arm["version"]) for arm in arms]


def only_newer_routing(work: Work, event: Event) -> None:
    """A rollout whose routing would be passed over, since a newer one is in force, does not begin."""
    traffic = event.details.get("traffic")
    if not traffic:
        return
    row = work.rows.one(
        "SELECT generation FROM serving_endpoints WHERE endpoint = :endpoint", endpoint=traffic["endpoint"]
    )
    if row is not None and row["generation"] >= traffic["generation"]:
        raise Conflict(
            f"{traffic['endpoint']} is at generation {row['generation']} already. "
            f"Start the deployment with after_generation={row['generation']}."
        )


def only_unused_versions(work: Work, event: Event) -> None:
    """A version is not deleted while traffic goes to it or a rollout of it runs."""
    name, version = event.details["name"], event.details["version"].removeprefix("v")
    for known, where in _used(work, name):
        if known == version:
            raise Conflict(f"{name} {version} cannot be deleted: {where}. Move its traffic away first.")


def only_unused_names(work: Work, event: Event) -> None:
    """A model keeps its name while traffic goes to one of its versions or a rollout of one runs."""
    renamed = event.details["changes"].get("name")
    for _, where in _used(work, renamed["from"]) if renamed else ():
        raise Conflict(f"{renamed['from']} cannot be renamed: {where}. Move its traffic away first.")


def _used(work: Work, name: str) -> Iterator[tuple[str, str]]:
    """The versions of a model, without a leading v, that live traffic or a running rollout needs, and where."""
    for row in work.rows.all("SELECT endpoint, traffic FROM serving_endpoints ORDER BY endpoint"):
        for model, version in _arms(json.loads(row["traffic"])):
            if model == name:
                yield version.removeprefix("v"), f"{version} answers on the endpoint {row['endpoint']}"
    running = work.rows.all(
        "SELECT deployment_id, model_version, baseline FROM deployments WHERE model_name = :name"
        " AND status IN ('running', 'waiting', 'paused') ORDER BY deployment_id",
        name=name,
    )
    for row in running:
        for version in (row["model_version"], row["baseline"]):
            yield version.removeprefix("v"), f"{version} is part of the running deployment {row['deployment_id']}"


def only_living_runs(work: Work, event: Event) -> None:
    """A version is not registered from a run that was deleted; one that comes from another registry was there before."""
    row = work.rows.one(
        "SELECT lifecycle_stage FROM runs WHERE run_id = :run_id", run_id=event.details.get("run_id") or ""
    )
    if row is not None and row["lifecycle_stage"] == "deleted" and not event.details.get("brought"):
        run_id = event.details["run_id"]
        raise Conflict(
            f"{event.resource_id} cannot be registered: its run {run_id} is deleted. "
            f"Restore the run first: modelyard tracking restore-run {run_id}"
        )


def only_who_did_not_run_it(work: Work, event: Event) -> None:
    """Who made the run that a version comes from trained it, whatever its registration says, and does not approve it."""
    row = work.rows.one(
        "SELECT r.run_id, r.user_id FROM model_versions v JOIN runs r ON r.run_id = v.run_id"
        " WHERE v.name = :name AND v.canonical = :canonical",
        name=event.resource_id.rpartition(":")[0],
        canonical=event.resource_id.rpartition(":")[2].removeprefix("v"),
    )
    if row is None:
        return
    began = work.rows.all(
        "SELECT actor FROM events WHERE resource_type = 'run' AND resource_id = :run_id AND event_type = 'run_started'",
        run_id=row["run_id"],
    )
    trained = [row["user_id"], *(each["actor"] for each in began)]
    only_other_people(
        work, replace(event, details={"barred": [name for name in trained if name not in ("", "system")]})
    )


def only_free_of_holds(work: Work, event: Event) -> None:
    """What a legal hold lies on is not deleted."""
    if is_held(work.rows, event.resource_type, event.resource_id):
        raise Conflict(f"A legal hold lies on {event.resource_id}. See them: modelyard audit list-holds")


def only_unneeded_runs(work: Work, event: Event) -> None:
    """A run, and a logged model of it, stays while a registered version names the run, or a hold lies on its experiment."""
    run_id = event.resource_id if event.resource_type == "run" else event.details["source_run_id"]
    named = work.rows.one("SELECT name, version FROM model_versions WHERE run_id = :run_id", run_id=run_id or "-")
    if named is not None:
        raise Conflict(
            f"The {event.resource_type} {event.resource_id} is kept: {named['name']} {named['version']} comes from its run."
        )
    if is_held(work.rows, "experiment", event.details["experiment_id"]):
        raise Conflict(
            f"A legal hold lies on the experiment of {event.resource_id}. See them: modelyard audit list-holds"
        )


def only_files_free_of_holds(work: Work, event: Event) -> None:
    """Files stay while a hold lies on the run, logged model or experiment that they belong to, or that lies below them."""
    gone = f"{event.resource_id}/"
    for row in work.rows.all(HELD_FILES):
        place = f"{in_store(row['place'], '')}/" if row["place"].startswith(OURS) else "/"
        if place.startswith(gone) or gone.startswith(place):
            raise Conflict(
                f"A legal hold lies on the {row['resource_type']} {row['resource_id']}, so {event.resource_id} is kept. "
                "See them: modelyard audit list-holds"
            )


HELD_FILES = """
SELECT h.resource_type, h.resource_id, r.artifact_uri AS place
FROM audit_holds h JOIN runs r ON h.resource_type = 'run' AND h.resource_id = r.run_id
UNION ALL SELECT h.resource_type, h.resource_id, m.artifact_location
FROM audit_holds h JOIN logged_models m ON h.resource_type = 'logged_model' AND h.resource_id = m.model_id
UNION ALL SELECT h.resource_type, h.resource_id, e.artifact_location
FROM audit_holds h JOIN experiments e ON h.resource_type = 'experiment' AND h.resource_id = CAST(e.experiment_id AS TEXT)
"""


def keep_artifact(work: Work, event: Event) -> None:
    """An artifact under legal hold is kept by the store, whoever else needs it or not."""
    if event.resource_type == "artifact":
        work.store.artifacts.hold(work.rows, event.resource_id, _hold(event))


def release_artifact(work: Work, event: Event) -> None:
    """What a lifted hold kept is kept by others from now on, or by nobody."""
    if event.resource_type == "artifact":
        work.store.artifacts.release(work.rows, event.resource_id, _hold(event))


def _hold(event: Event) -> str:
    return f"legal hold {event.details['hold_id']}"


def provide(areas: Areas, event: Event) -> None:
    """The serving processes know the registered versions that a deployment routes to."""
    serving, registry = areas("serving"), areas("registry")
    known = serving.places.read_models()
    for model, version in _routed(event):
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


INSIDE: dict[EventType, tuple[Handler, ...]] = {
    EventType.DEPLOYMENT_STARTED: (only_approved_versions, only_known_versions, only_newer_routing),
    EventType.DEPLOYMENT_ADVANCED: (only_approved_versions,),
    EventType.DEPLOYMENT_COMPLETED: (
        only_approved_versions,
        only_known_versions,
        only_newer_routing,
    ),  # direct: at once
    EventType.MODEL_REGISTERED: (only_living_runs,),
    EventType.MODEL_DELETED: (only_unused_versions, only_free_of_holds, withdraw_deleted),
    EventType.REGISTERED_MODEL_DELETED: (only_free_of_holds,),
    EventType.RUN_REMOVED: (only_free_of_holds, only_unneeded_runs),
    EventType.LOGGED_MODEL_REMOVED: (only_free_of_holds, only_unneeded_runs),
    EventType.RUN_FILES_REMOVED: (only_files_free_of_holds,),
    EventType.HOLD_PLACED: (keep_artifact,),
    EventType.HOLD_LIFTED: (release_artifact,),
    EventType.REGISTERED_MODEL_UPDATED: (only_unused_names, follow_renaming),
    EventType.APPROVAL_GRANTED: (only_other_people, only_named_roles, only_who_did_not_run_it),
    EventType.APPROVAL_REJECTED: (only_other_people, only_named_roles, only_who_did_not_run_it),
    EventType.POLICY_AGREED: (only_other_people, only_named_roles),
    EventType.POLICY_APPROVED: (only_other_people, only_named_roles),
    EventType.BREAK_GLASS_REVIEWED: (only_other_people, only_who_did_not_run_it),
}

ROUTING = (
    EventType.DEPLOYMENT_STARTED,
    EventType.DEPLOYMENT_ADVANCED,
    EventType.DEPLOYMENT_COMPLETED,
    EventType.DEPLOYMENT_ROLLED_BACK,
    EventType.DEPLOYMENT_ABORTED,
)

GIVING = (EventType.DEPLOYMENT_STARTED, EventType.DEPLOYMENT_ADVANCED, EventType.DEPLOYMENT_COMPLETED)

TRAINED = (EventType.TRAINING_STARTED, EventType.TRAINING_COMPLETED, EventType.TRAINING_FAILED)

TRACKED = (EventType.EXPERIMENT_CREATED, EventType.RUN_STARTED, EventType.RUN_ENDED)

ENROLLED = (EventType.AB_TEST_CREATED, EventType.AB_TEST_STARTED)

AFTER = (
    Wire(name="settle", hears=(EventType.GUARD_TRIPPED,), causes=(EventType.DEPLOYMENT_ROLLED_BACK,), handle=settle),
    Wire(name="provide", hears=GIVING, causes=(), handle=provide),
    Wire(name="route", hears=ROUTING, causes=(EventType.TRAFFIC_CHANGED,), handle=route),
    Wire(name="enrol", hears=(EventType.ENDPOINT_CREATED,), causes=ENROLLED, handle=enrol),
    Wire(name="track", hears=TRAINED, causes=TRACKED, handle=track),
    Wire(name="crown", hears=(EventType.DEPLOYMENT_COMPLETED,), causes=(EventType.ALIAS_SET,), handle=crown),
)


class Dispatcher:
    """Hands committed events to the AFTER handlers."""

    def __init__(self, store: Store, areas: Areas) -> None:
        self._store = store
        self._areas = areas
        self._lock = threading.Lock()
        self._thread = 0  # the thread that is handing on
        self.heard = False  # whether anything has happened through this yard

    def after(self, events: list[Event]) -> None:
        """Called when a transaction has committed: hand on if anybody hears of what happened."""
        self.heard = True
        heard = {kind for wire in AFTER for kind in wire.hears}
        if any(event.event_type in heard for event in events):
            self.catch_up()

    def catch_up(self) -> None:
        """Run every handler over the events it has not seen yet, also those its own calls cause."""
        if self._thread == threading.get_ident():  # a handler's own transaction: the loop below sees its events
            return
        with self._lock:
            self._thread = threading.get_ident()
            try:
                while sum(self._run(wire) for wire in AFTER):
                    pass
            finally:
                self._thread = 0

    def _run(self, wire: Wire) -> bool:
        """True if the handler saw an event. A failing handler stops at that event and is tried again next time."""
        reader = f"wiring.{wire.name}"
        kinds = ", ".join(f"'{kind.value}'" for kind in wire.hears)
        with self._store.reading() as rows:
            row = rows.one("SELECT position FROM event_cursors WHERE reader = :reader", reader=reader)
            seen = row["position"] if row else 0
            waiting = rows.all(
                f"SELECT events.*, {HEARD} AS heard FROM events WHERE position > :seen AND event_type IN ({kinds}) "
                "ORDER BY position LIMIT 500",
                seen=seen,
            )
        done = seen
        try:
            for row in waiting:
                event = event_from_row(row)
                if row["heard"]:
                    wire.handle(self._areas, event)
                done = row["position"]
        except YardError:
            log.exception("%s could not handle event %s; it will be tried again", wire.name, event.event_id)
        finally:
            if done > seen:
                with self._store.work() as work:
                    work.rows.run(ADVANCE, reader=reader, position=done)
        return done > seen


ADVANCE = """
INSERT INTO event_cursors (reader, position) VALUES (:reader, :position)
ON CONFLICT (reader) DO UPDATE SET position = excluded.position WHERE excluded.position > event_cursors.position
"""


def connect(store: Store, areas: Areas) -> Dispatcher:
    """Put the table into force on a store."""
    dispatcher = Dispatcher(store, areas)
    store.wires.inside = {kind: list(handlers) for kind, handlers in INSIDE.items()}
    hand_on = weakref.WeakMethod(dispatcher.after)  # the store must not keep its yard alive

    def after(events: list[Event]) -> None:
        method = hand_on()
        if method is not None:
            method(events)

    store.wires.after = after
    return dispatcher
