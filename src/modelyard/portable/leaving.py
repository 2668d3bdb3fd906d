"""Export: one consistent view of a yard, written as the portable layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard import __version__
from modelyard.ab_testing.portable import fold
from modelyard.artifacts import store as artifacts
from modelyard.artifacts.rules import blob_key
from modelyard.audit import portable as audit
from modelyard.core.canonical import plain
from modelyard.core.documents import Document
from modelyard.core.errors import Damaged
from modelyard.core.events import EventType
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource
from modelyard.portable import folder as folders
from modelyard.portable import layout
from modelyard.portable.folder import Writing
from modelyard.portable.may import check_may_export
from modelyard.portable.names import file_name

if TYPE_CHECKING:
    from modelyard.yard import Yard


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A written export: where it is, the SHA-256 of its manifest, and how much of each kind it holds."""

    folder: str
    sha256: str
    counts: Mapping[str, int]


def export(yard: Yard, folder: Path, *, user: str) -> Exported:
    """Write the yard's models, tests, deployments and log into a folder that is not there yet. That it was done is an event."""
    check_may_export(yard, user)
    folder = folder.absolute()
    fold(yard.store)
    yard.audit.catch_up()
    with folders.writing(folder) as made:
        with yard.store.reading() as rows:
            counts, wanted = _documents(rows, made)
            counts["events"] = _log(rows, made)
        if counts["events"]:
            made.text(layout.PUBLIC_KEY, f"{yard.audit.keys.public()}\n")
        for path, digest in sorted(wanted.items()):
            with yard.store.blobs.open(blob_key(digest)) as source:
                made.copy(path, source, digest)
        head = {"exported_at": yard.store.clock.now(), "exported_by": user, "modelyard": __version__, "counts": counts}
        sha256 = folders.finish(made, head)
        with yard.store.work(user) as work:  # first the event: no export without one
            work.emit(EventType.YARD_EXPORTED, Resource("yard", folder.name), {"manifest": sha256, "counts": counts})
    return Exported(folder=str(folder), sha256=sha256, counts=counts)


def _documents(rows: Connection, made: Writing) -> tuple[dict[str, int], dict[str, str]]:
    """How many documents of each kind were written, and path -> SHA-256 of the files that belong to them."""
    counts: dict[str, int] = {}
    wanted: dict[str, str] = {}
    for section in layout.SECTIONS:
        counts[section.kind.name] = 0
        for document in section.kind.every(rows):
            if section is layout.VERSIONS:
                document[layout.ARTIFACT] = artifact = _artifact(rows, document["version"])
                if artifact is not None:
                    wanted |= layout.artifact_files(document["version"], artifact)
            made.document(section.path(document), document)
            counts[section.kind.name] += 1
    return counts, wanted


def _artifact(rows: Connection, version: Document) -> dict[str, Any] | None:
    """What the artifact store knows of a version's bytes; None where they lie elsewhere."""
    digest = version["digest"]
    if not digest:
        return None
    row = artifacts.row_of(rows, digest)
    if row is None:
        raise Damaged(
            f"The artifact {digest} of {version['name']} {version['version']} is gone: modelyard artifacts verify"
        )
    found: dict[str, Any] = plain(artifacts.artifact_of(row, artifacts.members(rows, digest)))
    return {**found, "kind": row["kind"]}


def _log(rows: Connection, made: Writing) -> int:
    """Write the log's events by day, its reports and its newest checkpoint; returns how many events there were."""
    count, days = 0, set()
    for day, line in audit.lines(rows):
        path = f"{layout.EVENTS}{day}/{layout.EVENTS_FILE}"
        made.line(path, line)
        days.add(path)
        count += 1
    for path in days:
        made.measured(path)
    for event_id, report in audit.reports(rows):
        made.document(f"{layout.REPORTS}{file_name(event_id)}.json", report)
    note = audit.newest_note(rows)
    if note is not None:
        made.text(f"{layout.CHECKPOINTS}{note[0]:012d}.txt", note[1])
    return count
