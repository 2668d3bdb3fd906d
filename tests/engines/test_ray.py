"""Calls on a Ray cluster give what they give here; what fails and what is killed is told with its index."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from modelyard.core import plugins
from modelyard.core.errors import Invalid, Unavailable

ray = pytest.importorskip("ray", reason="Ray is missing: pip install 'modelyard[ray]'")


def divided(number, by):
    return number / by


def column_sums(rows):
    return rows.sum(axis=0)


def killed_once(mark):
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def refused(name):
    raise Invalid(f"{name} is not known.")


def unpicklable(_):
    error = KeyError("held")
    error.lock = threading.Lock()
    raise error


def process_and_usage(_):
    return os.getpid(), os.environ.get("RAY_USAGE_STATS_ENABLED")


@pytest.fixture(scope="session")
def runner():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        runner = plugins.load("runner", "ray")(2)
    yield runner
    runner.close()


def test_a_map_gives_what_the_serial_map_gives(runner):
    calls = [(number, 3) for number in range(20)]
    assert dict(runner.map(divided, calls)) == {index: divided(*call) for index, call in enumerate(calls)}
    tables = [(np.random.default_rng(seed).normal(size=(50_000, 4)),) for seed in range(3)]
    for index, sums in runner.map(column_sums, tables):
        assert np.array_equal(sums, column_sums(*tables[index]))
    assert list(runner.map(divided, [])) == []
    assert dict(runner.map(functools.partial(pow, 2), [(3,), (4,)])) == {0: 8, 1: 16}
    assert dict(runner.map(lambda number: number + tables[0][0].shape[1], [(1,)])) == {0: 5}


def test_calls_run_in_other_processes_that_report_no_usage(runner):
    told = dict(runner.map(process_and_usage, [(0,), (1,)]))
    assert os.getpid() not in {process for process, _ in told.values()}
    assert {usage for _, usage in told.values()} == {"0"}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_failing_call_is_told_with_its_index(runner):
    with pytest.raises(ZeroDivisionError, match="division by zero") as raised:
        dict(runner.map(divided, [(1, 1), (1, 0)]))
    assert any("Call 1 of 2" in note for note in raised.value.__notes__)
    with pytest.raises(Invalid, match=r"^census is not known\.") as refusal:
        dict(runner.map(refused, [("census",)]))
    assert type(refusal.value) is Invalid
    with pytest.raises((KeyError, Unavailable)):
        dict(runner.map(unpicklable, [(0,)]))
    assert dict(runner.map(divided, [(1, 2)])) == {0: 0.5}


def test_a_call_whose_worker_is_killed_is_run_again(runner, tmp_path):
    calls = [(tmp_path / "a",), (tmp_path / "b",)]
    assert dict(runner.map(killed_once, calls)) == {0: "done", 1: "done"}
    assert all(mark.exists() for (mark,) in calls)


def test_a_call_that_kills_every_worker_is_told_with_its_index(runner):
    with pytest.raises(Unavailable, match=r"Call 0 of 1.*died 4 times"):
        dict(runner.map(killed, [(0,)]))
    assert dict(runner.map(divided, [(1, 2)])) == {0: 0.5}


def test_what_cannot_travel_is_refused(runner):
    held = threading.Lock()
    with pytest.raises(Invalid, match="cannot be sent"):
        dict(runner.map(held.locked, [()]))
    with pytest.raises(Invalid, match="cannot be sent"):
        dict(runner.map(column_sums, [(held,)]))


def test_a_map_that_is_left_early_leaves_the_workers_free(runner):
    calls = [(number, 1) for number in range(50)]
    index, result = next(runner.map(divided, calls))
    assert index == result
    assert dict(runner.map(divided, [(1, 2)])) == {0: 0.5}


def test_a_second_runner_shares_the_connection_and_leaves_it_standing(runner):
    second = plugins.load("runner", "ray")()
    assert dict(second.map(divided, [(4, 2)])) == {0: 2.0}
    second.close()
    assert dict(runner.map(divided, [(1, 2)])) == {0: 0.5}


ELSEWHERE = """
import signal, sys
from modelyard.core import plugins
from modelyard.core.errors import Invalid, Unavailable

def mine(*_): ...

signal.signal(signal.SIGTERM, mine)
make = plugins.load("runner", "ray")
wrong = {"127.0.0.1:1": Unavailable, "ray://127.0.0.1:1": Unavailable, "host:99999": Unavailable, "nonsense": Invalid}
for address, kind in wrong.items():
    try:
        make(address=address)
    except kind as error:
        assert address in str(error), error
    else:
        sys.exit(address)
runner = make(address=sys.argv[1])
assert signal.getsignal(signal.SIGTERM) is mine
print(dict(runner.map(abs, [(-1,), (2,)])))
runner.close()
"""


def test_another_process_reaches_a_cluster_by_its_address_and_keeps_its_signal_handler(runner, tmp_path):
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, tmp_path / "elsewhere.py", address]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stdout in ("{0: 1, 1: 2}\n", "{1: 2, 0: 1}\n"), ran.stderr[-2000:]
    assert dict(runner.map(divided, [(1, 2)])) == {0: 0.5}
