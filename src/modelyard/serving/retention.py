"""What the payload log lets go of, by age and size; of what is gone it remembers a hash of each request id, so that an
outcome that comes too late is told from one that belongs to nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from modelyard.core import plugins
from modelyard.serving import failures

GONE_BYTES = 64 << 20  # eight million requests
DAY_S = 86_400.0


def drop_old(folder: Path, *, now: float, days: float, mib: float) -> int:
    """How many segments went: those whose newest row is older than so many days, and the oldest beyond so many MiB. 0 keeps all.

    The caller holds the folder's lock. A segment's time of change is that of its newest row.
    """
    found = sorted((path.stat().st_mtime, path) for path in folder.glob("*.parquet"))
    room = mib * 2**20 if mib else float("inf")
    until = now - days * DAY_S if days else 0.0
    kept = 0.0
    dropped = []
    for at, path in reversed(found):
        kept += path.stat().st_size
        if at < until or kept > room:
            dropped.append(path)
    for path in dropped:
        _remember(path)
        path.unlink()
    failures.drop_old(folder, until=until)
    _forget(folder)
    return len(dropped)


def _remember(path: Path) -> None:
    ids = plugins.load("parquet", "segment")(path).request_ids()
    hashes = np.unique(_hashes(ids))
    part = path.with_suffix(".part")
    part.write_bytes(hashes.tobytes())
    os.replace(part, path.with_suffix(".gone"))


def _forget(folder: Path) -> None:
    size = 0
    for path in sorted(folder.glob("*.gone"), reverse=True):
        size += path.stat().st_size
        if size > GONE_BYTES:
            path.unlink()


def gone(folder: Path, ids: set[str]) -> set[str]:
    """Those of the request ids whose predictions the log has let go of."""
    if not ids or not folder.is_dir():
        return set()
    names = sorted(ids)
    hashes = _hashes(names)
    seen = np.zeros(len(names), dtype=bool)
    for path in folder.glob("*.gone"):
        known = np.frombuffer(path.read_bytes(), "<u8")
        if len(known):
            places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            seen |= known[places] == hashes
    return {name for name, there in zip(names, seen.tolist(), strict=True) if there}


def _hashes(ids: Iterable[str]) -> np.ndarray:
    data = b"".join(hashlib.blake2b(one.encode("utf-8", "replace"), digest_size=8).digest() for one in ids)
    return np.frombuffer(data, "<u8")
