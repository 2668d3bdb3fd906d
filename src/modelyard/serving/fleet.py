"""Servers on several machines that share a database judge what is on trial together. The database is their hub.

While something is on trial, each tells four times a second what its own processes have counted, and reads what the others
have. Their sum counts in its shared memory as if it had been counted there, so that guards, counts, promotion and analyses
know no difference. All that is told is cumulative and replaces what was told before: a message that is repeated changes
nothing, a server that is killed goes on from its file, the counts of one that has vanished stay counted, and while the
database is away each goes on with what it has. No clock is compared with another machine's.

One of them looks for late faults, for many detectors of the same counts would be as many budgets. It holds a lease, tells
its detectors' state with its counts, and whoever follows it goes on from there (`detectors.take`). A state never says more
than what was told with it and before, so that no outcome is told to a detector twice. Who could not renew its lease in time
has ceased by its own clock before another, which waits as long after it has seen it renewed, begins.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterable

from modelyard.core.canonical import dumps
from modelyard.core.errors import Damaged
from modelyard.core.traffic import Traffic
from modelyard.core.work import Store
from modelyard.serving import store_fleet
from modelyard.serving.counters import Counters
from modelyard.serving.fleet_shared import Key, Shared
from modelyard.serving.lasting import Lasting, keep
from modelyard.serving.places import Places
from modelyard.serving.store_fleet import Line

TURN_S = 0.25
LINGER_S = 30.0  # for which what has ended is still told: a process may answer its last request a little later


class Fleet:
    """What one server does for that, in a thread: of several processes on one folder one does it, for they count together."""

    def __init__(self, store: Store, places: Places) -> None:
        self._handle, self._owner = -1, os.getpid()
        places.make()
        self._store, self._places = store, places
        self._seen = 0
        self._stamps: object = None
        self._shared: dict[Key, Shared] = {}
        self._ending: dict[Key, float] = {}
        self._generations: dict[str, int] = {}  # as they are published here
        self._hearing = Lasting("What another server tells is not understood")
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> Fleet:
        """Go on until stopped."""
        self._thread = threading.Thread(target=self._keep, name="modelyard-fleet", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Tell the rest, and end. Again does nothing."""
        if self._ended.is_set() or os.getpid() != self._owner:  # a fork has its parent's objects, and not its threads
            return
        self._ended.set()
        if self._thread is not None:
            self._thread.join(10)
        with Lasting("What was counted last cannot be told to the other servers").round():
            self.turn()
        self._let_go()

    def __del__(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _keep(self) -> None:
        keep(TURN_S, self.turn, "What is counted cannot be told to the other servers", ended=self._ended)

    def turn(self) -> None:
        """Tell what is new here, hear what is new elsewhere, and have it count."""
        if not self._elected():
            return
        self._open()
        if not self._shared:
            return
        for one in self._shared.values():
            one.look(self._places)
        if any(one.has_news for one in self._shared.values()):
            self._tell()
        else:
            with self._store.reading() as rows:
                self._hear(store_fleet.after(rows, self._seen))
        for one in self._shared.values():
            one.carry_out(self._places)
        self._sweep()

    def _tell(self) -> None:
        with self._store.work("serving") as work:
            self._hear(store_fleet.after(work.rows, self._seen))
            seen = self._seen  # what is told now is behind it, and this server's own
            for one in self._shared.values():
                for source, part, body in one.lines():
                    seen = store_fleet.put(work, *one.key, source=source, part=part, body=body)
        self._seen = seen
        for one in self._shared.values():
            one.confirm()

    def _hear(self, lines: Iterable[Line]) -> None:
        for line in lines:
            one = self._shared.get((line.endpoint, line.generation))
            if one is not None:
                with self._hearing.round():  # of one server: the others are heard all the same
                    one.hear(line)
            self._seen = line.revision

    def _elected(self) -> bool:
        """Whether this process does it for its folder; the kernel gives the right on when it ends."""
        if self._handle < 0:
            handle = os.open(self._places.root / "fleet.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            self._handle = handle
        return True

    def _open(self) -> None:
        """Take part in what is published now; what was before is told for a while yet."""
        stamps = self._places.traffic_files()
        if stamps == self._stamps:
            return
        published = [found for name in stamps if (found := self._published(name)) is not None]
        self._generations = {traffic.endpoint: traffic.generation for traffic in published}
        wanted = {(one.endpoint, one.generation): one for one in published if counted_together(one)}
        for key, traffic in wanted.items():
            known, counters, routing = self._shared.get(key), Counters(self._places.counters(*key)), routing_of(traffic)
            if known is None or (known.routing, known.name) != (routing, counters.name):
                self._shared[key] = Shared(traffic, counters, routing)
                self._seen = 0  # what was told of it before it was known here is read again
        for key in self._shared:
            if key in wanted:
                self._ending.pop(key, None)
            else:
                self._ending.setdefault(key, time.monotonic())
        self._stamps = stamps

    def _published(self, endpoint: str) -> Traffic | None:
        try:
            return self._places.read_traffic(endpoint).traffic
        except (FileNotFoundError, Damaged):  # removed meanwhile; a damaged one is the workers' to tell of
            return None

    def _sweep(self) -> None:
        """Forget what ended a while ago, here and in the database."""
        gone = [key for key, since in self._ending.items() if time.monotonic() - since > LINGER_S]
        if not gone:
            return
        with self._store.work("serving") as work:
            for endpoint in {endpoint for endpoint, _ in gone}:
                if endpoint in self._generations:
                    store_fleet.sweep(work, endpoint, self._generations[endpoint])
                else:
                    store_fleet.remove(work, endpoint)
        for key in gone:
            del self._shared[key], self._ending[key]


def counted_together(traffic: Traffic) -> bool:
    """Whether something is decided by what an endpoint's servers count."""
    answering = sum(arm.weight > 0 for arm in traffic.arms)
    return bool(traffic.guards) or traffic.shadow is not None or answering > 1


def routing_of(traffic: Traffic) -> str:
    """What a routing is called: two of one endpoint and generation differ where the endpoint was removed and made anew."""
    return hashlib.sha256(dumps(traffic).encode()).hexdigest()[:16]


def has_others(store: Store) -> bool:
    """Whether other servers may share a store's database; one that lies in this folder has this folder's counts alone."""
    return "://" in store.database.url


def fleet_of(store: Store, places: Places) -> Fleet | None:
    """Who tells the other servers of a store's database; None where there are none."""
    return Fleet(store, places) if has_others(store) else None
