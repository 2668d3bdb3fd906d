"""A yard served by Ray Serve on three nodes: what they count and decide comes together, and a killed node costs no request.

Ray is asked in a process of its own: this environment's Python where it has Ray, else the one of scripts/peers/ray.txt.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelyard.serving.reconcile import reconciled

HERE = Path(__file__).parent
PEER = HERE.parents[1] / ".peers" / "ray" / "bin" / "python"
PYTHON = Path(sys.executable) if importlib.util.find_spec("ray") else PEER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="Ray is not here: scripts/peers.sh ray"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened in `ray_scenario.py`."""
    folder = tmp_path_factory.mktemp("ray")
    command = [str(PYTHON), str(HERE / "ray_scenario.py"), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def test_every_request_is_answered_once_while_nodes_are_killed_under_load(told: dict[str, Any]) -> None:
    """First a node's raylet, then all processes of another one."""
    load = told["load"]
    for kill in (told["raylet"], told["node"]):
        assert kill["killed"] in kill["nodes_before"]
        assert kill["answered_before"] >= 100
    assert load["wrong"] == []
    assert set(load["answered"]) == set(load["asked"])
    assert len(load["asked"]) > 400
    assert set(load["answered"].values()) == {1}
    positive = {request for request in load["asked"] if int(request.partition("-")[2]) % 7 > 3}
    assert {request for request in positive if load["predictions"][request] != [1]} == set()


def test_the_log_has_each_request_of_the_killed_nodes_too(told: dict[str, Any]) -> None:
    """The endpoint's answers wait for the disk, and what the dead had not told is told by another process of the machine."""
    load = told["load"]
    once = reconciled(load["rows"], load["asked"])
    assert once.missing == once.unknown == once.unlike == frozenset()
    assert len(once.rows) == len(load["asked"])
    assert set(once.repeated) <= set(load["attempts"])  # only what was asked again was answered again
    assert load["counted"] >= len(load["rows"])  # a killed process may have counted what it did not log, never less


def test_processes_are_spread_and_another_node_takes_the_place_of_a_killed_one(told: dict[str, Any]) -> None:
    first, second = told["raylet"], told["node"]
    assert len(first["nodes_before"]) == 2  # two processes, each on a node of its own
    assert len(set(first["nodes_after"]) - {first["killed"]}) == 2
    assert len(set(second["nodes_after"]) - {second["killed"]}) >= 1


def test_other_bounds_take_effect_under_load_and_replace_no_process(told: dict[str, Any]) -> None:
    """One node is left, on which the first bounds had no room for a second process; the new ones are content with one."""
    assert len(told["scaled"]["before"]) == 1
    assert set(told["scaled"]["before"]) <= set(told["scaled"]["after"])


def test_nodes_have_their_models_from_the_yard_by_digest(told: dict[str, Any]) -> None:
    (path,) = {path for path in told["load"]["paths"] if path.endswith("model.txt")}
    assert Path(path).parts[-4:-2] == ("node", "models")


def test_a_failing_canary_is_rolled_back_on_all_nodes_by_what_they_counted_together(told: dict[str, Any]) -> None:
    guard = told["guard"]
    assert guard["trips"] == [["dep_r", 0, "errors"]]
    assert guard["last"] == ["baseline"]
    assert guard["reported"] == "dep_r 0 errors\n"
    assert guard["counted"] == guard["asked"]
    assert guard["counted_failures"] == guard["failures"]


def test_an_orderly_end_leaves_nothing_on_the_nodes(told: dict[str, Any]) -> None:
    assert told["left"] == []
