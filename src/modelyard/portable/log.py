"""The log of an exported yard as it is read again: checked as a whole, then told in order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from modelyard.audit import portable as audit
from modelyard.audit.notes import Checkpoint
from modelyard.audit.portable import Told
from modelyard.core.documents import Document
from modelyard.core.errors import Damaged
from modelyard.core.instants import from_micros
from modelyard.portable import layout
from modelyard.portable.folder import Reading

CHUNK = 500  # events at once
_DAY = re.compile(r"audit_logs/events/(\d{4}/\d\d/\d\d)/(events|expired|sealed)\.jsonl", re.ASCII)
_NOTE = re.compile(r"audit_logs/checkpoints/\d{12,}\.txt", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Where every event lies: (position, path, offset) in the log's order, what stands beside some, and what was signed."""

    folder: Reading
    places: tuple[tuple[int, str, int], ...]
    leaf_hashes: Mapping[str, str]
    sealed: Mapping[str, Document]
    signed: Checkpoint | None
    note: str

    def told(self) -> Iterator[list[Told]]:
        """The events in order, some at a time."""
        for start in range(0, len(self.places), CHUNK):
            some = []
            for path, of_path in groupby(self.places[start : start + CHUNK], key=itemgetter(1)):
                with (self.folder.root / path).open("rb") as file:
                    for _, _, offset in of_path:
                        file.seek(offset)
                        some.append(audit.told(file.readline().rstrip(b"\n"), self.leaf_hashes))
            yield some


def log_of(folder: Reading) -> Log:
    """The log of an export, once each line is known to be an event of its file's day, and the checkpoint to sign them all."""
    expired = {one["event_id"]: one["leaf_hash"] for one in _beside(folder, layout.EXPIRED_FILE, "leaf_hash")}
    sealed = {one["event_id"]: one for one in _beside(folder, layout.SEALED_FILE, "key", "body")}
    places: list[tuple[int, str, int]] = []
    leaves: list[tuple[int, bytes]] = []
    for path, day in _files(folder, layout.EVENTS_FILE):
        for offset, line in _lines(folder, path):
            one = audit.told(line, expired)
            if from_micros(one.row["occurred_at"]).strftime("%Y/%m/%d") != day:
                raise Damaged(f"The event {one.row['event_id']!r:.80} in {path} is of another day.")
            places.append((one.row["position"], path, offset))
            if one.index is not None:
                leaves.append((one.index, one.hash))
    places.sort()
    if len({position for position, *_ in places}) < len(places):
        raise Damaged(f"{folder.root / layout.EVENTS} has two events in one position.")
    signed, note = _signed(folder, sorted(leaves))
    return Log(folder=folder, places=tuple(places), leaf_hashes=expired, sealed=sealed, signed=signed, note=note)


def _signed(folder: Reading, leaves: list[tuple[int, bytes]]) -> tuple[Checkpoint | None, str]:
    notes = folder.paths(layout.CHECKPOINTS)
    if not notes and not leaves:
        return None, ""
    if len(notes) != 2 or not _NOTE.fullmatch(notes[0]) or notes[1] != layout.PUBLIC_KEY:
        raise Damaged(f"{folder.root / layout.CHECKPOINTS} must hold one checkpoint and the public key.")
    note = folder.text(notes[0])
    return audit.check_log(leaves, note, folder.text(layout.PUBLIC_KEY)), note


def _files(folder: Reading, name: str) -> Iterator[tuple[str, str]]:
    """(path, day) of the files of one name."""
    for path in folder.paths(layout.EVENTS):
        day = _DAY.fullmatch(path)
        if day is None:
            raise Damaged(f"{path} is no file of events. They lie in {layout.EVENTS}YYYY/MM/DD/{layout.EVENTS_FILE}.")
        if path.endswith(f"/{name}"):
            yield path, day[1]


def _beside(folder: Reading, name: str, *texts: str) -> Iterator[Document]:
    """What stands beside events in files of one name: objects with an event's id and some other texts."""
    for path, _ in _files(folder, name):
        for _, line in _lines(folder, path):
            try:
                one = json.loads(line)
                shaped = all(isinstance(one[text], str) for text in ("event_id", *texts))
            except (ValueError, KeyError, TypeError) as error:
                raise Damaged(f"A line of {path} cannot be read: {error!r:.200}") from error
            if not shaped:
                raise Damaged(f"A line of {path} has not the texts event_id, {', '.join(texts)}.")
            yield one


def _lines(folder: Reading, path: str) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with (folder.root / path).open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                raise Damaged(f"{path} ends in the middle of a line.")
            yield offset, line[:-1]
            offset += len(line)
