"""Notices worker processes that hang, and tells what one that has died was at.

A process that a model crashes cannot count that against the model. Its records (`calls`) outlive it: from them the call
that ended it is counted as a failure of its arm, so that the guards of the processes that live see it.

Whose fault it was is certain where the crashed thread is known (Python's faulthandler writes it down), where only one
thread held the processor, or where only one call was being made. Otherwise one of the calls is drawn: under 'no worse than
the baseline' it is the canary's with the canary's share of the calls, so the guard's error rate holds.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from modelyard.core.errors import Damaged
from modelyard.serving import calls
from modelyard.serving.calls import CALL, THREADS, Call, Vitals
from modelyard.serving.counters import BAD, FAILED, REQUESTS, SHADOW, Counters
from modelyard.serving.places import Places, write

HANG_S = 10.0  # an event loop that has not turned for so long does not turn again
BEGIN_S = 120.0  # from a process's start to the first turn of its event loop
STUCK_S = 30.0  # a model's, or all, prediction threads at calls that nobody waits for any more
SAMPLE_S = 0.2
BUSY = 0.5  # the share of a processor that the thread which holds the interpreter uses at least
CRASHED, HUNG, STUCK, ENDED, KILLED = "crashed", "hung", "stuck", "ended", "killed"
REASONS = (CRASHED, HUNG, STUCK, ENDED, KILLED)
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_CRASHED_THREAD = re.compile(r"Current thread 0x([0-9a-f]+)")
log = logging.getLogger("modelyard.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A worker process that ended without being told to: why, and the call it was at where that is to blame."""

    pid: int
    reason: str  # one of REASONS
    detail: str  # the signal's name or the exit code
    endpoint: str = ""
    arm: str = ""
    generation: int = 0


class Vigil:
    """What one supervisor knows of the health of its workers."""

    def __init__(self, places: Places, *, hang_s: float = HANG_S) -> None:
        self._places, self._hang = places, hang_s
        self._looked = time.monotonic()
        self._from = 0.0  # until when nobody is judged, since this process itself was not run
        self._stuck: dict[int, float] = {}
        self._sentenced: dict[int, Set[int]] = {}  # processes killed for hanging, and their threads that were busy

    def turn(self) -> None:
        """Begin a round: where the supervisor itself was not run for a while, nor perhaps were the workers."""
        now = time.monotonic()
        if now - self._looked > 1.0:
            self._from = now + self._hang
        self._looked = now

    def verdict(self, pid: int, since: float) -> str:
        """HUNG or STUCK for a living process that is of no more use, else nothing. `since` is when it was started."""
        now = time.monotonic()
        if now < self._from:
            return ""
        found = _found(self._places, pid)
        if found is None or not found[1].turned:
            return HUNG if now - since > BEGIN_S else ""
        vitals = found[1]
        if now - vitals.turned / 1e9 > self._hang:
            return HUNG
        if vitals.stuck < THREADS:
            self._stuck.pop(pid, None)
            return ""
        return STUCK if now - self._stuck.setdefault(pid, now) > STUCK_S else ""

    def kill(self, pid: int) -> None:
        """Kill a process that hangs, having looked which of its threads are busy."""
        before = _processor(pid)
        time.sleep(SAMPLE_S)
        after = _processor(pid)
        least = BUSY * SAMPLE_S * os.sysconf("SC_CLK_TCK")
        self._sentenced[pid] = {one for one, used in after.items() if used - before.get(one, used) >= least}
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def buried(self, pid: int, code: int) -> Death:
        """What a process died of, counted: its call as a failure of the arm, and the death itself."""
        busy = self._sentenced.pop(pid, None)
        self._stuck.pop(pid, None)
        reason, detail = _reason(code, hung=busy is not None)
        found = _found(self._places, pid)
        call = None
        if found is not None and reason != KILLED:
            slot, vitals = found
            call = culprit(vitals.calls, _fault(self._places, slot), busy or set())
            if call is not None and call.what[0] == CALL:
                call = call if _counted(self._places, slot, call) else None
        count(self._places, reason)
        death = Death(pid=pid, reason=reason, detail=detail)
        return death if call is None else _of(death, self._places, call)


