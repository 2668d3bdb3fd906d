"""The same rollouts on PostgreSQL."""

import pytest

from modelyard.core.decisions import Verdict
from modelyard.core.errors import Conflict
from modelyard.core.work import Store
from modelyard.deployment import DeploymentManager, DeploymentStatus, DeploymentStrategy, PerformanceMetrics

pytestmark = pytest.mark.postgres


def test_a_rollout_walks_holds_and_goes_back(postgres_url, tmp_path, counts):
    manager = DeploymentManager(Store.at(postgres_url, files=tmp_path))
    rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0", margin=0.02, minimum_units=200)
    assert manager.advance(rollout.deployment_id, counts(rollout, (100, 0), (5, 0))).verdict is Verdict.HOLD
    assert manager.advance(rollout.deployment_id, counts(rollout, (19_000, 0), (1_000, 0))).verdict is Verdict.PROMOTE
    second = manager.get_deployment(rollout.deployment_id)
    assert manager.advance(rollout.deployment_id, counts(second, (3_000, 3), (1_000, 30))).verdict is Verdict.ROLL_BACK
    assert [entry.what for entry in manager.history(rollout.deployment_id)] == [
        "started",
        "held",
        "promoted",
        "rolled_back",
    ]
    assert len(manager.list_deployments(endpoint="fraud", status=DeploymentStatus.ROLLED_BACK)) == 1
    again = manager.start("fraud", "v2.0.1")
    with pytest.raises(Conflict, match=again.deployment_id):
        manager.start("fraud", "v2.0.2")
    manager.close()


def test_reported_metrics_and_shadows(postgres_url, tmp_path):
    manager = DeploymentManager(Store.at(postgres_url, files=tmp_path))
    made = manager.create_deployment("fraud", "v2.0.0", DeploymentStrategy.CANARY)
    manager.update_metrics(made.deployment_id, PerformanceMetrics(error_rate=0.5))
    assert manager.check_deployment_health(made.deployment_id, 1000)[0]
    shadow = manager.shadow_deploy("fraud:v1.0.0", "fraud:v2.0.0")
    answers = {"primary_result": {"p": 1}, "shadow_result": {"p": 1}}
    manager.record_shadow_comparison(shadow.shadow_id, **answers, primary_latency=0.1, shadow_latency=0.1)
    assert manager.compare_shadow_deployment(shadow.shadow_id)["agreement_rate"] == 1.0
    manager.close()
