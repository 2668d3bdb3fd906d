"""Deployments whose metrics are reported by hand, held against hard limits."""

from __future__ import annotations

import json

from modelyard.core.canonical import dumps, plain
from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Conflict
from modelyard.core.events import EventType
from modelyard.core.ids import checked_name, new_id
from modelyard.core.instants import micros
from modelyard.core.operations import operation
from modelyard.core.ports import Row
from modelyard.core.refs import ModelRef
from modelyard.core.work import Work
from modelyard.deployment import moves, rules, store
from modelyard.deployment.guarded import GuardedRollouts
from modelyard.deployment.rollouts import (
    Deployment,
    DeploymentStatus,
    DeploymentStrategy,
    PerformanceMetrics,
    RollbackConfig,
    Step,
    as_numbers,
    strategy_named,
)


class ReportedDeployments(GuardedRollouts):
    """Records deployments that something else carries out, and says when their metrics call for going back."""

    def create_deployment(
        self,
        model_name: str,
        model_version: str,
        strategy: DeploymentStrategy | str,
        *,
        created_by: str = "system",
        baseline_metrics: PerformanceMetrics | None = None,
        rollback_config: RollbackConfig | None = None,
    ) -> Deployment:
        """A deployment that is recorded as running, with the baseline's metrics and the limits it is held to.

        >>> from modelyard.deployment import DeploymentManager, DeploymentStrategy, PerformanceMetrics
        >>> manager = DeploymentManager(folder)
        >>> made = manager.create_deployment("fraud", "v2.0.0", DeploymentStrategy.CANARY, created_by="ops@company.com")
        >>> made.status.value
        'running'
        """
        made = ModelRef.parse(f"{checked_name(model_name, 'model')}:{model_version}")
        reported = {"baseline_metrics": baseline_metrics, "rollback_config": rollback_config or RollbackConfig()}
        with self.store.work(created_by) as work:
            row = self._new_row(work, made, strategy_named(strategy))
            row["plan"] = store.plan_text((Step(share=1.0),), None, reported)
            store.insert_deployment(work.rows, row)
            decision = moves.person(Verdict.ALLOW, "", "recorded by hand")
            return moves.view(
                moves.record(work, row, what="started", decision=decision, event=EventType.DEPLOYMENT_STARTED)
            )

    def update_metrics(self, deployment_id: str, metrics: PerformanceMetrics) -> Deployment:
        """The deployment with the newest metrics that somebody measured.

        >>> from modelyard.deployment import DeploymentManager, DeploymentStrategy, PerformanceMetrics
        >>> manager = DeploymentManager(folder)
        >>> made = manager.create_deployment("fraud", "v2.0.0", DeploymentStrategy.CANARY)
        >>> manager.update_metrics(made.deployment_id, PerformanceMetrics(error_rate=0.2)).metrics.error_rate
        0.2
        """
        with self.store.work() as work:
            row = _reported(moves.known_active(work.rows, deployment_id, "measured"))
            state = json.loads(row["state"]) | {"metrics": as_numbers(metrics)}
            changed = {**row, "state": dumps(state), "updated_at": micros(work.now)}
            store.save_deployment(work.rows, changed)
            return moves.view(changed)

    @operation("POST", "/deployments/{deployment_id}/health", needs="deployment.write")
    def check_deployment_health(self, deployment_id: str, request_count: int) -> tuple[bool, list[str]]:
        """Whether the reported metrics call for a rollback, and why; if they do, it is rolled back with this call.

        Below the limits' `min_requests_before_check` the answer is no, and the reason says what is missing. A deployment
        that was rolled back before answers yes with the reasons of then.

        >>> from modelyard.deployment import DeploymentManager, DeploymentStrategy, PerformanceMetrics
        >>> manager = DeploymentManager(folder)
        >>> made = manager.create_deployment("fraud", "v2.0.0", DeploymentStrategy.CANARY)
        >>> _ = manager.update_metrics(made.deployment_id, PerformanceMetrics(error_rate=0.2))
        >>> manager.check_deployment_health(made.deployment_id, request_count=1000)
        (True, ['error rate 20.00% is above the limit of 5.00%'])
        """
        with self.store.work() as work:
            row = _reported(moves.known(work.rows, deployment_id))
            if row["status"] == DeploymentStatus.ROLLED_BACK.value:
                return True, row["reason"].split("; ")
            decision = self._health(row, request_count)
            if decision.verdict is Verdict.ROLL_BACK and DeploymentStatus(row["status"]).active:
                moves.end(work, row, DeploymentStatus.ROLLED_BACK, decision=decision)
            return decision.verdict is Verdict.ROLL_BACK, list(decision.reasons)

    @operation("POST", "/deployments/{deployment_id}/metrics", needs="deployment.write")
    def report_metrics(
        self,
        deployment_id: str,
        *,
        request_count: int,
        error_rate: float | None = None,
        latency_p95: float | None = None,
        accuracy: float | None = None,
    ) -> Deployment:
        """The deployment after new metrics were reported and held against its limits (latency in seconds).

        >>> from modelyard.deployment import DeploymentManager, DeploymentStrategy
        >>> manager = DeploymentManager(folder)
        >>> made = manager.create_deployment("fraud", "v2.0.0", DeploymentStrategy.CANARY)
        >>> manager.report_metrics(made.deployment_id, request_count=1000, error_rate=0.2).status.value
        'rolled_back'
        """
        metrics = PerformanceMetrics(latency_p95=latency_p95, error_rate=error_rate, accuracy=accuracy)
        self.update_metrics(deployment_id, metrics)
        self.check_deployment_health(deployment_id, request_count)
        with self.store.reading() as rows:
            return moves.view(moves.known(rows, deployment_id))

    def _health(self, row: Row, request_count: int) -> Decision:
        deployment = moves.view(row)
        limits = deployment.rollback_config or RollbackConfig()
        return rules.health(deployment.metrics, deployment.baseline_metrics, limits, request_count)

    def _new_row(self, work: Work, made: ModelRef, strategy: DeploymentStrategy | str) -> dict[str, object]:
        now = micros(work.now)
        return {
            "deployment_id": new_id("dep"),
            "source": store.REPORTED,
            "endpoint": made.name,
            "model_name": made.name,
            "model_version": made.version,
            "baseline": "",
            "strategy": plain(strategy),
            "status": DeploymentStatus.RUNNING.value,
            "step": 0,
            "generation": 0,
            "step_started_at": now,
            "created_by": work.actor,
            "created_at": now,
            "updated_at": now,
            "reason": "",
            "plan": "{}",
            "state": "{}",
        }


def _reported(row: Row) -> Row:
    """The row; Conflict for a live rollout, which is judged by what serving counts."""
    if row["source"] == store.LIVE:
        raise Conflict(
            f"{row['deployment_id']} is a live rollout, judged by what serving counts. Report a metric of your own as a "
            "guardrail: report_guardrail."
        )
    return row
