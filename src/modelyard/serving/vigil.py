"""Notices worker processes that hang, and tells what one that has died was at.

A process that a model crashes cannot count that against the model. Its records (`calls`) outlive it: from them the call
that ended it is counted as a failure of its arm, so that the guards of the processes that live see it.

Whose fault it was is certain where the crashed thread is known (Python's faulthandler writes it down), where only one
thread held the processor, where only one call was being made, or where a call of a process with an arm on trial has
closed descriptors, which each looks at as it ends. Otherwise one of the calls is drawn, and where none was
being made it is the last one: under 'no worse than the baseline' it is the canary's with the canary's share of the calls,
so the guard's error rate holds.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import random
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from modelyard.core.errors import Damaged
from modelyard.serving import calls
from modelyard.serving.calls import CALL, LOAD, THREADS, UNKNOWN, Call, Vitals
from modelyard.serving.counter_file import FAILED, REQUESTS, SHADOW
from modelyard.serving.counters import Counters
from modelyard.serving.places import Places, held, read, write
from modelyard.serving.trials import LOAD_S

ASIDE = "-"  # in the name of records that were put aside: SLOT-PID
HANG_S = 10.0  # an event loop that has not turned for so long does not turn again
BEGIN_S = 120.0  # from a process's start to the first turn of its event loop
STUCK_S = 30.0  # a model's, or all, prediction threads at calls that nobody waits for any more
GONE_S = 10.0  # from a kill to its end
YOUNG_S = 1.0  # a call that does not last for so long is not looked at more closely
OOM_S = 1.0  # how often it is looked how many processes the kernel has killed for their memory
SAMPLE_S = 0.2
BUSY = 0.5  # the share of a processor that the thread which holds the interpreter uses at least
CRASHED, HUNG, STUCK, ENDED, KILLED = "crashed", "hung", "stuck", "ended", "killed"
STARVED = "out_of_memory"
SHADOWING = "shadowing"  # whatever it was that ended a process that shadows: no client has noticed
REASONS = (CRASHED, HUNG, STUCK, ENDED, KILLED, STARVED, SHADOWING)
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
VMSTAT = Path("/proc/vmstat")
SHADOWS = (
    "from modelyard.serving import priority; priority.low(); from modelyard.serving.shadow_process import main; main()"
)
OURS = {b"modelyard.serving.worker", SHADOWS.encode()}
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
    shadowed: bool = False  # whether it answered nobody, and asked shadows


class Vigil:
    """What one supervisor knows of the health of its workers.

    With `call_s` it is of a process that shadows, a call of which may take so many seconds without those in which it waits
    for a processor.
    """

    def __init__(
        self, places: Places, *, hang_s: float = HANG_S, vmstat: Path = VMSTAT, call_s: float = math.inf
    ) -> None:
        self._places, self._hang, self._vmstat, self._call = places, hang_s, vmstat, call_s
        self._calling: tuple[int, dict[int, int]] = (
            0,
            {},
        )  # the call that goes on, and how long threads had waited before
        self._greedy: set[int] = set()  # processes killed for the memory that they took
        self._looked = self._oom_at = time.monotonic()
        self._oom = _oom_kills(vmstat)
        self._from = 0.0  # until when nobody is judged, since this process itself was not run
        self._stuck: dict[int, float] = {}
        self._sentenced: dict[int, Set[int]] = {}  # processes killed for hanging, and their threads that were busy

    def turn(self) -> None:
        """Begin a round: where the supervisor itself was not run for a while, nor perhaps were the workers."""
        now = time.monotonic()
        if now - self._looked > 1.0:
            self._from = now + self._hang
        self._looked = now
        if now - self._oom_at > OOM_S:
            self._oom_at, self._oom = now, _oom_kills(self._vmstat)

    def verdict(self, pid: int, since: float) -> Death | None:
        """Why a living process is of no more use, HUNG or STUCK; None for one that is. `since` is when it was started."""
        now = time.monotonic()
        if now < self._from:
            return None
        found = _found(self._places, pid)
        if found is None or not found[1].turned:
            return Death(pid=pid, reason=HUNG, detail="it did not begin") if now - since > BEGIN_S else None
        vitals = found[1]
        if now - vitals.turned / 1e9 > self._hang:
            return Death(pid=pid, reason=HUNG, detail=f"its event loop has not turned for {self._hang:g} s")
        for call in vitals.calls:
            if call.what[0] == LOAD and now - call.since / 1e9 > LOAD_S:
                return Death(pid=pid, reason=STUCK, detail=f"it loads {' '.join(call.what[1:])} for {LOAD_S:g} s")
            if call.what[0] == CALL and self._overdue(pid, call, now - call.since / 1e9):
                return Death(pid=pid, reason=STUCK, detail=f"a call has taken longer than {self._call:g} s")
        if vitals.stuck < THREADS:
            self._stuck.pop(pid, None)
            return None
        late = now - self._stuck.setdefault(pid, now) > STUCK_S
        return Death(pid=pid, reason=STUCK, detail="no prediction thread comes back") if late else None

    def _overdue(self, pid: int, call: Call, age: float) -> bool:
        """Whether a call lasts too long, even without the time for which a thread has waited for a processor."""
        if self._call == math.inf or age < min(YOUNG_S, self._call):
            return False
        waited = _waited(pid)
        if self._calling[0] != call.since:
            self._calling = call.since, waited
        before = self._calling[1]
        return age - max((nanos - before.get(one, 0) for one, nanos in waited.items()), default=0) / 1e9 > self._call

    def starve(self, pid: int) -> None:
        """Kill a process for the memory that it takes."""
        self._greedy.add(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

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
        if (
            code == -signal.SIGKILL
            and reason == KILLED
            and (pid in self._greedy or _oom_kills(self._vmstat) > self._oom)
        ):
            reason = STARVED
        self._greedy.discard(pid)
        found = _found(self._places, pid)
        call = None
        if found is not None and reason != KILLED:
            path, vitals = found
            slot = int(path.stem.partition(ASIDE)[0])
            ended = () if vitals.last is None or code == 0 else (vitals.last,)  # 0: somebody told it to end
            call = vitals.broke or culprit(vitals.calls or ended, _fault(path), busy or set())
            if call is not None and call.what[0] == UNKNOWN:
                detail += ": descriptors were closed by code that is not known, so that no arm is charged"
                call = None
            elif call is not None and call.what[0] == LOAD:
                detail += f" as it loaded {' '.join(call.what[1:])}"  # which is not tried for ever: see trials
                call = None
            elif call is not None and not _counted(self._places, slot, call):
                call = None
        if found is not None and ASIDE in found[0].stem:
            _drop(found[0])
        shadowed = self._call < math.inf
        count(self._places, SHADOWING if shadowed else reason)
        death = Death(pid=pid, reason=reason, detail=detail, shadowed=shadowed)
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


def bury_orphans(places: Places) -> None:
    """End the workers that hang and whose supervisor was killed: they would answer nobody, and keep the port for ever.

    One that does not hang has noticed by itself that its supervisor is gone, and drains.
    """
    for path in places.slots.glob(f"*{ASIDE}*.vitals"):  # whoever was to look at these is gone too
        _drop(path)
    for path in places.slots.glob("*.vitals"):
        vitals = calls.read(path)
        if vitals is None or time.monotonic() - vitals.turned / 1e9 < HANG_S or not held(path.with_suffix(".lock")):
            continue
        if not _orphaned(vitals, places.root.parent):
            continue
        log.warning("Worker %d hangs, and its supervisor is gone. It is killed.", vitals.pid)
        with suppress(ProcessLookupError):
            os.kill(vitals.pid, signal.SIGKILL)
        end = time.monotonic() + GONE_S
        while time.monotonic() < end and (_stat(vitals.pid)[:1] not in ([], ["Z"]) or held(path.with_suffix(".lock"))):
            time.sleep(0.01)  # its files are closed with its last thread


def _orphaned(vitals: Vitals, folder: Path) -> bool:
    """Whether the process of these records is a worker of this folder with another parent than it began with."""
    try:
        command = Path(f"/proc/{vitals.pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    ours = bool(OURS.intersection(command)) and os.fsencode(folder) in command
    return ours and _stat(vitals.pid)[1:2] not in ([], [str(vitals.parent)])


def _stat(pid: int) -> list[str]:
    """What the kernel says of a process: its state, its parent, ...; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def count(places: Places, reason: str) -> None:
    """Count a process that was replaced, by reason and since ever."""
    with _locked(places):
        counts = dict(replaced(places))
        counts[reason] = counts.get(reason, 0) + 1
        write(places.metrics / "replaced.json", counts)


