"""What goes on whatever a round of it meets, and does not fill the log while a trouble lasts."""

from __future__ import annotations

import logging

import pytest

from modelyard.core import lasting
from modelyard.core.errors import Unavailable
from modelyard.core.lasting import Lasting


def test_a_trouble_is_told_once_another_is_told_too_and_again_after_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1.0
    monkeypatch.setattr(lasting.time, "monotonic", lambda: now)
    asking = Lasting("Cannot ask", logging.getLogger("modelyard.test"))
    away, full, fault = Unavailable("The database is away."), OSError("No space left"), ZeroDivisionError("ours")
    for second in range(1, 63):
        now = float(second)
        for error in (away, full, fault):
            with asking.round():
                raise error
    told = [record.getMessage() for record in caplog.records]
    assert told == ["Cannot ask: The database is away.", "Cannot ask: No space left", "Cannot ask."] * 2
    assert [record.exc_info is not None for record in caplog.records[:3]] == [False, False, True]


def test_that_a_trouble_is_over_is_told_once_and_the_next_one_anew(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1.0
    monkeypatch.setattr(lasting.time, "monotonic", lambda: now)
    asking = Lasting("Cannot ask", logging.getLogger("modelyard.test"))
    with caplog.at_level(logging.INFO, "modelyard.test"):
        for second in range(1, 60):
            now = float(second)
            with asking.round():
                if second <= 20 or second == 50:
                    raise Unavailable("The database is away.")
    assert [record.getMessage() for record in caplog.records] == [
        "Cannot ask: The database is away.",
        "Cannot ask: over, after 19 s.",
        "Cannot ask: The database is away.",
        "Cannot ask: over, after 0 s.",
    ]


def test_what_ends_a_program_ends_a_round_too() -> None:
    with pytest.raises(KeyboardInterrupt), Lasting("Cannot ask").round():
        raise KeyboardInterrupt
