"""Counts that somebody else than serving brings: refused where nothing can have counted so."""

from __future__ import annotations

from collections.abc import Iterator

from modelyard.core.errors import Invalid, nearest
from modelyard.core.traffic import BASELINE, CANARY, PREVIOUS, ArmCounts, TrafficCounts
from modelyard.deployment.rules import PREVIEW

ARMS = (BASELINE, CANARY, PREVIEW, PREVIOUS)


def check(seen: TrafficCounts) -> None:
    """Invalid for an unknown arm, for what is no number of requests, and for more errors than requests.

    What serving counts (with `tests`) is read while it counts on, a request and its error in either order.
    """
    if any(arm.tests for arm in seen.arms.values()):
        return
    for name, arm in seen.arms.items():
        if name not in ARMS:
            raise Invalid(f"{seen.endpoint} has no arm {name!r}. {nearest(name, list(ARMS))}")
        for what, value in _numbers(arm):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise Invalid(
                    f"The {name} arm of {seen.endpoint} has {value!r} {what}. Give a whole number, 0 or more."
                )
        counted = arm.requests if arm.units is None else arm.units
        for what, value in (("errors", arm.errors), *((f"slower than {q}", n) for q, n in arm.slower.items())):
            if value > counted:
                raise Invalid(
                    f"The {name} arm of {seen.endpoint} has {value} {what} of {counted}. Give at most as many."
                )


def _numbers(arm: ArmCounts) -> Iterator[tuple[str, object]]:
    yield "requests", arm.requests
    yield "errors", arm.errors
    if arm.units is not None:
        yield "units", arm.units
    for quantile, count in arm.slower.items():
        yield f"answers slower than {quantile}", count
    for index, count in arm.latency.items():
        if isinstance(index, bool) or not isinstance(index, int):
            raise Invalid(f"{index!r} is no bucket of latencies. Give those of modelyard.stats.sketch.bucket.")
        yield "latencies in a bucket", count
