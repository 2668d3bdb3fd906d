"""Rollouts from files: what one would change, and carrying that out, as often as one likes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelyard.core.decisions import Decision, Verdict
from modelyard.core.declared import Change
from modelyard.core.errors import Conflict, Forbidden, NotFound
from modelyard.core.operations import operation
from modelyard.core.work import Work
from modelyard.deployment import moves, plans, store
from modelyard.deployment.files import read_rollout
from modelyard.deployment.plans import Wanted
from modelyard.deployment.reported import ReportedDeployments
from modelyard.deployment.rollouts import Deployment, DeploymentStatus, Difference

START, AMEND, UNCHANGED, REFUSED = "start", "amend", "unchanged", "refused"


class DeclaredRollouts(ReportedDeployments):
    """Starts and amends rollouts as a file says."""

    @abstractmethod
    def _begin(self, work: Work, one: Wanted) -> Deployment:
        """Start it in an open transaction."""

    @operation("POST", "/deployments/apply", needs="deployment.write")
    def apply(self, path: str | Path, *, again: bool = False, created_by: str = "system") -> Deployment:
        """The live rollout that a YAML or JSON file describes: the arguments of `start`, one key a line.

        Applying the same file again changes nothing, also after the rollout completed. While it is under way the file
        may change what later decisions rest on (steps that were not reached yet, gates, minima, margins, freeze
        windows); Conflict for anything else. Of a version that was rolled back or aborted a file starts no second
        rollout unless `again` says so, so that a job that runs each hour does not bring a bad version back.

        >>> from modelyard.deployment import DeploymentManager
        >>> text = "endpoint: fraud\\nversion: v2.0.0\\nbaseline: v1.0.0\\nsteps: [5%, 100%]\\n"
        >>> _ = (folder / "rollout.yaml").write_text(text)
        >>> first = DeploymentManager(folder).apply(folder / "rollout.yaml")
        >>> first.share, DeploymentManager(folder).apply(folder / "rollout.yaml") == first
        (0.05, True)
        """
        one = plans.wanted(**read_rollout(path))
        with self.store.work(created_by) as work:
            found = _compared(work, one, again=again)
            if found.verdict == REFUSED:
                raise Conflict(found.reason)
            if found.verdict == START:
                return self._begin(work, one)
            row = moves.known(work.rows, found.deployment_id)
            if found.verdict == AMEND:
                row = moves.amend(work, row, steps=one.steps, terms=one.terms, decision=_amended(found.changes))
            return moves.view(row)

    @operation("POST", "/deployments/diff", needs="deployment.write")
    def diff(self, path: str | Path, *, again: bool = False, created_by: str = "system") -> Difference:
        """What applying a rollout file would do and why; nothing is done. It is tried, so that what would be refused is told.

        >>> from modelyard.deployment import DeploymentManager
        >>> _ = (folder / "rollout.yaml").write_text("endpoint: fraud\\nversion: v2.0.0\\nbaseline: v1.0.0\\n")
        >>> found = DeploymentManager(folder).diff(folder / "rollout.yaml")
        >>> found.verdict, str(found.changes[2])
        ('start', 'steps[0]: None -> 5 %')
        """
        one = plans.wanted(**read_rollout(path))
        with self.store.reading() as rows:
            newest = store.newest_on(rows, one.endpoint)
        try:
            with self.store.trying(created_by) as work:
                found = _compared(work, one, again=again)
                if found.verdict == START:
                    self._begin(work, one)
        except (Conflict, Forbidden, NotFound) as refused:  # by another rollout, its stage, or as it is not registered
            found = replace(_base(one), verdict=REFUSED, reason=str(refused))
        before = _answering(newest) if newest else str(one.baseline or "")
        return replace(found, changes=plans.new(one, before)) if found.verdict == START else found


def _compared(work: Work, one: Wanted, *, again: bool) -> Difference:
    """What the file means for what stands on its endpoint."""
    row, base = store.newest_on(work.rows, one.endpoint), _base(one)
    if row is None:
        return replace(base, verdict=START, reason=f"nothing was rolled out on {one.endpoint} yet")
    stands = moves.view(row)
    same = (row["model_name"], row["model_version"]) == (one.candidate.name, one.candidate.version)
    base = replace(base, deployment_id=stands.deployment_id)
    if stands.status.active:
        return _amendment(base, one, stands) if same else _busy(base, stands)
    if same and stands.status is DeploymentStatus.COMPLETED:
        return replace(base, verdict=UNCHANGED, reason=f"{stands.deployment_id} has completed it")
    last = store.last_of(work.rows, one.endpoint, one.candidate)  # another may have been rolled out since
    if last is not None and last["status"] != DeploymentStatus.COMPLETED.value and not again:
        ended, why = last["status"].replace("_", " "), last["reason"].rstrip(".")
        reason = (
            f"{one.candidate} was {ended} by {last['deployment_id']}: {why}. To try it once more, say again (--again)."
        )
        return replace(base, verdict=REFUSED, reason=reason, deployment_id=last["deployment_id"])
    return replace(base, verdict=START, deployment_id="", reason=f"{_answering(row)} answers {one.endpoint} now")


def _busy(base: Difference, stands: Deployment) -> Difference:
    reason = f"{stands.endpoint} is already being rolled out by {stands.deployment_id} ({stands.status.value}). "
    return replace(base, verdict=REFUSED, reason=reason + "Promote, abort or roll it back first.")


def _amendment(base: Difference, one: Wanted, stands: Deployment) -> Difference:
    found = plans.changes(one, stands)
    if not found:
        return replace(
            base, verdict=UNCHANGED, reason=f"{stands.deployment_id} is {stands.status.value} as the file says"
        )
    cannot = [change.key for change in found if plans.fixed(change, stands.step)]
    if cannot:
        reason = (
            f"{stands.deployment_id} is under way, and its {', '.join(cannot)} cannot change meanwhile. "
            f"Abort it first: modelyard deployment abort {stands.deployment_id}"
        )
        return replace(base, verdict=REFUSED, reason=reason, changes=found)
    return replace(base, verdict=AMEND, reason=f"{stands.deployment_id} is under way", changes=found)


def _base(one: Wanted) -> Difference:
    return Difference(endpoint=one.endpoint, version=one.candidate.version, verdict="", reason="")


def _answering(row: Any) -> str:
    traffic = moves.view(row).traffic
    return f"{traffic.arms[0].model}:{traffic.arms[0].version}" if traffic else "nothing"


def _amended(changes: tuple[Change, ...]) -> Decision:
    return Decision(verdict=Verdict.HOLD, reasons=tuple(f"amended: {change}" for change in changes))