def replaced(places: Places) -> Mapping[str, int]:
    """How many worker processes were replaced since ever, by reason."""
    try:
        found = read(places.metrics / "replaced.json", dict[str, int])
    except (FileNotFoundError, Damaged):
        found = {}
    return {reason: found.get(reason, 0) for reason in REASONS}


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


def put_aside(places: Places, slot: int) -> None:
    """Keep what the last process of a slot left: it may have died a moment ago, and nobody has looked at it yet."""
    path = vitals_of(places, slot)
    for before in places.slots.glob(f"{slot}{ASIDE}*.vitals"):
        _drop(before)
    left = calls.read(path)
    if left is None:
        return
    aside = path.with_stem(f"{slot}{ASIDE}{left.pid}")
    with suppress(FileNotFoundError):
        fault_of(places, slot).replace(aside.with_suffix(".fault"))
    path.replace(aside)


def _drop(path: Path) -> None:
    path.with_suffix(".fault").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _found(places: Places, pid: int) -> tuple[Path, Vitals] | None:
    """The records of a process, in its slot or put aside."""
    for path in places.slots.glob("*.vitals"):
        vitals = calls.read(path)
        if vitals is not None and vitals.pid == pid:
            return path, vitals
    return None


def _fault(path: Path) -> str:
    """What faulthandler wrote beside these records."""
    try:
        return path.with_suffix(".fault").read_text("utf-8", "replace")
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
    """Count the call as a failure of its arm: as any other failure, once a unit and step. False for unknown counts.

    A tester's pinned call counts for nothing, as its answer would have.
    """
    _, endpoint, generation, arm, *pinned = call.what
    path = places.counters(endpoint, int(generation))
    if not path.exists():
        return False  # the endpoint is gone, or this generation was long ago
    try:
        counters = Counters(path)
    except Damaged as error:
        log.warning("A death could not be counted: %s", error)
        return False
    if pinned:
        return True
    row = counters.row(slot)
    if int(arm) == SHADOW:
        row[SHADOW, FAILED] += 1
        return True
    row[int(arm), REQUESTS] += 1
    counters.outcome(int(arm), call.unit, failed=True, slot=slot)
    return True


