"""Counts in shared memory: exact over processes, and a unit's bad event counts once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modelyard.core.assignment import unit_hash
from modelyard.core.errors import Damaged
from modelyard.core.traffic import Arm, Guard, Traffic
from modelyard.serving import counters as counting
from modelyard.serving.counter_file import AGREED, COMPARED
from modelyard.serving.counters import Counters
from modelyard.serving.metrics import RequestMetrics, merged, prometheus
from modelyard.serving.places import Places, Published, write
from modelyard.serving.values import EndpointConfig
from modelyard.stats.sketch import bucket

TRAFFIC = Traffic(
    endpoint="e",
    generation=1,
    arms=(
        Arm(name="baseline", model="m", version="v1", weight=0.9),
        Arm(name="canary", model="m", version="v2", weight=0.1),
    ),
    shadow=Arm(name="shadow", model="m", version="v3", weight=0.0),
    guards=(Guard(rollout_id="r", step=0, share=0.1, latency_ms={"p95": 2.0}),),
)

WRITER = """
import sys
from pathlib import Path
from modelyard.serving.counters import Counters
counters = Counters(Path(sys.argv[1]), int(sys.argv[2]))
for i in range(20_000):
    counters.answered(i % 2, 100.0 + i % 7)
    if i % 10 == 0:
        counters.outcome(1, None, failed=True)
