"""Journals: each recorded result is appended to a file at once and later folded into the database, exactly once.

One call's results are one line, written by one write(2) whose last byte ends it: what was acknowledged survives the death
of the process, and of a call that was cut short nothing counts. (A power cut is survived once the fold has committed.) A
journal belongs to one process, which holds a lock on it; a journal that nobody holds is folded to its end and removed. The
database remembers how far each has been folded, in the transaction that adds the counts.

A line holds records, each of one result or of several that are told alike: their latencies, units, ids and numbers follow one
another, column by column. Of units and ids there are keys only.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import weakref
from array import array
from binascii import hexlify
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from operator import index
from pathlib import Path
from typing import Any

from modelyard.ab_testing.metrics import BUILT_IN, LATENCY
from modelyard.core.errors import Invalid, Unavailable
from modelyard.core.ids import new_id

SUFFIX = ".journal"
BETWEEN = b"\x1e"  # records of one line: no id has it, since ids are printable
INNER = "\x1f"  # between the names and numbers of a record
ALONE = b"\t\t\t"  # how the record of results ends that have no unit, no id and no numbers of their own
LARGEST = 1e50  # its powers are still floats when variances of ratios are computed
LONGEST = 512  # characters of an id
_PACKED = struct.Struct("<d").pack


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
        self.size = 0
        self.release = weakref.finalize(self, os.close, self._handle)

    def append(self, line: bytes) -> bool:
        """Add a whole line with one write; False, and nothing is added, where somebody else has cut the file."""
        try:
            written = os.write(self._handle, line)
        except OSError as error:
            raise Unavailable(
                f"{self.path} cannot be written: {error.strerror}. The result was not recorded."
            ) from error
        if written != len(line):
            os.ftruncate(self._handle, self.size)
            raise Unavailable(f"The disk that holds {self.path} is full. The result was not recorded. Free some space.")
        self.size += written
        end = os.lseek(self._handle, 0, os.SEEK_CUR)
        if end != self.size:
            os.ftruncate(self._handle, max(0, end - written))
            return False
        return True


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whole lines of a journal that the database does not know yet, and where they end."""

    lines: bytes
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
            return Waiting(b"", start)
        data = os.pread(self._handle, max(0, status.st_size - start), start)
        end = data.rfind(b"\n") + 1
        return Waiting(data[:end], start + end)

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
    """One result that was told with an id. Units and ids are keys of them, as `key` makes them; "" for no unit."""

    test_id: str
    variant: str
    number: int  # of the round of Thompson sampling; 0 in other tests
    success: int
    unit: str
    result_id: str
    told: Mapping[str, float]  # everything measured, by name

    @property
    def latency(self) -> float | None:
        """The latency, where it was told."""
        return self.told.get(LATENCY)

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers beside it."""
        return {name: value for name, value in self.told.items() if name != LATENCY}


def key(test_id: str, name: Any) -> str:
    """What stands for a unit or a result in a test: the first 128 bits of SHA-256 of `test_id:name`, in hexadecimal digits.

    The first half is where the unit stands in the test (`assignment.place`). Invalid for what is no id.

    >>> key("t", "user7")
    '923e544754c210bf548b63bf031b4663'
    """
    if type(name) is not str:
        name = _as_text(name)
    check_id(name)
    return sha256(f"{test_id}:{name}".encode()).hexdigest()[:32]


def keys(test_id: str, names: Sequence[Any]) -> list[str]:
    """The keys of units or results, as `key` makes them one by one, but quicker."""
    if not all(type(name) is str for name in names):
        return [key(test_id, name) for name in names]
    lengths = [len(name) for name in names]
    if names and (min(lengths) == 0 or max(lengths) > LONGEST or not "".join(names).isprintable()):
        return [key(test_id, name) for name in names]  # refuses the one that is none
    begin = f"{test_id}:".encode()
    return [sha256(begin + name.encode()).hexdigest()[:32] for name in names]


def record(
    test_id: str,
    variant: str,
    number: int,
    success: Any,
    latency: float | None = None,
    *,
    unit: str = "",
    result_id: str = "",
    metrics: Mapping[str, float] | None = None,
) -> bytes:
    """One result as a record, its unit and its id by their keys; Invalid for numbers that are none and negative latencies.

    >>> record("t", "control", 0, True, unit="0f" * 16)
    b't\\tcontrol\\t0\\t1\\t1\\t\\t0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f\\t\\t'
    """
    begin = head(test_id, variant, number, success)
    return single(begin, latency, unit, result_id, {} if metrics is None else named(metrics))


def block(begin: bytes, latencies: Sequence[Any], units: str, ids: str, columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Results that begin alike as one record: all of them have a latency, a unit, an id and these numbers, or none has."""
    numbers = INNER.join([f"{name}{INNER}{_digits(name, values)}" for name, values in columns.items()])
    return begin + packed(latencies) + f"\t{units}\t{ids}\t{numbers}".encode()


