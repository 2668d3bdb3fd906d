"""Guardrails of live rollouts: values that are reported, or asked of Prometheus, and what follows from them at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Conflict, Invalid, Unavailable, YardError
from modelyard.core.instants import micros
from modelyard.core.operations import operation
from modelyard.deployment import guardrails, moves, store
from modelyard.deployment.prometheus import query
from modelyard.deployment.rollouts import Deployment, DeploymentStatus
from modelyard.deployment.shadows import Shadows


class GuardedRollouts(Shadows):
    """Takes a live rollout back when a metric that serving does not count is worse than the baseline's."""

    @operation("POST", "/deployments/{deployment_id}/guardrails/{name}", needs="deployment.write")
    def report_guardrail(self, deployment_id: str, name: str, *, canary: float, baseline: float) -> Deployment:
        """The deployment after one more value of a guardrail for canary and baseline; rolled back if that shows harm.

        One call a look, at regular times, further apart than what makes one value like the one before.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> queue = {"name": "queue", "lowest": 0, "highest": 100, "tolerated": 5}
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0", guardrails=[queue])
        >>> for _ in range(99): seen = manager.report_guardrail(rollout.deployment_id, "queue", canary=60, baseline=20)
        >>> seen.status.value
        'rolled_back'
        """
        return self._take_in(deployment_id, {name: (canary, baseline)})

    @operation("POST", "/deployments/{deployment_id}/guardrails", needs="deployment.write")
    def check_guardrails(self, deployment_id: str) -> Deployment:
        """The deployment after Prometheus was asked for the values of each guardrail that is due, one look.

        A server's controller calls it every five seconds. A query without data adds nothing, and a value beyond what the
        guardrail was declared to lie in counts as that end. Where one cannot be asked the others are taken in, and then it
        is told: Unavailable, or Invalid for a query that Prometheus refuses.

        >>> from modelyard.deployment import DeploymentManager
        >>> manager = DeploymentManager(folder)
        >>> rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0")
        >>> manager.check_guardrails(rollout.deployment_id).status.value
        'running'
        """
        with self.store.reading() as rows:
            row = moves.known(rows, deployment_id)
        rollout, found = store.rollout_from(row), {}
        troubles: list[YardError] = []
        for one in guardrails.due(rollout, self._seconds()) if rollout.status.active else ():
            try:
                canary, baseline = query(one.prometheus, one.canary), query(one.prometheus, one.baseline)
            except (Invalid, Unavailable) as error:
                troubles.append(error)
                continue
            if canary is not None and baseline is not None:
                found[one.name] = guardrails.within(one, canary), guardrails.within(one, baseline)
        after = self._take_in(deployment_id, found, asked=True) if found else moves.view(row)
        if troubles and after.status.active:
            raise troubles[0]
        return after

    def _seconds(self) -> float:
        return self.store.clock.now().timestamp()

    def _take_in(
        self, deployment_id: str, values: Mapping[str, tuple[float, float]], *, asked: bool = False
    ) -> Deployment:
        with self.store.work("guardrails") as work:
            row = moves.known(work.rows, deployment_id)
            if row["source"] == store.REPORTED:
                raise Conflict(f"{deployment_id} is judged by metrics reported by hand. Call report_metrics instead.")
            rollout = store.rollout_from(row)
            now = work.now.timestamp()
            if asked:  # another controller may have asked meanwhile
                still = {one.name for one in guardrails.due(rollout, now)}
                values = {name: pair for name, pair in values.items() if name in still}
            if not rollout.status.active or not values:
                return moves.view(row)
            kept = {name: guardrails.taken_in(rollout, name, *pair, now) for name, pair in values.items()}
            progress = replace(rollout.progress, guardrails={**rollout.progress.guardrails, **kept})
            decision: Decision = guardrails.judged(replace(rollout, progress=progress))
            if decision.verdict is Verdict.ROLL_BACK:
                return moves.view(
                    moves.end(work, row, DeploymentStatus.ROLLED_BACK, decision=decision, progress=progress)
                )
            changed = {**row, "state": store.state_text(progress), "updated_at": micros(work.now)}
            store.save_deployment(work.rows, changed)
            return moves.view(changed)
