"""The process that shadows: asks the shadows of a folder's routings for copies of requests, when the processors are idle.

`shadowing` starts it while a routing names a shadow. It holds the shadows' versions and no others. One thread compares, at
idle priority; one loads; the first one follows what is published and tells that the process lives.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.core.models import Signature
from modelyard.core.traffic import Traffic
from modelyard.serving import priority
from modelyard.serving.calls import CALL, Calls, mark
from modelyard.serving.calls import SHADOW as SHADOWING
from modelyard.serving.comparing import compared
from modelyard.serving.copies import LARGEST, Copy, read_copy, unpacked
from modelyard.serving.counter_file import AGREED, APART, COMPARED, DROPPED, FAILED, SHADOW
from modelyard.serving.counters import Counters
from modelyard.serving.lasting import Lasting, keep
from modelyard.serving.loaded import LoadedModel, ModelFailed
from modelyard.serving.metrics import RequestMetrics
from modelyard.serving.places import Places, Slot, SlotReport, read
from modelyard.serving.shelf import RETRY_LOAD_S, NotLoaded, Shelf, Troubles
from modelyard.serving.vigil import fault_of, put_aside, vitals_of

LOOK_S = 0.05
TAKEN, TAKEN_FULL = 16, 2  # copies that are read between two calls: fewer while some would only be dropped here
QUEUE = 256  # copies of one routing that wait here
HEAVY = 8 << 20  # bytes of all that wait here
SHORTEST_S, LONGEST_S = 0.002, 0.05  # between two looks for copies: who waited in the kernel would be woken by each
REST = 19  # times as long as a call used processors, where what one may use of them is limited for all together
ENDING_S = 0.5
TOLD_S = 60.0
log = logging.getLogger("modelyard.serving")

Key = tuple[str, int]  # endpoint and generation


@dataclass(slots=True)
class Shadow:
    """The shadow of one routing, with the counts and what the routing's arms take and give."""

    traffic: Traffic
    model: LoadedModel
    counters: Counters
    signatures: Path
    mark: bytes
    primaries: list[Signature] = field(default_factory=list)
    told: float = field(default=-TOLD_S)

    def compare(self, copy: Copy, watch: Stopwatch) -> None:
        """Ask the shadow, and count whether it agrees."""
        if not self.primaries:
            try:
                self.primaries = read(self.signatures, list[Signature])
            except (FileNotFoundError, Damaged):  # the endpoint has gone
                self.counters.shadowed(DROPPED)
                return
        primary = self.primaries[copy.arm]
        batch = unpacked(copy.batch)
        try:
            if self.model.signature.inputs != primary.inputs:
                batch = self.model.batch(records(batch, primary, self.model.signature))
            begun = watch.nanoseconds()
            output = self.model.answer(batch)
        except (ModelFailed, Invalid) as error:
            self.counters.shadowed(FAILED)
            self._tell(error)
            return
        micros = (watch.nanoseconds() - begun) / 1000
        found = compared(
            copy.output,
            output,
            regression=primary.task == "regression",
            tolerance=self.traffic.shadow_tolerance,
            classes=(primary.classes, self.model.signature.classes),
        )
        # the latency of a part of a batch says nothing beside that of the whole
        self.counters.shadowed(COMPARED, micros if copy.whole else None)
        self.counters.shadowed(APART + found.place)
        if found.agrees:
            self.counters.shadowed(AGREED)

    def _tell(self, error: Exception) -> None:
        """Write down why it failed, once a minute: its answers reach nobody who would complain."""
        now = time.monotonic()
        if now - self.told >= TOLD_S:
            self.told = now
            log.warning("The shadow of %s failed: %s", self.traffic.endpoint, error)


def records(batch: np.ndarray, given: Signature, wanted: Signature) -> list[dict[str, object]]:
    """The rows of one signature as records with the features that another one takes, as far as they are there."""
    kept = set(wanted.names)
    return [
        {name: value for name, value in zip(given.names, row, strict=True) if name in kept} for row in batch.tolist()
    ]


