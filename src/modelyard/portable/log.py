"""The log of an exported yard as it is read again: checked as a whole, then told in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from modelyard.audit import portable as audit
from modelyard.audit.notes import Checkpoint
from modelyard.audit.portable import Told
from modelyard.core.errors import Damaged
from modelyard.core.instants import from_micros
from modelyard.portable import layout
from modelyard.portable.folder import Reading

CHUNK = 500  # events at once
_DAY = re.compile(r"audit_logs/events/(\d{4}/\d\d/\d\d)/events\.jsonl\Z", re.ASCII)
_NOTE = re.compile(r"audit_logs/checkpoints/\d{12,}\.txt\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Where every event lies: (position, path, offset) in the log's order, and what its checkpoint says."""

    folder: Reading
    places: tuple[tuple[int, str, int], ...]
    signed: Checkpoint | None
    note: str

    def told(self) -> Iterator[list[Told]]:
        """The events in order, some at a time."""
        for start in range(0, len(self.places), CHUNK):
            some = []
            for _, path, offset in self.places[start : start + CHUNK]:
                with (self.folder.root / path).open("rb") as file:
                    file.seek(offset)
                    some.append(audit.told(file.readline().rstrip(b"\n")))
            yield some


def log_of(folder: Reading) -> Log:
    """The log of an export, once every line is known to be an event of the day of its file, and the checkpoint to sign them all."""
    places: list[tuple[int, str, int]] = []
    leaves: list[tuple[int, bytes]] = []
    for path in folder.paths(layout.EVENTS):
        day = _DAY.match(path)
        if day is None:
            raise Damaged(f"{path} is no file of events. They lie in {layout.EVENTS}YYYY/MM/DD/{layout.EVENTS_FILE}.")
        for offset, line in _lines(folder, path):
            one = audit.told(line)
            if from_micros(one.row["occurred_at"]).strftime("%Y/%m/%d") != day[1]:
                raise Damaged(f"The event {one.row['event_id']!r:.80} in {path} is of another day.")
            places.append((one.row["position"], path, offset))
            if one.index is not None and one.hash is not None:
                leaves.append((one.index, one.hash))
    places.sort()
    if len({position for position, *_ in places}) < len(places):
        raise Damaged(f"{folder.root / layout.EVENTS} has two events in one position.")
    leaves.sort()
    notes = folder.paths(layout.CHECKPOINTS)
    if not notes and not leaves:
        return Log(folder=folder, places=tuple(places), signed=None, note="")
    if len(notes) != 2 or not _NOTE.match(notes[0]) or notes[1] != layout.PUBLIC_KEY:
        raise Damaged(f"{folder.root / layout.CHECKPOINTS} must hold one checkpoint and the public key.")
    note = folder.text(notes[0])
    signed = audit.check_log(leaves, note, folder.text(layout.PUBLIC_KEY))
    return Log(folder=folder, places=tuple(places), signed=signed, note=note)


def _lines(folder: Reading, path: str) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with (folder.root / path).open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                raise Damaged(f"{path} ends in the middle of a line.")
            yield offset, line[:-1]
            offset += len(line)