def culprit(made: Sequence[Call], fault: str, busy: Set[int]) -> Call | None:
    """The call that ended the process, of those that were being made; None where none was.

    `fault` is what faulthandler wrote, `busy` the native ids of the threads that used the processor while it hung.
    """
    crashed = _CRASHED_THREAD.search(fault)
    if crashed is not None:
        ident = int(crashed[1], 16)
        certain = [call for call in made if call.ident % 2**64 == ident]
        if certain:
            return certain[0]
    if busy:
        certain = [call for call in made if call.native in busy]
        if len(certain) == 1:
            return certain[0]
    return random.choice(made) if made else None  # noqa: S311 - no secret


def count(places: Places, reason: str) -> None:
    """Count a process that was replaced, by reason and since ever."""
    with _locked(places):
        counts = dict(replaced(places))
        counts[reason] = counts.get(reason, 0) + 1
        write(places.metrics / "replaced.json", counts)


def replaced(places: Places) -> Mapping[str, int]:
    """How many worker processes were replaced since ever, by reason."""
    try:
        found = json.loads((places.metrics / "replaced.json").read_text())
    except (FileNotFoundError, ValueError):
        found = {}
    return {reason: int(found.get(reason, 0)) for reason in REASONS}


def vitals_of(places: Places, slot: int) -> Path:
    """The records of the process in a slot."""
    return places.slots / f"{slot}.vitals"


def fault_of(places: Places, slot: int) -> Path:
    """Where the process in a slot writes as it crashes."""
    return places.slots / f"{slot}.fault"


@contextmanager
def _locked(places: Places) -> Iterator[None]:
    places.metrics.mkdir(parents=True, exist_ok=True)
    handle = os.open(places.metrics / "replaced.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _found(places: Places, pid: int) -> tuple[int, Vitals] | None:
    """The slot and the records of a process."""
    for path in places.slots.glob("*.vitals"):
        vitals = calls.read(path)
        if vitals is not None and vitals.pid == pid:
            return int(path.stem), vitals
    return None


def _fault(places: Places, slot: int) -> str:
    try:
        return fault_of(places, slot).read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _reason(code: int, *, hung: bool) -> tuple[str, str]:
    """Why a process ended, and the signal or the code. Who kills one from outside does not accuse its models."""
    if code >= 0:
        return ENDED, f"exit code {code}"
    try:
        name = signal.Signals(-code)
    except ValueError:
        return CRASHED, f"signal {-code}"
    if hung:
        return HUNG, name.name
    return (KILLED if name in _FROM_OUTSIDE else CRASHED), name.name


def _counted(places: Places, slot: int, call: Call) -> bool:
    """Count the call as a failure of its arm: as any other failure, once a unit and step. False for unknown counts."""
    _, endpoint, generation, arm = call.what
    path = places.counters(endpoint, int(generation))
    if not path.exists():
        return False  # the endpoint is gone, or this generation was long ago
    try:
        counters = Counters(path)
    except Damaged as error:
        log.warning("A death could not be counted: %s", error)
        return False
    row = counters.row(slot)
    if int(arm) == SHADOW:
        row[SHADOW, FAILED] += 1
        return True
    row[int(arm), REQUESTS] += 1
    if call.unit is None or counters.first(call.unit, BAD):
        row[int(arm), BAD] += 1
    return True


def _of(death: Death, places: Places, call: Call) -> Death:
    """The death with the call that is to blame."""
    _, endpoint, generation, arm = call.what
    with suppress(FileNotFoundError, Damaged, IndexError):
        traffic = places.read_traffic(endpoint).traffic
        known = traffic.generation == int(generation) and int(arm) != SHADOW
        name = "shadow" if int(arm) == SHADOW else traffic.arms[int(arm)].name if known else f"arm {arm}"
        return Death(
            pid=death.pid,
            reason=death.reason,
            detail=death.detail,
            endpoint=endpoint,
            arm=name,
            generation=int(generation),
        )
    return death


def _processor(pid: int) -> dict[int, int]:
    """The ticks of processor time that each thread of a process has used."""
    used = {}
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = (task / "stat").read_text().rpartition(")")[2].split()
                used[int(task.name)] = int(fields[11]) + int(fields[12])
    return used
