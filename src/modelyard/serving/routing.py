"""Routes: what each endpoint does right now in this process, replaced whole when something new has been published.

A route comes into force once every version it names has been loaded here and has answered; until then the old one stays.
Meanwhile all other changes are followed: `follow` takes microseconds, `load` as long as the slowest version.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from modelyard.core.assignment import position, unit_hash
from modelyard.core.canonical import plain
from modelyard.core.errors import NotFound, YardError
from modelyard.core.models import Signature
from modelyard.core.traffic import BASELINE, PREVIOUS, Arm, Guard, Traffic, tolerated_ms
from modelyard.serving.calls import CALL, mark
from modelyard.serving.counter_file import LIMIT
from modelyard.serving.counters import Counters
from modelyard.serving.loaded import LoadedModel
from modelyard.serving.places import Places, Published, read, write
from modelyard.serving.rules import QUANTILES, arm_at, bounds
from modelyard.serving.shelf import RETRY_LOAD_S, NotLoaded, Shelf, Stamp, Troubles
from modelyard.serving.values import EndpointConfig, Installed

log = logging.getLogger("modelyard.serving")
LOADED = "loaded"  # the one arm of a version that answers by request
ELSEWHERE_S = 0.05  # between two looks whether another process has tried a version
_HEADER = re.compile(rb"[\x20-\x7e]{1,256}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One endpoint's routing with its models in memory. Immutable; `counters` is shared with every process."""

    traffic: Traffic
    config: EndpointConfig
    models: tuple[LoadedModel, ...]
    counters: Counters
    ends: tuple[float, ...]
    baseline: int  # the control, where a guard watches others
    watched: Mapping[int, Guard]  # the arms on trial
    headers: tuple[tuple[tuple[bytes, bytes], ...], ...]  # what each arm's answers carry
    limits: tuple[tuple[tuple[int, float], ...], ...]  # of each arm: (place in QUANTILES, microseconds) of the guard
    marks: tuple[bytes, ...]  # of each arm: how its calls are noted
    pinned: tuple[bytes, ...]  # of each arm: how calls are noted that testers pinned to it, which count for nothing

    def choose(self, unit: str | None) -> tuple[int, int | None]:
        """The arm that answers, and the unit's hash if there is a unit."""
        hashed = None if unit is None else unit_hash(self.traffic.salt, unit)
        if len(self.ends) == 1 or self.counters.tripped:
            return self.baseline, hashed
        place = random.random() if hashed is None else position(hashed)  # noqa: S311 - routing, no secret
        return arm_at(self.ends, place), hashed

    def arm(self, name: str) -> int:
        """The place of an arm by name or version; NotFound for an unknown one."""
        for index, arm in enumerate(self.traffic.arms):
            if name in (arm.name, arm.version):
                return index
        known = ", ".join(f"{arm.name} ({arm.version})" for arm in self.traffic.arms)
        raise NotFound(f"{self.traffic.endpoint} has no arm {name!r}. Known: {known}.")

    @property
    def signature(self) -> Signature:
        """What the baseline takes and gives."""
        return self.models[self.baseline].signature


def _limits(guard: Guard, *, watched: bool) -> tuple[tuple[int, float], ...]:
    """From how many microseconds on an arm's answer counts as slow, by the place of the quantile."""
    margin, floor = (guard.latency_margin, guard.latency_floor_ms) if watched else (0.0, 0.0)
    found = [(QUANTILES.index(name), 1000 * tolerated_ms(ms, margin, floor)) for name, ms in guard.latency_ms.items()]
    if guard.latency_limit_ms is not None:
        found.append((LIMIT, 1000 * guard.latency_limit_ms))
    return tuple(found)


