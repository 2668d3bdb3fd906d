"""Counts in shared memory: exact over processes, and a unit's bad event counts once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modelyard.core.assignment import unit_hash
from modelyard.core.errors import Damaged
from modelyard.core.traffic import Arm, Guard, Traffic
from modelyard.serving.counters import AGREED, BAD, COMPARED, SLOWER, Counters
from modelyard.serving.metrics import RequestMetrics, merged, prometheus
from modelyard.serving.places import Places
from modelyard.stats.sketch import bucket

TRAFFIC = Traffic(
    endpoint="e",
    generation=1,
    arms=(
        Arm(name="baseline", model="m", version="v1", weight=0.9),
        Arm(name="canary", model="m", version="v2", weight=0.1),
    ),
    shadow=Arm(name="shadow", model="m", version="v3", weight=0.0),
    guard=Guard(rollout_id="r", step=0, share=0.1, latency_ms={"p95": 2.0}),
)

WRITER = """
import sys
from pathlib import Path
from modelyard.serving.counters import BAD, Counters
counters = Counters(Path(sys.argv[1]), int(sys.argv[2]))
for i in range(20_000):
    counters.answered(i % 2, 100.0 + i % 7)
    if i % 10 == 0:
        counters.bad(1, BAD)
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
    counters.bad(1, SLOWER + 1)
    counters.shadowed(COMPARED, 50.0)
    counters.shadowed(AGREED)
    counts = Counters(tmp_path / "c.bin").merged(TRAFFIC)
    assert counts.arms["canary"].slower == {"p95": 1}
    assert (counts.shadow.compared, counts.shadow.agreed, counts.shadow.latency) == (1, 1, {bucket(50.0): 1})


def test_a_units_bad_event_is_first_once_in_all_processes_and_for_each_kind(tmp_path: Path) -> None:
    one, other = Counters(tmp_path / "c.bin", 0), Counters(tmp_path / "c.bin", 1)
    unit = unit_hash("", "u1")
    assert one.first(unit, BAD)
    assert not other.first(unit, BAD)
    assert other.first(unit, SLOWER)
    assert other.first(unit_hash("", "u2"), BAD)


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