def _of(death: Death, places: Places, call: Call) -> Death:
    """The death with the call that is to blame."""
    _, endpoint, generation, arm = call.what[:4]
    with suppress(FileNotFoundError, Damaged, IndexError):
        traffic = places.read_traffic(endpoint).traffic
        known = traffic.generation == int(generation) and int(arm) != SHADOW
        name = "shadow" if int(arm) == SHADOW else traffic.arms[int(arm)].name if known else f"arm {arm}"
        return replace(death, endpoint=endpoint, arm=name, generation=int(generation))
    return death


def _oom_kills(vmstat: Path) -> int:
    """How many processes of this machine the kernel has killed because there was no memory left, for all or for theirs."""
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _processor(pid: int) -> dict[int, int]:
    """The ticks of processor time that each thread of a process has used."""
    return {one: int(fields[11]) + int(fields[12]) for one, fields in _threads(pid, "stat").items()}


def _waited(pid: int) -> dict[int, int]:
    """The nanoseconds for which each thread of a process has waited for a processor, as far as the kernel tells."""
    return {one: int(fields[1]) for one, fields in _threads(pid, "schedstat").items()}


def _threads(pid: int, what: str) -> dict[int, list[str]]:
    """What the kernel says of each thread of a process, after its name."""
    found = {}
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found[int(task.name)] = (task / what).read_text().rpartition(")")[2].split()
    return found
