"""The payload log's raw segments: whole blocks of answered rows, appended by one process and read by any.

    FOLDER/serving/payloads/ENDPOINT/
        WRITER.tally        what that writer was offered, dropped and wrote, in memory that outlives it; locked while it lives
        WRITER-N.open       the segment it appends to
        WRITER-N.rows       one that it has closed
        WRITER-N.parquet    the same rows for everybody to read (`compaction`), in the order of time, which replaces the .rows
        WRITER-N.failures   the failed requests that stood in it, as JSON lines (`failures`)
        ids/WRITER-N        checksums of its request ids (`indexing`)
        losses.jsonl        what writers that ended did not write; erased.json what is to be forgotten (`erasing`)

A segment is a head and frames: a mark, the length and the checksum of a MessagePack body. A frame that is torn or
overwritten is skipped, and what follows it is found again by the mark. Each block carries how many rows its writer has
written in all, so what is missing can be counted.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

HEAD = b"modelyard rows 1\n"
_MARK = b"\xc1MYB"  # 0xc1 begins nothing in MessagePack
_FRAME = struct.Struct("<4sII")
OFFERED, DROPPED, WRITTEN, FAILED = 4, 5, 6, 7  # places in a tally; 0 is its mark, 1 the process
_TALLY = struct.Struct("<8s7Q")
_TALLY_MARK = b"MYTALLY1"


class Layout(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """What the rows of some blocks have in common: who answered, and the inputs in the model's order."""

    number: int
    arm: str
    model: str
    version: str
    task: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    share: float = 1.0  # of the answers that are kept: each row stands for 1 / share
    split: str = ""  # the salt of the routing: the experiment or deployment that the request was served under


class Block(msgspec.Struct, array_like=True, tag=1, gc=False):
    """Some answered requests of one layout, in columns. Numbers are little-endian arrays, the rest are lists."""

    layout: int
    total: int  # rows that this writer has written in all, these included
    rows: int
    ids: Sequence[Any]
    counts: bytes  # int32 rows of each request; empty where each has one
    at: bytes  # float64 seconds since 1970, a request
    micros: bytes  # float32, a request
    units: Sequence[Any] | None  # None where no request has one
    batch: Any  # an array (rows, inputs) of the type `batch_kind`, or a list of rows where some input is text
    batch_kind: str
    predictions: Any  # an array (rows,) of the type `kind`, or a list
    kind: str
    shares: Any  # an array (rows, classes) of the type `share_kind`, a list, or None where there are none
    share_kind: str


class Failure(msgspec.Struct, array_like=True, tag=2, gc=False):
    """A request that its arm failed to answer (`failures`)."""

    at: float  # seconds since 1970
    request_id: str
    unit: str | None
    arm: str
    model: str
    version: str
    micros: float
    status: int
    error: str
    pinned: bool  # a tester had chosen the arm: it counts for nothing
    rows: int
    names: tuple[str, ...]
    batch: list[list[Any]]  # the first rows; none where features are not kept
    split: str = ""
    missed: int = 0  # failures of the same writer right before this one that came too fast to be kept


_decode = msgspec.msgpack.Decoder(Layout | Block | Failure).decode


def frame(body: bytes) -> bytes:
    """A body as it stands in a segment."""
    return _FRAME.pack(_MARK, len(body), zlib.crc32(body)) + body


@dataclass(slots=True)
class Segment:
    """What could be read of one raw segment."""

    layouts: dict[int, Layout] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: int = 0  # bytes that are no whole frame

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return sum(block.rows for block in self.blocks)

    @property
    def total(self) -> int:
        """How many rows the writer had written in all when it wrote the last block; 0 without one."""
        return max((block.total for block in self.blocks), default=0)


def read(path: Path) -> Segment:
    """The segment's whole blocks; what is torn, overwritten or garbage is skipped and counted."""
    data = path.read_bytes()
    found = Segment()
    at = len(HEAD) if data.startswith(HEAD) else 0
    while at < len(data):
        body, end = _framed(data, at)
        if body is None:
            following = data.find(_MARK, at + 1)
            end = len(data) if following < 0 else following
            found.skipped += end - at
        elif isinstance(body, Layout):
            found.layouts[body.number] = body
        elif isinstance(body, Failure):
            found.failures.append(body)
        else:
            found.blocks.append(body)
        at = end
    known = [block for block in found.blocks if block.layout in found.layouts and _whole(block, found)]
    found.blocks = known
    return found


