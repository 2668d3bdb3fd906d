"""The same experiments on PostgreSQL."""

import pytest

from modelyard.ab_testing import ABTestManager
from modelyard.core.work import Store

pytestmark = pytest.mark.postgres


def test_an_experiment_runs_from_plan_to_conclusion(postgres_url, tmp_path):
    manager = ABTestManager(Store.at(postgres_url, files=tmp_path))
    test = manager.create_test(
        "New model",
        control_variant="fraud:v1.0.0",
        treatment_variant="fraud:v2.0.0",
        planned_units=400,
        exclusive_group="g",
    )
    manager.start_test(test.test_id)
    users = [f"u{i}" for i in range(200)]
    for part in range(2):
        for user in users:
            variant = manager.get_variant(test.test_id, user)
            manager.record_request(
                test.test_id, variant, success=part == 0 or variant == "treatment", unit_id=user, latency=0.1
            )
        found = manager.analyze_test(test.test_id)
    assert found["control"]["units"] + found["treatment"]["units"] == 200
    assert found["control"]["success_rate"] == 0.5
    for _ in range(2):
        manager.record_counts(test.test_id, "control", source="web", generation=1, requests=200, errors=100)
    found = manager.analyze_test(test.test_id)
    assert found["control"]["requests"] + found["treatment"]["requests"] == 600
    assert found["statistically_significant"]
    assert manager.conclude_test(test.test_id, winner="treatment").winner == "treatment"
    assert len(manager.list_tests(status="concluded")) == 1
    manager.close()
