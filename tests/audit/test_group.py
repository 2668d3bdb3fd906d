"""Callers who write at the same time share a transaction, and none of them notices but by the clock."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from modelyard.audit import AuditLogger, EventType
from modelyard.audit.group import GroupCommit, _Seat
from modelyard.core.errors import Invalid, Unavailable, YardError
from modelyard.core.events import Event
from modelyard.core.refs import Resource
from modelyard.core.work import Work


class Gate:
    """A commit that waits until it is let through, and fails where it is told to."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.groups: list[list[int]] = []
        self.error = error

    def __call__(self, parts: Sequence[int]) -> list[int]:
        self.groups.append(list(parts))
        self.entered.set()
        assert self.open.wait(120)
        if self.error is not None:
            raise self.error
        return [part * 10 for part in parts]


def submit_all(
    group: GroupCommit[int, int], count: int, gate: Gate, expected: int | None = None
) -> tuple[dict[int, int], dict[int, BaseException]]:
    """The answers and errors of callers of whom the first holds the transaction up until all others wait."""
    answers: dict[int, int] = {}
    errors: dict[int, BaseException] = {}

    def call(number: int) -> None:
        try:
            answers[number] = group.submit(number)
        except BaseException as error:  # noqa: BLE001 - interruptions too
            errors[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    threads[0].start()
    assert gate.entered.wait(120)
    for thread in threads[1:]:
        thread.start()
    while len(group._queue) < (count - 1 if expected is None else expected):
        os.sched_yield()
    gate.open.set()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return answers, errors


def test_those_who_come_while_one_writes_are_written_together() -> None:
    gate = Gate()
    answers, errors = submit_all(GroupCommit(gate), 20, gate)
    assert errors == {}
    assert answers == {number: number * 10 for number in range(20)}
    assert [len(group) for group in gate.groups] == [1, 19]


def test_a_transaction_that_fails_raises_in_everyone_who_waits_for_it() -> None:
    gate = Gate(Unavailable("the disk is full"))
    answers, errors = submit_all(GroupCommit(gate), 10, gate)
    assert answers == {}
    assert len(errors) == 10
    assert all(type(error) is Unavailable and str(error) == "the disk is full" for error in errors.values())
    assert len({id(error) for error in errors.values()}) == 9  # the two leaders have the gate's own, all others theirs


def test_a_leader_who_is_interrupted_leaves_nobody_waiting() -> None:
    gate = Gate(KeyboardInterrupt())
    answers, errors = submit_all(GroupCommit(gate), 6, gate)
    assert answers == {}
    interrupted = [error for error in errors.values() if isinstance(error, KeyboardInterrupt)]
    assert len(interrupted) == 2  # the first leader, and the next one's
    assert all(isinstance(error, (KeyboardInterrupt, Unavailable)) for error in errors.values())


def test_a_group_goes_on_after_a_failure() -> None:
    gate = Gate(Unavailable("no"))
    gate.open.set()
    group = GroupCommit(gate)
    with pytest.raises(Unavailable):
        group.submit(1)
    gate.error = None
    assert group.submit(2) == 20


class Interrupting:
    """A caller's lock that raises instead of waiting, as an interrupt does."""

    def __init__(self, lock: threading.Lock, taken: bool) -> None:
        self.lock, self.taken = lock, taken

    def acquire(self) -> bool:
        if self.taken:
            self.lock.acquire()
        raise KeyboardInterrupt

    def release(self) -> None:
        self.lock.release()


@pytest.mark.parametrize("taken", [False, True], ids=["while it waits", "as it is called"])
def test_a_caller_who_is_interrupted_holds_nobody_up(taken: bool) -> None:
    gate = Gate()
    group = GroupCommit(gate)
    make = _Seat.__init__

    def interrupted(seat: _Seat[int, int], part: int) -> None:
        make(seat, part)
        if part == 5:
            seat.called = Interrupting(seat.called, taken)  # type: ignore[assignment]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Seat, "__init__", interrupted)
        answers, errors = submit_all(group, 12, gate, expected=11 if taken else 10)
    assert {number: type(error) for number, error in errors.items()} == {5: KeyboardInterrupt}
    assert answers == {number: number * 10 for number in range(12) if number != 5}


def test_a_forked_child_does_not_wait_for_its_parents_leader() -> None:
    gate = Gate()
    group = GroupCommit(gate)
    thread = threading.Thread(target=group.submit, args=(1,))
    thread.start()
    assert gate.entered.wait(120)
    child = os.fork()
    if child == 0:
        group._commit = lambda parts: [part + 1 for part in parts]
        os._exit(0 if group.submit(41) == 42 else 1)
    gate.open.set()
    thread.join(120)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_many_callers_get_their_own_events_and_an_invalid_one_fails_alone(folder: Path) -> None:
    logger = AuditLogger(folder)
    gate, found, refused = threading.Barrier(16), {}, []

    def call(number: int) -> None:
        gate.wait()
        for n in range(10):
            try:
                event = logger.log_event(
                    EventType.DATA_ACCESSED,
                    "dataset",
                    f"d{number}",
                    user=f"u{number}" if n != 3 else "",
                    details={"n": n},
                )
                found[event.event_id] = event
            except Invalid as error:
                refused.append(str(error))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 16
    stored = {event.event_id: event for event in logger.query_events(limit=1_000)}
    assert stored == found
    assert len(stored) == 16 * 9
    assert logger.verify().ok


def test_an_event_within_an_open_transaction_is_refused_and_blocks_nobody(folder: Path) -> None:
    logger = AuditLogger(folder)
    with logger.store.work("u") as work:
        work.emit(EventType.DATA_ACCESSED, Resource("dataset", "d"))
        with pytest.raises(YardError, match="Pass its Work on"):
            logger.log_model_deployment("m", "v1", "u")
    assert len(logger.query_events()) == 1


def test_a_handler_may_still_refuse_what_somebody_reports(folder: Path) -> None:
    logger = AuditLogger(folder)

    def refuse(work: Work, event: Event) -> None:
        raise Invalid("not here")

    logger.store.wires.inside[EventType.MODEL_DEPLOYED] = [refuse]
    with pytest.raises(Invalid, match="not here"):
        logger.log_model_deployment("m", "v1", "u")
    assert logger.query_events() == []


def test_those_who_hear_of_events_hear_of_each_once(folder: Path) -> None:
    logger = AuditLogger(folder)
    heard: list[Event] = []
    logger.store.wires.after = heard.extend
    events = [logger.log_model_deployment("m", f"v{n}", "u") for n in range(3)]
    assert heard == events
