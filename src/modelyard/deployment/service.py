"""DeploymentManager: rollouts of new versions, decided from counts, kept in the store at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelyard.core.canonical import plain
from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound
from modelyard.core.instants import SYSTEM_CLOCK, Instant, from_micros
from modelyard.core.measures import Measurement
from modelyard.core.operations import operation
from modelyard.core.ports import Clock, Connection
from modelyard.core.refs import ModelRef
from modelyard.core.traffic import GuardTrip, TrafficCounts
from modelyard.core.work import Store, Work
from modelyard.deployment import brought, looks, moves, plans, rules, store, windows
from modelyard.deployment.plans import Wanted
from modelyard.deployment.rollouts import (
    Deployment,
    DeploymentStatus,
    DeploymentStrategy,
    HistoryEntry,
    Look,
    Progress,
    Rollout,
    status_named,
)
from modelyard.deployment.steered import SteeredRollouts

Decide = Callable[[Rollout, TrafficCounts, Instant, str], Decision]


class DeploymentManager(SteeredRollouts):
    """Rolls versions out: live ones from the counts of serving, others from metrics reported by hand.

    All that a controller needs stands in the store, so a killed one is resumed by any other, and of two that look at the
    same counts one acts: the other finds a newer generation.
    """

    def __init__(self, storage_path: str | Path | Store, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(storage_path, clock=clock)
        self._renewed: looks.Renewed = {}

    @operation("POST", "/deployments", needs="deployment.write")
    def start(
        self,
        endpoint: str,
        version: str,
        *,
        strategy: DeploymentStrategy | str = DeploymentStrategy.CANARY,
        baseline: str = "",
        steps: list[float] | None = None,
        gates: list[int] | None = None,
        step_units: list[int] | None = None,
        step_seconds: list[float] | None = None,
        freeze: list[str] | None = None,
        minimum_units: int = 500,
        minimum_seconds: float = 0.0,
        minimum_agreement: float = 0.0,
        tolerance: float | None = None,
        margin: float = 0.005,
        latency_margin: float = 0.10,
        latency_floor_ms: float = 0.5,
        alpha: float = 0.001,
        warmup: int = 0,
        error_limit: float | None = None,
        latency_limit: float | None = None,
        guardrails: list[dict[str, Any]] | None = None,
        ready_seconds: float = 600.0,
        keep_seconds: float = 3600.0,
        latency_ms: dict[str, float] | None = None,
        after_generation: int = 0,
        created_by: str = "system",
    ) -> Deployment:
        """A live rollout of `version` on an endpoint, in its first step.

        `version` and `baseline` are v2.0.0 (of the model named like the endpoint) or name:v2.0.0; without `baseline` it
        is the version that the last deployment left there. `steps` are the strategy's shares, `gates` the positions
        (from 0) of steps that a person has to let pass; `step_units` and `step_seconds` are minima of each step where
        `minimum_units` and `minimum_seconds` are not to hold for all. In the weekly windows `freeze`, written
        "Fri 16:00 - Mon 08:00 Europe/Berlin", nothing is promoted and nothing begins.

        A shadow's answers agree where the class is the same, with `tolerance` the probabilities also that near, and
        where numbers are that near to each other, as a part of them (0.001 without it).

        A step is left when, always-valid at 95 %, the new version's error rate is at most `margin` above the live
        baseline's and its p95 at most `latency_margin` of it above, or `latency_floor_ms`; with no errors at all that takes
        830 canary units for a margin of 0.005, 415 for 0.01 and 207 for 0.02, at an error rate of 1 % in both versions and
        a share of 5 % 5,400, 1,540 and 490. `alpha` bounds the chance that a version as good as the baseline is ever rolled back.
        `error_limit` and `latency_limit` are hard limits, of the error rate and of the p95 as a multiple of the
        baseline's: the new version goes back where it alone breaks one; where both may, nothing is promoted. Each of
        `guardrails` is a metric that is reported or asked of Prometheus: {"name", "lowest", "highest", "tolerated",
        "worse": "up" or "down", "prometheus": a URL, "canary" and "baseline": queries}.

        A version that some serving process cannot load goes back after `ready_seconds`; after the end the baseline stays
        in memory for `keep_seconds`, as the arm `previous`, so that `rollback` takes effect at once.

        `latency_ms` are the baseline's quantiles (p50, p95, p99) if they are known; else they are frozen from its first
        200 answers, and anew where it has moved so far that they are no quantiles any more. `after_generation` is the
        generation that the endpoint's traffic has now. Invalid for impossible terms, Conflict while another rollout is
        under way there and within a freeze window.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0", steps=[0.1, 1.0])
        >>> [(arm.name, arm.version, arm.weight) for arm in rollout.traffic.arms]
        [('baseline', 'v1.0.0', 0.9), ('canary', 'v2.0.0', 0.1)]
        """
        asked = {name: value for name, value in locals().items() if name not in ("self", "created_by")}
        one = plans.wanted(**asked)  # all of them: one that were left out would be taken and not heeded
        with self.store.work(created_by) as work:
            return self._begin(work, one)

    def _begin(self, work: Work, one: Wanted) -> Deployment:
        frozen = windows.frozen_until(one.terms.freeze, work.now)
        if frozen is not None:
            raise Conflict(f"{one.candidate} cannot begin on {one.endpoint}. {windows.told(frozen)}.")
        old, progress = _baseline(work.rows, one), Progress(latency_ms=one.latency_ms)
        row = self._new_row(work, one.candidate, one.strategy) | {
            "source": store.LIVE,
            "endpoint": one.endpoint,
            "baseline": str(old) if old else "",
            "generation": one.after_generation,
            "plan": store.plan_text(one.steps, one.terms),
            "state": store.state_text(progress),
        }
        store.insert_deployment(work.rows, row)
        what = f"{plain(one.strategy)} of {one.candidate}" + (f" from {old}" if old else "")
        decision = Decision(verdict=Verdict.ALLOW, reasons=(what,))
        return moves.view(moves.to_step(work, row, 0, progress=progress, decision=decision, what="started"))

    def advance(
        self, deployment_id: str, seen: TrafficCounts, *, controller: str = "", trouble: str = "", user: str = "system"
    ) -> Decision:
        """What the merged counts of the rollout's generation decide, carried out in the same transaction.

        PROMOTE has moved it to its next step (or completed it), ROLL_BACK has sent everything back; HOLD says in its
        first reason what is missing. Counts of another generation decide nothing, so two controllers never both act;
        Invalid for counts that cannot be.
        A `controller` that names itself takes the rollout's lease for ten seconds; while another one holds it, its own
        look decides nothing. `trouble` is why a serving process does not carry the routing out, if one does not: nothing
        is promoted meanwhile, and after the terms' `ready_seconds` the version goes back.

        >>> from modelyard.core.traffic import ArmCounts, TrafficCounts
        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0", steps=[0.1, 1.0], margin=0.02)
        >>> arms = {"baseline": ArmCounts(requests=5400, errors=5), "canary": ArmCounts(requests=600)}
        >>> counts = TrafficCounts(endpoint="fraud", generation=rollout.generation, arms=arms)
        >>> manager.advance(rollout.deployment_id, counts).verdict.value
        'promote'
        >>> manager.get_deployment(rollout.deployment_id).status.value
        'completed'
        """
        brought.check(seen)
        try:
            with self.store.work(user) as work:
                return self._look(work, deployment_id, seen, rules.advance, controller=controller, trouble=trouble)
        except (Forbidden, NotFound) as refused:  # its stage no longer allows it, say: the promotion is undone
            held = Decision(verdict=Verdict.HOLD, reasons=(f"not allowed: {refused}",))
            with self.store.work(user) as work:
                return self._look(work, deployment_id, seen, lambda *_: held, controller=controller, trouble=trouble)

    def _look(
        self, work: Work, deployment_id: str, seen: TrafficCounts, decide: Decide, *, controller: str, trouble: str
    ) -> Decision:
        row = moves.known(work.rows, deployment_id)
        if row["source"] == store.REPORTED:
            raise Conflict(f"{deployment_id} is judged by metrics reported by hand. Call report_metrics instead.")
        other = looks.held_by_another(work, deployment_id, controller, self._renewed)
        if other:
            return Decision(verdict=Verdict.HOLD, reasons=(f"another controller looks after it: {other}",))
        rollout = store.rollout_from(row)
        watched = rules.watched(rollout.progress, rollout.status, trouble, work.now)
        rollout = replace(rollout, progress=watched)
        decision = windows.kept(decide(rollout, seen, work.now, trouble), rollout.terms.freeze, work.now)
        moves.carry_out(work, row, rollout, seen, decision)
        if rollout.status.active and seen.generation == rollout.generation:
            looks.keep(work, rollout, seen, decision, controller)
        return decision

    def release_due(self) -> list[Deployment]:
        """The completed deployments that have just let go of their baseline: its `keep_seconds` are over.

        A server's controller calls it once a minute; until then a rollback needs no loading.

        >>> from modelyard.deployment import DeploymentManager
        >>> DeploymentManager(folder).release_due()
        []
        """
        now = self.store.clock.now()
        with self.store.reading() as rows:
            if not any(moves.due_to_release(row, now) for row in store.keeping(rows)):
                return []
        with self.store.work() as work:
            due = [
                row
                for row in store.keeping(work.rows)
                if moves.due_to_release(row, work.now) and not moves.taken_over(work, row)
            ]
            return [moves.view(moves.release(work, row)) for row in due]

    def completed(self) -> list[Deployment]:
        """The completed live deployments that decided their endpoint's traffic last.

        >>> from modelyard.deployment import DeploymentManager
        >>> DeploymentManager(folder).completed()
        []
        """
        with self.store.reading() as rows:
            return [moves.view(row) for row in store.keeping(rows)]

    def give_up(self, deployment_id: str, trouble: str) -> Deployment:
        """A completed deployment that no process carries out, taken back once its `ready_seconds` are over.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> made = manager.start("fraud", "v2.0.0", strategy="direct", baseline="v1.0.0", ready_seconds=0.0)
        >>> manager.give_up(made.deployment_id, "there is no such file").status.value
        'rolled_back'
        """
        with self.store.work() as work:
            row = moves.known(work.rows, deployment_id)
            rollout, since = store.rollout_from(row), (work.now - from_micros(row["updated_at"])).total_seconds()
            takes = rollout.status is DeploymentStatus.COMPLETED and rollout.baseline is not None
            if takes and since >= rollout.terms.ready_seconds and moves.is_newest(work, row):
                decision = Decision(verdict=Verdict.ROLL_BACK, reasons=(rules.too_late(rollout, since, trouble),))
                row = moves.end(work, row, DeploymentStatus.ROLLED_BACK, decision=decision)
            return moves.view(row)

    def under_way(self) -> list[Deployment]:
        """The live deployments that are under way: what a controller has to look at.

        >>> from modelyard.deployment import DeploymentManager
        >>> DeploymentManager(folder).under_way()
        []
        """
        with self.store.reading() as rows:
            return [moves.view(row) for row in store.active_rows(rows)]

    def let_go(self, controller: str) -> None:
        """End a controller's leases, so that another one need not wait for ten seconds.

        >>> from modelyard.deployment import DeploymentManager
        >>> DeploymentManager(folder).let_go("host:1")
        """
        with self.store.work() as work:
            store.end_leases(work.rows, controller)

    @operation("GET", "/deployments/{deployment_id}/look", needs="deployment.read")
    def look(self, deployment_id: str) -> Look:
        """What the last look at a rollout saw, decided and waits for, with each arm's counts, and who looked when.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0")
        >>> manager.look(rollout.deployment_id).reasons
        ('nobody has looked yet',)
        """
        with self.store.reading() as rows:
            moves.known(rows, deployment_id)
            return looks.look_from(deployment_id, store.look_row(rows, deployment_id))

    def record_trip(self, trip: GuardTrip) -> Deployment:
        """The deployment after a serving process's own rollback; telling it again changes nothing.

        A trip that arrives after the rollout completed still takes it back, unless a newer one has started there: the
        evidence is against the version, not against the step.

        >>> from modelyard.core.traffic import GuardTrip, TrafficCounts
        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0")
        >>> counts = TrafficCounts(endpoint="fraud", generation=rollout.generation)
        >>> where = {"endpoint": "fraud", "generation": rollout.generation, "rollout_id": rollout.deployment_id, "step": 0}
        >>> found = {"metric": "errors", "e_value": 1300.0, "threshold": 1250.0, "reason": "8 of 100 failed", "at": 0.0}
        >>> manager.record_trip(GuardTrip(**where, **found, counts=counts)).status.value
        'rolled_back'
        """
        with self.store.work("guard") as work:
            row = moves.known(work.rows, trip.rollout_id)
            status = DeploymentStatus(row["status"])
            newest = store.newest_on(work.rows, row["endpoint"])
            last = newest is not None and newest["deployment_id"] == row["deployment_id"]
            if status.active or (status is DeploymentStatus.COMPLETED and last):
                rollout = store.rollout_from(row)
                same = trip.counts.generation == rollout.generation
                progress = rules.left_step(rollout, trip.counts) if same else rollout.progress
                decision = Decision(
                    verdict=Verdict.ROLL_BACK,
                    reasons=(trip.reason or f"a serving process rolled back on {trip.metric}",),
                    measurements=(_tripped(trip, progress),),
                )
                row = moves.end(work, row, DeploymentStatus.ROLLED_BACK, decision=decision, progress=progress)
            return moves.view(row)

    @operation("GET", "/deployments/{deployment_id}", needs="deployment.read")
    def get_deployment(self, deployment_id: str) -> Deployment:
        """One deployment as it stands.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0")
        >>> manager.get_deployment(rollout.deployment_id) == rollout
        True
        """
        with self.store.reading() as rows:
            return moves.view(moves.known(rows, deployment_id))

    @operation("GET", "/deployments", needs="deployment.read")
    def list_deployments(self, *, endpoint: str = "", status: DeploymentStatus | None = None) -> list[Deployment]:
        """The deployments on an endpoint (of all endpoints without one), oldest first.

        >>> from modelyard.deployment import DeploymentManager
        >>> DeploymentManager(folder).list_deployments(endpoint="fraud")
        []
        """
        wanted = status_named(status).value if status else ""
        with self.store.reading() as rows:
            return [moves.view(row) for row in store.deployment_rows(rows, endpoint, wanted)]

    @operation("GET", "/deployments/{deployment_id}/history", needs="deployment.read")
    def history(self, deployment_id: str) -> list[HistoryEntry]:
        """What was decided about a deployment, by whom and from which numbers, oldest first.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0")
        >>> [(entry.what, entry.share) for entry in manager.history(rollout.deployment_id)]
        [('started', 0.05)]
        """
        with self.store.reading() as rows:
            moves.known(rows, deployment_id)
            return [store.entry_from(row) for row in store.history_rows(rows, deployment_id)]


def _baseline(rows: Connection, one: Wanted) -> ModelRef | None:
    """The version to compare with and to go back to; Conflict or Invalid where a rollout cannot start."""
    active = store.active_on(rows, one.endpoint)
    if active is not None:
        raise Conflict(
            f"{one.endpoint} is already being rolled out by {active['deployment_id']} ({active['status']}). "
            "Promote, abort or roll it back first."
        )
    before = store.newest_on(rows, one.endpoint)
    traffic = moves.view(before).traffic if before else None
    arm = traffic.arms[0] if traffic else None
    old = one.baseline or (ModelRef(arm.model, arm.version) if arm else None)
    if old is None and len(one.steps) > 1:
        raise Invalid(
            f"{one.endpoint} has no version to compare {one.candidate} with. Pass baseline, or the strategy direct."
        )
    if old == one.candidate:
        raise Conflict(f"{one.candidate} already answers {one.endpoint}. Nothing to roll out.")
    return old


def _tripped(trip: GuardTrip, progress: Progress) -> Measurement:
    arms = {
        name: {"requests": arm.requests, "errors": arm.errors, "slower": dict(arm.slower)}
        for name, arm in trip.counts.arms.items()
    }
    return Measurement(
        name="rollback_e_value",
        value=trip.e_value,
        n=progress.canary_requests,
        method="e-process in the serving process",
        details={"metric": trip.metric, "threshold": trip.threshold, "step": trip.step, "arms": arms, "at": trip.at},
    )
