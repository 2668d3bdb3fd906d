"""What people do with a rollout: let it pass, pause it, abort it, take it back."""

from __future__ import annotations

from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Conflict, Invalid
from modelyard.core.events import EventType
from modelyard.core.operations import operation
from modelyard.core.ports import Row
from modelyard.core.traffic import TrafficCounts
from modelyard.core.work import Work
from modelyard.deployment import looks, moves, rules, store, windows
from modelyard.deployment.declared import DeclaredRollouts
from modelyard.deployment.rollouts import Deployment, DeploymentStatus


class SteeredRollouts(DeclaredRollouts):
    """Moves rollouts as a person says, each time with what was known then."""

    @operation("POST", "/deployments/{deployment_id}/promote", needs="deployment.write")
    def promote(
        self, deployment_id: str, *, step: int | None = None, reason: str = "", user: str = "system"
    ) -> Deployment:
        """The deployment in its next step because a person says so: through a gate, or without waiting for evidence.

        What the step has counted against the version is carried on, so that leaving it early forgets nothing; Conflict
        where that calls for a rollback already. `step` is the step that is meant to be left: of two people, or of a call
        and its repetition, one promotes then, and for the other nothing changes. Within a freeze window a person gives a
        `reason`; Conflict without.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0", steps=[0.1, 1.0])
        >>> manager.promote(rollout.deployment_id, user="lead@company.com").status.value
        'completed'
        """
        if step is not None and step < 0:
            raise Invalid(f"step is {step}; the first step is 0.")
        seen = self._counted(deployment_id)
        with self.store.work(user) as work:
            row = moves.known(work.rows, deployment_id)
            if step is not None and step < row["step"] + (row["status"] == DeploymentStatus.COMPLETED.value):
                return moves.view(row)
            row = moves.known_active(work.rows, deployment_id, "promoted")
            if step is not None and step != row["step"]:
                raise Conflict(f"{deployment_id} is in step {row['step']} and cannot leave step {step} yet.")
            if row["source"] == store.REPORTED:
                decision = moves.person(Verdict.PROMOTE, reason, f"promoted by {user}")
                return moves.view(moves.end(work, row, DeploymentStatus.COMPLETED, decision=decision))
            return moves.view(_passed(work, row, seen, reason))

    @operation("POST", "/deployments/{deployment_id}/pause", needs="deployment.write")
    def pause(self, deployment_id: str, *, reason: str = "", user: str = "system") -> Deployment:
        """The deployment, kept at its step until it is resumed. The guard goes on watching and may roll it back.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0")
        >>> manager.pause(rollout.deployment_id).status.value, manager.resume(rollout.deployment_id).status.value
        ('paused', 'running')
        """
        return self._set(deployment_id, DeploymentStatus.PAUSED, "paused", reason=reason, user=user)

    @operation("POST", "/deployments/{deployment_id}/resume", needs="deployment.write")
    def resume(self, deployment_id: str, *, reason: str = "", user: str = "system") -> Deployment:
        """The deployment, judged again from where it was paused.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0")
        >>> manager.resume(rollout.deployment_id).status.value
        'running'
        """
        return self._set(deployment_id, DeploymentStatus.RUNNING, "resumed", reason=reason, user=user)

    @operation("POST", "/deployments/{deployment_id}/abort", needs="deployment.write")
    def abort(self, deployment_id: str, *, reason: str = "", user: str = "system") -> Deployment:
        """The deployment, ended by a person without blame on the version; all traffic is the baseline's again.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0")
        >>> manager.abort(rollout.deployment_id, reason="wrong day").traffic.arms[0].version
        'v1.0.0'
        """
        with self.store.work(user) as work:
            row = moves.known(work.rows, deployment_id)
            if row["status"] != DeploymentStatus.ABORTED.value:
                moves.known_active(work.rows, deployment_id, "aborted")
                decision = _told(work, row, reason, f"aborted by {user}")
                row = moves.end(work, row, DeploymentStatus.ABORTED, decision=decision)
            return moves.view(row)

    @operation("POST", "/deployments/{deployment_id}/rollback", needs="deployment.write")
    def rollback(self, deployment_id: str, *, reason: str = "", user: str = "system") -> Deployment:
        """The deployment, taken back at once, also after it completed; doing it again changes nothing.

        The baseline needs no loading for `keep_seconds` after the end. Conflict where there is no baseline to go back to,
        or a newer deployment has started on the endpoint.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", strategy="direct", baseline="v1.0.0")
        >>> manager.rollback(rollout.deployment_id, reason="customers complain").traffic.arms[0].version
        'v1.0.0'
        """
        with self.store.work(user) as work:
            row = moves.known(work.rows, deployment_id)
            if row["status"] != DeploymentStatus.ROLLED_BACK.value:
                _check_way_back(work, row)
                decision = _told(work, row, reason, f"rolled back by {user}")
                row = moves.end(work, row, DeploymentStatus.ROLLED_BACK, decision=decision)
            return moves.view(row)

    @operation("POST", "/deployments/{deployment_id}/release", needs="deployment.write")
    def release(self, deployment_id: str, *, user: str = "system") -> Deployment:
        """The completed deployment, its baseline out of memory before its `keep_seconds` are over; again changes nothing.

        Going back then has to load it first. Conflict for one that has not completed, or whose routing was set by hand since.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", strategy="direct", baseline="v1.0.0")
        >>> [arm.version for arm in manager.release(rollout.deployment_id).traffic.arms]
        ['v2.0.0']
        """
        with self.store.work(user) as work:
            row = moves.known(work.rows, deployment_id)
            if row["status"] != DeploymentStatus.COMPLETED.value or row["source"] == store.REPORTED:
                status = row["status"].replace("_", " ")
                raise Conflict(f"{deployment_id} keeps no version for a way back: it is {status}.")
            if rules.keeps(store.rollout_from(row)) and moves.is_newest(work, row):
                if moves.taken_over(work, row):
                    raise Conflict(f"The routing of {row['endpoint']} has been set by hand since. Set it anew there.")
                row = moves.release(work, row)
            return moves.view(row)

    def _set(self, deployment_id: str, status: DeploymentStatus, what: str, *, reason: str, user: str) -> Deployment:
        with self.store.work(user) as work:
            row = moves.known_active(work.rows, deployment_id, what)
            if row["status"] != status.value:
                decision = moves.person(Verdict.HOLD, reason, f"{what} by {user}")
                changed = {**row, "status": status.value}
                row = moves.record(work, changed, what=what, decision=decision, event=EventType.DEPLOYMENT_HELD)
            return moves.view(row)

    def _counted(self, deployment_id: str) -> TrafficCounts | None:
        """What serving has counted for the deployment's endpoint up to now; None outside a Yard."""
        if self.store.wires.counts is None:
            return None
        with self.store.reading() as rows:
            endpoint = moves.known(rows, deployment_id)["endpoint"]
        return self.store.wires.counts(endpoint)


