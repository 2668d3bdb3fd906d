"""The one state machine: how a deployment's row changes, with its history and its event, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelyard.core.canonical import plain
from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Conflict, NotFound, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.measures import Measurement
from modelyard.core.ports import Connection, Row
from modelyard.core.refs import Resource
from modelyard.core.traffic import TrafficCounts
from modelyard.core.work import Work
from modelyard.deployment import rules, store
from modelyard.deployment.rollouts import Deployment, DeploymentStatus, Progress, Rollout, Step, Terms

ENTERS = {"started": EventType.DEPLOYMENT_STARTED, "calibrated": EventType.DEPLOYMENT_CALIBRATED}
ENDS = {
    DeploymentStatus.COMPLETED: EventType.DEPLOYMENT_COMPLETED,
    DeploymentStatus.ROLLED_BACK: EventType.DEPLOYMENT_ROLLED_BACK,
    DeploymentStatus.ABORTED: EventType.DEPLOYMENT_ABORTED,
}
ALARMING = (
    "sample ratio",
    "limit",
    "guardrail silent",
    "not carried out",
    "not allowed",
)  # holds that somebody should look at


def known(rows: Connection, deployment_id: str) -> Row:
    """The deployment's row; NotFound with the nearest ids otherwise."""
    row = store.deployment_row(rows, deployment_id)
    if row is None:
        hint = nearest(deployment_id, store.ids(rows, "deployments", "deployment_id"))
        raise NotFound(f"There is no deployment {deployment_id!r}. {hint}")
    return row


def known_active(rows: Connection, deployment_id: str, verb: str) -> Row:
    """The row of a deployment that is still under way; Conflict for one that has ended."""
    row = known(rows, deployment_id)
    if not DeploymentStatus(row["status"]).active:
        ended = row["status"].replace("_", " ")
        raise Conflict(f"{deployment_id} cannot be {verb}: it is {ended}. Start a new deployment.")
    return row


def view(row: Row) -> Deployment:
    """The deployment as it is shown, with the traffic it asks for."""
    live = row["source"] == store.LIVE
    return store.deployment_from(row, rules.traffic_of(store.rollout_from(row)) if live else None)


def to_step(work: Work, row: Row, step: int, *, progress: Progress, decision: Decision, what: str) -> Row:
    """Enter a step: a new generation of traffic. A last step that takes or leaves everything ends the rollout."""
    rollout = store.rollout_from(row)
    if (
        step == len(rollout.steps) - 1
        and rollout.steps[step].share in (0.0, 1.0)
        and rollout.steps[step].shadow_share == 0
    ):
        return end(work, {**row, "step": step}, DeploymentStatus.COMPLETED, decision=decision, progress=progress)
    entered = step != row["step"] or what == "started"
    started = micros(work.now) if entered else row["step_started_at"]
    share = rollout.steps[step].share
    if entered and 0 < share < 1:  # of rolling too, by which others mean one process after the other
        means = f"in every process {rollout.candidate.version} answers {share:.4g} of the requests"
        decision = replace(decision, reasons=(*decision.reasons, means))
    changed = {
        **row,
        "step": step,
        "status": DeploymentStatus.RUNNING.value,
        "generation": store.next_generation(work.rows, row["endpoint"], row["generation"]),
        "step_started_at": started,
        "state": store.state_text(replace(progress, held=())),
    }
    return record(work, changed, what=what, decision=decision, event=ENTERS.get(what, EventType.DEPLOYMENT_ADVANCED))


def carry_out(work: Work, row: Row, rollout: Rollout, seen: TrafficCounts, decision: Decision) -> None:
    """Do what a look has decided, or remember that it was looked."""
    if decision.verdict is Verdict.ROLL_BACK:
        end(work, row, DeploymentStatus.ROLLED_BACK, decision=decision, progress=rules.left_step(rollout, seen))
    elif decision.verdict is Verdict.PROMOTE:
        progress = rules.left_step(rollout, seen)
        to_step(work, row, row["step"] + 1, progress=progress, decision=decision, what="promoted")
    elif calibrated := rules.calibrated(rollout, seen, work.now):
        progress, told = calibrated
        decision = Decision(verdict=Verdict.HOLD, reasons=(told,), measurements=decision.measurements)
        to_step(work, row, row["step"], progress=progress, decision=decision, what="calibrated")
    elif rollout.status.active and seen.generation == rollout.generation:
        hold(work, row, rollout, progress=rollout.progress, decision=decision)


def end(work: Work, row: Row, status: DeploymentStatus, *, decision: Decision, progress: Progress | None = None) -> Row:
    """Complete, roll back or abort: everything goes to one version."""
    changed = {**row, "status": status.value}
    if row["source"] == store.LIVE:
        back = status is not DeploymentStatus.COMPLETED  # wins over a routing that somebody has set by hand since
        after = max(row["generation"], _present(work, row)) if back else row["generation"]
        changed["generation"] = store.next_generation(work.rows, row["endpoint"], after)
        changed["state"] = store.state_text(progress) if progress else row["state"]
    rolled = status is DeploymentStatus.ROLLED_BACK
    severity = EventSeverity.ERROR if rolled else EventSeverity.INFO
    ended = record(work, changed, what=status.value, decision=decision, event=ENDS[status], severity=severity)
    if status is DeploymentStatus.COMPLETED and store.rollout_from(ended).steps[-1].share == 1:
        model = f"{row['model_name']}:{row['model_version']}"
        details = {"deployment_id": row["deployment_id"], "endpoint": row["endpoint"], "strategy": row["strategy"]}
        work.emit(EventType.MODEL_DEPLOYED, Resource("model", model), details)
    return ended


