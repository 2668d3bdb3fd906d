"""The detectors of late faults: one state for all processes, that outlives each of them, and a decision by any."""

from __future__ import annotations

import fcntl
import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from modelyard.core.traffic import Guard
from modelyard.serving import ModelServer, detectors, guard
from modelyard.serving.counters import Counters
from modelyard.serving.desk import Desk
from modelyard.stats.detector import Detector
from modelyard.stats.eprocess import RATES, log_e_value, log_wealth
from modelyard.stats.rollback import State, by_round, events_of, strongest
from modelyard.stats.rounds import weight_of_round

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
    counts = counters.outcomes(1, 0, ALL).alone
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


def times(users: int, asked: int, seed: int) -> Iterator[tuple[int, float]]:
    """Which user asks, and how the answer would lie in the baseline's law of latencies, round by round."""
    random = np.random.default_rng(seed)
    for _ in range(asked):
        yield from zip(random.permutation(users).tolist(), random.random(users).tolist(), strict=True)


def test_users_who_come_again_and_again_do_not_make_an_equal_canary_look_bad_late(tmp_path: Path) -> None:
    """Nearly all have at some time been slower than p95, on the canary later, for it is granted half as much again."""
    counters = Counters(tmp_path / "c.bin", 0)
    canary = np.random.default_rng(5).random(1200) < 0.2
    law = NormalDist()
    limits = {arm: [law.cdf(law.inv_cdf(q) + arm * math.log(1.5) / 0.8) for q in (0.5, 0.95, 0.99)] for arm in (0, 1)}
    given = replace(ALL, share=0.2)
    for number, (user, place) in enumerate(times(1200, 80, 6)):
        arm = int(canary[user])
        above = [which for which, limit in enumerate(limits[arm]) if place > limit]
        counters.outcome(arm, user, failed=False, above=above)
        if number % 1200 == 0:
            detectors.begin_rounds(counters, {1: given}, 0, number / 1200 * 10)
            assert strongest(detectors.judged_now(counters, 1, 0, given))[0] < math.log(1000)


@pytest.mark.parametrize(("slower", "failing"), [(2.0, 0.0), (1.0, 0.2)])
def test_a_fault_that_starts_when_every_user_has_been_met_is_found(
    tmp_path: Path, slower: float, failing: float
) -> None:
    counters = Counters(tmp_path / "c.bin", 0)
    random, law, given = np.random.default_rng(7), NormalDist(), replace(ALL, share=0.2)
    canary = random.random(1200) < 0.2
    limits = [[law.inv_cdf(q) - shift for q in (0.5, 0.95, 0.99)] for shift in (0.0, math.log(slower) / 0.8)]
    found = None
    for second in range(0, 400, 10):  # all ask once in ten seconds
        detectors.begin_rounds(counters, {1: given}, 0, second)
        for user in range(1200):
            bad = canary[user] and second >= 300
            failed = bool(random.random() < (failing if bad else 0.002))
            z = random.standard_normal()
            above = [] if failed else [place for place, limit in enumerate(limits[int(bad)]) if z > limit]
            counters.outcome(int(canary[user]), user, failed=failed, above=above)
        log_e, metric = strongest(detectors.judged_now(counters, 1, 0, given))
        if log_e >= math.log(1000):
            found = second, metric
            break
    assert found is not None
    assert 300 <= found[0] <= 330
    assert found[1] == ("latency" if failing == 0 else "errors")


def test_each_of_two_arms_has_detectors_of_its_own_and_one_state_file(tmp_path: Path) -> None:
    counters, alone = Counters(tmp_path / "c.bin", 0), [Counters(tmp_path / f"{arm}.bin", 0) for arm in (1, 2)]
    random = np.random.default_rng(2)
    for _ in range(60):
        arm = int(random.choice(3, p=[0.5, 0.3, 0.2]))
        counters.outcome(arm, None, failed=True)
        for place, one in enumerate(alone, start=1):
            if arm in (0, place):
                one.outcome(min(arm, 1), None, failed=True)
            detectors.judged_now(one, 1, 0, ERRORS)
            detectors.judged_now(counters, place, 0, ERRORS)
    for place, one in enumerate(alone, start=1):
        assert detectors.tests_of(counters, place, 0, ERRORS) == detectors.tests_of(one, 1, 0, ERRORS)
    assert late(alone[0], ERRORS) != late(alone[1], ERRORS)


