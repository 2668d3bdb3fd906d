"""Journals: each recorded result is appended to a file at once and later folded into the database, exactly once.

One line is one write(2), so what was recorded survives the death of the process (not a power cut: that lasts until the
fold has committed). A journal belongs to one process, which holds a lock on it; a journal that nobody holds is folded to
its end and removed. The database remembers how far each has been folded, in the transaction that adds the counts.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelyard.ab_testing.metrics import BUILT_IN, LATENCY
from modelyard.core.errors import Invalid, Unavailable
from modelyard.core.ids import new_id

SUFFIX = ".journal"
LARGEST = 1e50  # its powers are still floats when variances of ratios are computed


class Journal:
    """An open journal of this process."""

    def __init__(self, folder: Path) -> None:
        name = new_id("results")
        hidden = folder / f".{name}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Unavailable(f"{folder} cannot be written: {error.strerror}. Choose another storage path.") from error
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        self.path = folder / f"{name}{SUFFIX}"
        hidden.rename(self.path)  # it appears under its name only once it is locked, so nobody takes it for abandoned
        self.process = os.getpid()
        self.release = weakref.finalize(self, os.close, self._handle)

    def append(self, lines: bytes) -> None:
        """Add whole lines with one write."""
        try:
            written = os.write(self._handle, lines)
        except OSError as error:
            raise Unavailable(
                f"{self.path} cannot be written: {error.strerror}. The result was not recorded."
            ) from error
        if written != len(lines):
            os.ftruncate(self._handle, os.fstat(self._handle).st_size - written)
            raise Unavailable(f"The disk that holds {self.path} is full. The result was not recorded. Free some space.")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whole lines of a journal that the database does not know yet."""

    lines: list[bytes]
    end: int


class Opened:
    """A journal opened for folding. `abandoned` says that no process writes to it any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.abandoned = True
        except BlockingIOError:
            self.abandoned = False

    def waiting(self, start: int) -> Waiting:
        """The whole lines from `start` on; none if another process has folded and removed the journal meanwhile."""
        status = os.fstat(self._handle)
        if status.st_nlink == 0:
            return Waiting([], start)
        data = os.pread(self._handle, max(0, status.st_size - start), start)
        end = data.rfind(b"\n") + 1
        return Waiting(data[:end].split(b"\n")[:-1], start + end)

    def close(self) -> None:
        """Let go of the journal."""
        os.close(self._handle)


def opened(folder: Path) -> Iterator[Opened]:
    """Every journal of the folder, one after another."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            journal = Opened(path)
        except FileNotFoundError:  # folded and removed by another process
            continue
        try:
            yield journal
        finally:
            journal.close()


@dataclass(frozen=True, slots=True)
class Result:
    """One line of a journal."""

    test_id: str
    variant: str
    number: int  # of the round of Thompson sampling; 0 in other tests
    success: int
    latency: float | None
    unit: str
    result_id: str
    metrics: dict[str, float] | None

    @property
    def numbers(self) -> dict[str, float]:
        """Everything measured, by name."""
        measured = {} if self.latency is None else {LATENCY: self.latency}
        return {**measured, **self.metrics} if self.metrics else measured


def line(
    test_id: str,
    variant: str,
    success: bool,
    *,
    latency: float | None = None,
    unit: str = "",
    metrics: Mapping[str, float] | None = None,
    number: int = 0,
    result_id: str = "",
) -> bytes:
    """One result as a line; Invalid for numbers that are none, negative latencies and control characters.

    >>> line("t", "control", True, latency=0.05)
    b't\\tcontrol\\t0\\t1\\t0.05\\t\\t\\t\\n'
    """
    if latency is not None and not 0 <= latency <= LARGEST:
        raise Invalid(f"latency is {latency}; a latency in seconds is a number of 0 or more.")
    told = "" if latency is None else repr(float(latency))
    if not (unit or result_id or metrics):
        return f"{test_id}\t{variant}\t{number}\t{1 if success else 0}\t{told}\t\t\t\n".encode()
    for name in (unit, result_id):
        if name and (not name.isprintable() or len(name) > 512):
            raise Invalid(f"{name[:40]!r} is no id of a unit or a result. Use up to 512 printable characters.")
    numbers = _checked(metrics) if metrics else ""
    text = f"{test_id}\t{variant}\t{number}\t{1 if success else 0}\t{told}\t{unit}\t{result_id}\t{numbers}\n"
    return text.encode("utf-8", "surrogatepass")


def parsed(text: bytes) -> Result:
    """The result that a line holds."""
    fields = text.decode("utf-8", "surrogatepass").split("\t", 7)
    test_id, variant, number, success, latency, unit, result_id, metrics = fields
    return Result(
        test_id,
        variant,
        int(number),
        int(success),
        float(latency) if latency else None,
        unit,
        result_id,
        json.loads(metrics) if metrics else None,
    )


def _checked(metrics: Mapping[str, float]) -> str:
    for name, value in metrics.items():
        if not name or isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise Invalid(f"The metric {name!r} is {value!r}; a metric has a name and a finite number.")
        if abs(value) > LARGEST:
            raise Invalid(f"The metric {name!r} is {value!r}; record numbers of at most {LARGEST:g}, in a larger unit.")
        if name in BUILT_IN:
            raise Invalid(f"{name!r} is what every result brings by itself. Record your number under another name.")
    return json.dumps({name: float(value) for name, value in metrics.items()})
