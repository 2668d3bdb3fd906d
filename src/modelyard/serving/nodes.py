"""What serving processes on other nodes and the yard tell each other, and how a model's bytes travel between them.

A node has none of the yard's folders. Each of its processes keeps a small folder of its own, of the same shape, which is
filled from a `Snapshot` and emptied by `Report`s. All that is told is cumulative or has its place in a file, so a message
that is lost, repeated or answered by another yard's process changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from modelyard.core.errors import Damaged
from modelyard.core.traffic import GuardTrip
from modelyard.serving.counter_file import EVER_FAILED
from modelyard.serving.counters import Counters
from modelyard.serving.places import Published, SlotReport
from modelyard.serving.values import Installed

MOST_MARKS = 65_536

Sparse = tuple[bytes, bytes]  # the places (int32) and the values (int64) that are not zero
MetricRow = tuple[str, str, int, list[int]]  # endpoint, arm, code, and the row of serving.metrics


class Link(Protocol):
    """A node's way to the yard. Calls may fail with OSError or a YardError and are then tried again."""

    @property
    def node(self) -> str:
        """The node's name."""
        ...

    @property
    def yard(self) -> str:
        """The yard's name."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the cluster has lost the node, so that nobody sends requests to its processes any more."""
        ...

    def turn(self, uid: str, report: bytes) -> Awaitable[bytes | None]:
        """Hand in a process's report; the newest reply to it, None while there is none."""
        ...

    def fetch(self, digest: str) -> Awaitable[bytes]:
        """A packed model by its digest, or a snapshot by its name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An installed version, and the digests under which its file and its compiled form travel; "" for what stays.

    `uses` are the models that a Python service is given, in its own order.
    """

    installed: Installed
    digest: str = ""
    compiled: str = ""
    uses: tuple[Model, ...] = ()

    @property
    def digests(self) -> set[str]:
        """Everything of it that travels."""
        return {self.digest, self.compiled, *(one for used in self.uses for one in used.digests)} - {""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the processes of every node are to carry out."""

    models: tuple[Model, ...] = ()
    published: tuple[Published, ...] = ()
    trips: tuple[GuardTrip, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """One slot's counts of one generation of an endpoint."""

    endpoint: str
    generation: int
    words: Sparse


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The units whose bad events have been counted in a generation, so that each counts once on all nodes together."""

    endpoint: str
    generation: int
    places: bytes  # int32
    bits: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of a payload segment from a place on, and whether the segment is closed with them."""

    endpoint: str
    name: str  # of the segment, without its ending
    start: int
    data: bytes
    closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a process has done so far: cumulative, but for the pieces of its log that the yard has not confirmed yet."""

    number: int
    said: SlotReport
    ended: bool = False  # by another process, of one that is dead
    counts: tuple[Counts, ...] = ()
    metrics: tuple[MetricRow, ...] = ()
    marks: tuple[Marks, ...] = ()
    trips: tuple[GuardTrip, ...] = ()
    pieces: tuple[Piece, ...] = ()
    losses: Mapping[str, bytes] = field(default_factory=dict)  # endpoint -> lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The yard's answer: the report it has taken last, how far each segment is there, and what all others counted."""

    number: int
    snapshot: str  # the name of the newest one
    held: Mapping[str, int] = field(default_factory=dict)  # "endpoint/segment" -> bytes
    closed: tuple[str, ...] = ()  # those segments that are whole there
    rest: tuple[Counts, ...] = ()
    rest_metrics: tuple[MetricRow, ...] = ()
    marks: tuple[Marks, ...] = ()


def encode(value: Any) -> bytes:
    """The value as MessagePack."""
    return msgspec.msgpack.encode(value)


def decode(data: bytes, kind: Any) -> Any:
    """A value of a kind; Damaged for other bytes (of another version of modelyard, say)."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise Damaged(
            f"A node and the yard do not understand each other: {error}. Install one version on all."
        ) from error


def sparse(words: np.ndarray) -> Sparse:
    """The words that are not zero."""
    flat = words.flatten()  # a copy: numpy gives up where others count on meanwhile
    places = np.flatnonzero(flat).astype(np.int32)
    return places.tobytes(), flat[places].astype(np.int64).tobytes()


def dense(words: Sparse, like: np.ndarray) -> np.ndarray:
    """The words in an array of the shape of another."""
    found = np.zeros(like.size, np.int64)
    found[np.frombuffer(words[0], np.int32)] = np.frombuffer(words[1], np.int64)
    return found.reshape(like.shape)


def marks_of(endpoint: str, generation: int, counters: Counters) -> Marks | None:
    """The marks of a generation; None where there are none, or too many to tell: by then every guard has decided.

    Where units are many, only what counts once in a rollout is told; each node counts them as units of its own then.
    """
    marks = counters.marks.copy()  # numpy gives up where others set marks meanwhile
    places = np.flatnonzero(marks)
    if len(places) > MOST_MARKS:
        marks &= np.uint8(EVER_FAILED)
        places = np.flatnonzero(marks)
    if not 0 < len(places) <= MOST_MARKS:
        return None
    told = places.astype(np.int32).tobytes()
    return Marks(endpoint=endpoint, generation=generation, places=told, bits=marks[places].tobytes())


def set_marks(marks: Marks, counters: Counters) -> None:
    """Add what another has marked."""
    counters.marks[np.frombuffer(marks.places, np.int32)] |= np.frombuffer(marks.bits, np.uint8)


def pack(path: Path) -> bytes:
    """A file or folder as a tar that is the same for the same content, wherever and whenever it is packed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if not file.is_file():
                continue
            entry = tarfile.TarInfo(
                (Path(path.name) / file.relative_to(path)).as_posix() if path.is_dir() else path.name
            )
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as stream:
                archive.addfile(entry, stream)
    return buffer.getvalue()


def digest_of(packed: bytes) -> str:
    """What names a packed model."""
    return hashlib.sha256(packed).hexdigest()


def unpack(packed: bytes, digest: str, folder: Path) -> Path:
    """The model's file or folder under `folder`/DIGEST, whole or not at all; Damaged for bytes of another digest."""
    if digest_of(packed) != digest:
        raise Damaged(f"The model {digest[:16]} arrived as other bytes. It is asked for again.")
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder, prefix=".part-"))
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(part, filter="data")
        os.rename(part, folder / digest)
    except OSError:
        if not (folder / digest).is_dir():  # another process of the node was quicker otherwise
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return unpacked(digest, folder)


def unpacked(digest: str, folder: Path) -> Path:
    """Where the model is that `unpack` put there; FileNotFoundError if it did not."""
    return next(iter((folder / digest).iterdir()))
