"""Versions are loaded beside what goes on: they hold nothing up, whatever they raise, and a stop waits for none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelyard.core.errors import Damaged
from modelyard.core.traffic import Arm
from modelyard.serving import ModelServer, loaded
from modelyard.serving.desk import Desk
from modelyard.serving.loaded import ModelFailed
from modelyard.serving.trials import deaths, key_of
from modelyard.serving.values import Installed

DEADLY = Path(__file__).parent / "deadly_models.py"
RAISED = ["SystemExit", "KeyboardInterrupt", "CancelledError", "GeneratorExit", "MemoryError"]


@contextmanager
def in_a_thread(work: Any) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(120)


def elsewhere(function: Any, *arguments: Any) -> Any:
    """In a thread, since in a program's own thread KeyboardInterrupt may be the user's."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


@pytest.fixture
def desk(server: ModelServer) -> Iterator[Desk]:
    desk = Desk(server.places)
    yield desk
    desk.stop()


def late(server: ModelServer, tools: Any, file: Path) -> Installed:
    """Endpoint e on v1, f on v1; v2 is loaded once there is a file."""
    tools.install(server, "e", v1=tools.reference(), v2=f"{DEADLY}:Late@{file}", v3=tools.reference(shift=1))
    server.configure("f", {"trusted_code": True})
    for endpoint in ("e", "f"):
        server.apply(tools.split(endpoint, 1))
    return server.places.read_models()["m", "v2"]


def at(desk: Desk) -> dict[str, list[str]]:
    return {name: [arm.version for arm in route.traffic.arms] for name, route in desk.routes.by_name.items()}


def test_a_version_that_takes_long_to_load_holds_up_no_other_change(
    server: ModelServer, desk: Desk, tools: Any, tmp_path: Path
) -> None:
    late(server, tools, tmp_path / "now")
    desk.routes.refresh()
    server.apply(tools.split("e", 2, 0.5))
    with in_a_thread(desk.routes.refresh):
        tools.until(lambda: desk.routes.shelf.loading)
        assert at(desk) == {"e": ["v1"], "f": ["v1"]}  # no weight moves to what has not answered
        server.apply(tools.split("f", 2, 0.0, salt="other"))
        assert desk.routes.follow()
        assert desk.routes.generations == {"e": 1, "f": 2}
        back = Arm(name="baseline", model="m", version="v1", weight=1.0)
        server.apply(replace(tools.split("e", 3), arms=(back,)))  # the canary is taken back before it was there
        assert desk.routes.follow()
        assert desk.routes.generations == {"e": 3, "f": 2}
        (tmp_path / "now").write_text("")
    assert at(desk) == {"e": ["v1"], "f": ["v1"]}
    server.apply(tools.split("e", 4, 0.5))
    desk.routes.refresh()
    assert at(desk)["e"] == ["v1", "v2"]


def test_two_that_wait_for_one_version_load_it_once(
    server: ModelServer, desk: Desk, tools: Any, tmp_path: Path
) -> None:
    late(server, tools, tmp_path / "now")
    desk.routes.refresh()
    loads: list[str] = []
    desk.routes.shelf.on_load = lambda model, version, _: loads.append(f"{model} {version}")
    server.apply(tools.split("e", 2, 0.5))
    with in_a_thread(desk.routes.refresh):
        tools.until(lambda: desk.routes.shelf.loading)
        with in_a_thread(desk.routes.refresh) as second:
            (tmp_path / "now").write_text("")
            second.join(120)
            assert at(desk)["e"] == ["v1", "v2"]  # who has refreshed has what was published
    assert loads == ["m v2"]


def test_a_process_that_is_told_to_end_while_it_loads_accuses_no_version(
    server: ModelServer, desk: Desk, tools: Any, tmp_path: Path
) -> None:
    one = late(server, tools, tmp_path / "now")
    desk.routes.refresh()
    server.apply(tools.split("e", 2, 0.5))
    marks = server.places.trials
    with in_a_thread(desk.routes.refresh):
        tools.until(lambda: desk.routes.shelf.loading and list(marks.glob(f"{key_of(one, None)}.[0-9]*")))
        desk.routes.shelf.give_up()
        assert list(marks.glob(f"{key_of(one, None)}.[0-9]*")) == []
        (tmp_path / "now").write_text("")
    assert deaths(server.places, key_of(one, None)) == []


@pytest.mark.parametrize("name", RAISED)
def test_what_loading_raises_keeps_the_old_routing_and_is_told(
    server: ModelServer, desk: Desk, tools: Any, tmp_path: Path, name: str
) -> None:
    (tmp_path / "now").write_text(name)
    one = late(server, tools, tmp_path / "now")
    desk.routes.refresh()
    server.apply(tools.split("e", 2, 0.5))
    elsewhere(desk.routes.refresh)
    assert at(desk)["e"] == ["v1"]
    assert name in desk.routes.troubles["e"]
    assert deaths(server.places, key_of(one, None)) == []
    with pytest.raises(Damaged, match=f"m v2 cannot be loaded.*{name}"):
        elsewhere(loaded.load, one)


@pytest.mark.parametrize("way", ["Deadly", "DeadlyService"])
@pytest.mark.parametrize("name", RAISED)
def test_whatever_a_model_raises_is_its_failure_and_ends_nothing(way: str, name: str) -> None:
    """SystemExit would end the process, and the connection of who asked, and nobody would be charged."""
    model = loaded.load(Installed(model="m", version="v1", path=f"{DEADLY}:{way}@{name}", framework="python"))
    fatal, fine = np.array([[200.0, 1.0]]), np.array([[1.0, 1.0]])
    for _ in range(2):
        with pytest.raises(ModelFailed, match=f"m v1 failed: {name}"):
            elsewhere(model.answer, fatal)
        assert model.answer(fine).predictions.tolist() == [2.0]
