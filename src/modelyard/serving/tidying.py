"""Sees to it that raw payload segments become Parquet: a process of its own, at the lowest priority, when there are any."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

from modelyard.serving import erasing
from modelyard.serving.places import Places, held

LOOK_S = 10.0
RETAIN_S = 3600.0  # what is too old goes within the hour
log = logging.getLogger("modelyard.serving")


class Tidier:
    """What the supervisor asks at every turn. One process at a time."""

    def __init__(self, places: Places, output: int | None) -> None:
        self._places, self._output = places, output
        self._process: subprocess.Popen[bytes] | None = None
        self._next = 0.0
        self._retain = time.monotonic() + RETAIN_S

    def look(self) -> None:
        """Start the process where there is work and it does not run."""
        now = time.monotonic()
        if now < self._next or (self._process is not None and self._process.poll() is None):
            return
        self._next = now + LOOK_S
        if now < self._retain and not self._due():
            return
        self._retain = now + RETAIN_S
        command = (sys.executable, "-m", "modelyard.serving.compaction", str(self._places.root.parent))
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output
            )
        except OSError as error:  # no memory for another process: the workers matter more
            log.warning("Payload segments wait to become Parquet: %s", error)

    def _due(self) -> bool:
        """Whether a segment is closed, a writer has ended, or an erasure was not carried through."""
        logs = self._places.root / "payloads"
        return (
            any(True for _ in logs.glob("*/*.rows"))
            or any(not held(path) for path in logs.glob("*/*.tally"))
            or any(
                not entry.done for path in logs.glob(f"*/{erasing.NOTE}") for entry in erasing.read(path.parent).entries
            )
        )

    def stop(self) -> None:
        """End the process: what it has not finished is done by the next one."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
