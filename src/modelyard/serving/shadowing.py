"""Keeps a process that shadows, while a routing of the folder names a shadow: starts, watches, replaces and ends it.

Whatever becomes of that process, those that answer do not notice: their copies are dropped. What ended it is charged to
the shadow that it was asking, as a failure; then it is tried again, ever later.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from modelyard.core.errors import Damaged
from modelyard.serving.copies import Copies, pair
from modelyard.serving.lasting import Lasting, keep
from modelyard.serving.places import Places
from modelyard.serving.vigil import SHADOWS, Death, Vigil

LOOK_S = 0.1
IDLE_S = 5.0  # after the last shadow: another rollout may follow
HANG_S = 30.0  # its first thread is served after all others of the machine
CALL_S = 60.0  # what has not answered by then does not: a client waits for half as long
QUICK_DEATH_S = 60.0  # one that lives shorter is replaced with a growing pause
LEAST_PAUSE_S, MOST_PAUSE_S = 0.5, 60.0
ROOM = 0.5  # of the memory that is free as it begins, it may take so much
STOP_S = 2.0
UNTOLD = 100  # ends that wait for the yard to come back
PAGE = os.sysconf("SC_PAGE_SIZE")
log = logging.getLogger("modelyard.serving")

Died = Callable[[Death], None]


class Shadowing:
    """The process beside those that answer from one folder, and the end that they write copies to."""

    def __init__(
        self,
        places: Places,
        *,
        output: int | None = None,
        died: Died = lambda _: None,
        hang_s: float = HANG_S,
        call_s: float = CALL_S,
        room: int | None = None,
    ) -> None:
        self._places, self._output, self._died = places, output, died
        self._vigil = Vigil(places, hang_s=hang_s, call_s=call_s)
        self._room = room
        self.written, self._read = pair()
        self._watched, self._alive = os.pipe()
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._since = self._named_at = self._next = self._pause = 0.0
        self._limit = 0
        self._stamps: object = None
        self._named = False
        self._ended = threading.Event()
        self._alone = threading.Lock()
        self._telling = Lasting("The end of a process that shadows cannot be recorded yet")
        self._untold: deque[Death] = deque(maxlen=UNTOLD)
        self._thread = threading.Thread(target=self._keep, name="modelyard-shadowing", daemon=True)

    @property
    def copies(self) -> Copies:
        """For a process that answers and is this one."""
        return Copies(self.written)

    @property
    def pid(self) -> int | None:
        """The process that shadows now."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def begin(self) -> Shadowing:
        """Look after it from now on, in a thread."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End it. Again does nothing."""
        if self._ended.is_set() or os.getpid() != self._owner:  # a fork has its parent's objects, and not its children
            return
        self._ended.set()
        with self._alone:
            if self._process is not None:
                self._end(self._process)
            for end in (self.written, self._read, self._watched, self._alive):
                os.close(end)

    def _keep(self) -> None:
        keep(LOOK_S, self.look, "The process that shadows cannot be looked after", ended=self._ended)

    def look(self) -> None:
        """Have a process where one is wanted, and none where none is."""
        with self._alone:
            if self._ended.is_set():
                return
            self._vigil.turn()
            with self._telling.round():
                while self._untold:
                    self._died(self._untold[0])
                    self._untold.popleft()
            now = time.monotonic()
            if self._is_wanted():
                self._named_at = now
            if self._process is None:
                if self._named_at == now and now >= self._next:
                    self._start(now)
                return
            code = self._process.poll()
            if code is not None:
                self._replace(self._process.pid, code, now)
            elif now - self._named_at > IDLE_S:
                self._end(self._process)
                self._process, self._next, self._pause = None, 0.0, 0.0
            else:
                self._judge(self._process.pid)

    def _is_wanted(self) -> bool:
        """Whether a routing names a shadow, as it is published now."""
        stamps = self._places.traffic_files()
        if stamps != self._stamps:
            self._named = any(map(self._shadowed, stamps))
            self._stamps = stamps
        return self._named

    def _shadowed(self, endpoint: str) -> bool:
        try:
            return self._places.read_traffic(endpoint).traffic.shadow is not None
        except (FileNotFoundError, Damaged):  # removed meanwhile; a damaged one is the others' to tell of
            return False

    def _start(self, now: float) -> None:
        command = [
            *(sys.executable, "-c", SHADOWS, "--folder", str(self._places.root.parent)),
            *("--copies", str(self._read), "--parent", str(self._watched)),
        ]
        self._process = subprocess.Popen(
            command,
            pass_fds=(self._read, self._watched),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
        )
        self._since, self._limit = now, int(_free() * ROOM) if self._room is None else self._room

    def _judge(self, pid: int) -> None:
        """Kill it where it is of no more use, or takes the memory of those that answer."""
        if _resident(pid) > self._limit:
            self._vigil.starve(pid)
        elif self._vigil.verdict(pid, self._since) is not None:
            self._vigil.kill(pid)

    def _replace(self, pid: int, code: int, now: float) -> None:
        """Find out what ended it, and when to try again."""
        death = self._vigil.buried(pid, code)
        quick = now - self._since < QUICK_DEATH_S + self._pause
        self._pause = min(max(2 * self._pause, LEAST_PAUSE_S), MOST_PAUSE_S) if quick else LEAST_PAUSE_S
        self._process, self._next = None, now + self._pause
        of = f" at a call of {death.endpoint}'s shadow" if death.endpoint else ""
        told = "The process that shadows, %d, %s (%s)%s. Another one takes its place in %g s."
        log.warning(told, pid, death.reason, death.detail, of, self._pause)
        self._untold.append(death)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _resident(pid: int) -> int:
    """The bytes of memory that a process has to itself; 0 of one that is gone."""
    with suppress(OSError, IndexError):
        size, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
        return (int(size) - int(shared)) * PAGE
    return 0


def _free() -> int:
    """The bytes of memory that are free, of the machine or of what this container may have."""
    free = 1 << 62
    with suppress(OSError, ValueError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(free, 0)