def _framed(data: bytes, at: int) -> tuple[Layout | Block | Failure | None, int]:
    """The frame that begins at a place and where it ends; (None, place) for what is none."""
    if len(data) - at < _FRAME.size:
        return None, at
    mark, length, checksum = _FRAME.unpack_from(data, at)
    start = at + _FRAME.size
    if mark != _MARK or length > len(data) - start:
        return None, at
    body = data[start : start + length]
    if zlib.crc32(body) != checksum:
        return None, at
    try:
        return _decode(body), start + length
    except msgspec.MsgspecError:
        return None, at


def _whole(block: Block, segment: Segment) -> bool:
    """Whether a block's columns are as long as it says: a right checksum on a wrong body is no reason to fail later."""
    width, requests = len(segment.layouts[block.layout].names), len(block.ids)
    fits = (
        _rows(block.batch, block.batch_kind, width) == _rows(block.predictions, block.kind, 1) == block.rows
        and len(block.at) == 8 * requests
        and len(block.micros) == 4 * requests
        and len(block.counts) in (0, 4 * requests)
        and (block.units is None or len(block.units) == requests)
    )
    rows = int(np.frombuffer(block.counts, "<i4").sum()) if block.counts else requests
    return fits and rows == block.rows and (not block.rows or len(block.shares or ()) % block.rows == 0)


def _rows(values: Any, kind: str, width: int) -> int:
    """How many rows of some width there are; -1 for what is no whole number of them."""
    if not isinstance(values, bytes):
        return len(values)
    try:
        size = np.dtype(kind).itemsize * width
    except TypeError:
        return -1
    return len(values) // size if size and len(values) % size == 0 else -1


@dataclass(frozen=True, slots=True)
class Columns:
    """The rows of one block, a row each."""

    layout: Layout
    request_id: list[str]
    row: np.ndarray
    at: np.ndarray  # float64 seconds
    unit: list[str | None]
    latency_ms: np.ndarray
    batch: np.ndarray  # (rows, inputs): float64, or object
    predictions: np.ndarray  # (rows,)
    probabilities: np.ndarray | None  # (rows, classes)


def columns(block: Block, layout: Layout) -> Columns:
    """A block's rows: what is told once a request is repeated for each of its rows."""
    requests = len(block.ids)
    counts = np.frombuffer(block.counts, "<i4") if block.counts else np.ones(requests, np.int32)
    of = np.repeat(np.arange(requests), counts)
    ids = [one if isinstance(one, str) else str(one) for one in block.ids]
    units: list[str | None]
    units = [None] * requests if block.units is None else [None if u is None else str(u) for u in block.units]
    single = not block.counts
    first = np.repeat(np.cumsum(counts) - counts, counts)
    shares = None
    if block.shares is not None:
        shares = _array(block.shares, block.share_kind).astype(np.float64).reshape(block.rows, -1)
    return Columns(
        layout=layout,
        request_id=ids if single else [ids[n] for n in of],
        row=(np.arange(block.rows) - first).astype(np.int32),
        at=np.frombuffer(block.at, "<f8")[of],
        unit=units if single else [units[n] for n in of],
        latency_ms=np.frombuffer(block.micros, "<f4")[of].astype(np.float64) / 1000,
        batch=_matrix(block, len(layout.names)),
        predictions=_array(block.predictions, block.kind),
        probabilities=shares,
    )


def taken(some: Columns, places: np.ndarray) -> Columns:
    """Some of the rows, by their places."""
    chosen = places.tolist()
    return Columns(
        layout=some.layout,
        request_id=[some.request_id[n] for n in chosen],
        row=some.row[places],
        at=some.at[places],
        unit=[some.unit[n] for n in chosen],
        latency_ms=some.latency_ms[places],
        batch=some.batch[places],
        predictions=some.predictions[places],
        probabilities=None if some.probabilities is None else some.probabilities[places],
    )


def _matrix(block: Block, width: int) -> np.ndarray:
    if isinstance(block.batch, bytes):
        return np.frombuffer(block.batch, block.batch_kind).astype(np.float64, copy=False).reshape(block.rows, width)
    found = np.empty((block.rows, width), dtype=object)
    for place, values in enumerate(block.batch):
        found[place, :] = values
    return found


def _array(values: Any, kind: str) -> np.ndarray:
    if isinstance(values, bytes):
        return np.frombuffer(values, kind)
    found = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        found[place] = value
    return found


