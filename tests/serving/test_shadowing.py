"""The process that asks shadows: what it counts, what becomes of it, and that nobody who answers notices."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output
from modelyard.core.traffic import DISTANCES, Arm, ShadowCounts
from modelyard.serving import ModelServer, copies, shadow_process, shadowing
from modelyard.serving.desk import Desk
from modelyard.serving.shadow_process import Waiting, records
from modelyard.serving.shadowing import Shadowing
from modelyard.serving.trials import deaths as deaths_of
from modelyard.serving.trials import key_of
from modelyard.serving.vigil import Death

LONG = 120.0  # a process at idle priority gets little of a busy machine
DEADLY = Path(__file__).parent / "deadly_models.py"


def shadowed(version: str, **more: Any) -> dict[str, Any]:
    return {"shadow": Arm(name="shadow", model="m", version=version, weight=0.0), "shadow_share": 1.0, **more}


@dataclass
class Node:
    """Who answers, in this process, and whoever asks the shadows for it."""

    server: ModelServer
    until: Callable[..., Any]
    deaths: list[Death] = field(default_factory=list)
    keeper: Shadowing | None = None

    def begin(self, **settings: Any) -> Node:
        self.desk = Desk(self.server.places)
        self.keeper = Shadowing(self.server.places, died=self.deaths.append, **settings).begin()
        self.desk.copies = self.keeper.copies
        self.desk.routes.refresh()
        return self

    def answer(self, rows: Any) -> Output:
        """The primary's answer to one request, a copy of which is sent."""
        route, batch = self.desk.routes.find("e"), np.array(rows, dtype=np.float64)
        output = route.models[0].answer(batch)
        self.desk.after(route, 0, request_id="r", batch=batch, output=output, micros=1.0, unit=None)
        return output

    def counts(self, generation: int | None = None) -> ShadowCounts:
        return self.server.counts("e", generation).shadow or ShadowCounts()

    def wait(self, what: Callable[[], Any]) -> Any:
        return self.until(what, LONG)

    def end(self) -> None:
        if self.keeper is not None:
            self.keeper.stop()
            self.desk.stop()


@pytest.fixture
def node(server: ModelServer, tools: Any) -> Iterator[Node]:
    found = Node(server, tools.until)
    yield found
    found.end()


def test_what_is_counted_is_what_comparing_by_hand_finds(node: Node, tools: Any) -> None:
    """Single rows and batches, by total variation distance and class, with a tolerance between them."""
    tools.install(node.server, "e", v1=tools.reference(), v2=tools.reference(shift=0.1))
    node.server.apply(tools.split("e", 1, **shadowed("v2", shadow_tolerance=0.02)))
    node.begin()
    draw = np.random.default_rng(0)
    asked = [draw.normal(size=(rows, 2)) * 3 for rows in (1, 1, 1, 2, 5) * 12]
    expected = [0] * (len(DISTANCES) + 1)
    agreed = 0
    for rows in asked:
        node.answer(rows)
        p, q = (1 / (1 + np.exp(-(rows.sum(axis=1) - shift))) for shift in (0.0, 0.1))
        apart = max(abs(a - b) for a, b in zip(p, q, strict=True))
        expected[next(i for i, end in enumerate((*DISTANCES, np.inf)) if apart <= end)] += 1
        agreed += all((a > 0.5) == (b > 0.5) for a, b in zip(p, q, strict=True)) and apart <= 0.02
    found = node.wait(lambda: (c := node.counts()).compared == len(asked) and c)
    assert (found.agreed, found.errors, found.dropped) == (agreed, 0, 0)
    assert found.distances == tuple(expected)
    assert sum(found.latency.values()) == len(asked)
    assert 0 < agreed < len(asked)


def test_a_large_batch_is_compared_by_its_first_rows_and_its_latency_is_not_told(node: Node, tools: Any) -> None:
    tools.install(node.server, "e", v1=tools.reference(), v2=tools.reference(shift=1.0))
    node.server.apply(tools.split("e", 1, **shadowed("v2")))
    node.begin()
    rows = np.full((20_000, 2), 5.0)
    rows[-1] = 0.25  # the one row whose class is another, and it is too far down
    node.answer(rows)
    found = node.wait(lambda: (c := node.counts()).compared and c)
    assert (found.compared, found.agreed, found.latency) == (1, 1, {})


@pytest.mark.parametrize("way", ["segfault", "descriptors"])
def test_a_shadow_that_ends_its_process_is_charged_and_asked_again(node: Node, tools: Any, way: str) -> None:
    tools.install(node.server, "e", v1=tools.reference(), v2=f"{DEADLY}:Deadly@{way}")
    node.server.apply(tools.split("e", 1, **shadowed("v2")))
    node.begin()
    node.answer([[1, 2]])
    node.wait(lambda: node.counts().compared == 1)
    node.answer([[200, 2]])
    (death,) = node.wait(lambda: node.deaths)
    assert (death.endpoint, death.arm, death.generation, death.shadowed) == ("e", "shadow", 1, True)
    assert node.counts().errors == 1
    node.answer([[1, 2]])
    node.wait(lambda: node.counts().compared == 2)
    assert len(node.deaths) == 1