class Waiting:
    """Copies by routing, in the order in which they came; the routings take turns. One thread's own."""

    def __init__(self) -> None:
        self._copies: dict[Key, deque[tuple[Copy, int]]] = {}
        self._since: dict[Key, float] = {}
        self._bytes = 0

    def add(self, copy: Copy, size: int) -> bool:
        """Keep a copy; False if there is no room."""
        key = copy.endpoint, copy.generation
        if key not in self._copies:
            self._copies[key], self._since[key] = deque(), time.monotonic()
        if len(self._copies[key]) >= QUEUE or self._bytes + size > HEAVY:
            return False
        self._copies[key].append((copy, size))
        self._bytes += size
        return True

    @property
    def full(self) -> bool:
        """Whether copies of some routing find no room."""
        return self._bytes > HEAVY // 2 or any(len(copies) >= QUEUE for copies in self._copies.values())

    def next(self, wanted: Mapping[Key, Shadow]) -> tuple[Shadow, Copy] | None:
        """The next copy that can be answered, of the routing that has waited longest for its turn."""
        for key in list(self._copies):
            shadow = wanted.get(key)
            if shadow is None or not self._copies[key]:
                continue
            copies = self._copies.pop(key)
            copy, size = copies.popleft()
            self._copies[key] = copies  # the last one now
            self._bytes -= size
            return shadow, copy
        return None

    def drop(self, gone: Callable[[Key, float], bool]) -> dict[Key, int]:
        """Forget the copies of routings that are gone, by key and since when there are some: how many."""
        dropped = {key: len(copies) for key, copies in self._copies.items() if gone(key, self._since[key])}
        for key in dropped:
            self._bytes -= sum(size for _, size in self._copies.pop(key))
            del self._since[key]
        return dropped


@dataclass(frozen=True, slots=True)
class Followed:
    """What is published, as it was at a time: the shadows that are loaded, and those that are expected to be."""

    at: float = 0.0
    ready: Mapping[Key, Shadow] = field(default_factory=dict)
    expected: frozenset[Key] = frozenset()