def single(begin: bytes, latency: Any, unit: str, result_id: str, numbers: Mapping[str, Any]) -> bytes:
    """One result as `block` would write it, but quicker."""
    told = [
        f"{name}{INNER}{_PACKED(value).hex()}"
        if type(value) is float and -LARGEST <= value <= LARGEST
        else f"{name}{INNER}{_digits(name, (value,))}"
        for name, value in numbers.items()
    ]
    latencies = b"" if latency is None else packed((latency,))
    return begin + latencies + f"\t{unit}\t{result_id}\t{INNER.join(told)}".encode()


def named(metrics: Any) -> Mapping[str, Any]:
    """Numbers by their names; Invalid for what is none, and for names that cannot be."""
    if type(metrics) is not dict and not isinstance(metrics, Mapping):
        raise Invalid(f"custom_metrics is {shown(metrics)}; give numbers by name.")
    for name in metrics:
        if not name or not isinstance(name, str) or not name.isprintable():
            raise Invalid(f"A metric is called {shown(name)}. Name it with printable characters.")
        if name in BUILT_IN:
            raise Invalid(f"{name!r} is what every result brings by itself. Record your number under another name.")
    return metrics


def head(test_id: str, variant: str, number: int, success: Any, times: int = 1) -> bytes:
    """How the record begins of results of an arm that ended alike: latencies follow, and ALONE if that is all.

    >>> head("t", "control", 0, True) + packed([0.05]) + ALONE
    b't\\tcontrol\\t0\\t1\\t1\\t9a9999999999a93f\\t\\t\\t'
    """
    return f"{test_id}\t{variant}\t{number}\t{judged(success):d}\t{times}\t".encode()


def packed(latencies: Sequence[float]) -> bytes:
    """Latencies as hexadecimal digits, sixteen each (IEEE 754, little-endian); Invalid for what is none."""
    told = [latency if type(latency) is float else _number(latency) for latency in latencies]
    for latency in told:
        if not 0 <= latency <= LARGEST:
            raise Invalid(f"latency is {shown(latency)}; a latency in seconds is a number of 0 or more.")
    return _hexadecimal(told)


def _hexadecimal(told: Sequence[float]) -> bytes:
    return hexlify(_PACKED(*told) if len(told) == 1 else struct.pack(f"<{len(told)}d", *told))


def unpacked(digits: str) -> array[float]:
    """The latencies that `packed` packed."""
    found = array("d", bytes.fromhex(digits))
    if sys.byteorder == "big":
        found.byteswap()
    return found


def parsed(text: str) -> Result:
    """The result that a record of one holds."""
    test_id, variant, number, success, _, latency, unit, result_id, metrics = text.split("\t", 8)
    told = {LATENCY: unpacked(latency)[0]} if latency else {}
    told |= {name: values[0] for name, values in columns_of(metrics).items()}
    return Result(test_id, variant, int(number), int(success), unit, result_id, told)


def columns_of(metrics: str) -> dict[str, array[float]]:
    """The numbers of a record, by name."""
    if not metrics:
        return {}
    parts = metrics.split(INNER)
    return {name: unpacked(digits) for name, digits in zip(parts[::2], parts[1::2], strict=True)}


def _as_text(name: Any) -> Any:
    """NumPy's texts as well, and what is numbered by its digits; the thing itself where it is neither."""
    if isinstance(name, str):
        return str.__str__(name)
    try:
        number = None if isinstance(name, bool) else index(name)
    except TypeError:
        return name
    return name if number is None or number.bit_length() > LONGEST else str(number)


def shown(value: Any) -> str:
    """The beginning of a value as Python writes it; of integers with thousands of digits it writes none."""
    try:
        return f"{value!r:.40}"
    except ValueError:
        return f"a {type(value).__name__} of very many digits"


def check_id(name: Any) -> None:
    """Invalid for what is no id of a unit or a result."""
    if type(name) is not str or not name.isprintable() or not 0 < len(name) <= LONGEST:
        raise Invalid(f"{shown(name)} is no id of a unit or a result. Use text of 1 to {LONGEST} printable characters.")


def judged(success: Any) -> bool:
    """Whether it was a success, NumPy's booleans and 1 and 0 included; Invalid for what says neither."""
    try:
        if not isinstance(success, str) and success in {True, False}:
            return bool(success)
    except (TypeError, ValueError, ArithmeticError):  # an array, a decimal that is no number
        pass
    raise Invalid(f"success is {shown(success)}; say True or False.")


def _digits(name: str, values: Sequence[Any]) -> str:
    """Numbers of a metric as hexadecimal digits; Invalid for what is none, and for numbers that are too large."""
    told = [value if type(value) is float else _number(value) for value in values]
    for number in told:
        if not -LARGEST <= number <= LARGEST:
            raise Invalid(f"The metric {name!r} is {number}; record finite numbers of at most {LARGEST:g}.")
    return _hexadecimal(told).decode()


def _number(value: Any) -> float:
    """NumPy's numbers and integers as well; Invalid for what is no number, and for integers beyond every float."""
    try:
        truth = isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b"
        if not truth and not isinstance(value, (str, bytes)) and not hasattr(value, "__len__"):
            return float(value)
    except (TypeError, ValueError, ArithmeticError):
        pass
    raise Invalid(f"{shown(value)} is no number that can be recorded. Latencies and metrics are numbers.")