def test_a_shadow_that_never_answers_is_charged_and_replaced(node: Node, tools: Any) -> None:
    tools.install(node.server, "e", v1=tools.reference(), v2=f"{DEADLY}:Deadly@wait")
    node.server.apply(tools.split("e", 1, **shadowed("v2")))
    node.begin(call_s=1.0)
    node.answer([[200, 2]])
    death = node.wait(lambda: node.deaths)[0]
    assert (death.reason, death.endpoint, death.arm) == ("hung", "e", "shadow")
    assert node.counts().errors == 1


def test_a_process_that_takes_the_memory_of_others_is_killed_and_the_shadow_charged(node: Node, tools: Any) -> None:
    tools.install(node.server, "e", v1=tools.reference(), v2=f"{DEADLY}:Greedy@64")
    node.server.apply(tools.split("e", 1, **shadowed("v2")))
    node.begin(room=64 << 20)
    node.answer([[200, 2]])
    death = node.wait(lambda: node.deaths)[0]
    assert (death.reason, death.endpoint, death.arm) == ("out_of_memory", "e", "shadow")
    assert node.counts().errors == 1


def test_a_version_whose_loading_ends_the_process_is_tried_once_and_that_is_told(
    node: Node, tools: Any, tmp_path: Path
) -> None:
    (tmp_path / "now").write_text("exit")
    tools.install(node.server, "e", v1=tools.reference(), v2=f"{DEADLY}:Late@{tmp_path / 'now'}")
    node.server.apply(tools.split("e", 1, **shadowed("v2")))
    node.begin()
    trouble = node.wait(lambda: [one.troubles for one in node.server.processes() if one.troubles])[0]["e"]
    assert "ended 1 of the processes that loaded it" in trouble
    assert len(node.deaths) == 1
    assert "as it loaded m v2" in node.deaths[0].detail
    assert len(deaths_of(node.server.places, key_of(node.server.places.read_models()["m", "v2"], None))) == 1
    assert node.counts().errors == 0  # it has not answered anything


def test_copies_wait_for_a_shadow_that_loads_and_are_dropped_with_their_routing(
    node: Node, tools: Any, tmp_path: Path
) -> None:
    tools.install(
        node.server, "e", v1=tools.reference(), v2=f"{DEADLY}:Late@{tmp_path / 'never'}", v3=tools.reference()
    )
    node.server.apply(tools.split("e", 1, **shadowed("v2")))
    node.begin()
    for _ in range(30):
        node.answer([[1, 2]])
    node.server.apply(tools.split("e", 2, **shadowed("v3")))
    node.wait(lambda: node.counts(1).dropped == 30)
    node.desk.routes.refresh()
    node.answer([[1, 2]])
    assert node.counts(1).compared == 0
    # v3 waits for v2, which is being loaded: its copies wait too
    (tmp_path / "never").write_text("")
    node.wait(lambda: node.counts(2).compared == 1)


def test_the_process_is_there_while_a_routing_names_a_shadow(
    node: Node, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadowing, "IDLE_S", 0.0)
    tools.install(node.server, "e", v1=tools.reference(), v2=tools.reference())
    node.server.apply(tools.split("e", 1))
    node.begin()
    assert node.keeper is not None
    node.keeper.look()
    assert node.keeper.pid is None
    node.server.apply(tools.split("e", 2, **shadowed("v2")))
    pid = node.wait(lambda: node.keeper and node.keeper.pid)
    node.wait(lambda: [one for one in node.server.processes() if one.shadows and one.generations == {"e": 2}])
    (said,) = [one for one in node.server.processes() if one.shadows]
    assert (said.pid, said.ready) == (pid, False)
    node.server.apply(tools.split("e", 3))
    node.wait(lambda: node.keeper and node.keeper.pid is None)
    assert node.deaths == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_killed_or_stopped_under_load_no_client_notices(server: ModelServer, tools: Any, tmp_path: Path) -> None:
    """And the serving processes carry out a routing whose shadow they could not load: they have no need of it."""
    file = tmp_path / "now"
    tools.install(server, "e", v1=tools.reference(), v2=f"{DEADLY}:Late@{file}")
    server.apply(tools.split("e", 1, **shadowed("v2")))
    row = {"features": {"a": 0.25, "b": 0}}
    with server.start(workers=2) as serving, httpx.Client(base_url=serving.url, timeout=LONG) as client:
        assert tools.carried_out(server, "e", 1)
        file.write_text("")

        def compared() -> int:
            client.post("/predict/e", json=row)
            return server.counts("e").shadow.compared  # type: ignore[no-any-return]

        tools.until(compared, LONG)
        first = serving.shadow_pid
        os.kill(first, signal.SIGSTOP)
        assert {client.post("/predict/e", json=row).status_code for _ in range(100)} == {200}
        os.kill(first, signal.SIGKILL)
        assert {client.post("/predict/e", json=row).status_code for _ in range(100)} == {200}
        tools.until(lambda: serving.shadow_pid not in (None, first), LONG)
        before = compared()  # a copy that the first has read may be lost with it
        tools.until(lambda: compared() > before, LONG)
        assert tools.until(lambda: _replaced(server)) == [("serving", "shadow")]
    assert server.counts("e").shadow.errors == 0  # who kills it from outside does not accuse it
    assert server.counts("e").arms["baseline"].errors == 0


