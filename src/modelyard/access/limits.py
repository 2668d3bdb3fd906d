"""How often: a token bucket and a growing pause after failures, as pure rules over a clock's seconds."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE = 5  # failures without a pause
LONGEST = 900.0  # seconds
FORGET = 3600.0  # seconds after which failures no longer count


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many a second, and so many at once."""

    per_second: float
    burst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What is left of a rate at a moment."""

    left: float
    at: float


def take(bucket: Bucket | None, rate: Rate, now: float) -> tuple[Bucket, float]:
    """The bucket once one was taken from it, and the seconds to wait: 0 if there was one to take.

    A clock that jumps back fills nothing and empties nothing.

    >>> full = None
    >>> bucket, wait = take(full, Rate(per_second=2, burst=1), now=10.0)
    >>> wait, take(bucket, Rate(per_second=2, burst=1), now=10.0)[1]
    (0.0, 0.5)
    """
    left = rate.burst
    if bucket is not None:
        left = min(rate.burst, bucket.left + max(0.0, now - bucket.at) * rate.per_second)
    if left < 1:
        return Bucket(left=left, at=now), (1 - left) / rate.per_second
    return Bucket(left=left - 1, at=now), 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """How often something failed in a row, and when it last did."""

    count: int
    at: float


def pause(failures: Failures | None, now: float, longest: float = LONGEST) -> float:
    """The seconds until another try is let in: none before five failures, then 1, 2, 4 ... up to the longest.

    A clock that was set back by more than that lets in as well: nobody is locked out until it has caught up.

    >>> [pause(Failures(count=n, at=0.0), now=0.0) for n in (4, 5, 6, 8, 40)]
    [0.0, 1.0, 2.0, 8.0, 900.0]
    """
    if failures is None or failures.count < FREE or abs(now - failures.at) >= FORGET:
        return 0.0
    wait: float = min(longest, 2.0 ** min(failures.count - FREE, 30))
    return max(0.0, wait - abs(now - failures.at))


def failed(failures: Failures | None, now: float) -> Failures:
    """The failures with one more; those of more than an hour ago are forgotten."""
    before = 0 if failures is None or abs(now - failures.at) >= FORGET else failures.count
    return Failures(count=before + 1, at=now)


class Limiter:
    """Buckets by key in this process; the least used are forgotten beyond `most` keys."""

    def __init__(self, rate: Rate, seconds: Callable[[], float], *, most: int = 10_000) -> None:
        self._rate, self._seconds, self._most = rate, seconds, most
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, key: str) -> float:
        """0 if the key has one left, which is taken; else the seconds to wait."""
        with self._lock:
            bucket, seconds = take(self._buckets.get(key), self._rate, self._seconds())
            self._buckets[key] = bucket
            self._buckets.move_to_end(key)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        return seconds

    def look(self, key: str) -> float:
        """The seconds until the key has one left; nothing is taken."""
        bucket = self._buckets.get(key)
        return 0.0 if bucket is None else take(bucket, self._rate, self._seconds())[1]


def network(address: str) -> str:
    """What counts as one caller among strangers: an IPv4 address, or the /64 that an IPv6 host picks its addresses from.

    >>> network("192.0.2.7"), network("2001:db8::1:2:3:4"), network("::ffff:192.0.2.7"), network("unknown")
    ('192.0.2.7', '2001:db8::/64', '192.0.2.7', 'unknown')
    """
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found.packed, 64), strict=False))
