"""What follows from a change once it has been made: each hears an event of one area and acts in another.

`wiring.py` says who hears what. Each is called at least once and in order, so that doing it again changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from modelyard.ab_testing.experiments import ABTest, TestStatus, TrafficSplitStrategy
from modelyard.ab_testing.guarding import next_step, timed
from modelyard.core.errors import Conflict, Damaged, Forbidden, Invalid, NotFound
from modelyard.core.events import Event, EventType
from modelyard.core.instants import from_micros
from modelyard.core.refs import ModelRef
from modelyard.core.traffic import BASELINE, Arm, ArmCounts, GuardTrip, Traffic, versions_in
from modelyard.core.work import Work
from modelyard.deployment.store import next_generation
from modelyard.monitoring.values import LoggedPrediction
from modelyard.serving.verdicts import success
from modelyard.stats.rollback import frozen
from modelyard.tracking.following import Training
from modelyard.tracking.values import Dataset, RunStatus

log = logging.getLogger("modelyard.wiring")

AS_TOLD = "the outcome that was told to the endpoint"

Areas = Callable[[str], Any]


def provide(areas: Areas, event: Event) -> None:
    """The serving processes know the registered versions that a deployment routes to."""
    versions = versions_in(event.details.get("traffic"))
    _install(areas("serving"), areas("registry"), event.details.get("endpoint", ""), versions)


def _install(serving: Any, registry: Any, endpoint: str, versions: list[tuple[str, str]]) -> None:
    known = serving.places.read_models()
    for model, version in versions:
        if (model, version) in known:
            continue
        try:
            framework = registry.get_model(model, version).framework
            serving.install(endpoint, model, version, registry.path(model, version), framework)
        except (NotFound, Forbidden, Damaged) as error:  # the serving processes keep the old routing and say why
            log.warning("%s %s cannot be served: %s", model, version, error)


def route(areas: Areas, event: Event) -> None:
    """Carry out the routing that a deployment decided."""
    if not event.details.get("traffic"):
        return
    try:
        areas("serving").apply(msgspec.convert(event.details["traffic"], Traffic, strict=False))
    except Conflict as error:  # this one or a newer is in force: another process has heard of it too
        log.debug("routing of %s skipped: %s", event.resource_id, error)
        areas("serving").publish()  # who put it in force may have been killed, or found the disk full, before this
    except Invalid as error:  # it never can be
        log.warning("routing of %s skipped: %s", event.resource_id, error)


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


def uncrown(areas: Areas, event: Event) -> None:
    """A version that is taken back after its rollout had completed is champion no longer, but the one before it again.

    Unless somebody was named champion since.
    """
    name, before = event.details["model"], event.details["baseline"]
    registry = areas("registry")
    try:
        with registry.store.work(event.actor) as work:
            completed = work.rows.one(
                "SELECT max(position) AS position FROM events WHERE event_type = :kind AND resource_id = :deployment_id",
                kind=EventType.DEPLOYMENT_COMPLETED.value,
                deployment_id=event.resource_id,
            )
            named = _named_after(work, name, 0)[-1:]
            done = completed["position"] if completed else None
            if done is not None and named and named[0] == done and ModelRef.parse(before).name == name:
                registry.set_alias_within(
                    work, name, "champion", ModelRef.parse(before).version, completed=event.position
                )
    except (NotFound, Forbidden) as error:  # the one before is gone, or not in production
        log.warning("%s keeps the champion that was taken back: %s", name, error)


def _named_since(work: Work, name: str, position: int) -> bool:
    """Whether the champion was named for this completion or a later one, or by a person since: then it stays."""
    return any(at >= position for at in _named_after(work, name, position))


def _named_after(work: Work, name: str, position: int) -> list[int]:
    """What named each champion of a model after a position: that of its rollout's event, or the naming's own."""
    rows = work.rows.all(
        "SELECT position, resource_id, details FROM events WHERE event_type = :kind AND position > :position "
        "ORDER BY position",
        kind=EventType.ALIAS_SET.value,
        position=position,
    )
    named = [(row["position"], row["resource_id"], json.loads(row["details"])) for row in rows]
    return [
        told.get("completed") or at
        for at, model, told in named
        if told["alias"] == "champion" and ModelRef.parse(model).name == name
    ]


def settle(areas: Areas, event: Event) -> None:
    """What the serving processes took back by themselves: its deployment is rolled back, or its A/B test ends."""
    trip = msgspec.convert(event.details["trip"], GuardTrip, strict=False)
    try:
        areas("deployment").record_trip(trip)
    except NotFound:
        try:
            test = areas("ab_testing").record_trip(trip)
        except NotFound as error:  # a guard that somebody published by hand
            log.info("the rollback of %s belongs to no deployment and no test: %s", event.resource_id, error)
            return
        if test.winner == trip.arm:
            _unseat(areas, trip, test)


def _unseat(areas: Areas, trip: GuardTrip, test: ABTest) -> None:
    """A treatment that somebody named the winner as the guard took it back: the evidence is against the version."""
    models = {one.name: one.model for one in test.variants}
    deployments = areas("deployment")
    for newest in deployments.list_deployments(endpoint=trip.endpoint)[-1:]:
        seated = f"{newest.model_name}:{newest.model_version}" == models[trip.arm]
        if seated and newest.baseline == models[test.control.name] and newest.status.value == "completed":
            deployments.rollback(newest.deployment_id, reason=trip.reason, user="guard")


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
        strategy=TrafficSplitStrategy.RANDOM,  # serving draws, by its own hash of the unit
        description="traffic that serving splits between endpoints",
        created_by=event.actor,
    )
    tests.start_test(test.test_id, user=event.actor)


def carry(areas: Areas, event: Event) -> None:
    """The serving processes split an endpoint's traffic as an A/B test says that shall run there."""
    tests, serving, registry = areas("ab_testing"), areas("serving"), areas("registry")
    test_id, endpoint = event.resource_id, event.details["endpoint"]
    present = serving.traffic(endpoint)
    if present.salt == test_id or tests.get_test(test_id).status is not TestStatus.RUNNING:
        serving.publish()  # as for a deployment's routing: what is in force already may not have been published yet
        return
    control = max(present.arms, key=lambda arm: arm.weight).name
    counted = serving.counts(endpoint).arms.get(control, ArmCounts())
    planned = timed(tests.traffic(test_id, endpoint), frozen(counted.latency))
    _install(serving, registry, endpoint, [(arm.model, arm.version) for arm in planned.arms])
    with serving.store.work(event.actor) as work:
        late = _decided_since(work, present)
        if not late:
            generation = next_generation(work.rows, endpoint, present.generation)
            serving.apply_within(work, replace(planned, generation=generation))
    serving.publish()
    if late and serving.traffic(endpoint).salt != test_id:  # else another process was quicker
        log.warning("%s is not carried out on %s: a rollout has begun there", test_id, endpoint)


