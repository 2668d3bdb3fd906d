"""A manager on a fresh folder, and counts that look like traffic."""

from datetime import UTC, datetime

import pytest

from modelyard.core.instants import FixedClock
from modelyard.core.traffic import ArmCounts, TrafficCounts
from modelyard.deployment import DeploymentManager
from modelyard.stats.sketch import bucket


@pytest.fixture
def clock():
    return FixedClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def manager(tmp_path, clock):
    return DeploymentManager(tmp_path / "yard", clock=clock)


@pytest.fixture
def counts():
    def made(rollout, baseline, canary, *, latency_ms=None, generation=None, slower=None):
        """(requests, errors) of each arm; latency_ms = (baseline, canary) puts all answers into one bucket."""
        arms = {}
        for place, (name, (requests, errors)) in enumerate((("baseline", baseline), ("canary", canary))):
            histogram = {bucket(latency_ms[place] * 1000): requests} if latency_ms else {}
            above = (slower or {}).get(name, {})
            arms[name] = ArmCounts(requests=requests, errors=errors, latency=histogram, slower=above)
        where = generation if generation is not None else rollout.generation
        return TrafficCounts(endpoint=rollout.endpoint, generation=where, arms=arms)

    return made
