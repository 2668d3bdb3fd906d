"""How files come in: their bytes are stored, inspected as they lie there, and recorded, or refused and taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from modelyard.artifacts import admission, folders, intake, rules, store
from modelyard.artifacts.inspection import Inspection, Malformed
from modelyard.artifacts.kept import KeptArtifacts, artifact_at
from modelyard.core.errors import Conflict, Invalid, Unavailable
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import micros
from modelyard.core.models import Artifact
from modelyard.core.operations import operation
from modelyard.core.refs import Resource
from modelyard.core.work import Work

ATTEMPTS = 5  # how often bytes that a collector took away at the same moment are stored again
TOUCHED_EVERY = timedelta(hours=1)  # how exactly the grace period counts from the last admission


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A file or folder whose bytes are stored, but which no artifact names yet. `again` stores them once more."""

    path: Path
    kind: str
    digest: str
    files: tuple[intake.Stored, ...]
    again: Callable[[], _Source]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


class Arrivals(KeptArtifacts):
    """Lets in only what cannot run code when it is loaded; the rest may stay in quarantine."""

    @operation("POST", "/artifacts", needs="artifacts.write")
    def add(self, path: str | Path, user: str = "system") -> Artifact:
        """Admit a file or folder on behalf of a person and return it; Invalid if its content is refused.

        >>> from modelyard.artifacts import ArtifactStore
        >>> ArtifactStore(folder).add(model_file).admission
        'accepted'
        """
        return self.admit(Path(path), by=user)

    def admit(self, source: Path, *, by: str = "system") -> Artifact:
        """Inspect and store a file or a folder; Invalid if its content is refused, which is recorded.

        The same content is stored once, whatever its name.
        """
        with intake.disk_errors(f"admit {source}"):
            stored = self._stored(Path(source))
            return self._kept(stored) or self._judged(stored, by)

    @operation("POST", "/artifacts/quarantine", needs="artifacts.write")
    def quarantine(self, path: str | Path, user: str = "system") -> Artifact:
        """Keep a file that may run code when it is loaded, without ever handing it out; Invalid if it is malformed.

        >>> from modelyard.artifacts import ArtifactStore
        >>> import pickle
        >>> _ = (folder / "bad.pkl").write_bytes(pickle.dumps(print))
        >>> ArtifactStore(folder).quarantine(folder / "bad.pkl").findings
        ('it imports builtins.print, which is not on the list of harmless names',)
        """
        with intake.disk_errors(f"keep {path}"):
            stored = self._stored(Path(path))
            return self._recorded(stored, self._inspected(stored, user), user)

    def _admitted_blob(self, name: str, stored: intake.Stored, by: str) -> Artifact:
        """Inspect and record bytes that lie among the blobs, as one file of that name."""

        def again() -> _Source:
            raise Unavailable(f"The bytes of {name} vanish as they are stored. Upload them again.")

        return self._judged(
            _Source(path=Path(name), kind="file", digest=stored.digest, files=(stored,), again=again), by
        )

    def _judged(self, source: _Source, by: str) -> Artifact:
        """The artifact that the stored bytes become, if they are found harmless."""
        found = self._inspected(source, by)
        if found.unsafe:
            raise self._refused(source, found.unsafe, by)
        return self._recorded(source, found, by)

    def _stored(self, source: Path) -> _Source:
        found = intake.files_of(source)
        rules.check_paths([path for path, _ in found])
        files = tuple(intake.store(self.store.blobs, path, file) for path, file in found)
        if source.is_dir():
            digest = rules.folder_digest({file.path: file.digest for file in files})
            kind = "folder"
        else:
            kind, digest = "file", files[0].digest
        again = partial(self._stored, source)
        return _Source(path=source.absolute(), kind=kind, digest=digest, files=files, again=again)

    def _kept(self, source: _Source) -> Artifact | None:
        """The artifact as it stands, if it came lately, today's rules accepted it, and a holder keeps it from collectors:
        then there is nothing to write."""
        with self.store.reading() as rows:
            row = store.row_of(rows, source.digest)
            since = micros(self.store.clock.now() - TOUCHED_EVERY)
            if (
                row is None
                or (row["kind"], row["admission"]) != (source.kind, "accepted")
                or row["rules_version"] != admission.RULES_VERSION
                or row["touched_at"] < since
                or not store.is_held(rows, source.digest)
            ):
                return None
            return store.artifact_of(row, store.members(rows, source.digest))

    def _inspected(self, source: _Source, by: str) -> Inspection:
        """What the stored bytes are; they are inspected, not the source, which may change meanwhile."""
        with self.store.reading() as rows:
            known = store.row_of(rows, source.digest)
        if known and known["rules_version"] == admission.RULES_VERSION and known["kind"] == source.kind:
            artifact = store.artifact_of(known, {})
            return Inspection(format=artifact.format, unsafe=artifact.findings)
        try:
            found = {file.path: self._inspected_file(file) for file in source.files}
            if source.kind == "file":
                return admission.inspect_alone(found[source.files[0].path])
            sizes = {file.path: file.size for file in source.files}
            return folders.inspect_folder(found, sizes, lambda path, limit: self._start(source, path, limit))
        except Malformed as error:
            raise self._refused(source, (str(error),), by) from error

    def _inspected_file(self, file: intake.Stored) -> Inspection:
        with self.store.blobs.open(rules.blob_key(file.digest)) as stream:
            try:
                return admission.inspect(stream, file.size)
            except Malformed as error:
                raise Malformed(f"{file.path}: {error}") from error

    def _start(self, source: _Source, path: str, limit: int) -> bytes:
        file = next(file for file in source.files if file.path == path)
        with self.store.blobs.open(rules.blob_key(file.digest)) as stream:
            return stream.read(limit)

    def _recorded(self, source: _Source, found: Inspection, by: str) -> Artifact:
        """Write the artifact's rows, once it is sure in the same transaction that no collector took the bytes."""
        for _ in range(ATTEMPTS):
            with self.store.work(by) as work:
                if not any(self._is_missing(file.digest) for file in source.files):
                    return self._write(work, source, found)
            again = source.again()
            if again.digest != source.digest:
                raise Invalid(f"{source.path} changed while it was read. Try again when nothing writes to it.")
        raise Unavailable(f"The bytes of {source.path} vanish as they are stored. Stop the collection and try again.")

    def _write(self, work: Work, source: _Source, found: Inspection) -> Artifact:
        artifact = Artifact(
            digest=source.digest,
            size=source.size,
            format=found.format,
            name=source.path.name,
            members={file.path: file.digest for file in source.files} if source.kind == "folder" else {},
            admission="quarantined" if found.unsafe else "accepted",
            findings=found.unsafe,
        )
        known = store.row_of(work.rows, source.digest)
        if known is not None and known["kind"] != source.kind:
            raise Conflict(f"{source.path} has the digest of a stored {known['kind']}. It cannot be kept beside it.")
        version, now = admission.RULES_VERSION, micros(work.now)
        store.add(work.rows, artifact, kind=source.kind, rules_version=version, by=work.actor, now=now)
        for file in source.files:
            store.not_loose(work.rows, file.digest)
        if known is not None:
            store.readmit(work.rows, artifact, rules_version=version)
            return artifact_at(work.rows, source.digest)
        if source.kind == "folder":
            store.add_members(work.rows, source.digest, ((f.path, f.digest, f.size) for f in source.files))
        told = EventType.ARTIFACT_QUARANTINED if found.unsafe else EventType.ARTIFACT_STORED
        work.emit(told, Resource("artifact", source.digest), _details(artifact))
        return artifact

    def _is_missing(self, digest: str) -> bool:
        key = rules.blob_key(digest)
        return next(iter(self.store.blobs.keys(key)), None) != key

    def _refused(self, source: _Source, reasons: tuple[str, ...], by: str) -> Invalid:
        """The error for a refused source, once the refusal is recorded and its bytes are gone."""
        with self.store.work(by) as work:
            for file in source.files:
                if file.new and not store.is_used(work.rows, file.digest):
                    self.store.blobs.delete(rules.blob_key(file.digest))
            details = {"action": "admit", "name": source.path.name, "reasons": reasons}
            resource = Resource("artifact", source.digest)
            work.emit(EventType.SECURITY_VIOLATION, resource, details, severity=EventSeverity.WARNING)
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        return Invalid(
            f"{source.path.name} is refused: {reasons[0]}{more}. Save the model as ONNX, safetensors, skops, or its "
            "framework's own text or JSON."
        )


def _details(artifact: Artifact) -> dict[str, Any]:
    return {
        "name": artifact.name,
        "format": artifact.format,
        "size": artifact.size,
        "files": len(artifact.members) or 1,
        "findings": artifact.findings,
    }
