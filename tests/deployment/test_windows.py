"""Freeze windows against a calendar that is walked week by week."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.core.errors import Invalid
from modelyard.deployment.windows import DAYS, frozen_until, parsed_window

MONDAY = datetime(2025, 12, 29, tzinfo=UTC)
MINUTES = st.integers(0, 7 * 24 * 60 - 1)


def written(minute):
    day, rest = divmod(minute, 24 * 60)
    return f"{DAYS[day].title()} {rest // 60:02d}:{rest % 60:02d}"


@given(MINUTES, MINUTES.filter(bool), st.integers(0, 4 * 7 * 24 * 3600))
def test_a_window_holds_from_its_first_minute_up_to_its_last_each_week(begin, length, seconds):
    end, now = (begin + length) % (7 * 24 * 60), MONDAY + timedelta(seconds=seconds)
    found = frozen_until([f"{written(begin)} - {written(end)}"], now)
    weeks = [MONDAY + timedelta(days=7 * week, minutes=begin) for week in range(-1, 5)]
    ends = [one + timedelta(minutes=length) for one in weeks if one <= now < one + timedelta(minutes=length)]
    assert (found[1] if found else None) == (ends[0] if ends else None)


def test_a_window_without_days_holds_every_day_and_over_midnight():
    for hour, frozen in ((21, False), (22, True), (23, True), (0, True), (5, True), (6, False), (12, False)):
        assert (frozen_until(["22:00-06:00"], MONDAY + timedelta(hours=hour)) is not None) == frozen


def test_the_clock_on_the_wall_decides_in_summer_as_in_winter():
    window = ["Sun 01:00 - Sun 04:00 Europe/Berlin"]
    spring = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)  # 01:30 there; at 02:00 it becomes 03:00
    (_, end) = frozen_until(window, spring)
    assert (end.astimezone(UTC), end.tzinfo) == (datetime(2026, 3, 29, 2, 0, tzinfo=UTC), ZoneInfo("Europe/Berlin"))
    assert frozen_until(window, datetime(2026, 3, 29, 2, 0, tzinfo=UTC)) is None
    assert frozen_until(window, datetime(2026, 10, 25, 2, 30, tzinfo=UTC)) is not None  # 03:30 in winter time


def test_of_several_windows_the_one_that_ends_last_is_told():
    found = frozen_until(["Mon 00:00 - Mon 12:00", "Mon 08:00 - Tue 08:00"], MONDAY + timedelta(hours=9))
    assert found[0].startswith("Mon 08:00")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Friday",
        "Fri 16:00",
        "Fri 16:00 - 08:00",
        "Fri 24:01 - Mon 08:00",
        "Fri 16:60 - Mon 08:00",
        "Fri 16:00 - Fri 16:00",
        "00:00 - 24:00",
        "Foo 16:00 - Mon 08:00",
        "Fri 16:00 - Mon 08:00 Mars/Base",
        "Fri 16:00 - Mon 08:00 ../../etc/passwd",
    ],
)
def test_a_window_that_cannot_be_is_refused(text):
    with pytest.raises(Invalid):
        parsed_window(text)
