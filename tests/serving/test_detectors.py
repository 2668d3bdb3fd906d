"""The detectors of late faults: one state for all processes, that outlives each of them, and a decision by any."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelyard.core.traffic import Guard
from modelyard.serving import ModelServer, detectors, guard
from modelyard.serving.counters import Counters
from modelyard.serving.desk import Desk
from modelyard.stats.detector import Detector
from modelyard.stats.eprocess import RATES, log_wealth
from modelyard.stats.rollback import State, events_of

ERRORS = Guard(rollout_id="r", step=0, share=0.1)
ALL = Guard(rollout_id="r", step=0, share=0.1, latency_ms={"p50": 1.0, "p95": 2.0, "p99": 4.0})

LOOKER = """
import sys
from pathlib import Path
import numpy as np
from modelyard.core.traffic import Guard
from modelyard.serving import detectors
from modelyard.serving.counters import Counters
counters = Counters(Path(sys.argv[1]), int(sys.argv[2]))
guard = Guard(rollout_id="r", step=0, share=0.1, latency_ms={"p50": 1.0, "p95": 2.0, "p99": 4.0})
random = np.random.default_rng(int(sys.argv[2]))
for n in range(400):
    slow = [place for place, part in enumerate((0.5, 0.05, 0.01)) if random.random() < part]
    counters.outcome(int(random.random() < 0.1), None, failed=random.random() < 0.02, above=slow)
    detectors.judged_now(counters, 1, 0, guard)
"""


def late(counters: Counters, given: Guard, test: str = "errors") -> Detector:
    return State.of(detectors.tests_of(counters, 1, 0, given)[test]).late


def test_the_sums_are_those_of_one_detector_that_saw_the_same_looks(tmp_path: Path) -> None:
    one, other = Counters(tmp_path / "c.bin", 0), Counters(tmp_path / "c.bin", 1)
    expected = State.of(()).late
    random = np.random.default_rng(1)
    for n in range(60):
        k, m = int(random.binomial(3, 0.2)), int(random.binomial(5, 0.5))
        for arm, many in ((1, k), (0, m)):
            for _ in range(many):
                (one, other)[n % 2].outcome(arm, None, failed=True)
        detectors.judged_now((other, one)[n % 2], 1, 0, ERRORS)
        if k + m:
            expected = expected.after(log_wealth(RATES, (k,), (m,), 0.1), events_of((k,), (m,)))
    assert late(one, ERRORS) == late(other, ERRORS) == expected


def test_processes_that_look_at_once_tell_the_detectors_each_outcome_once(tmp_path: Path) -> None:
    path = tmp_path / "c.bin"
    lookers = [subprocess.Popen([sys.executable, "-c", LOOKER, str(path), str(slot)]) for slot in (0, 1, 2)]
    assert [looker.wait() for looker in lookers] == [0, 0, 0]
    counters = Counters(path)
    detectors.judged_now(counters, 1, 0, ALL)
    counts = counters.outcomes(1, 0, ALL)
    for test, (new, old) in counts.items():
        assert late(counters, ALL, test).events == new[-1] + old[-1]
    assert sum(map(sum, counts["answers"])) == 1200
    assert late(counters, ALL).events > 10


def test_a_restart_goes_on_with_the_same_sums(tmp_path: Path) -> None:
    first = Counters(tmp_path / "c.bin", 0)
    for _ in range(40):
        first.outcome(0, None, failed=True)
        detectors.judged_now(first, 1, 0, ERRORS)
    told = late(first, ERRORS)
    del first
    assert late(Counters(tmp_path / "c.bin", 0), ERRORS) == told
    assert told.events == 40


def test_who_is_stopped_while_it_looks_keeps_nobody_from_deciding(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c.bin", 0)
    for _ in range(9):
        counters.outcome(1, None, failed=True)
    with (tmp_path / "c.bin").open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        tests = detectors.judged_now(counters, 1, 0, ERRORS)
        assert State.of(tests["errors"]).logs == pytest.approx(log_wealth(RATES, (9,), (0,), 0.1))
        assert State.of(tests["errors"]).late.events == 0
    assert State.of(detectors.judged_now(counters, 1, 0, ERRORS)["errors"]).late.events == 9


def test_a_next_step_goes_on_with_the_detectors_of_the_one_before(tmp_path: Path) -> None:
    first, second = Counters(tmp_path / "1.bin", 0), Counters(tmp_path / "2.bin", 0)
    for _ in range(30):
        first.outcome(0, None, failed=True)
        detectors.judged_now(first, 1, 0, ERRORS)
    carried = detectors.tests_of(first, 1, 0, ERRORS)
    wider = Guard(rollout_id="r", step=1, share=0.5, carried=carried)
    assert detectors.judged_now(second, 1, 0, wider) == carried
    second.outcome(1, None, failed=True)
    after = State.of(detectors.judged_now(second, 1, 0, wider)["errors"])
    before = State.of(carried["errors"])
    assert after.late == before.late.after(log_wealth(RATES, (1,), (0,), 0.5), 1)
    assert after.logs == pytest.approx(np.add(before.logs, log_wealth(RATES, (1,), (0,), 0.5)))


def test_a_fault_after_a_long_clean_time_goes_back_by_the_guard_alone(server: ModelServer, tools: Any) -> None:
    """1,000 clean failures in proportion, then the canary fails ten times as often: no controller looks."""
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    server.apply(tools.split("e", 1, 0.05, Guard(rollout_id="late", step=0, share=0.05)))
    desk = Desk(server.places)
    desk.routes.refresh()
    route = desk.routes.find("e")
    random = np.random.default_rng(3)
    for new in random.random(1000) < 0.05:
        desk.count(route, route.arm("canary" if new else "baseline"), None, micros=500.0, failed=True)
        guard.look(server.places, [route])
    assert not route.counters.tripped
    before = route.counters.requests(route.canary)
    for new in random.random(200) < 0.345:  # of failures, at rates of 1 % and 0.1 %
        desk.count(route, route.arm("canary" if new else "baseline"), None, micros=500.0, failed=True)
        guard.look(server.places, [route])
        if route.counters.tripped:
            break
    (trip,) = server.trips()
    assert route.counters.requests(route.canary) - before < 25
    state = State.of(trip.counts.tests["errors"])
    plain = max(state.logs)
    assert trip.evidence["errors"] >= np.log(1000) > plain  # the detector's doing: the plain e-process is far from it
