"""The life-long test: silent on a stream that has not changed, soon loud on one that has, the same after a restart."""

from __future__ import annotations

import numpy as np
import pytest

from modelyard.core.errors import Conflict
from modelyard.monitoring import MLMonitor, watching
from modelyard.monitoring.profile import profile, reference_profile


def stream(rows, rng, *, shift=0.0, spread=1.0, zeros=0.3):
    common = rng.normal(size=rows)
    shares = 1 / np.arange(1, 301)
    return {
        "x": rng.normal(shift, spread, rows),
        "skewed": np.exp(0.7 * common + 0.7 * rng.normal(size=rows)),
        "tied": np.where(rng.random(rows) < zeros, 0.0, common),
        "city": rng.choice(np.array([f"c{i}" for i in range(300)], dtype=object), rows, p=shares / shares.sum()),
        "kind": rng.choice(np.array(["a", "b", None], dtype=object), rows, p=[0.7, 0.25, 0.05]),
    }


def watched(seed, windows, **change):
    rng = np.random.default_rng(seed)
    monitor = MLMonitor("credit", "v1.0.0")
    monitor.set_reference_data(stream(2000, rng))
    return monitor, rng, [monitor.watch(stream(200, rng, **change)) for _ in range(windows)]


def test_streams_that_have_not_changed_do_not_alarm_over_their_whole_life():
    alarmed = sum(watched(seed, 50)[2][-1].alarmed for seed in range(8))
    assert alarmed <= 2  # each with a chance of at most 0.05: three or more has one of 0.01


@pytest.mark.parametrize("change", [{"shift": 0.4}, {"spread": 1.5}, {"zeros": 0.5}])
def test_a_change_is_found_soon_and_its_column_and_begin_are_named(change):
    monitor, rng, quiet = watched(1, 20)
    assert not quiet[-1].alarmed
    for _ in range(12):
        seen = monitor.watch(stream(200, rng, **change))
        if seen.alarmed:
            break
    assert list(seen.columns) == ["tied" if "zeros" in change else "x"]
    assert 19 <= next(iter(seen.columns.values())) <= 24
    assert seen.e_value >= seen.threshold == 20


def test_an_alarm_stays_until_a_new_reference_is_set():
    monitor, rng, seen = watched(2, 4, shift=2.0)
    assert seen[-1].alarmed
    assert monitor.watch(stream(200, rng)).alarmed
    monitor.set_reference_data(stream(2000, rng))
    assert monitor.watch(stream(200, rng)).window == 1
    assert not monitor.watch(stream(200, rng)).alarmed


def test_the_state_survives_storage_and_pruned_bets_keep_their_wealth():
    rng = np.random.default_rng(3)
    reference = reference_profile(stream(1000, rng))
    one = watching.new_watch(reference)
    for _ in range(watching.BETS + 8):
        other = watching.read(watching.written(one))
        window = stream(20, rng)
        profile(reference, window)
        answers = [watch.advance(reference, window, model="m:v1", alpha=0.05) for watch in (one, other)]
        assert answers[0] == answers[1]
    assert len(one.streams["x"].starts) == watching.BETS
    assert one.streams["x"].cash > -np.inf


def test_a_stored_watch_goes_on_in_another_process_where_it_stopped(tmp_path):
    rng = np.random.default_rng(4)
    reference, windows = stream(1000, rng), [stream(100, rng, shift=0.3) for _ in range(5)]
    memory = MLMonitor("credit", "v1.0.0")
    memory.set_reference_data(reference)
    MLMonitor("credit", "v1.0.0", tmp_path).set_reference_data(reference)
    for window in windows:
        assert MLMonitor("credit", "v1.0.0", tmp_path).watch(window) == memory.watch(window)


def test_watching_needs_a_reference():
    with pytest.raises(Conflict, match="no reference"):
        MLMonitor("credit", "v1.0.0").watch({"x": [1.0]})