class Routes:
    """Every endpoint's route in this process: `follow` carries out what has been published since and needs no version that
    is not here, `load` gets those. `refresh` does both until nothing is left to do."""

    def __init__(self, places: Places, slot: int) -> None:
        self.places = places
        self.slot = slot
        self.by_name: Mapping[str, Route] = {}
        self.loaded: Mapping[tuple[str, str], Route] = {}  # versions that answer by request, to who names them
        self.troubles: dict[str, str] = {}
        self._stamps: dict[str, Stamp] = {}
        self._loaded_stamp: Stamp | None = None
        self._lock = threading.Lock()
        self._seen: object = None  # what `follow` looked at last, and when
        self._tried = 0.0
        self.shelf = Shelf(places)

    def find(self, name: str) -> Route:
        """The endpoint's route; NotFound for an unknown one."""
        route = self.by_name.get(name)
        if route is None:
            known = ", ".join(sorted(self.by_name)) or "none yet"
            trouble = self.troubles.get(name)
            why = f" It cannot be served: {trouble}" if trouble else ""
            raise NotFound(f"There is no endpoint {name!r}.{why} Known: {known}.")
        return route

    def find_model(self, name: str, version: str | None) -> tuple[Route, int | None]:
        """The route of an endpoint or model, and the arm where a version is named; NotFound for an unknown one."""
        if version is None and name not in self.by_name:
            asked = [route for (model, _), route in self.loaded.items() if model == name]
            return (asked[-1], 0) if asked else (self.find(name), None)
        if version is not None and (name, version) in self.loaded:
            return self.loaded[name, version], 0
        if name in self.by_name:
            route = self.by_name[name]
            return route, None if version is None else route.arm(version)
        for route in self.by_name.values():
            for index, arm in enumerate(route.traffic.arms):
                if (arm.model, arm.version) == (name, version):
                    return route, index
        raise NotFound(
            f"There is no model {name!r} with version {version!r}. Ask GET /v2/models/NAME for its versions."
        )

    def changed(self) -> bool:
        """Whether something has been published, or is still to be tried again. Cheap: one look at a folder."""
        places = self.places
        return places.traffic_files() != self._stamps or places.loaded_stamp() != self._loaded_stamp

    @property
    def due(self) -> bool:
        """Whether `follow` has something to do; what failed is tried again after a second."""
        places = self.places
        if self.shelf.news or (places.traffic_files(), places.loaded_stamp()) != self._seen:
            return True
        return time.monotonic() - self._tried >= RETRY_LOAD_S and self.changed()

    def refresh(self) -> bool:
        """Carry out all that has been published; True if any route changed. Loads models: call it off the event loop."""
        changed = self.follow()
        while self.shelf.wanted or self.shelf.loading:
            if not self.load():
                time.sleep(ELSEWHERE_S)
            changed = self.follow() or changed
        return changed

    def load(self) -> bool:
        """Load the versions that `follow` found wanting; False if other processes try them first."""
        return self.shelf.load(standing=bool(self.by_name))

    def follow(self) -> bool:
        """Carry out what has been published and needs only what is loaded; True if any route changed."""
        with self._lock:
            return self._follow()

    def _follow(self) -> bool:
        stamps = self.places.traffic_files()
        self._seen, self._tried = (stamps, self.places.loaded_stamp()), time.monotonic()
        self.shelf.begin()
        routes = {name: route for name, route in self.by_name.items() if name in stamps}
        self.troubles = {name: text for name, text in self.troubles.items() if name in stamps}
        done = {name: stamp for name, stamp in self._stamps.items() if name in stamps}
        for name, stamp in stamps.items():
            if done.get(name) == stamp:
                continue
            try:
                routes[name] = self._route(name)
            except NotLoaded:
                continue
            except Troubles as error:
                self.troubles[name] = str(error)
                if name not in routes and (before := self._fallback(name)) is not None:
                    routes[name] = before
                continue
            self.troubles.pop(name, None)
            done[name] = stamp
        loaded = self._asked_for()
        changed = routes != self.by_name or loaded != self.loaded
        self.by_name, self._stamps, self.loaded = routes, done, loaded
        self.shelf.drop(m for route in (*routes.values(), *loaded.values()) for m in route.models)
        return changed

    def _asked_for(self) -> dict[tuple[str, str], Route]:
        """The versions that somebody asked to load, each behind a route of its own that nothing is counted for."""
        stamp = self.places.loaded_stamp()
        if stamp == self._loaded_stamp:
            return dict(self.loaded)
        routes, whole = {}, True
        try:
            asked = self.places.read_loaded()
        except YardError as error:
            self.troubles[self.places.loaded.name] = str(error)
            return dict(self.loaded)
        for model, version in asked:
            arm = Arm(name=LOADED, model=model, version=version, weight=1.0)
            try:
                traffic = Traffic(endpoint=model, generation=0, arms=(arm,))
                routes[model, version] = self._carried(Published(traffic=traffic, config=EndpointConfig()))
                self.troubles.pop(f"{model} {version}", None)
            except NotLoaded:
                whole = False
            except Troubles as error:
                self.troubles[f"{model} {version}"] = str(error)
                whole = False
        if whole:
            self._loaded_stamp = stamp
        return routes

    @property
    def generations(self) -> dict[str, int]:
        """Endpoint -> the generation in force here."""
        return {name: route.traffic.generation for name, route in self.by_name.items()}

    def _route(self, name: str) -> Route:
        published = self.places.read_traffic(name)
        route = self._carried(published)
        kept = self.places.carried(name)
        if not kept.exists() or read(kept, Published) != published:
            write(kept, published)
        return route

    def _fallback(self, name: str) -> Route | None:
        """What a fresh process answers with where the published routing cannot be carried out: the last that was."""
        try:
            return self._carried(read(self.places.carried(name), Published))
        except Troubles:
            return None

    def _carried(self, published: Published) -> Route:
        traffic, name = self._able(published.traffic), published.traffic.endpoint
        models = self._models(traffic.arms)
        if traffic.shadow is not None:  # whoever asks it is told what it is compared with, and needs no model of ours
            told = [plain(model.signature) for model in models]
            write(self.places.signatures(name, traffic.generation), told, lasting=False)
        names = [arm.name for arm in traffic.arms]
        guard = traffic.guard
        counters = Counters(self.places.counters(name, traffic.generation), self.slot)
        if guard is not None:
            if self.places.trip(guard.rollout_id, guard.step).exists():
                counters.trip()  # decided before: a restart or a second publication does not undo it
            if guard.warmup <= 0:
                counters.warm_up()
        control = BASELINE if guard is None else guard.control
        watched = {names.index(one.arm): one for one in traffic.guards}
        return Route(
            traffic=traffic,
            config=published.config,
            models=tuple(models),
            counters=counters,
            headers=tuple(
                ((b"x-modelyard-arm", _ascii(arm.name)), (b"x-modelyard-version", _ascii(arm.version)))
                for arm in traffic.arms
            ),
            ends=bounds([arm.weight for arm in traffic.arms]),
            baseline=names.index(control) if control in names else 0,
            watched=watched,
            limits=tuple(_limits(watched.get(arm, guard), watched=arm in watched) for arm in range(len(names)))
            if guard
            else (),
            marks=tuple(mark(CALL, name, traffic.generation, each) for each in range(len(names))),
            pinned=tuple(mark(CALL, name, traffic.generation, each, "pinned") for each in range(len(names))),
        )

    def _able(self, traffic: Traffic) -> Traffic:
        """The traffic, without the version before where that cannot be loaded any more: nothing has to wait for it."""
        *others, last = traffic.arms
        if last.name != PREVIOUS:
            return traffic
        try:
            self._model(last, self.places.read_models())
        except NotLoaded:
            return traffic
        except Troubles as error:
            log.warning("%s %s is not kept for a way back: %s", last.model, last.version, error)
            return replace(traffic, arms=tuple(others))
        return traffic

    def _models(self, arms: Iterable[Arm]) -> list[LoadedModel]:
        """What the arms answer with; NotLoaded once all that is missing has been asked for."""
        installed = self.places.read_models()
        found: list[LoadedModel] = []
        missing = []
        for arm in arms:
            try:
                found.append(self._model(arm, installed))
            except NotLoaded as error:
                missing.append(str(error))
        if missing:
            raise NotLoaded(" ".join(missing))
        return found

    def _model(self, arm: Arm, installed: Mapping[tuple[str, str], Installed]) -> LoadedModel:
        one = installed.get((arm.model, arm.version))
        if one is None:
            raise NotFound(f"{arm.model} {arm.version} is not installed. Install it before it gets traffic.")
        return self.shelf.model(one)


def _ascii(text: str) -> bytes:
    data = text.encode("ascii", "replace")
    return data if _HEADER.match(data) else b"-"
