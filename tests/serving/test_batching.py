"""Joined calls answer as lone ones do, share one call with what waits, and keep each other's faults apart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.core.ports import Output
from modelyard.serving.batching import ROWS, Joiner
from modelyard.serving.loaded import ModelFailed


class Model:
    """Doubles its first column, refuses negative numbers, and counts its calls; waits at a gate where there is one."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.gate: threading.Event | None = None

    def answer(self, batch: Any) -> Output:
        self.calls.append(len(batch))
        if self.gate is not None:
            self.gate.wait(120)
        if (batch < 0).any():
            raise ModelFailed("a negative number")
        return Output(predictions=batch[:, 0] * 2, probabilities=np.column_stack([batch[:, 0], batch[:, 0]]))


def run(what: Callable[[ThreadPoolExecutor], Any]) -> Any:
    async def main() -> Any:
        with ThreadPoolExecutor(2) as pool:
            return await asyncio.wait_for(what(pool), 120)

    return asyncio.run(main())


def rows(*values: float) -> Any:
    return np.array(values)[:, None]


@pytest.mark.parametrize("slow", [True, False])
@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=20))
def test_each_gets_its_own_rows_from_one_call(slow: bool, parts: list[list[int]]) -> None:
    model = Model()
    joiner = Joiner(model.answer, lambda _: slow)

    async def what(pool: ThreadPoolExecutor) -> list[Output]:
        return list(await asyncio.gather(*(joiner.ask(rows(*part), pool) for part in parts)))

    answers = run(what)
    assert [answer.predictions.tolist() for answer in answers] == [[2 * v for v in part] for part in parts]
    assert [answer.probabilities.tolist() for answer in answers] == [[[v, v] for v in part] for part in parts]
    assert model.calls == [sum(map(len, parts))]


def test_what_arrives_during_a_call_goes_into_the_next_one() -> None:
    model = Model()
    model.gate = threading.Event()
    joiner = Joiner(model.answer, lambda _: True)

    async def what(pool: ThreadPoolExecutor) -> None:
        first = joiner.ask(rows(1), pool)
        while not model.calls:
            await asyncio.sleep(0.001)
        others = [joiner.ask(rows(value), pool) for value in (2, 3, 4)]
        model.gate.set()  # type: ignore[union-attr]
        await asyncio.gather(first, *others)

    run(what)
    assert model.calls == [1, 3]


def test_a_row_that_fails_spoils_no_other_request() -> None:
    model = Model()
    joiner = Joiner(model.answer, lambda _: True)

    async def what(pool: ThreadPoolExecutor) -> list[Any]:
        asked = [joiner.ask(rows(value), pool) for value in (1, -1, 3)]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    one, two, three = run(what)
    assert (one.predictions[0], three.predictions[0]) == (2, 6)
    assert isinstance(two, ModelFailed)


def test_who_gave_up_before_its_turn_is_not_asked_for() -> None:
    model = Model()
    model.gate = threading.Event()
    joiner = Joiner(model.answer, lambda _: True)

    async def what(pool: ThreadPoolExecutor) -> None:
        first = joiner.ask(rows(1), pool)
        while not model.calls:
            await asyncio.sleep(0.001)
        gone, stays = joiner.ask(rows(2), pool), joiner.ask(rows(3), pool)
        gone.cancel()
        model.gate.set()  # type: ignore[union-attr]
        await asyncio.gather(first, stays)

    run(what)
    assert model.calls == [1, 1]


def test_a_call_holds_so_many_rows_and_no_more() -> None:
    model = Model()
    joiner = Joiner(model.answer, lambda _: True)

    async def what(pool: ThreadPoolExecutor) -> None:
        await asyncio.gather(*(joiner.ask(np.ones((ROWS // 2 + 1, 1)), pool) for _ in range(3)))

    run(what)
    assert model.calls == [ROWS // 2 + 1] * 3


def test_threads_that_have_ended_leave_nobody_waiting() -> None:
    model = Model()
    joiner = Joiner(model.answer, lambda _: True)

    async def what(pool: ThreadPoolExecutor) -> list[Any]:
        pool.shutdown()
        return list(await asyncio.gather(joiner.ask(rows(1), pool), return_exceptions=True))

    (error,) = run(what)
    assert isinstance(error, RuntimeError)
