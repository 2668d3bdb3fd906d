"""Import: a folder of the portable layout becomes part of a yard, whole or not at all.

An import trusts the exporter: stages, approvals and what happened come along as that yard tells them. Bytes are not
taken on trust: every artifact passes the admission of the yard that it comes into.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.audit import portable as audit
from modelyard.core.documents import Document
from modelyard.core.errors import Conflict, Damaged
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource
from modelyard.core.work import Work, hush, last_position
from modelyard.portable import folder as folders
from modelyard.portable import layout
from modelyard.portable.folder import Reading
from modelyard.portable.layout import Section
from modelyard.portable.log import Log, log_of
from modelyard.portable.may import check_may_import

if TYPE_CHECKING:
    from modelyard.yard import Yard

SHOWN = 10  # of several conflicts


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import brought in: how much of each kind was new. `sha256` is the manifest's, `log` the exporter's log."""

    folder: str
    sha256: str
    log: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Piece:
    """One document, its section, and the path it was read from."""

    section: Section
    document: Document
    path: str

    @property
    def own(self) -> Document:
        """What the section's area knows of."""
        return {key: value for key, value in self.document.items() if key != layout.ARTIFACT}


def import_(yard: Yard, folder: Path, *, user: str) -> Imported:
    """Take in what the folder has and the yard has not. The same again changes nothing; what differs is a Conflict."""
    check_may_import(yard, user)
    found = folders.reading(folder.absolute())
    pieces, log = _pieces(found), log_of(found)
    with yard.store.reading() as rows:
        fresh = _fresh(rows, pieces)
        new = sum(len(audit.unknown(rows, some)) for some in log.told())
    if fresh or new:
        with yard.store.quietly():
            _admit(yard, found, fresh, user)
        with yard.store.work(user) as work:
            fresh = _fresh(work.rows, pieces)
            new = _take_in_events(work, log)
            for piece in fresh:
                piece.section.kind.write(work, piece.own)
            _check_written(work.rows, fresh)
            _tell(work, found, log, _counts(fresh, new))
    return Imported(
        folder=str(found.root),
        sha256=found.sha256,
        log=log.signed.origin if log.signed else "",
        counts=_counts(fresh, new),
    )


def _pieces(found: Reading) -> list[_Piece]:
    """Every document at the place that it belongs to, in the order to write them; nothing else may be there."""
    known: set[str] = set()
    pieces = []
    for section in layout.SECTIONS:
        for path in [path for path in found.paths("") if re.fullmatch(section.pattern, path)]:
            document = found.document(path)
            try:
                right = section.path(document)
                files = _files(document) if section is layout.VERSIONS else {}
            except (KeyError, TypeError, AttributeError) as error:
                raise Damaged(f"{path} is no document of {section.kind.name}: {error!r:.200}") from error
            if right != path:
                raise Damaged(f"{path} holds the document that belongs to {right}.")
            _check_files(found, path, files)
            known |= {path, *files}
            pieces.append(_Piece(section, document, path))
    strange = [path for path in found.paths("") if path not in known and not path.startswith("audit_logs/")]
    if strange:
        raise Damaged(f"{found.root} has files that belong to no document: {', '.join(strange[:5])}.")
    return pieces


def _files(document: Document) -> dict[str, str]:
    artifact = document[layout.ARTIFACT]
    if (artifact is None) != (document["version"]["digest"] == ""):
        raise KeyError(layout.ARTIFACT)
    if artifact is None:
        return {}
    if artifact["digest"] != document["version"]["digest"]:
        raise KeyError("digest")
    return layout.artifact_files(document["version"], artifact)


def _check_files(found: Reading, path: str, files: Mapping[str, str]) -> None:
    for name, digest in files.items():
        kept = found.manifest["files"].get(name)
        if kept is None or kept["sha256"] != digest:
            raise Damaged(f"{path} names the file {name}, which is missing or has other bytes.")


def _fresh(rows: Connection, pieces: list[_Piece]) -> list[_Piece]:
    """The documents of what is not here yet; Conflict, naming all, if something is here and differs or stands in the way."""
    fresh, conflicts = [], []
    for piece in pieces:
        kind = piece.section.kind
        try:
            standing = kind.standing(rows, piece.own)
            if standing is None:
                kind.check(rows, piece.own)
                fresh.append(piece)
            elif standing != piece.own:
                conflicts.append(f"{piece.path} is here already and differs in {_difference(standing, piece.own)}")
        except Conflict as error:
            conflicts.append(str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Damaged(f"{piece.path} is no document of {kind.name}: {error!r:.200}") from error
    if conflicts:
        more = f" (and {len(conflicts) - SHOWN} more)" if len(conflicts) > SHOWN else ""
        raise Conflict(
            f"Nothing was imported: {'; '.join(conflicts[:SHOWN])}{more}. Import into a yard without them, or remove them."
        )
    return fresh


def _difference(one: Any, other: Any) -> str:
    """Where two documents first differ, as a dotted path."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key):
                below = _difference(one.get(key), other.get(key))
                return f"{key}.{below}" if below else str(key)
    return ""


def _admit(yard: Yard, found: Reading, fresh: list[_Piece], user: str) -> None:
    """Inspect and store the bytes of new versions. What this yard refuses, or finds to be other bytes, ends the import."""
    for piece in fresh:
        artifact = piece.document.get(layout.ARTIFACT)
        if artifact is None:
            continue
        place = found.root / layout.artifact_place(piece.document["version"], artifact)
        if artifact["admission"] == "quarantined":
            admitted = yard.artifacts.quarantine(place, user)
        else:
            admitted = yard.artifacts.admit(place, by=user)
        if admitted.digest != artifact["digest"]:
            raise Damaged(f"{place} is not the artifact {artifact['digest']} that its document names.")


def _take_in_events(work: Work, log: Log) -> int:
    """Write the exporter's events behind our own; nobody acts on these."""
    before, count = last_position(work.rows), 0
    for some in log.told():
        fresh = audit.unknown(work.rows, some)
        if fresh:
            audit.take_in(work, fresh, log.sealed)
            count += len(fresh)
    hush(work.rows, before)
    return count


def _check_written(rows: Connection, fresh: list[_Piece]) -> None:
    """Whatever was written reads as it was brought, or nothing is imported."""
    for piece in fresh:
        try:
            standing = piece.section.kind.standing(rows, piece.own)
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{piece.path} holds a value that cannot be read again: {error!r:.200}") from error
        if standing != piece.own:
            where = _difference(standing, piece.own)
            raise Damaged(f"{piece.path} contradicts itself or another document in {where}.")


def _tell(work: Work, found: Reading, log: Log, counts: Mapping[str, int]) -> None:
    told = {
        "manifest": found.sha256,
        "exported_at": found.manifest.get("exported_at"),
        "exported_by": found.manifest.get("exported_by"),
        "counts": counts,
        "log": log.signed.origin if log.signed else "",
        "checkpoint": log.note,  # binds the exporter's log to this one
        "public_key": found.text(layout.PUBLIC_KEY).strip() if log.signed else "",
    }
    resource = Resource("yard", found.root.name)
    work.emit(EventType.YARD_IMPORTED, resource, told, severity=EventSeverity.WARNING)


def _counts(fresh: list[_Piece], events: int) -> dict[str, int]:
    counts = {section.kind.name: 0 for section in layout.SECTIONS}
    for piece in fresh:
        counts[piece.section.kind.name] += 1
    return {**counts, "events": events}
