"""The number of workers follows the load, within its bounds and without thrash."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.serving.scaling import LOOK_BACK_S, Load, Targets, replicas, wanted

targets = st.builds(
    lambda low, more, cpu, ms: Targets(min_replicas=low, max_replicas=low + more, target_cpu=cpu, target_latency_ms=ms),
    st.integers(1, 10),
    st.integers(0, 40),
    st.floats(0.1, 1.0),
    st.floats(1, 1000),
)
loads = st.lists(
    st.builds(
        lambda n, cpu, ms: (n, cpu, ms), st.integers(1, 50), st.floats(0, 1), st.one_of(st.none(), st.floats(0, 5000))
    ),
    min_size=1,
    max_size=40,
)


@given(targets, loads)
def test_the_number_stays_within_its_bounds(t: Targets, seen: list[tuple[int, float, float | None]]) -> None:
    history = [Load(at=2.0 * i, replicas=n, cpu=cpu, latency_ms=ms) for i, (n, cpu, ms) in enumerate(seen)]
    assert t.min_replicas <= replicas(history, t) <= t.max_replicas


@given(targets, st.integers(1, 50), st.floats(0, 1), st.floats(0, 1))
def test_more_load_never_asks_for_fewer_workers(t: Targets, n: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert wanted(Load(at=0, replicas=n, cpu=low), t) <= wanted(Load(at=0, replicas=n, cpu=high), t)


def run(work: list[float], t: Targets, step: float = 2.0) -> list[int]:
    """Workers over time when `work` cores are needed at each look: a closed loop."""
    seen: list[Load] = []
    counts = [t.min_replicas]
    for i, cores in enumerate(work):
        seen.append(Load(at=i * step, replicas=counts[-1], cpu=min(1.0, cores / counts[-1])))
        counts.append(replicas(seen, t))
    return counts


@settings(max_examples=60)
@given(st.floats(0, 30), targets)
def test_a_constant_load_settles_and_then_nothing_changes(cores: float, t: Targets) -> None:
    counts = run([cores] * 120, t)
    assert len(set(counts[-30:])) == 1
    enough = min(t.max_replicas, math.ceil(cores / (min(t.target_cpu, 0.9) * 1.1) - 1e-6))
    assert counts[-1] >= enough


def test_a_load_that_swings_faster_than_the_look_back_causes_no_thrash() -> None:
    t = Targets(min_replicas=2, max_replicas=10, target_cpu=0.5, target_latency_ms=100)
    counts = run([4.0, 0.2] * 60, t)
    changes = sum(a != b for a, b in itertools.pairwise(counts))
    assert changes <= 4  # only the way up


def test_a_step_up_and_down_changes_the_number_and_takes_it_back_after_the_look_back() -> None:
    t = Targets(min_replicas=2, max_replicas=10, target_cpu=0.5, target_latency_ms=100)
    counts = run([0.2] * 20 + [3.0] * 20 + [0.2] * 40, t)
    assert max(counts) == 6
    assert counts[-1] == 2
    assert counts[41 + int(LOOK_BACK_S / 2) - 3] == 6  # not before the look-back is over


def test_slow_answers_of_busy_workers_ask_for_one_more_and_of_idle_ones_for_none() -> None:
    t = Targets(min_replicas=1, max_replicas=9, target_cpu=0.8, target_latency_ms=50)
    assert wanted(Load(at=0, replicas=3, cpu=0.75, latency_ms=80), t) == 4
    assert wanted(Load(at=0, replicas=3, cpu=0.1, latency_ms=80), t) == 1
