"""Laws that hold across areas: one assignment of units, whoever asks."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.ab_testing import ABTestManager
from modelyard.core.assignment import position, unit_hash
from modelyard.serving.rules import arm_at, bounds


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shares=st.lists(st.floats(0.05, 0.3), min_size=1, max_size=3), units=st.lists(st.text(), min_size=20, max_size=60)
)
def test_the_serving_processes_send_a_unit_where_its_experiment_says(
    tmp_path: Path, shares: list[float], units: list[str]
) -> None:
    manager = ABTestManager(tmp_path / "yard")
    variants = [f"m:v{number}.0.0" for number in range(2, len(shares) + 2)]
    test = manager.create_test("t", control_variant="m:v1.0.0", treatment_variant=variants, traffic_split=shares)
    manager.start_test(test.test_id)
    traffic = manager.traffic(test.test_id, "m")
    ends = bounds([arm.weight for arm in traffic.arms])
    for unit in units:
        arm = traffic.arms[arm_at(ends, position(unit_hash(traffic.salt, unit)))]
        assert arm.name == manager.get_variant(test.test_id, unit)


def test_hashes_are_the_same_in_every_release() -> None:
    """Frozen: a changed hash would move users of running experiments."""
    assert [unit_hash("salt", unit) for unit in ("user-0", "user-1", "ü")] == [
        int.from_bytes(__import__("hashlib").sha256(f"salt:{unit}".encode()).digest()[:8], "big")
        for unit in ("user-0", "user-1", "ü")
    ]
    assert unit_hash("test_1", "user-0") >> 48 == 34911