def test_a_late_fault_of_one_of_two_arms_is_found_in_the_rounds_that_they_share(tmp_path: Path) -> None:
    counters, random = Counters(tmp_path / "c.bin", 0), np.random.default_rng(8)
    arms = random.choice(3, size=1500, p=[0.5, 0.25, 0.25]).tolist()
    guards = {arm: Guard(rollout_id="t", step=0, share=1 / 3, alpha=0.0005) for arm in (1, 2)}
    evidence = {1: 0.0, 2: 0.0}
    for second in range(0, 240, 10):  # all ask once in ten seconds
        detectors.begin_rounds(counters, guards, 0, second)
        for user, arm in enumerate(arms):
            counters.outcome(arm, user, failed=bool(random.random() < (0.2 if arm == 2 and second >= 200 else 0.004)))
        evidence = {arm: strongest(detectors.judged_now(counters, arm, 0, one))[0] for arm, one in guards.items()}
        if second < 200:
            assert max(evidence.values()) < math.log(2000)
    assert evidence[2] > math.log(2000) > evidence[1]


def test_late_faults_are_looked_for_by_one_where_others_have_only_some_of_the_counts(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c.bin", 0)
    counters.follow()
    for _ in range(30):
        counters.outcome(1, None, failed=True)
        tests = detectors.judged_now(counters, 1, 0, ERRORS)
    detectors.begin_rounds(counters, {1: ERRORS}, 0, 1000)
    state = State.of(tests["errors"])
    assert state.logs == pytest.approx(log_wealth(RATES, (30,), (0,), 0.1))
    assert state.late == State.of(()).late
    assert counters.version == 0


def test_rounds_go_on_counting_in_the_next_step_and_a_restart(tmp_path: Path) -> None:
    first, second = Counters(tmp_path / "1.bin", 0), Counters(tmp_path / "2.bin", 0)
    detectors.begin_rounds(first, {1: ERRORS}, 0, 100.0)
    first.outcome(1, 3, failed=True)
    carried = detectors.tests_of(Counters(tmp_path / "1.bin", 0), 1, 0, ERRORS)
    assert carried["errors_lately"][:2] == (10, pytest.approx(log_e_value(1, 0, 0.1)))
    wider = replace(ERRORS, step=1, share=0.5, carried=carried)
    assert detectors.tests_of(second, 1, 0, wider)["errors_lately"] == carried["errors_lately"]  # none has begun here
    detectors.begin_rounds(second, {1: wider}, 0, 31.0)
    assert detectors.tests_of(second, 1, 0, wider)["errors_lately"][:4] == (13, 0.0, 10, 0.0)


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
    before = route.counters.requests(route.arm("canary"))
    for new in random.random(200) < 0.345:  # of failures, at rates of 1 % and 0.1 %
        desk.count(route, route.arm("canary" if new else "baseline"), None, micros=500.0, failed=True)
        guard.look(server.places, [route])
        if route.counters.tripped:
            break
    (trip,) = server.trips()
    assert route.counters.requests(route.arm("canary")) - before < 25
    state = State.of(trip.counts.arms["canary"].tests["errors"])
    plain = max(state.logs)
    assert trip.evidence["errors"] >= np.log(1000) > plain  # the detector's doing: the plain e-process is far from it


def test_the_round_that_a_slow_proof_needs_outlasts_the_many_that_begin_after_it(tmp_path: Path) -> None:
    """New users all along, so that every failure counts in every round: 600 clean seconds, then five times the failures."""
    counters, random = Counters(tmp_path / "c.bin", 0), np.random.default_rng(2)
    failed = itertools.count()
    numbers: list[int] = []
    for second in range(0, 1000, 10):
        detectors.begin_rounds(counters, {1: ERRORS}, 0, second)
        for arm, rate in ((0, 1.0), (1, 0.1 if second < 600 else 0.5)):
            for _ in range(int(random.poisson(rate))):
                counters.outcome(arm, next(failed), failed=True)
        told = detectors.judged_now(counters, 1, 0, ERRORS)
        numbers = [int(one) for one in told["errors_lately"][::2]] if second else []
    best = max(zip(by_round(told), numbers, strict=True))[1]
    assert best <= 65  # 600 s are the 60th round; eight places of ten seconds each would reach back to the 91st
    assert len(set(numbers)) == len(numbers) == 8


def test_all_rounds_of_a_rollout_share_one_weight() -> None:
    assert 0.95 < sum(weight_of_round(number) for number in range(1, 300_000)) < 1