class ShadowProcess:
    """Follows, loads, compares."""

    def __init__(self, places: Places, copies: int) -> None:
        self.places, self._copies = places, copies
        self.slot = Slot(places)
        self.shelf = Shelf(places)
        self.shelf.on_load = RequestMetrics(places, self.slot.number).loaded
        self.calls = self.shelf.calls = Calls()
        self.ended, self._done = threading.Event(), threading.Event()
        self.waiting = Waiting()
        self.followed = Followed()
        self._stamps: object = None
        self._tried = 0.0
        self._troubles: dict[str, str] = {}
        self._said: SlotReport | None = None
        self._counters: dict[Key, Counters] = {}
        self._limited = priority.limited()
        put_aside(places, self.slot.number)
        self.calls.attach(vitals_of(places, self.slot.number))
        self._fault = fault_of(places, self.slot.number).open("w")
        faulthandler.enable(self._fault)

    def run(self) -> NoReturn:
        """Until it is told to end; what waits then is dropped, and a call that is being made is not waited for."""
        self._report()
        for work in (self._loading, self._compare):
            threading.Thread(target=work, daemon=True).start()
        keep(LOOK_S, self._look, "What is published cannot be followed", ended=self.ended)
        self._done.wait(ENDING_S)
        self.shelf.give_up()
        logging.shutdown()
        os._exit(0)

    def _look(self) -> None:
        """Tell that this process lives, and follow what is published."""
        self.calls.turned()
        self.follow()
        self._report()

    def _loading(self) -> None:
        keep(LOOK_S, self._load, "What is published cannot be loaded", ended=self.ended)

    def _load(self) -> None:
        """Load what is wanted. What compares, and the threads that a library has begun, wait for idle processors from then
        on."""
        if self.shelf.wanted:
            self.shelf.load(standing=True)
            priority.idle(but={threading.main_thread().native_id, threading.get_native_id()})

    def follow(self) -> None:
        """See which shadows there are to be, and which of them are loaded."""
        now, stamps = time.monotonic(), self.places.traffic_files()
        waited = self.followed.expected - self.followed.ready.keys()
        again = bool(waited or self._troubles) and now - self._tried >= RETRY_LOAD_S
        if stamps == self._stamps and not self.shelf.news and not again:
            self.followed = Followed(now, self.followed.ready, self.followed.expected)
            return
        self.shelf.begin()
        ready, expected, troubles = self._found(stamps)
        self.shelf.drop(one.model for one in ready.values())
        self._stamps, self._tried, self._troubles = stamps, now, troubles
        self.followed = Followed(now, ready, expected)

    def _found(self, names: Mapping[str, object]) -> tuple[dict[Key, Shadow], frozenset[Key], dict[str, str]]:
        ready, expected, troubles = {}, set(), {}
        for name in names:
            try:
                traffic = self.places.read_traffic(name).traffic
                key = name, traffic.generation
                if traffic.shadow is None:
                    continue
                ready[key] = self._shadow(traffic)
                expected.add(key)
            except NotLoaded:
                expected.add(key)
            except Troubles as error:
                troubles[name] = str(error)
        return ready, frozenset(expected), troubles

    def _shadow(self, traffic: Traffic) -> Shadow:
        """The shadow of a routing; the one that is known already, or one with its version loaded."""
        arm, key = traffic.shadow, (traffic.endpoint, traffic.generation)
        assert arm is not None
        installed = self.places.read_models().get((arm.model, arm.version))
        if installed is None:
            raise NotFound(f"{arm.model} {arm.version} is not installed. Install it before it shadows.")
        model, known = self.shelf.model(installed), self.followed.ready.get(key)
        if known is not None and known.model is model:
            return known
        counters = Counters(self.places.counters(*key), self.slot.number)
        return Shadow(traffic, model, counters, self.places.signatures(*key), mark(CALL, *key, SHADOW))

    def _report(self) -> None:
        said = SlotReport(
            pid=os.getpid(),
            ready=False,
            shadows=True,
            generations=dict(sorted(self.followed.ready)),
            troubles=self._troubles,
        )
        if said != self._said:
            for name, text in self._troubles.items():
                if self._said is None or self._said.troubles.get(name) != text:
                    log.warning("%s has no shadow: %s", name, text)
            self.slot.report(said)
            self._said = said

    def _compare(self) -> None:
        """Take copies and compare, until the process ends."""
        self.calls.known(SHADOWING)
        watch = Stopwatch()
        lasting, pause = Lasting("A request could not be compared with the shadow's answer"), SHORTEST_S
        while not self.ended.is_set():
            with lasting.round():
                pause = SHORTEST_S if self._turn(watch) else min(2 * pause, LONGEST_S)
            if pause > SHORTEST_S:
                self.ended.wait(pause)
        with lasting.round():
            self._drop(lambda *_: True)
        self._done.set()

    def _turn(self, watch: Stopwatch) -> bool:
        """One comparison, or none where there is nothing to compare."""
        taken, followed = self._take(), self.followed
        self._drop(lambda key, since: key not in followed.expected and since < followed.at)
        found = self.waiting.next(followed.ready)
        if found is None:
            return taken
        shadow, copy = found
        used = time.process_time()
        self.calls.at(SHADOWING, shadow.mark, partial(shadow.compare, copy), watch)
        if self._limited:
            self.ended.wait(min((time.process_time() - used) * REST, 1.0))
        return True

    def _take(self) -> bool:
        """Take what the workers have written, as much as may be soon compared."""
        for taken in range(TAKEN_FULL if self.waiting.full else TAKEN):
            try:
                message = os.read(self._copies, LARGEST)
            except BlockingIOError:
                return taken > 0
            except OSError as error:  # a model has closed descriptors that are not its own
                log.error("This process ends, since no copies can be read: %s.", error)  # noqa: TRY400 - that says all
                os._exit(1)
            if not message:
                self.ended.wait(LONGEST_S)  # every writer is gone: so is this process, soon
                return False
            copy = read_copy(message)
            if not self.waiting.add(copy, len(message)):
                self._dropped((copy.endpoint, copy.generation), 1)
        return True

    def _drop(self, gone: Callable[[Key, float], bool]) -> None:
        for key, count in self.waiting.drop(gone).items():
            self._dropped(key, count)
            self._counters.pop(key, None)

    def _dropped(self, key: Key, count: int) -> None:
        """Count copies that nobody looked at; those of an endpoint that is gone are counted nowhere."""
        if key not in self._counters and (path := self.places.counters(*key)).exists():
            self._counters[key] = Counters(path, self.slot.number)
        counters = self._counters.get(key)
        if counters is not None:
            for _ in range(count):
                counters.shadowed(DROPPED)


class Stopwatch:
    """This thread's time without what it waited for a processor that others used, as far as the kernel tells."""

    def __init__(self) -> None:
        try:
            self._told = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._told = -1

    def nanoseconds(self) -> int:
        """Of which the differences count. Documentation/scheduler/sched-stats: time on a processor, then waiting for one."""
        try:
            waited = int(os.pread(self._told, 80, 0).split()[1])
        except (OSError, IndexError, ValueError):
            waited = 0
        return time.perf_counter_ns() - waited


def _end_with(parent: int, ended: threading.Event) -> None:
    """End with the process that holds the other end of a pipe: nothing is ever written to it."""
    os.read(parent, 1)
    ended.set()


def main() -> None:
    """Shadow until SIGTERM, or the end of who started this."""
    parser = argparse.ArgumentParser(prog="modelyard.serving.shadow_process", description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--copies", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    setattr(warnings, "defaultaction", "ignore")  # noqa: B010 - as in a worker
    process = ShadowProcess(Places(given.folder), given.copies)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: process.ended.set())
    threading.Thread(target=_end_with, args=(given.parent, process.ended), daemon=True).start()
    process.run()
