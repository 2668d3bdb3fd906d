"""Threads that take turns, and the leases they take them by."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from modelyard.core.background import Background, Lease
from modelyard.core.errors import Unavailable
from modelyard.core.instants import EPOCH, FixedClock
from modelyard.core.work import Store


class Counting:
    def __init__(self, turn: Callable[[int], object] = lambda _: None) -> None:
        self.turns, self.ends = 0, 0
        self.enough = threading.Event()
        self._turn = turn

    def take(self, _holder: str, _stop: threading.Event) -> None:
        self.turns += 1
        if self.turns >= 3:
            self.enough.set()
        self._turn(self.turns)

    def end(self, _holder: str) -> None:
        self.ends += 1


def started(owner: Counting) -> Background[Counting]:
    thread = Background(owner, 0.001, name="modelyard-test", turn=Counting.take, last=Counting.end)
    thread.start()
    return thread


def test_it_takes_turns_until_it_is_stopped_and_then_the_last_one() -> None:
    owner = Counting()
    thread = started(owner)
    assert owner.enough.wait(120)
    thread.stop()
    turns = owner.turns
    assert not thread.is_alive()
    assert (owner.turns, owner.ends) == (turns, 1)


def test_it_ends_with_its_owner() -> None:
    owner = Counting()
    thread = started(owner)
    del owner
    thread.join(120)
    assert not thread.is_alive()
    thread.stop()  # there is nobody for a last turn


@pytest.mark.parametrize(
    ("error", "told"), [(Unavailable("The disk is full."), ": The disk is full."), (ZeroDivisionError(), ".")]
)
def test_a_turn_that_fails_is_told_once_and_tried_again(
    caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    def fail(number: int) -> None:
        if number < 3:
            raise error

    owner = Counting(fail)
    with caplog.at_level(logging.WARNING, "modelyard.test"):
        thread = started(owner)
        assert owner.enough.wait(120)
        thread.stop()
    assert [record.getMessage() for record in caplog.records] == [f"modelyard-test failed and will try again{told}"]


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(EPOCH + timedelta(days=20_000))


@pytest.fixture
def take(tmp_path: Path, clock: FixedClock) -> Callable[[str], bool]:
    store, lease = Store.at(tmp_path / "yard", clock=clock), Lease("some.work", 5.0)

    def take(holder: str) -> bool:
        with store.work() as work:
            return lease.take(work, holder)

    return take


def test_a_lease_is_its_holders_until_it_ends(take: Callable[[str], bool], clock: FixedClock) -> None:
    assert [take("one"), take("two"), take("one")] == [True, False, True]
    clock.advance(5)
    assert [take("two"), take("one")] == [True, False]


def test_a_lease_from_before_the_clock_jumped_back_holds_nobody_up(
    take: Callable[[str], bool], clock: FixedClock
) -> None:
    assert take("one")
    clock.advance(-86_400)
    assert take("two")