class Tally:
    """A writer's counts in a small shared file: they are right however the writer ends."""

    def __init__(self, folder: Path, writer: str) -> None:
        self.path = folder / f"{writer}.tally"
        new = folder / f".{writer}.tally"  # has no name that anybody looks for before it is locked and whole
        self._handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(self._handle, _TALLY.pack(_TALLY_MARK, os.getpid(), *(0,) * 6))
            new.rename(self.path)
        except OSError:
            new.unlink(missing_ok=True)
            os.close(self._handle)
            raise
        self._map = mmap.mmap(self._handle, _TALLY.size)
        self.counts = memoryview(self._map).cast("Q")

    def close(self) -> None:
        """Say that the writer ended well: everything offered is written or counted, so nothing is left to tell."""
        self.counts.release()
        self._map.close()
        os.close(self._handle)


@dataclass(frozen=True, slots=True)
class Counted:
    """What a tally says: rows offered, dropped for want of room, written, and failed to be written."""

    process: int
    offered: int
    dropped: int
    written: int
    failed: int

    @property
    def waiting(self) -> int:
        """Rows offered that nothing has become of yet."""
        return max(self.offered - self.dropped - self.written - self.failed, 0)


def counted(path: Path) -> Counted | None:
    """The counts in a tally; None for a file that is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) != _TALLY.size or not data.startswith(_TALLY_MARK):
        return None
    words = _TALLY.unpack(data)[1:]
    return Counted(words[0], *(words[place - 1] for place in (OFFERED, DROPPED, WRITTEN, FAILED)))


def settled(folder: Path, within: float) -> bool:
    """Whether rows may have been on their way to the log a moment ago. They have arrived, or some seconds have passed."""
    writers = {path: one for path in folder.glob("*.tally") if (one := counted(path)) is not None}
    waiting = {path: one for path, one in writers.items() if one.waiting}
    end = time.monotonic() + within
    for path, one in waiting.items():
        while (now := counted(path)) is not None and now.offered - now.waiting < one.offered and time.monotonic() < end:
            time.sleep(0.02)
    return bool(writers)


def writer_name(slot: int) -> str:
    """A name that no other writer has, in the order of time."""
    return f"{time.time_ns():020d}-{os.getpid()}-{slot}"


class Appender:
    """Appends frames to a writer's segments; a write that fails leaves the segment as it was."""

    def __init__(self, folder: Path, writer: str) -> None:
        self._folder, self._writer = folder, writer
        self._number = 0
        self._handle = -1
        self._path = folder
        self._layouts: dict[tuple[Any, ...], int] = {}
        self.size = 0
        self.since = 0.0
        self.durable = False  # whether somebody waits for what is appended to be on the disk

    @property
    def open(self) -> bool:
        """Whether there is a segment to append to."""
        return self._handle >= 0

    def begin(self) -> None:
        """Have a segment to append to."""
        if not self.open:
            self._begin()

    def layout(self, values: tuple[Any, ...]) -> tuple[int, bytes]:
        """The number of a layout in this segment, and the frame that tells it where it is new."""
        number = self._layouts.get(values)
        if number is not None:
            return number, b""
        number = self._layouts[values] = len(self._layouts)
        return number, frame(msgspec.msgpack.encode(Layout(number, *values)))

    def append(self, pieces: Sequence[bytes]) -> None:
        """Write the pieces whole; OSError leaves the segment as it was, and closes it."""
        data = b"".join(pieces)
        try:
            _write(self._handle, data)
        except OSError:
            os.ftruncate(self._handle, self.size)
            self.end()  # what the pieces told of layouts is not in it
            raise
        self.size += len(data)

    def sync(self) -> OSError | None:
        """None once what was appended is on the disk; else why it may not be."""
        try:
            if self.open:
                os.fdatasync(self._handle)
        except OSError as error:
            return error
        return None

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / f"{self._writer}+{self._number:05d}.open"
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(handle, 0)
            _write(handle, HEAD)
            sync_folder(self._folder)
        except OSError:
            os.close(handle)
            raise
        self._handle, self.size, self.since, self._layouts = handle, len(HEAD), time.monotonic(), {}

    def end(self) -> None:
        """Close the segment: from now on it may become Parquet."""
        if not self.open:
            return
        if self.durable:
            os.fdatasync(self._handle)
        os.close(self._handle)
        self._handle = -1
        self._number += 1
        with suppress(FileNotFoundError):  # somebody removed the folder
            self._path.rename(self._path.with_suffix(".rows"))


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path, *, wait: bool = True, shared: bool = False) -> Iterator[bool]:
    """Whether this process may work in the folder now: alone, or with other readers; with `wait`, once those before have ended."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
