"""What the payload log has been told to forget: the rows of a request, or of a unit (a person, say), up to a moment.

Parquet segments are written anew without them at once. A raw segment that a living process appends to cannot be: its rows
are passed over by every reader, and are left out when it becomes Parquet, some minutes later. `erased.json` says which they
are by a salted hash, so that it holds nothing of anybody.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from modelyard.core import plugins
from modelyard.serving import failures, merging, segments
from modelyard.serving.places import write

NOTE = "erased.json"
KEPT_MICROS = 7 * 86_400_000_000  # a raw segment may wait so long for room on the disk, or for a node to come back
Column = Literal["request_id", "unit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """The rows whose column has this hash, answered up to a moment; `done` once no Parquet segment has any."""

    column: Column
    salt: str
    digest: str
    until: int  # microseconds since 1970
    done: bool = False

    def of(self, value: str | None) -> bool:
        """Whether it is about this value."""
        return value is not None and hashed(self.salt, value) == self.digest


@dataclass(frozen=True, slots=True)
class Erased:
    """Everything that a folder's log is to forget."""

    entries: tuple[Erasure, ...] = ()

    def of(self, request_ids: Sequence[str], units: Sequence[str | None], at: np.ndarray) -> np.ndarray:
        """Which of some rows are to be forgotten; `at` in microseconds."""
        found = np.zeros(len(at), dtype=bool)
        for entry in self.entries:
            values = request_ids if entry.column == "request_id" else units
            meant = {value for value in set(values) if entry.of(value)}
            if meant:
                found |= np.array([value in meant for value in values], dtype=bool) & (at <= entry.until)
        return found


def hashed(salt: str, value: str) -> str:
    """What stands for a value, here and in DuckDB's `sha256`."""
    return hashlib.sha256((salt + value).encode("utf-8", "replace")).hexdigest()


def read(folder: Path) -> Erased:
    """What the folder's log is to forget."""
    try:
        return Erased(tuple(msgspec.json.decode((folder / NOTE).read_bytes(), type=list[Erasure])))
    except FileNotFoundError:
        return Erased()


def note(folder: Path, column: Column, value: str, until: int) -> None:
    """Have rows forgotten from now on. The caller holds the folder's lock."""
    salt = secrets.token_hex(16)
    entry = Erasure(column=column, salt=salt, digest=hashed(salt, value), until=until)
    write(folder / NOTE, [*read(folder).entries, entry])


def finish(folder: Path, *, now: int) -> None:
    """Write Parquet segments anew without what is to be forgotten. The caller holds the folder's lock."""
    known = read(folder).entries
    left = [replace(entry, done=True) for entry in known if entry.until > now - KEPT_MICROS]
    waiting = [entry for entry in known if not entry.done]
    for path in sorted(folder.glob("*.parquet")) if waiting else ():
        _without(path, waiting)
    if waiting:
        failures.forget(folder, Erased(tuple(waiting)).of)
    if list(known) != left:
        write(folder / NOTE, left)
        segments.sync_folder(folder)


def _without(path: Path, waiting: Sequence[Erasure]) -> None:
    segment = plugins.load("parquet", "segment")(path)
    for entry in waiting:
        told = {"column": entry.column, "salt": entry.salt, "digest": entry.digest, "until": entry.until}
        if not segment.count_hashed(**told):
            continue
        part = path.with_suffix(".part")
        if segment.write_without(part, key=merging.KEY, **told):
            merging.seal(part, path.stat().st_mtime)
            part.replace(path)
        else:
            path.unlink()
            return