def _passed(work: Work, row: Row, seen: TrafficCounts | None, reason: str) -> Row:
    """The live rollout in its next step."""
    rollout = store.rollout_from(row)
    frozen = windows.frozen_until(rollout.terms.freeze, work.now)
    if frozen is not None and not reason.strip():
        raise Conflict(f"{windows.told(frozen)}. To promote {rollout.deployment_id} all the same, give a reason.")
    progress, standing = looks.left(work, rollout, seen)
    if standing.verdict is Verdict.ROLL_BACK:
        raise Conflict(
            f"{rollout.deployment_id} cannot be promoted: {standing.reasons[0]}. "
            f"Take it back: modelyard deployment rollback {rollout.deployment_id}"
        )
    decision = moves.person(Verdict.PROMOTE, reason, f"promoted by {work.actor}", standing.measurements)
    return moves.to_step(work, row, row["step"] + 1, progress=progress, decision=decision, what="promoted")


def _told(work: Work, row: Row, reason: str, otherwise: str) -> Decision:
    """A person's decision against a version, with what the last look saw."""
    measured = looks.left(work, store.rollout_from(row), None)[1].measurements if row["source"] == store.LIVE else ()
    return moves.person(Verdict.ROLL_BACK, reason, otherwise, measured)


def _check_way_back(work: Work, row: Row) -> None:
    """Conflict unless the deployment can be taken back now."""
    status = DeploymentStatus(row["status"])
    if row["source"] == store.REPORTED:
        return
    if status is DeploymentStatus.ABORTED:
        raise Conflict(f"{row['deployment_id']} was aborted: the baseline answers already.")
    if not row["baseline"]:
        raise Conflict(
            f"{row['deployment_id']} has no baseline to go back to. Start a deployment of an earlier version."
        )
    if not moves.is_newest(work, row):
        newest = store.newest_on(work.rows, row["endpoint"])
        raise Conflict(
            f"{row['endpoint']} has a newer deployment {newest and newest['deployment_id']}. Roll that one back."
        )