def time_tests(areas: Areas) -> None:
    """The guards of A/B tests judge latency too, as soon as the control has answered enough to be compared with.

    Where it has not when a test begins, this goes on from where its guards are, as a rollout's next step does.
    """
    serving = areas("serving")
    for present in serving.endpoints():
        guard = present.guard
        if guard is None or guard.latency_ms or guard.rollout_id != present.salt or guard.control == BASELINE:
            continue
        counts = serving.counts(present.endpoint)
        latency = frozen(counts.arms.get(guard.control, ArmCounts()).latency)
        if not latency or any(trip.rollout_id == guard.rollout_id for trip in serving.trips()):
            continue
        with serving.store.work("guard") as work:
            if _decided_since(work, present):
                continue
            generation = next_generation(work.rows, present.endpoint, present.generation)
            serving.apply_within(work, next_step(replace(present, generation=generation), counts, latency))
        serving.publish()


def release(areas: Areas, event: Event) -> None:
    """An A/B test that has ended leaves its endpoint to the control, or to the winner that a person has named."""
    serving, models = areas("serving"), event.details["models"]
    winner = event.details["winner"] or "control"
    for present in serving.endpoints():
        if present.salt != event.resource_id:
            continue
        with serving.store.work(event.actor) as work:
            if _decided_since(work, present):
                continue
            if len(present.arms) > 1:
                ref = ModelRef.parse(models["control"])
                only = Arm(name=BASELINE, model=ref.name, version=ref.version, weight=1.0)
                generation = next_generation(work.rows, present.endpoint, present.generation)
                serving.apply_within(work, replace(present, generation=generation, arms=(only,), guards=()))
        serving.publish()
        if any((one.rollout_id, one.arm) == (event.resource_id, winner) for one in serving.trips()):
            log.warning("%s is not answered by the winner: the guard has taken it back", present.endpoint)
        elif models[winner] != models["control"]:
            _roll_out(areas, present.endpoint, models, winner, event)


def _roll_out(areas: Areas, endpoint: str, models: Mapping[str, str], winner: str, event: Event) -> None:
    """The winner answers everything, by a deployment of its own that can be taken back like any other."""
    try:
        areas("deployment").start(
            endpoint,
            models[winner],
            strategy="direct",
            baseline=models["control"],
            after_generation=areas("serving").traffic(endpoint).generation,
            created_by=event.actor,
        )
    except (Conflict, Forbidden, Invalid, NotFound) as error:  # its stage no longer allows it, say
        log.warning("the winner of %s does not answer %s: %s", event.resource_id, endpoint, error)


