"""Points in time: aware UTC datetimes in Python, whole microseconds since 1970 in storage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NewType

Instant = datetime
Seconds = NewType("Seconds", float)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def as_utc(moment: datetime) -> Instant:
    """The same moment in UTC; a naive datetime is taken as local time, as Python itself does.

    >>> as_utc(datetime(2026, 1, 1, tzinfo=UTC)).isoformat()
    '2026-01-01T00:00:00+00:00'
    """
    return moment.astimezone(UTC)


def written(text: str) -> Instant:
    """The moment that a text says in ISO 8601; in UTC where it names no zone, whichever machine reads it.

    >>> written("2026-01-31T12:00:00") == written("2026-01-31T13:00:00+01:00")
    True
    """
    moment = datetime.fromisoformat(text)
    return as_utc(moment) if moment.tzinfo else moment.replace(tzinfo=UTC)


def micros(moment: datetime) -> int:
    """Whole microseconds from 1970-01-01 UTC to the moment.

    >>> micros(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    return (as_utc(moment) - EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> Instant:
    """The moment that many microseconds after 1970-01-01 UTC.

    >>> from_micros(1_000_000).isoformat()
    '1970-01-01T00:00:01+00:00'
    """
    return EPOCH + timedelta(microseconds=value)


class SystemClock:
    """The machine's own clock."""

    def now(self) -> Instant:
        """The current moment in UTC."""
        return datetime.now(UTC)


class FixedClock:
    """A clock that stands still until it is moved: for tests and replays.

    >>> clock = FixedClock(EPOCH)
    >>> clock.advance(60).isoformat()
    '1970-01-01T00:01:00+00:00'
    """

    def __init__(self, start: Instant) -> None:
        self._now = as_utc(start)

    def now(self) -> Instant:
        """The moment the clock was last set to."""
        return self._now

    def advance(self, seconds: float) -> Instant:
        """Move the clock and return its new moment."""
        self._now += timedelta(seconds=seconds)
        return self._now


SYSTEM_CLOCK = SystemClock()