"""


def test_processes_that_count_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.bin"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(slot)]) for slot in (0, 5)]
    assert [writer.wait() for writer in writers] == [0, 0]
    counts = Counters(path).merged(TRAFFIC)
    assert counts.arms["baseline"].requests == counts.arms["canary"].requests == 20_000
    assert counts.arms["canary"].errors == 4_000
    values = [100.0 + i % 7 for i in range(0, 20_000, 2)] * 2
    expected = {
        int(b): int(n) for b, n in zip(*np.unique([bucket(v) for v in values], return_counts=True), strict=True)
    }
    assert counts.arms["baseline"].latency == expected


def test_slower_answers_and_the_shadow_are_counted_by_name(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c.bin", 3)
    counters.outcome(1, None, failed=False, above=[0, 1])
    counters.shadowed(COMPARED, 50.0)
    counters.shadowed(AGREED)
    counts = Counters(tmp_path / "c.bin").merged(TRAFFIC)
    assert counts.arms["canary"].slower == {"p95": 1}
    assert (counts.shadow.compared, counts.shadow.agreed, counts.shadow.latency) == (1, 1, {bucket(50.0): 1})


def test_a_unit_counts_once_of_each_kind_in_all_processes(tmp_path: Path) -> None:
    one, other = Counters(tmp_path / "c.bin", 0), Counters(tmp_path / "c.bin", 1)
    unit, guard = unit_hash("", "u1"), Guard(rollout_id="r", step=0, share=0.1, latency_ms={"p95": 2.0, "p99": 4.0})
    assert one.outcome(1, unit, failed=True)
    assert not other.outcome(1, unit, failed=True)
    assert not other.outcome(1, unit, failed=False, above=[0, 1, 2])  # not its first answer
    assert not one.outcome(1, unit_hash("", "u2"), failed=False)
    assert one.outcome(1, unit_hash("", "u3"), failed=False, above=[0, 1])
    assert one.outcome(1, unit_hash("", "u3"), failed=True)  # its first failure
    found = Counters(tmp_path / "c.bin").outcomes(1, 0, guard)
    assert found.now["errors"] == ((2,), (0,))
    assert found.now["answers"] == ((1, 1, 1), (0, 0, 0))  # u2 below p95, u3 below p99, u1 failed
    assert found.alone == {"errors": ((0,), (0,)), "answers": ((0, 0, 0), (0, 0, 0))}
    assert not found.rounds.any()  # none has begun
    arm = Counters(tmp_path / "c.bin").merged(TRAFFIC).arms["canary"]
    assert (arm.units, arm.errors, arm.slower) == (3, 2, {"p95": 1})


def test_what_lies_above_the_hard_limit_is_counted_once_a_unit_of_both_arms(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c.bin", 0)
    assert TRAFFIC.guard is not None
    limited = replace(TRAFFIC, guards=(replace(TRAFFIC.guards[0], latency_limit_ms=9.0),))
    for arm, unit, above in ((0, 1, [1, 3]), (0, 1, [1, 3]), (0, 2, []), (1, None, [0, 1, 2, 3]), (1, None, [0])):
        counters.outcome(arm, unit, failed=False, above=above)
    arms = counters.merged(limited).arms
    assert arms["baseline"].slower == {"p95": 1, "limit": 1}
    assert arms["canary"].slower == {"p95": 1, "limit": 1}
    assert (arms["baseline"].units, arms["canary"].units) == (2, 2)


def test_a_round_counts_what_each_unit_does_first_since_it_began(tmp_path: Path) -> None:
    one, other = Counters(tmp_path / "c.bin", 0), Counters(tmp_path / "c.bin", 1)
    guard = Guard(rollout_id="r", step=0, share=0.1, latency_ms={"p95": 2.0})

    def counted(series: int) -> list[int]:
        return one.outcomes(1, 0, guard).rounds[series, 0].tolist()  # type: ignore[no-any-return]

    one.outcome(1, 7, failed=True)
    one.run(0)
    assert other.outcome(1, 7, failed=True)  # again, but the first time in the round
    assert not other.outcome(1, 7, failed=True)
    assert not one.outcome(1, None, failed=False)  # no unit
    one.outcome(1, 8, failed=False, above=[0, 1])
    assert counted(0) == [2, 1, 1, 0, 1, 1]
    one.forget(0)
    one.run(5)
    other.outcome(1, 7, failed=False)
    assert counted(0) == [3, 1, 1, 0, 1, 1]
    assert counted(5) == [1, 0, 0, 0, 0, 0]
    assert not one.outcomes(1, 0, guard).rounds[[1, 2, 3, 4, 6, 7]].any()


def test_requests_without_a_unit_each_count_by_how_slow_they_are(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c.bin", 0)
    guard = Guard(rollout_id="r", step=0, share=0.1, latency_ms={"p99": 4.0, "p50": 1.0, "p95": 2.0})
    for above in ([], [], [0], [0, 1], [0, 1, 2], [0, 1, 2]):
        counters.outcome(1, None, failed=False, above=above)
    counters.outcome(0, None, failed=True)
    assert counters.outcomes(1, 0, guard).now["answers"] == ((2, 1, 1, 2), (0, 0, 0, 1))


def test_a_new_generation_of_a_rollout_remembers_which_units_were_evidence(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.make()
    unit = unit_hash("", "u1")
    first = Counters(counting.begin(places, TRAFFIC), 0)
    first.outcome(1, unit, failed=True)
    write(places.traffic("e"), Published(traffic=TRAFFIC, config=EndpointConfig()))
    second = Counters(counting.begin(places, replace(TRAFFIC, generation=2)), 0)
    assert not second.outcome(1, unit, failed=True)
    counted = second.merged(TRAFFIC).arms["canary"]
    assert (counted.units, counted.errors) == (1, 1)  # in the step it is a unit that fails
    other = replace(TRAFFIC, generation=3, guards=(Guard(rollout_id="another", step=0, share=0.1),))
    assert Counters(counting.begin(places, other), 0).outcome(1, unit, failed=True)


def test_a_trip_is_seen_by_every_process_at_once(tmp_path: Path) -> None:
    one, other = Counters(tmp_path / "c.bin", 0), Counters(tmp_path / "c.bin", 1)
    assert not other.tripped
    one.trip()
    assert other.tripped


def test_an_answer_of_hours_falls_into_the_last_bucket(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c.bin", 0)
    counters.answered(0, 1e12)
    assert sum(counters.merged(TRAFFIC).arms["baseline"].latency.values()) == 1


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0" * 100])
def test_a_file_that_is_none_of_ours_is_named_as_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.bin").write_bytes(content)
    with pytest.raises(Damaged, match=r"c\.bin"):
        Counters(tmp_path / "c.bin", 0)


def test_request_metrics_outlive_their_process_and_go_on(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.make()
    for slot in (0, 1, 0):
        mine = RequestMetrics(places, slot)
        mine.count("e", "baseline", 200, 1500.0)
        mine.count("e", "", 400, 90.0)
    rows = merged(places)
    assert rows["e", "baseline", 200][0] == 3
    assert rows["e", "", 400][0] == 3
    text = prometheus(places)
    assert 'modelyard_requests_total{endpoint="e",arm="baseline",code="200"} 3' in text
    assert 'seconds_bucket{endpoint="e",arm="baseline",code="200",le="0.001"} 0' in text
    assert 'seconds_bucket{endpoint="e",arm="baseline",code="200",le="0.005"} 3' in text


def test_prometheus_own_parser_reads_the_text(tmp_path: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    places = Places(tmp_path)
    places.make()
    RequestMetrics(places, 0).count("e", "canary", 500, 2e7)
    families = {family.name: family for family in text_string_to_metric_families(prometheus(places))}
    assert families["modelyard_request_duration_seconds"].type == "histogram"
    assert [s.value for s in families["modelyard_requests"].samples] == [1.0]
