"""What may refuse a change within its transaction: each hears an event of one area and looks at what another keeps.

`wiring.py` says who hears what. A refusal undoes the whole change, the event with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from modelyard.access.persons import only_other_people
from modelyard.audit.tables import is_held
from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound
from modelyard.core.events import Event
from modelyard.core.ports import Connection
from modelyard.core.refs import ModelRef
from modelyard.core.traffic import PREVIOUS, versions_in
from modelyard.core.work import Work
from modelyard.registry.checks import canonical_version
from modelyard.tracking.runs import OURS, in_store


def only_approved_versions(work: Work, event: Event) -> None:
    """Live traffic goes only to versions whose stage allows it; a shadow's answers reach nobody, so it may be new."""
    if event.details["strategy"] != "shadow":
        _check_stage(work, event.details["model"], event.details["version"])


def _check_stage(work: Work, name: str, version: str) -> None:
    stage = _stage(work, name, version)
    if stage in (None, "staging", "production"):
        return
    raise Forbidden(
        f"{name} {version} cannot get live traffic: its stage is {stage}. "
        f"Ask for approval: modelyard registry request-promotion {name} {version} --target-stage production"
    )


def only_known_versions(work: Work, event: Event) -> None:
    """Traffic goes only to versions that the serving processes can load: registered ones, or ones installed by hand."""
    for model, version in versions_in(event.details.get("traffic")):
        _check_known(work, model, version)


def _check_known(work: Work, model: str, version: str) -> None:
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


def only_newer_routing(work: Work, event: Event) -> None:
    """A rollout whose routing would be passed over, since a newer one is in force, neither begins nor goes on."""
    traffic = event.details.get("traffic")
    if not traffic:
        return
    present = routing_generation(work.rows, traffic["endpoint"])
    if present >= traffic["generation"]:
        raise Conflict(
            f"{traffic['endpoint']} is at generation {present} already: its routing has been set since. "
            f"Roll the deployment back, or start one with after_generation={present}."
        )


def routing_generation(rows: Connection, endpoint: str) -> int:
    """The generation of the routing that an endpoint has now, 0 where it has none."""
    row = rows.one("SELECT generation FROM serving_endpoints WHERE endpoint = :endpoint", endpoint=endpoint)
    return 0 if row is None else int(row["generation"])


def only_fitting_tests(work: Work, event: Event) -> None:
    """An A/B test is carried out where its control answers alone, and its treatments may have live traffic."""
    endpoint, models = event.details["endpoint"], event.details["models"]
    row = work.rows.one("SELECT traffic FROM serving_endpoints WHERE endpoint = :endpoint", endpoint=endpoint)
    if row is None:
        raise NotFound(f"There is no endpoint {endpoint!r}. Roll the control out first: modelyard deployment start")
    _check_no_test(work, json.loads(row["traffic"]), but=event.resource_id)
    under_way = work.rows.one(
        "SELECT deployment_id FROM deployments WHERE endpoint = :endpoint AND source = 'live'"
        " AND status IN ('running', 'waiting', 'paused')",
        endpoint=endpoint,
    )
    if under_way is not None:
        raise Conflict(f"{endpoint} is being rolled out by {under_way['deployment_id']}. Let that end first.")
    answering = [arm for arm in json.loads(row["traffic"])["arms"] if arm["weight"] > 0]
    names = [f"{arm['model']}:{arm['version']}" for arm in answering]
    if names != [models["control"]] and event.resource_id != json.loads(row["traffic"])["salt"]:
        raise Conflict(
            f"{endpoint} is answered by {' and '.join(names)}, and the control of {event.resource_id} is "
            f"{models['control']}. Create the test with what answers as its control."
        )
    for model in models.values():
        ref = ModelRef.parse(model)
        _check_known(work, ref.name, ref.version)
        _check_stage(work, ref.name, ref.version)


def only_sound_winners(work: Work, event: Event) -> None:
    """No test is concluded with a treatment that its guard has taken back."""
    winner = event.details["winner"]
    kept = work.rows.all("SELECT trip FROM serving_trips WHERE rollout_id = :test", test=event.resource_id)
    for trip in (json.loads(row["trip"]) for row in kept):
        if winner and trip["arm"] == winner:
            raise Conflict(
                f"{event.resource_id} cannot be concluded with {winner}, which the guard took back: {trip['reason']} "
                f"Roll it out as a canary if that has been mended: modelyard deployment start {trip['endpoint']}"
            )


def only_without_tests(work: Work, event: Event) -> None:
    """A rollout does not begin on an endpoint where an A/B test runs: it would take the test's traffic."""
    traffic = event.details.get("traffic")
    if traffic:
        row = work.rows.one(
            "SELECT traffic FROM serving_endpoints WHERE endpoint = :endpoint", endpoint=traffic["endpoint"]
        )
        _check_no_test(work, json.loads(row["traffic"]) if row else {})


def _check_no_test(work: Work, traffic: Mapping[str, Any], *, but: str = "") -> None:
    salt = traffic.get("salt") or ""
    row = work.rows.one("SELECT name FROM ab_tests WHERE test_id = :test AND status = 'running'", test=salt)
    if row is not None and salt != but:
        raise Conflict(
            f"The A/B test {salt} ({row['name']}) runs on {traffic['endpoint']}. "
            f"End it first: modelyard ab-testing stop-test {salt}"
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
        traffic = json.loads(row["traffic"])
        kept = [(arm["model"], arm["version"]) for arm in traffic["arms"] if arm["name"] == PREVIOUS]
        for model, version in versions_in(traffic):
            how = "is kept for a way back" if (model, version) in kept else "answers"
            if model == name:
                yield version.removeprefix("v"), f"{version} {how} on the endpoint {row['endpoint']}"
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
