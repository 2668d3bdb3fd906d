"""Two servers on one PostgreSQL, with a folder each as on two machines, judge one rollout by what both have counted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard import Yard
from modelyard.core.assignment import position, unit_hash
from modelyard.core.events import EventType
from modelyard.core.traffic import CANARY, ArmCounts, Guard
from modelyard.deployment import Deployment, DeploymentStatus
from modelyard.serving.guard import unrecorded
from modelyard.serving.rules import trips
from modelyard.stats.rollback import strongest, up_to_now
from modelyard.testing.postgres import PostgresServer
from modelyard.testing.servers import until
from modelyard.testing.serving import YardServer

pytestmark = pytest.mark.postgres

MODELS = Path(__file__).parents[1] / "serving" / "local_models.py"
VERSIONS = {"v1.0.0": "Linear@{}", "v2.0.0": 'Linear@{"fail": 1.0}', "v3.0.0": "Linear@{}"}
FAILURES = 4  # on each server: too few alone, enough together


@dataclass
class Machine:
    """A server with a folder of its own; `yard` sees its processes and counts."""

    yard: Yard
    server: YardServer
    place: str
    folder: Path

    @classmethod
    def at(cls, place: str, folder: Path) -> Machine:
        return cls(Yard(place, files=folder), _served(place, folder), place, folder)

    def ask(self, units: list[str]) -> None:
        with httpx.Client(base_url=self.server.predictions_url) as client:
            for unit in units:
                client.post("/predict/fraud", json={"features": {"a": 0.5, "b": 0}, "unit_id": unit})

    def canary(self) -> ArmCounts:
        return self.yard.serving.counts("fraud").arms.get(CANARY, ArmCounts())

    def kill(self) -> None:
        """The machine loses its power: every process at once."""
        for process in self.server.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.server.process.wait()
        self.server.close()

    def start(self) -> None:
        self.server = _served(self.place, self.folder)


def _served(place: str, folder: Path) -> YardServer:
    return YardServer(place, workers=1, MODELYARD_FILES=str(folder))


@pytest.fixture(scope="module")
def machines(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    name = postgres_server.new_database()
    place, folder = postgres_server.url(name), tmp_path_factory.mktemp("machines")
    with Yard(place, files=folder / "one") as yard:
        yard.serving.configure("fraud", {"trusted_code": True})
        for version, model in VERSIONS.items():
            yard.serving.install("fraud", "fraud", version, f"{MODELS}:{model}", "python")
        yard.deployments.start("fraud", "v1.0.0", strategy="direct")
    with ThreadPoolExecutor() as both:
        made = list(both.map(lambda name: Machine.at(place, folder / name), ("one", "other")))
    yield made
    for one in made:
        one.server.close()
        one.yard.close()
    postgres_server.drop_database(name)


def rolled_out(machines: list[Machine], version: str, **terms: Any) -> Deployment:
    """The rollout, once both servers carry its first step out."""
    rollout: Deployment = machines[0].yard.roll_out("fraud", version, **terms)
    for one in machines:
        until(lambda one=one: one.server.carries_out(one.yard, "fraud", rollout.generation))
    return rollout


def units(rollout: Deployment, many: int, *, canary: bool, name: str = "u") -> list[str]:
    """So many users of an arm."""
    traffic = rollout.traffic
    assert traffic is not None
    share = next(arm.weight for arm in traffic.arms if arm.name == CANARY)
    found = (f"{name}{n}" for n in range(100 * many))
    fits = [unit for unit in found if (position(unit_hash(traffic.salt, unit)) >= 1 - share) == canary]
    return fits[:many]


def enough(failures: int, share: float) -> bool:
    """Whether so many failures of the canary alone decide."""
    guard = Guard(rollout_id="r", step=0, share=share)
    return trips(guard, strongest(up_to_now({}, {"errors": ((failures,), (0,))}, share, ()))[0])


def test_a_bad_version_goes_back_on_the_evidence_of_both_and_everywhere_at_once(machines: list[Machine]) -> None:
    rollout = rolled_out(machines, "v2.0.0", steps=[0.1, 1.0], minimum_units=1000)
    failing = units(rollout, 2 * FAILURES, canary=True)
    assert not enough(FAILURES, 0.1)
    assert enough(2 * FAILURES, 0.1)
    for one, some in zip(machines, (failing[:FAILURES], failing[FAILURES:]), strict=True):
        one.ask(some)
    for one in machines:
        until(lambda one=one: one.yard.serving.places.all_trips())
    yard = machines[0].yard
    (trip,) = until(yard.serving.trips)
    assert FAILURES < trip.counts.arms[CANARY].errors <= 2 * FAILURES
    until(lambda: yard.deployments.get_deployment(rollout.deployment_id).status is DeploymentStatus.ROLLED_BACK)
    for one in machines:
        until(lambda one=one: not unrecorded(one.yard.serving.places))
    with yard.store.reading() as rows:
        told = "SELECT count(*) FROM events WHERE event_type = :type"
        assert rows.tuples(told, type=EventType.GUARD_TRIPPED.value) == [(1,)]


def test_a_good_version_is_promoted_by_what_both_have_counted_and_a_user_counts_once(machines: list[Machine]) -> None:
    terms: dict[str, Any] = {"steps": [0.5, 1.0], "minimum_units": 200, "margin": 0.5, "latency_floor_ms": 10_000.0}
    terms["latency_ms"] = {"p50": 1e-4, "p95": 2e-4, "p99": 3e-4}  # known, so that no step begins anew with them
    rollout, (one, other) = rolled_out(machines, "v3.0.0", **terms), machines
    arms = [units(rollout, 200, canary=canary) for canary in (True, False)]
    for each in machines:  # the same users at both
        each.ask([unit for arm in arms for unit in arm[:80]])
        for seeing in machines:
            until(lambda seeing=seeing: seeing.canary().units == 80)
    other.ask([unit for arm in arms for unit in arm[80:150]])
    other.kill()
    other.start()
    until(lambda: one.canary().requests == 2 * 80 + 70)
    assert one.canary().units == 150
    known = one.yard.deployments
    assert known.get_deployment(rollout.deployment_id).status.active
    one.ask([unit for arm in arms for unit in arm[150:]])
    done = until(lambda: not (now := known.get_deployment(rollout.deployment_id)).status.active and now)
    assert done.status is DeploymentStatus.COMPLETED
    assert known.look(rollout.deployment_id).servers == 2
