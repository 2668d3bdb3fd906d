"""Servers with folders of their own and one database judge together: by what all have counted, each unit once, one detector."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelyard.core.errors import Unavailable
from modelyard.core.traffic import Guard, Traffic, known_part
from modelyard.core.work import Store
from modelyard.serving import ModelServer, detectors, fleet, fleet_shared
from modelyard.serving.counters import Counters
from modelyard.serving.fleet import Fleet
from modelyard.serving.guard import look
from modelyard.stats.eprocess import RATES, log_wealth
from modelyard.stats.rollback import State, events_of, strongest, up_to_now

pytestmark = pytest.mark.postgres

GUARD = Guard(rollout_id="r", step=0, share=0.1)


@dataclass(frozen=True)
class Route:
    """What a process carries out."""

    traffic: Traffic
    counters: Counters
    watched: dict[int, Guard]
    baseline: int = 0


class Machine:
    """A server of its own: a folder, one process that counts, and who tells the others."""

    def __init__(self, url: str, folder: Path, traffic: Traffic) -> None:
        self.server = ModelServer(Store.at(url, files=folder))
        if not self.server.endpoints():
            self.server.apply(traffic)
        self.follow()
        self.fleet: Fleet | None = Fleet(self.server.store, self.server.places)

    def follow(self) -> None:
        """Carry out what is published."""
        self.server.publish()
        self.traffic = self.server.traffic("e")
        self.counters = Counters(self.server.places.counters("e", self.traffic.generation), 0)
        self.counters.warm_up()

    def again(self) -> None:
        """Be killed and started anew, on the same folder."""
        self.kill()
        self.fleet = Fleet(self.server.store, self.server.places)

    def kill(self) -> None:
        """End without a last word."""
        self.fleet = None

    def count(self, canary: int = 0, baseline: int = 0, *, failed: bool = True, units: int | None = None) -> None:
        """Answers of both arms; of units with these hashes from `units` on."""
        for arm, many in ((1, canary), (0, baseline)):
            for n in range(many):
                self.counters.outcome(arm, None if units is None else units + n + arm * 100_000, failed=failed)

    def judge(self) -> bool:
        """Whether this machine takes the canary back."""
        route = Route(self.traffic, self.counters, {1: self.traffic.guards[0]})
        look(self.server.places, [route])
        return self.counters.tripped

    @property
    def tests(self) -> dict[str, tuple[float, ...]]:
        return detectors.tests_of(self.counters, 1, 0, self.traffic.guards[0])

    @property
    def seen(self) -> tuple[int, int]:
        """Failures of canary and baseline, over all machines."""
        heads = self.counters.heads()
        return int(heads[1, 2]), int(heads[0, 2])


@pytest.fixture
def machine(postgres_url: str, tmp_path: Path, tools: Any) -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def new(name: str, **more: Any) -> Machine:
        traffic = tools.split("e", 1, 0.1, more.pop("guard", GUARD), **more)
        made.append(Machine(postgres_url, tmp_path / name, traffic))
        return made[-1]

    yield new
    for one in made:
        if one.fleet is not None:
            one.fleet.stop()
        one.server.close()


def turns(*machines: Machine, times: int = 2) -> None:
    for _ in range(times):
        for one in machines:
            if one.fleet is not None:
                one.fleet.turn()


def test_machines_judge_by_what_all_of_them_have_counted(machine: Callable[..., Machine]) -> None:
    one, other, third = machine("one"), machine("other"), machine("third")
    for each in (one, other, third):
        each.count(canary=3, baseline=2)
    turns(one, other, third)
    assert [each.seen for each in (one, other, third)] == [(9, 6)] * 3
    assert one.tests == other.tests == third.tests
    assert one.judge()
    assert strongest(one.tests)[0] > -math.log(GUARD.alpha)


def test_a_unit_that_several_machines_answer_is_counted_once(machine: Callable[..., Machine]) -> None:
    one, other, late = machine("one"), machine("other"), machine("late")
    one.count(canary=500, baseline=2, units=1000)
    turns(one, other)
    other.count(canary=600, baseline=1, units=1000)
    turns(other, one)
    late.fleet.turn()
    late.count(canary=600, units=1000)
    turns(late, one, other)
    assert one.seen == other.seen == late.seen == (600, 2)


def test_thousands_of_units_are_told_in_rows_of_some_thousand(machine: Callable[..., Machine]) -> None:
    one, other = machine("one"), machine("other")
    for start in range(0, 10_000, 2_000):
        one.count(canary=2_000, units=start, failed=False)
        turns(one)
    turns(other)
    with one.server.store.reading() as rows:
        sizes = rows.tuples("SELECT part, length(body) FROM serving_fleet WHERE part > 0 ORDER BY part")
    assert [part for part, _ in sizes] == [1, 2, 3]
    assert all(size < 6 * fleet_shared.PART for _, size in sizes)
    assert (other.counters.marks[100_000:110_000] == one.counters.marks[100_000:110_000]).all()
    assert one.counters.marks[100_000:110_000].all()


def test_a_server_that_is_killed_and_started_again_loses_and_doubles_nothing(machine: Callable[..., Machine]) -> None:
    one, other = machine("one"), machine("other")
    one.count(canary=2, baseline=3)
    other.count(canary=1, baseline=50, units=1)
    turns(one, other)
    one.count(canary=1)  # nobody has told of this
    one.again()
    other.count(baseline=2)
    turns(one, other)
    assert one.seen == other.seen == (4, 55)
    again = one.counters.total().copy()
    for _ in range(3):
        one.again()
        turns(one, other)
    assert (one.counters.total() == again).all()
    assert (other.counters.total() == again).all()


def test_what_a_machine_that_vanished_has_counted_stays_counted_for_those_that_come(
    machine: Callable[..., Machine],
) -> None:
    one, other = machine("one"), machine("other")
    one.count(canary=2, baseline=3, units=7)
    turns(one)
    one.kill()
    turns(other)
    new = machine("new")
    turns(new)
    assert other.seen == new.seen == (2, 3)
    new.count(canary=2, baseline=3, units=7)
    assert new.seen == (2, 3)


def test_nothing_is_written_where_nothing_has_changed_or_nothing_is_on_trial(
    machine: Callable[..., Machine], postgres_server: Any, postgres_url: str, tools: Any
) -> None:
    one, other = machine("one"), machine("other")
    one.count(canary=2)
    turns(one, other, one, other)

    def newest() -> tuple[Any, ...]:
        with one.server.store.reading() as rows:
            return rows.tuples("SELECT count(*), max(revision) FROM serving_fleet")[0]

    before = newest()
    turns(one, other, times=3)
    assert newest() == before
    other.server.apply(tools.split("e", 2))
    for each in (one, other):
        each.follow()
        each.count(baseline=4)
    turns(one, other, times=3)
    assert newest() == before


def test_each_goes_on_with_what_it_has_while_the_database_is_away_and_tells_it_later(
    machine: Callable[..., Machine], postgres_server: Any, postgres_url: str
) -> None:
    one, other = machine("one"), machine("other")
    turns(one, other)
    one.count(canary=1)
    turns(one, other)
    name = postgres_url.partition("@/")[2].partition("?")[0]
    postgres_server.sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    postgres_server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    one.count(canary=1)
    other.count(baseline=1, units=1)
    for each in (one, other):
        with pytest.raises(Unavailable):
            each.fleet.turn()
    assert one.seen == (2, 0)
    assert other.seen == (1, 1)
    postgres_server.sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    turns(one, other)
    assert one.seen == other.seen == (2, 1)
    one.count(baseline=1, units=1)
    assert one.seen == (2, 1)


def test_what_one_machine_takes_back_all_take_back_in_the_same_turn(machine: Callable[..., Machine]) -> None:
    one, other, third = machine("one"), machine("other"), machine("third")
    one.count(canary=9)
    assert one.judge()
    one.fleet.turn()
    one.kill()  # it has not recorded it yet
    for each in (other, third):
        each.fleet.turn()
        assert each.counters.tripped
        (trip,) = each.server.places.all_trips()
        assert (trip.rollout_id, trip.counts.arms["canary"].errors) == ("r", 9)
    assert other.server.record(trip)
    assert not third.server.record(trip)


def test_one_machine_looks_for_late_faults_and_another_goes_on_from_there(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine("one"), machine("other")
    turns(one, other)
    assert (one.counters.led, other.counters.led) == (False, True)
    expected = State.of(()).late
    random = np.random.default_rng(3)
    for looks in range(60):
        if looks == 30:
            one.kill()
            monkeypatch.setattr(fleet_shared, "LEASE_NS", 0)
            turns(other, times=1)
            monkeypatch.setattr(fleet_shared, "LEASE_NS", 10**12)
            turns(other, times=2)
            assert not other.counters.led
        k, m = int(random.binomial(3, 0.1)), int(random.binomial(5, 0.5))
        (one, other)[looks % 2 or looks > 29].count(canary=k, baseline=m)
        turns(one, other)
        for each in (one, other):
            detectors.judged_now(each.counters, 1, 0, GUARD)
        turns(one, other)
        if k + m:
            expected = expected.after(log_wealth(RATES, (k,), (m,), 0.1), events_of((k,), (m,)))
        assert State.of(other.tests["errors"]).late == expected
    assert expected.events > 100


def test_who_cannot_renew_its_lease_looks_for_late_faults_no_more(machine: Callable[..., Machine]) -> None:
    one, other = machine("one"), machine("other")
    turns(one, other, one)
    assert not one.counters.led
    now = time.monotonic_ns()
    one.counters.share(2, leads=now)
    assert one.counters.led
    before = detectors.state_of(one.counters)
    one.count(canary=2)
    one.judge()
    assert detectors.state_of(one.counters) == before
    alone = machine("alone")  # a machine that knows of no other needs no lease
    alone.counters.share(1)
    assert not alone.counters.led


def test_what_a_machine_sees_by_itself_has_a_part_of_the_budget_and_what_all_know_has_the_rest(
    machine: Callable[..., Machine],
) -> None:
    one, other = machine("one"), machine("other")
    turns(one, other)
    own = 1 - known_part(2)
    needed = next(n for n in range(1, 20) if enough(n, own / 2))
    assert not enough(needed - 1, own / 2)
    assert enough(needed - 1, known_part(2))
    one.count(canary=needed - 1)
    assert not one.judge()
    other.count(canary=needed)
    assert other.judge()  # by itself: the others have not heard of it
    turns(one)
    assert one.judge()  # of fewer, which all can know


def enough(failures: int, part: float) -> bool:
    """Whether so many failures of the canary alone reach 1/alpha, of which there is a part."""
    return strongest(up_to_now({}, {"errors": ((failures,), (0,))}, 0.1, ()))[0] >= -math.log(part * GUARD.alpha)


def test_the_next_step_remembers_units_that_another_machine_has_met(
    machine: Callable[..., Machine], tools: Any
) -> None:
    one, other = machine("one"), machine("other")
    one.count(canary=5, units=7)
    turns(one, other)
    one.server.apply(tools.split("e", 2, 0.5, replace(GUARD, step=1)))
    for each in (one, other):
        each.follow()
    other.count(canary=6, units=7)
    turns(other, one)
    assert one.tests["errors"] == up_to_now({}, {"errors": ((1,), (0,))}, 0.1, ())["errors"]
    assert one.seen == (6, 0)  # as the step counts them


def test_what_ended_is_told_a_while_yet_and_then_swept(
    machine: Callable[..., Machine], tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine("one"), machine("other")
    turns(one, other)
    one.count(canary=1)
    one.server.apply(tools.split("e", 2, 0.1, replace(GUARD, rollout_id="next")))
    before = other.counters
    one.follow()
    turns(one, other)
    assert before.heads()[1, 2] == 1
    other.follow()
    monkeypatch.setattr(fleet, "LINGER_S", -1.0)
    turns(one, other)

    def generations() -> set[int]:
        with one.server.store.reading() as rows:
            return {found for (found,) in rows.tuples("SELECT generation FROM serving_fleet")}

    assert generations() == {2}
    one.server.remove("e")
    assert generations() == set()


def test_an_endpoint_that_is_made_anew_has_nothing_of_the_one_before(machine: Callable[..., Machine]) -> None:
    one, other = machine("one"), machine("other")
    one.count(canary=5)
    other.count(canary=4)
    turns(one, other)
    one.server.remove("e")
    other.count(canary=1)
    other.fleet.turn()  # it has not noticed
    one.server.apply(replace(one.traffic, salt="new"))
    for each in (one, other):
        each.follow()
    one.count(canary=1)
    turns(one, other)
    assert one.seen == other.seen == (1, 0)


def test_of_two_servers_on_one_folder_one_tells_for_both(machine: Callable[..., Machine]) -> None:
    one, other = machine("one"), machine("other")
    beside = machine("one")
    for each in (one, beside, other):
        each.count(canary=1)
    turns(one, beside, other)
    assert one.seen == beside.seen == other.seen == (3, 0)
    one.kill()
    beside.count(canary=1)
    turns(beside, other)
    assert beside.seen == other.seen == (4, 0)


def test_a_folder_with_its_own_database_has_no_others(server: ModelServer) -> None:
    assert fleet.fleet_of(server.store, server.places) is None


def test_others_counts_are_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    """A look that saw failures of one arm before those of the other would take them for evidence."""
    counters, reader = Counters(tmp_path / "c.bin", 0), Counters(tmp_path / "c.bin")
    ended = threading.Event()

    def write() -> None:
        words = np.zeros_like(counters.total())
        for n in range(3_000):
            words[:] = n
            counters.elsewhere(words, words)
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not ended.is_set():
        for heads in (reader.heads(), reader.told()):
            assert heads.min() == heads.max()
    thread.join()
