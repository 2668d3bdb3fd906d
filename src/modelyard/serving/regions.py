"""Which of several places a request goes to: the nearest healthy one, with fail-over and fail-back. Pure.

A place is a server or node with a region's label. Each is probed by its readiness and timed; a request's own failure
counts as a failed probe, so that fail-over waits for no timer.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modelyard.core.errors import Invalid

PROBE_S = 1.0
FAILURES = 2  # probes in a row that make a place unhealthy; a refused connection of a request does at once
RECOVERIES = 3  # probes in a row that make it healthy again, as a load balancer's usual threshold
WEIGHT = 0.2  # of the newest time in the moving average
NEARER = 0.8  # another region is changed to only if it takes less than this share of the present one's time ...
HOLD_S = 10.0  # ... and has been healthy and nearer for so long
ARM = "x-modelyard-arm"  # on every answer of a model
SLOWEST_MS = 60_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A server that answers predictions, and the region it is in."""

    url: str
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of a place: whether it counts as healthy, its mean time (None before the first), and the streaks."""

    healthy: bool = False
    latency_ms: float | None = None
    failed: int = 0
    succeeded: int = 0
    healthy_since: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The region that requests go to, since when another has been better, and which."""

    region: str = ""
    better: str = ""
    better_since: float = 0.0


def succeeded(seen: Seen | None, latency_ms: float, now: float) -> Seen:
    """A place's state after it has answered: the first answer ever, or three in a row after a failure, make it healthy."""
    known = seen or Seen()
    streak = known.succeeded + 1
    fresh = known.latency_ms is None or not known.healthy
    mean = latency_ms if known.latency_ms is None else known.latency_ms + WEIGHT * (latency_ms - known.latency_ms)
    healthy = known.healthy or seen is None or streak >= RECOVERIES
    return replace(
        known,
        healthy=healthy,
        latency_ms=mean,
        failed=0,
        succeeded=streak,
        healthy_since=now if healthy and fresh else known.healthy_since,
    )


def failed(seen: Seen | None, *, at_once: bool = False) -> Seen:
    """A place's state after it has not answered, or not well; `at_once` if that leaves no doubt (a refused connection)."""
    known = seen or Seen()
    streak = known.failed + 1
    healthy = known.healthy and streak < FAILURES and not at_once
    return replace(known, healthy=healthy, failed=streak, succeeded=0)


def choose(choice: Choice, places: Sequence[Place], seen: Mapping[str, Seen], now: float) -> Choice:
    """The region that requests go to from now on.

    The nearest healthy one at first and when the present one has no healthy place (fail-over, at once). Back, or over to
    a nearer one, only once that has been healthy and clearly nearer for ten seconds, so that two regions that are
    equally far, or one that comes and goes, cause no to and fro.
    """
    near = _near(places, seen)
    if not near:
        return choice  # none is healthy: the present one is as good as any, and all are tried
    best = min(near, key=lambda region: (near[region], region))
    if choice.region not in near:
        return Choice(region=best)
    if best == choice.region or near[best] > NEARER * near[choice.region]:
        return replace(choice, better="", better_since=0.0)
    if choice.better != best:
        return replace(choice, better=best, better_since=now)
    return Choice(region=best) if now - choice.better_since >= HOLD_S else choice


def order(choice: Choice, places: Sequence[Place], seen: Mapping[str, Seen], *, turn: int = 0) -> list[Place]:
    """Every place in the order in which a request tries them: healthy before not, the chosen region first, then the nearest.

    Places of one region share its requests: the first of them changes with `turn`.
    """
    near = _near(places, seen)

    def rank(place: Place) -> tuple[bool, bool, float, str]:
        healthy = place.url in seen and seen[place.url].healthy
        return (not healthy, place.region != choice.region, near.get(place.region, SLOWEST_MS), place.region)

    ranked = sorted(places, key=rank)
    found: list[Place] = []
    for _, group in itertools.groupby(ranked, key=rank):
        alike = list(group)
        start = turn % len(alike)
        found += alike[start:] + alike[:start]
    return found


def _near(places: Sequence[Place], seen: Mapping[str, Seen]) -> dict[str, float]:
    """Each region with a healthy place, and its best place's time in milliseconds."""
    found: dict[str, float] = {}
    for place in places:
        known = seen.get(place.url)
        if known is not None and known.healthy and known.latency_ms is not None:
            found[place.region] = min(known.latency_ms, found.get(place.region, SLOWEST_MS))
    return found


def another(status: int, *, by_model: bool) -> bool:
    """Whether another place may answer better than one that answered so; `by_model` if the answer names an arm.

    A 500 of a model is its answer, wherever it is asked; a 500 of no model is of something that broke in between.

    >>> another(503, by_model=False), another(500, by_model=True), another(400, by_model=False)
    (True, False, False)
    """
    return status in (502, 503, 504) or (status == 500 and not by_model)


def parse(regions: Mapping[str, Sequence[str] | str]) -> list[Place]:
    """The places of a mapping from region to URLs; Invalid where there are none or one is named twice.

    >>> parse({"eu": "http://eu1:8081", "us": ["http://us1:8081"]})[0]
    Place(url='http://eu1:8081', region='eu')
    """
    places = [
        Place(url=url.rstrip("/"), region=region)
        for region, urls in regions.items()
        for url in ([urls] if isinstance(urls, str) else urls)
    ]
    if not places:
        raise Invalid('No server is named. Name one at least: {"eu": "http://127.0.0.1:8081"}.')
    for place in places:
        if not place.region or not place.url.startswith(("http://", "https://")):
            raise Invalid(f"{place.region!r}: {place.url!r} is no region and URL. Write eu=http://host:port.")
        if [one.url for one in places].count(place.url) > 1:
            raise Invalid(f"{place.url} is named twice. A server is in one region.")
    return places