def test_a_full_way_drops_and_counts_and_keeps_nobody_waiting(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1, **shadowed("v2")))
    desk = Desk(server.places)
    desk.routes.refresh()
    route, (written, read) = desk.routes.find("e"), copies.pair()
    desk.copies = copies.Copies(written)
    batch = np.array([[1.0, 2.0]])
    for _ in range(20_000):
        desk.copies.offer(route, 0, batch, Output(predictions=np.array([1])))
    arrived = 0
    while True:
        try:
            arrived += copies.read_copy(os.read(read, copies.LARGEST)).whole
        except BlockingIOError:
            break
    os.close(read)
    desk.copies.offer(route, 0, batch, Output(predictions=np.array([1])))  # nobody reads any more
    os.close(written)
    desk.copies.offer(route, 0, batch, Output(predictions=np.array([1])))
    assert 0 < arrived < 20_000
    assert server.counts("e").shadow == ShadowCounts(dropped=20_002 - arrived, distances=(0,) * (len(DISTANCES) + 1))
    desk.stop()


KINDS = st.sampled_from([np.dtype(name) for name in ("f8", "f4", "i8", "u1", "?", "U3", "S2", "M8[s]")])


@given(KINDS.flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0))))
def test_an_array_arrives_as_it_was(array: np.ndarray) -> None:
    found = copies.unpacked(copies.packed(array))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable


@given(st.lists(st.one_of(st.text(), st.none(), st.integers(-9, 9), st.floats(allow_nan=False), st.booleans())))
def test_an_array_of_objects_arrives_as_it_was(values: list[Any]) -> None:
    array = np.fromiter(values, object, len(values))
    found = copies.unpacked(copies.packed(array))
    assert found.dtype == object
    assert list(map(repr, found)) == list(map(repr, array))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4 << 20)), max_size=900))
def test_what_waits_is_bounded_in_number_and_size_and_routings_take_turns(came: list[tuple[str, int]]) -> None:
    waiting, kept = Waiting(), dict.fromkeys("abc", 0)
    for endpoint, size in came:
        kept[endpoint] += waiting.add(_copy(endpoint), size)
    assert all(count <= shadow_process.QUEUE for count in kept.values())
    assert waiting._bytes <= shadow_process.HEAVY
    wanted: dict[Any, Any] = {(name, 1): name for name in "ab"}
    order = []
    while (found := waiting.next(wanted)) is not None:
        order.append(str(found[0]))
    assert (order.count("a"), order.count("b")) == (kept["a"], kept["b"])
    both = 2 * min(kept["a"], kept["b"])
    assert all(one != other for one, other in pairwise(order[:both]))
    assert waiting.drop(lambda key, _: key[0] == "c") == ({("c", 1): kept["c"]} if ("c", 1) in _keys(came) else {})
    assert waiting._bytes == 0


def _keys(came: list[tuple[str, int]]) -> set[tuple[str, int]]:
    return {(name, 1) for name, _ in came}


def _copy(endpoint: str) -> copies.Copy:
    nothing = copies.packed(np.zeros((1, 1)))
    return copies.Copy(endpoint, 1, 0, True, nothing, nothing, None)


def test_features_are_found_by_name_where_the_shadow_takes_others() -> None:
    primary = Signature(inputs=tuple(FeatureSpec(name=name) for name in "abc"), task="binary")
    shadow = Signature(inputs=tuple(FeatureSpec(name=name) for name in "ca"), task="binary")
    assert records(np.array([[1.0, 2.0, 3.0]]), primary, shadow) == [{"a": 1.0, "c": 3.0}]


def _replaced(server: ModelServer) -> list[tuple[str, str]]:
    query = "SELECT resource_type, resource_id FROM events WHERE event_type = :kind"
    with server.store.reading() as rows:
        return [(row["resource_type"], row["resource_id"]) for row in rows.all(query, kind="worker_replaced")]