def interrupt(areas: Areas, event: Event) -> None:
    """An A/B test ends whose endpoint was taken back to an earlier version: it has no traffic any more."""
    tests, endpoint = areas("ab_testing"), event.details["endpoint"]
    running = {test.test_id for test in tests.list_tests(status=TestStatus.RUNNING)}
    with tests.store.reading() as rows:
        routed = rows.all(
            "SELECT resource_id, details FROM events WHERE event_type = :kind", kind=EventType.AB_TEST_ROUTED.value
        )
    for row in routed:
        if row["resource_id"] in running and json.loads(row["details"])["endpoint"] == endpoint:
            reason = f"{endpoint} was rolled back by {event.resource_id}"
            tests.stop_test(row["resource_id"], reason=reason, user=event.actor)
            running.discard(row["resource_id"])


def _decided_since(work: Work, present: Traffic) -> bool:
    """Whether a deployment has decided the endpoint's routing since, though it may not be in force yet."""
    row = work.rows.one(
        "SELECT generation FROM deployment_generations WHERE endpoint = :endpoint", endpoint=present.endpoint
    )
    return row is not None and row["generation"] > present.generation


def learn(areas: Areas, event: Event) -> None:
    """What turned out to be true reaches the A/B test that the request was served under, and the version's monitor.

    Each counts it once, by request id, however often this is called, and as it was told last: what had been counted
    otherwise is corrected.
    """
    serving, endpoint = areas("serving"), event.resource_id
    while rows := serving.untold(endpoint):
        for split in {row["split"] for row in rows if row["split"]}:
            _compare(areas, split, [row for row in rows if row["split"] == split])
        watched = set(areas("monitoring").list_monitors())
        for model in {f"{row['model']}:{row['version']}" for row in rows} & watched:
            told = [labelled(row) for row in rows if f"{row['model']}:{row['version']}" == model]
            _observe(areas("monitoring").monitor(model), told)
        serving.told(endpoint, rows)


def _compare(areas: Areas, split: str, rows: list[dict[str, Any]]) -> None:
    """Tell an A/B test what became of its requests."""
    tests, serving = areas("ab_testing"), areas("serving")
    meant = [test for test in tests.list_tests() if split in (test.test_id, test.name)]
    if not meant:
        return
    test = max(meant, key=lambda one: (one.test_id == split, one.status is TestStatus.RUNNING))
    names = {name: name for name in test.shares}
    try:
        arms = [arm.name for arm in serving.traffic(split).arms]  # an experiment's endpoints, the control first
        names |= dict(zip(arms, test.shares, strict=False))
        if test.status is TestStatus.RUNNING:
            tests.forget_counts(test.test_id, source=f"serving:{split}")  # a request is judged by its outcome alone
    except NotFound:  # the arms are called as the test's variants
        pass
    told = [{"variant": names[row["arm"]], **_result(row)} for row in rows if row["arm"] in names]
    found = tests.settle_results(test.test_id, told, reason=AS_TOLD)
    for result, why in found.refused.items():  # it has ended, or the unit was assigned elsewhere meanwhile
        log.info("the outcome of %s is not counted by %s: %s", result, test.test_id, why)


def _result(row: dict[str, Any]) -> dict[str, Any]:
    """A labelled prediction as a result of an A/B test."""
    prediction, outcome = row["prediction"], row["outcome"]
    numbers = {}
    if not isinstance(outcome, str):
        numbers["outcome"] = float(outcome)
        if isinstance(prediction, float):
            numbers["absolute_error"] = abs(prediction - float(outcome))
    return {
        "success": success(prediction, outcome) is not False,
        "latency": row["latency_ms"] / 1000,
        "custom_metrics": numbers or None,
        "unit_id": row["unit"] or None,
        "result_id": f"{row['endpoint']}/{row['request_id']}/{row['row']}",
    }


def _observe(monitor: Any, told: list[LoggedPrediction]) -> None:
    """Have a monitor know predictions with their outcomes, those too that it knew without."""
    if monitor.log_predictions(told) == len(told):
        return
    for one in told:
        try:
            monitor.record_outcome(one.request_id, one.outcome)
        except Conflict:
            monitor.correct_outcome(one.request_id, one.outcome, reason=AS_TOLD)


def track(areas: Areas, event: Event) -> None:
    """A pipeline's training is a run too, under the same id, in the experiment of the pipeline's name."""
    try:
        areas("tracking").follow(_training(areas("pipeline").get_run(event.resource_id), event))
    except (NotFound, Conflict, Invalid) as error:  # the run or its experiment was deleted meanwhile
        log.info("the training %s is not tracked: %s", event.resource_id, error)


def labelled(row: dict[str, Any]) -> LoggedPrediction:
    """A logged prediction with its outcome as a monitor keeps it; the probability is that of the last class."""
    shares = row["probabilities"]
    return LoggedPrediction(
        request_id=row["request_id"] if row["row"] == 0 else f"{row['request_id']}:{row['row']}",
        at=from_micros(round(row["at"] * 1e6)),
        features=row["features"],
        prediction=row["prediction"],
        probability=shares[-1] if shares else None,
        outcome=row["outcome"],
        latency_ms=row["latency_ms"],
    )


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
