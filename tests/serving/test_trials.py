"""A version whose loading ends the process takes nobody with it: the routing before goes on, and it is tried no more."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard.core.errors import Damaged
from modelyard.serving import ModelServer
from modelyard.serving.places import Places
from modelyard.serving.trials import FORGOTTEN_S, deaths, forget, key_of, trial
from modelyard.serving.values import Installed

ONE = Installed(model="m", version="v1", path="/nowhere", framework="onnx")
ROW = {"features": {"a": 1, "b": 0}}
DIE = """
import os, sys
from modelyard.serving.places import Places
from modelyard.serving.trials import trial
from modelyard.serving.values import Installed
one = Installed(model="m", version="v1", path="/nowhere", framework="onnx")
with trial(Places(sys.argv[1]), one, None, standing=False):
    os._exit(9)
"""
LETHAL = """
import os
class Lethal:
    def __init__(self):
        os._exit(7)
"""


def die(folder: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DIE, folder], check=False).returncode == 9


def test_who_has_something_to_lose_tries_no_more_after_one_death_and_who_has_not_after_two(tmp_path: Path) -> None:
    places = Places(tmp_path)
    die(tmp_path)
    with pytest.raises(Damaged, match="ended 1 of the processes"), trial(places, ONE, None, standing=True):
        pytest.fail("it was tried")
    die(tmp_path)
    with pytest.raises(Damaged, match="ended 2 of the processes"), trial(places, ONE, None, standing=False):
        pytest.fail("it was tried")
    with trial(places, ONE, (1, 2, 3), standing=True):
        pass  # another state of its file is another thing to try
    forget(places, "m", "v1")
    with trial(places, ONE, None, standing=True):
        pass


def test_an_error_is_no_death_and_what_was_loaded_once_is_trusted(tmp_path: Path) -> None:
    places = Places(tmp_path)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), trial(places, ONE, None, standing=True):
            raise ValueError("broken")
    assert deaths(places, key_of(ONE, None)) == []
    with trial(places, ONE, None, standing=True):
        pass
    die(tmp_path)
    die(tmp_path)
    with trial(places, ONE, None, standing=True):
        pass


def test_a_death_long_ago_may_have_been_the_machines_fault(tmp_path: Path) -> None:
    places = Places(tmp_path)
    die(tmp_path)
    (mark,) = deaths(places, key_of(ONE, None))
    past = time.time() - FORGOTTEN_S - 1
    os.utime(mark, (past, past))
    with trial(places, ONE, None, standing=True):
        pass


def test_the_routing_before_goes_on_where_the_next_version_kills_who_loads_it(
    server: ModelServer, tools: Any, tmp_path: Path
) -> None:
    lethal = tmp_path / "lethal.py"
    lethal.write_text(LETHAL)
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    with server.start(workers=2) as serving:
        first = set(serving.pids)
        tools.install(server, "e", v2=f"{lethal}:Lethal")
        server.apply(tools.split("e", 2, 0.5))

        def told() -> list[str]:
            return [one.troubles.get("e", "") for one in server.processes() if one.ready]

        with httpx.Client(base_url=serving.url, timeout=120) as client:

            def settled() -> bool:
                with suppress(httpx.TransportError):  # its process ended: another one answers
                    assert client.post("/predict/e", json=ROW).json()["model_version"] == "v1"
                return len(told()) == 2 and all("ended" in text for text in told())

            tools.until(settled)
            assert len(first & set(serving.pids)) == 1, "one of the two went on all the time"
            answers = [client.post("/predict/e", json=ROW) for _ in range(40)]
        assert {answer.json()["model_version"] for answer in answers} == {"v1"}
        assert {tuple(one.generations.items()) for one in server.processes()} == {(("e", 1),)}
        tools.install(server, "e", v2=tools.reference())  # installed again, from other code
        server.apply(tools.split("e", 3, 0.5))
        tools.until(lambda: tools.carried_out(server, "e", 3))
