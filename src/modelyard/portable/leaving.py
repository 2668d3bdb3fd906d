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
from modelyard.core.canonical import dumps, plain
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
            counts["events"] = _log(rows, made, _public_key(yard))
        for path, digest in sorted(wanted.items()):
            with yard.store.blobs.open(blob_key(digest)) as source:
                made.copy(path, source, digest)
        head = {"exported_at": yard.store.clock.now(), "exported_by": user, "modelyard": __version__, "counts": counts}
        sha256 = folders.finish(made, head)
        with yard.store.work(user) as work:  # first the event: no export without one
            work.emit(EventType.YARD_EXPORTED, Resource("yard", folder.name), {"manifest": sha256, "counts": counts})
    return Exported(folder=str(folder), sha256=sha256, counts=counts)


def _public_key(yard: Yard) -> str:
    """The log's public key with the statements that lead to it from older ones; "" for a log that never signed."""
    file = yard.audit.keys.public_file
    return file.read_text() if file.exists() else ""


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


def _log(rows: Connection, made: Writing, public_key: str) -> int:
    """Write the log's events by day, its reports and its newest checkpoint; returns how many events there were."""
    count, written, leaves = 0, set(), []
    for line in audit.lines(rows):
        day = f"{layout.EVENTS}{line.day}/"
        beside = ((layout.EXPIRED_FILE, line.expired), (layout.SEALED_FILE, line.sealed))
        for name, data in (
            (layout.EVENTS_FILE, line.data),
            *((name, dumps(one).encode()) for name, one in beside if one),
        ):
            made.line(day + name, data)
            written.add(day + name)
        if line.index is not None:
            leaves.append((line.index, line.hash))
        count += 1
    for path in written:
        made.measured(path)
    for event_id, report in audit.reports(rows):
        made.document(f"{layout.REPORTS}{file_name(event_id)}.json", report)
    note = audit.newest_note(rows)
    if note is not None:
        audit.check_log(leaves, note[1], public_key)  # what cannot be imported must not be exported
        made.text(f"{layout.CHECKPOINTS}{note[0]:012d}.txt", note[1])
        made.text(layout.PUBLIC_KEY, public_key)
    return count
