"""Weekly windows in which nothing is promoted: `Fri 16:00 - Mon 08:00 Europe/Berlin`. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Invalid
from modelyard.core.instants import Instant

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WEEK = 7 * 24 * 60
_WRITTEN = re.compile(
    r"(?:(?P<from_day>[a-z]{3}) +)?(?P<from_time>\d\d?:\d\d) *- *(?:(?P<to_day>[a-z]{3}) +)?(?P<to_time>\d\d?:\d\d)"
    r"(?: +(?P<zone>\S+))?\Z"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """From a minute of the week up to another one (`begin` > `end` goes over Sunday's midnight), in a time zone."""

    begin: int
    end: int
    zone: tzinfo
    daily: bool = False

    def until(self, now: Instant) -> datetime | None:
        """When the window that it is now in ends; None outside it. By the clock on the wall, in summer and winter."""
        there = now.astimezone(self.zone)
        length = 24 * 60 if self.daily else WEEK
        minute = (0 if self.daily else there.weekday() * 24 * 60) + there.hour * 60 + there.minute
        if (minute - self.begin) % length >= (self.end - self.begin) % length:
            return None
        wall = there.replace(second=0, microsecond=0, tzinfo=None) + timedelta(minutes=(self.end - minute) % length)
        return wall.replace(tzinfo=self.zone)


@lru_cache(maxsize=256)
def parsed_window(text: str) -> Window:
    """The window that a text names: days may be left out (every day), and so may the zone (UTC).

    >>> parsed_window("Fri 16:00 - Mon 08:00").begin
    6720
    >>> parsed_window("Fri 25:00 - Mon 08:00")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: 'Fri 25:00 - Mon 08:00' is no window. Write it as Fri 16:00 - Mon 08:00 Europe/Berlin.
    """
    found = _WRITTEN.match(text.strip().replace("\u2013", "-").casefold()) if isinstance(text, str) else None
    wrong = f"{text!r} is no window. Write it as Fri 16:00 - Mon 08:00 Europe/Berlin."
    if found is None or (found["from_day"] is None) != (found["to_day"] is None):
        raise Invalid(wrong)
    begin, end = (_minute(found[f"{side}_day"], found[f"{side}_time"]) for side in ("from", "to"))
    if begin is None or end is None or (end - begin) % (WEEK if found["from_day"] else 24 * 60) == 0:
        raise Invalid(wrong)
    zone = text.rsplit(maxsplit=1)[-1] if found["zone"] else "UTC"
    try:
        return Window(begin=begin, end=end, zone=ZoneInfo(zone), daily=found["from_day"] is None)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Invalid(f"{text!r} names no time zone that is known here: {zone}. For example Europe/Berlin.") from error


def frozen_until(windows: Sequence[str], now: Instant) -> tuple[str, datetime] | None:
    """The window that it is now in and when it ends, the one that ends last of several; None outside all.

    >>> from datetime import UTC
    >>> frozen_until(["Fri 16:00 - Mon 08:00"], datetime(2026, 1, 3, tzinfo=UTC))[1].isoformat()
    '2026-01-05T08:00:00+00:00'
    """
    ends = [(text, end) for text in windows if (end := parsed_window(text).until(now)) is not None]
    return max(ends, key=lambda one: one[1], default=None)


def kept(decision: Decision, windows: Sequence[str], now: Instant) -> Decision:
    """The decision, but a promotion within a window waits. What goes back goes back at any time."""
    found = frozen_until(windows, now) if decision.verdict is Verdict.PROMOTE else None
    if found is None:
        return decision
    return replace(decision, verdict=Verdict.HOLD, reasons=(f"{told(found)}; {decision.reasons[0]}",))


def told(found: tuple[str, datetime]) -> str:
    """The window in words."""
    text, end = found
    return f"freeze window: nothing is promoted in {text}, until {end:%a %d %b %H:%M %Z}"


def _minute(day: str | None, time: str) -> int | None:
    """The minute of the week, or of the day without a day; None where there is no such time."""
    hour, minute = map(int, time.split(":"))
    if hour > 24 or minute > 59 or (hour == 24 and minute) or day not in (None, *DAYS):
        return None
    return (DAYS.index(day) if day else 0) * 24 * 60 + hour * 60 + minute
