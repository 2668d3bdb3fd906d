"""What one client or router knows of its places: probed in the background, and told of every request's own luck."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Sequence

import httpx

from modelyard.serving import regions
from modelyard.serving.lasting import Lasting
from modelyard.serving.regions import PROBE_S, Choice, Place, Seen

READY = "/v2/health/ready"
PROBE_TIMEOUT_S = 2.0

Clock = Callable[[], float]


class Health:
    """The places' states and the choice of a region. Safe to share between threads."""

    def __init__(self, places: Sequence[Place], *, clock: Clock = time.monotonic) -> None:
        self.places = tuple(places)
        self._clock = clock
        self._seen: dict[str, Seen] = {}
        self._choice = Choice()
        self._lock = threading.Lock()
        self._turns = itertools.count()

    def succeeded(self, url: str, latency_ms: float) -> None:
        """A probe was answered."""
        with self._lock:
            self._seen[url] = regions.succeeded(self._seen.get(url), latency_ms, self._clock())
            self._choose()

    def failed(self, url: str, *, at_once: bool = False) -> None:
        """A probe or a request was not answered as it should be."""
        with self._lock:
            self._seen[url] = regions.failed(self._seen.get(url), at_once=at_once)
            self._choose()

    def order(self) -> list[Place]:
        """The places in the order in which the next request tries them."""
        with self._lock:
            return regions.order(self._choice, self.places, self._seen, turn=next(self._turns))

    @property
    def region(self) -> str:
        """The region that requests go to; "" before the first probe."""
        return self._choice.region

    @property
    def seen(self) -> dict[str, Seen]:
        """Each place's state, by URL."""
        with self._lock:
            return dict(self._seen)

    def _choose(self) -> None:
        self._choice = regions.choose(self._choice, self.places, self._seen, self._clock())


class Probes:
    """Asks every place each second whether it is ready, in the background, for as long as this object is held."""

    def __init__(self, health: Health) -> None:
        stop, first = threading.Event(), threading.Semaphore(0)
        for place in health.places:
            threading.Thread(
                target=_keep_probing, args=(health, place, stop, first), name="modelyard-probe", daemon=True
            ).start()
        self._closed = weakref.finalize(self, stop.set)
        end = time.monotonic() + PROBE_TIMEOUT_S + 1
        for _ in health.places:  # so that the first request goes to the nearest place already
            first.acquire(timeout=max(end - time.monotonic(), 0))

    def stop(self) -> None:
        """Probe no more."""
        self._closed()


def _keep_probing(health: Health, place: Place, stop: threading.Event, first: threading.Semaphore) -> None:
    lasting = Lasting(f"{place.url} cannot be probed")
    with httpx.Client(timeout=PROBE_TIMEOUT_S) as client:
        while True:
            with lasting.round():
                probe(health, client, place)
            first.release()
            if stop.wait(PROBE_S):
                return


def probe(health: Health, client: httpx.Client, place: Place) -> None:
    """Ask one place whether it is ready, and note the answer and its time."""
    start = time.perf_counter()
    try:
        ready = client.get(place.url + READY).status_code == 200
    except httpx.ConnectError:
        health.failed(place.url, at_once=True)
        return
    except httpx.HTTPError:
        ready = False
    if ready:
        health.succeeded(place.url, (time.perf_counter() - start) * 1000)
    else:
        health.failed(place.url)
