"""Many small Parquet segments become one. A note says what replaces what, so that whoever looks meanwhile, or after a
crash, reads each row once."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from modelyard.core import plugins
from modelyard.core.errors import Damaged
from modelyard.serving import indexing, segments
from modelyard.serving.places import write

NOTE = "merge.json"
KEY = "modelyard"  # of the text beside a segment's rows
SMALL = 4 << 20
ENOUGH = 8  # small segments of one kind before they are merged
log = logging.getLogger("modelyard.serving")


class Note(msgspec.Struct):
    """The segment that replaces others."""

    into: str
    sources: list[str]


def beside(path: Path) -> dict[str, Any]:
    """What stands beside a segment's rows; Damaged for a file that is no segment."""
    found = json.loads(plugins.load("parquet", "segment")(path).beside(KEY) or "null")
    if not isinstance(found, dict):
        raise Damaged(f"{path} is no payload segment of modelyard. Move it out of the folder.")
    return found


def valid(folder: Path) -> list[Path]:
    """The Parquet segments that hold each row once, in the order of writing."""
    found = sorted(folder.glob("*.parquet"))
    note = _note(folder)
    if note is not None and folder / note.into in found:  # not: if it is there by now
        return [path for path in found if path.name not in note.sources]
    return found


def _note(folder: Path) -> Note | None:
    try:
        return msgspec.json.decode((folder / NOTE).read_bytes(), type=Note)
    except FileNotFoundError:
        return None


def finish(folder: Path) -> None:
    """Carry a merge through that was interrupted. The caller holds the folder's lock."""
    note = _note(folder)
    if note is None:
        return
    part = (folder / note.into).with_suffix(".part")
    if part.exists():
        part.rename(folder / note.into)
    if (folder / note.into).exists():
        for name in note.sources:
            (folder / name).unlink(missing_ok=True)
    segments.sync_folder(folder)
    (folder / NOTE).unlink()


def merge(folder: Path) -> int:
    """How many small segments went into larger ones. The caller holds the folder's lock."""
    groups: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*.parquet")):
        if path.stat().st_size >= SMALL or path.with_suffix(".rows").exists():
            continue
        try:
            told = beside(path)
        except Damaged as error:
            log.warning("%s", error)
            continue
        groups.setdefault(json.dumps([told.get("features"), told.get("types")], sort_keys=True), []).append(
            (path, told)
        )
    done = 0
    for some in groups.values():
        if len(some) >= ENOUGH:
            _merge(folder, some)
            done += len(some)
    return done


def _merge(folder: Path, some: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    paths = [path for path, _ in some]
    versions = {json.dumps(one, sort_keys=True): one for _, told in some for one in told["versions"]}
    told = {**some[0][1], "versions": list(versions.values()), "from": min(one.get("from", 0) for _, one in some)}
    into = folder / f"{paths[0].stem.partition('~')[0]}~{paths[-1].stem.partition('~')[0]}.parquet"
    part = into.with_suffix(".part")
    plugins.load("parquet", "merge_segments")(paths, part, {KEY: json.dumps(told)})
    seal(part, max(path.stat().st_mtime for path in paths))
    indexing.merge(paths, into)
    write(folder / NOTE, Note(into=into.name, sources=[path.name for path in paths]))
    finish(folder)


def seal(part: Path, newest: float) -> None:
    """Have a file last, with the time of its newest row as its time of change: what a reader and retention go by."""
    os.utime(part, (newest, newest))
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
