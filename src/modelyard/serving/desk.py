"""What every answered request goes through, over HTTP or in process: counted, judged, copied to the shadow, logged."""

from __future__ import annotations

import random
import time
from asyncio import Future
from typing import Any

import numpy as np

from modelyard.core.errors import YardError
from modelyard.core.ports import Output
from modelyard.serving import guard
from modelyard.serving.background import Answered, Shadows
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
        idle = _Idle(self)
        self.shadows = Shadows(idle, idle.stands)
        self.payloads = PayloadLog(places, self.slot.number)

    def count(self, route: Route, arm: int, hashed: int | None, *, micros: float, failed: bool) -> None:
        """Count one request of an arm and judge the guard when that says something new.

        With a guard, each unit counts once: bursts of one unlucky user are no evidence.
        """
        counters, warding = route.counters, route.traffic.guard
        counters.answered(arm, micros)
        if warding is None:
            if failed:
                counters.failed(arm)
            return
        if arm not in (route.canary, route.baseline):
            return
        if not counters.warm:
            if arm == route.canary and counters.requests(arm) >= warding.warmup:
                counters.warm_up()
            return
        above = () if failed else [place for place, limit in route.limits[arm] if micros > limit]
        evidence = counters.outcome(arm, hashed, failed=failed, above=above)
        if evidence and arm == route.canary and (failed or counters.due(guard.LOOK_S)):
            guard.check(self.places, route)

    def after(
        self,
        route: Route,
        arm: int,
        *,
        request_id: str,
        features: Any,
        batch: np.ndarray,
        output: Output,
        micros: float,
        unit: str | None,
    ) -> Future[None] | None:
        """Hand an answer to the shadow and to the payload log, as far as they want it.

        Where answers are durable, what is to be awaited before it leaves: Unavailable if it could not be kept.
        """
        config, traffic = route.config, route.traffic
        shadowed = route.shadow is not None and _drawn(traffic.shadow_share)
        logged = drawn(config.payload_sampling, request_id)
        if not (shadowed or logged):
            return None
        at = time.time()
        if shadowed:
            self.shadows.offer(Answered(request_id, at, route, arm, features, batch, output, micros, unit))
        if not logged:
            return None
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
    ) -> None:
        """Count a request that its arm failed to answer, unless a tester had chosen the arm, and keep what was asked."""
        if not pinned:
            self.count(route, arm, hashed, micros=micros, failed=True)
        self.payloads.failed(route, arm, request_id, time.time(), micros, unit, batch, error, pinned=pinned)

    def stop(self) -> None:
        """Finish what is queued and give the slot back."""
        self.shadows.stop()
        self.payloads.stop()
        self.slot.release()


class _Idle:
    """Whether no request is being answered; holds the desk's counter weakly, so that the desk can go."""

    def __init__(self, desk: Desk) -> None:
        import weakref

        self._desk = weakref.ref(desk)

    def __call__(self) -> bool:
        desk = self._desk()
        return desk is None or desk.in_flight == 0

    def stands(self, route: Route) -> bool:
        """Whether a route is still in force; any is where the desk has gone, so that what is queued is finished."""
        desk = self._desk()
        return desk is None or desk.routes.by_name.get(route.traffic.endpoint, route) is route


def _drawn(share: float) -> bool:
    return share >= 1 or (share > 0 and random.random() < share)  # noqa: S311 - sampling, no secret
