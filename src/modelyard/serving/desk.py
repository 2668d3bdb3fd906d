"""What every answered request goes through, over HTTP or in process: counted, judged, copied to the shadow, logged."""

from __future__ import annotations

import random
import time
from asyncio import Future

import numpy as np

from modelyard.core.errors import YardError
from modelyard.core.ports import Output
from modelyard.serving import guard
from modelyard.serving.copies import Copies
from modelyard.serving.counter_file import LIMIT
from modelyard.serving.payloads import PayloadLog
from modelyard.serving.places import Places, Slot
from modelyard.serving.routing import Route, Routes
from modelyard.serving.sampling import drawn


class Desk:
    """The routes of one process and what happens around a prediction."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.slot = Slot(places)
        self.routes = Routes(places, self.slot.number)
        self.in_flight = 0
        self.copies = Copies()  # nobody takes any, until somebody is told
        self.payloads = PayloadLog(places, self.slot.number)

    def count(self, route: Route, arm: int, hashed: int | None, *, micros: float, failed: bool, call: int = 0) -> None:
        """Count one request of an arm and judge the guard when that says something new.

        With a guard, each unit counts once: bursts of one unlucky user are no evidence. Nor is more than one failure of a
        joined `call` (a mark that is not 0) on an arm on trial; each of the control's is, whose calls may be larger.
        """
        counters, watched = route.counters, route.watched
        counters.answered(arm, micros)
        if not watched:
            if failed:
                counters.failed(arm)
            return
        tried = arm in watched
        if not tried and arm != route.baseline:
            return
        if not counters.warm:
            if tried and all(counters.requests(each) >= one.warmup for each, one in watched.items()):
                counters.warm_up()
            return
        if failed and tried and counters.told_of(arm, call):
            counters.again(arm, hashed)
            return
        spared = failed or (tried and counters.cold(arm))
        above = () if spared else [place for place, limit in route.limits[arm] if micros > limit]
        evidence = counters.outcome(arm, hashed, failed=failed, above=above)
        if evidence and tried and (failed or counters.due(guard.LOOK_S)):
            guard.check(self.places, route)

    def left(self, route: Route, arm: int, hashed: int | None, *, micros: float) -> None:
        """Count a request whose client hung up: a version that nobody can wait for would never be seen else.

        Where it has waited longer than any quantile of the guard, it is as slow an answer as that; before, it tells nothing.
        """
        waits = [limit for place, limit in route.limits[arm] if place < LIMIT] if route.limits else []
        if waits and micros > max(waits):
            self.count(route, arm, hashed, micros=micros, failed=False)

    def after(
        self,
        route: Route,
        arm: int,
        *,
        request_id: str,
        batch: np.ndarray,
        output: Output,
        micros: float,
        unit: str | None,
    ) -> Future[None] | None:
        """Hand an answer to the shadow and to the payload log, as far as they want it.

        Where answers are durable, what is to be awaited before it leaves: Unavailable if it could not be kept.
        """
        config, traffic = route.config, route.traffic
        if traffic.shadow is not None and _drawn(traffic.shadow_share):
            self.copies.offer(route, arm, batch, output)
        if not drawn(config.payload_sampling, request_id):
            return None
        at = time.time()
        if config.payload_durable:
            return self.payloads.kept(route, arm, request_id, at, micros, unit, batch, output)
        self.payloads.offer(route, arm, request_id, at, micros, unit, batch, output)
        return None

    def failed(
        self,
        route: Route,
        arm: int,
        hashed: int | None,
        *,
        request_id: str,
        batch: np.ndarray,
        error: YardError,
        micros: float,
        unit: str | None,
        pinned: bool = False,
        call: int = 0,
    ) -> None:
        """Count a request that its arm failed to answer, unless a tester had chosen the arm, and keep what was asked."""
        if not pinned:
            self.count(route, arm, hashed, micros=micros, failed=True, call=call)
        self.payloads.failed(route, arm, request_id, time.time(), micros, unit, batch, error, pinned=pinned)

    def stop(self) -> None:
        """Finish what is queued and give the slot back."""
        self.payloads.stop()
        self.slot.release()


def _drawn(share: float) -> bool:
    return share >= 1 or (share > 0 and random.random() < share)  # noqa: S311 - sampling, no secret