def amend(work: Work, row: Row, *, steps: tuple[Step, ...], terms: Terms, decision: Decision) -> Row:
    """Change what later decisions rest on. The traffic, and so the generation, stays as it is."""
    changed = {**row, "plan": store.plan_text(steps, terms)}
    store.save_plan(work.rows, row["deployment_id"], changed["plan"])
    return record(work, changed, what="amended", decision=decision, event=EventType.DEPLOYMENT_AMENDED)


def hold(work: Work, row: Row, rollout: Rollout, *, progress: Progress, decision: Decision) -> Row:
    """Remember the look. Tell of each kind of hold once a step, of an alarming one each time that it begins anew.

    So a controller that looks each second floods nobody, also where two bounds take turns at their margins.
    """
    kind = decision.reasons[0].partition(":")[0]
    waiting = kind == "gate" and rollout.status is DeploymentStatus.RUNNING
    status = DeploymentStatus.WAITING if waiting else rollout.status
    held = tuple(one for one in progress.held if one == kind or not one.startswith(ALARMING))
    new = kind not in held
    state = store.state_text(replace(progress, held=(*held, kind) if new else held))
    if state == row["state"] and status is rollout.status:
        return row
    changed = {**row, "status": status.value, "state": state}
    if new:
        severity = EventSeverity.WARNING if kind.startswith(ALARMING) else EventSeverity.INFO
        event = EventType.DEPLOYMENT_HELD
        return record(work, changed, what="held", decision=decision, event=event, severity=severity)
    store.save_deployment(work.rows, changed)
    return changed


def is_newest(work: Work, row: Row) -> bool:
    """Whether no later deployment has decided the endpoint's traffic."""
    newest = store.newest_on(work.rows, row["endpoint"])
    return newest is not None and newest["deployment_id"] == row["deployment_id"]


def taken_over(work: Work, row: Row) -> bool:
    """Whether somebody else has set the endpoint's routing since the deployment did."""
    return _present(work, row) > int(row["generation"])


def _present(work: Work, row: Row) -> int:
    """The generation of the routing that is in force, as far as anybody here knows."""
    known = work.store.wires.generation
    return int(row["generation"]) if known is None else known(work.rows, row["endpoint"])


def due_to_release(row: Row, now: Instant) -> bool:
    """Whether a completed deployment keeps its baseline in memory for longer than its plan says."""
    rollout = store.rollout_from(row)
    since = (now - from_micros(row["updated_at"])).total_seconds()
    return rules.keeps(rollout) and since >= rollout.terms.keep_seconds


def release(work: Work, row: Row) -> Row:
    """Let go of the baseline that a completed rollout has kept in memory; why it completed stays its reason."""
    progress = replace(store.progress_from(row["state"]), released=True)
    generation = store.next_generation(work.rows, row["endpoint"], row["generation"])
    changed = {**row, "generation": generation, "state": store.state_text(progress)}
    told = Decision(verdict=Verdict.ALLOW, reasons=(f"{row['baseline']} is kept in memory no longer",))
    store.save_deployment(work.rows, changed)
    _tell(work, changed, what="released", decision=told, event=EventType.DEPLOYMENT_RELEASED)
    return changed


def record(
    work: Work,
    row: Mapping[str, Any],
    *,
    what: str,
    decision: Decision,
    event: EventType,
    severity: EventSeverity = EventSeverity.INFO,
) -> Row:
    """Write the row, its history entry and its event."""
    row = {**row, "updated_at": micros(work.now), "reason": "; ".join(decision.reasons)}
    store.save_deployment(work.rows, row)
    _tell(work, row, what=what, decision=decision, event=event, severity=severity)
    return row


def _tell(
    work: Work,
    row: Mapping[str, Any],
    *,
    what: str,
    decision: Decision,
    event: EventType,
    severity: EventSeverity = EventSeverity.INFO,
) -> None:
    seen = view(row)
    store.add_history(work, row, what, seen.share, decision)
    details = {
        "deployment_id": row["deployment_id"],
        "endpoint": row["endpoint"],
        "model": row["model_name"],
        "version": row["model_version"],
        "baseline": row["baseline"],
        "strategy": row["strategy"],
        "status": row["status"],
        "what": what,
        "step": row["step"],
        "share": seen.share,
        "generation": row["generation"],
        "reasons": list(decision.reasons),
        "measurements": plain(decision.measurements),
        "traffic": plain(seen.traffic),
    }
    work.emit(event, Resource("deployment", row["deployment_id"]), details, severity=severity)


def person(verdict: Verdict, reason: str, otherwise: str, measured: tuple[Measurement, ...] = ()) -> Decision:
    """A decision that a person took, with what was known then."""
    return Decision(verdict=verdict, reasons=(reason.strip() or otherwise,), measurements=measured)
