"""ArtifactStore: model files by digest, admitted by what they hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from modelyard.artifacts import admission, cache, folders, intake, rules, store, store_releases, store_signatures
from modelyard.artifacts.inspection import Inspection, Malformed
from modelyard.artifacts.releases import Releases
from modelyard.artifacts.signatures import Signatures
from modelyard.artifacts.uploads import Uploads
from modelyard.core.errors import Conflict, Damaged, Forbidden, Invalid, NotFound, Unavailable
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import micros
from modelyard.core.models import Artifact
from modelyard.core.operations import operation
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource
from modelyard.core.work import Work

ATTEMPTS = 5  # how often bytes that a collector took away at the same moment are stored again
GRACE_HOURS = 168.0
TOUCHED_EVERY = timedelta(hours=1)  # how exactly the grace period counts from the last admission
LONGEST_GRACE_HOURS = 876_600.0  # a hundred years


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection removed: artifacts that nobody held, and bytes that belonged to none."""

    artifacts: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()


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


class ArtifactStore(Releases, Uploads, Signatures):
    """Keeps files and folders by the SHA-256 of their content, and lets in only what cannot run code when it is loaded.

    >>> artifacts = ArtifactStore(folder)
    >>> model = artifacts.add(model_file, user="ana@example.com")
    >>> model.format, artifacts.fetch(model.digest).read_bytes() == model_file.read_bytes()
    ('lightgbm', True)
    """

    @operation("POST", "/artifacts", needs="artifacts.write")
    def add(self, path: str | Path, user: str = "system") -> Artifact:
        """Admit a file or folder on behalf of a person and return it; Invalid if its content is refused.

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

        >>> import pickle
        >>> _ = (folder / "bad.pkl").write_bytes(pickle.dumps(print))
        >>> ArtifactStore(folder).quarantine(folder / "bad.pkl").findings
        ('it imports builtins.print, which is not on the list of harmless names',)
        """
        with intake.disk_errors(f"keep {path}"):
            stored = self._stored(Path(path))
            return self._recorded(stored, self._inspected(stored, user), user)

    @operation("GET", "/artifacts/{digest}", needs="artifacts.read")
    def get(self, digest: str) -> Artifact:
        """The artifact with this digest; NotFound for an unknown one.

        >>> artifacts = ArtifactStore(folder)
        >>> artifacts.get(artifacts.add(model_file).digest).name
        'model.txt'
        """
        with self.store.reading() as rows:
            return self._load(rows, rules.checked_digest(digest))

    @operation("GET", "/artifacts", needs="artifacts.read")
    def list_artifacts(self, after: str = "", limit: int = 100) -> list[Artifact]:
        """Up to `limit` artifacts in the order of their digests, from behind the digest `after`.

        >>> artifacts = ArtifactStore(folder)
        >>> [artifacts.add(model_file)] == artifacts.list_artifacts()
        True
        """
        if not 1 <= limit <= 10_000:
            raise Invalid(f"limit is {limit}. Pass 1 to 10,000; page on with `after`.")
        with self.store.reading() as rows:
            found = store.page(rows, after, limit)
            return [store.artifact_of(row, store.members(rows, row["digest"])) for row in found]

    def fetch(self, digest: str) -> Path:
        """A local path with exactly the admitted bytes, verified now: a read-only copy under the store's `cache` folder.

        Raises Forbidden for a quarantined artifact, and Damaged where the stored bytes have changed.
        """
        artifact = self.get(digest)
        if artifact.admission == "quarantined":
            reason = f"{artifact.name} ({artifact.digest[:12]}) is in quarantine: {artifact.findings[0]}."
            self._tell_violation(artifact.digest, "fetch", [reason], EventSeverity.WARNING)
            raise Forbidden(
                f"{reason} Convert the model to ONNX, safetensors or skops and register that, or ask for its release "
                "into a sandbox: modelyard artifacts request-release",
                told=True,
            )
        return self._copied(artifact.digest)

    @operation("POST", "/artifacts/{digest}/verify", needs="artifacts.read")
    def verify(self, digest: str) -> Artifact:
        """The artifact, after reading every stored byte; Damaged, and an event, if any has changed.

        >>> artifacts = ArtifactStore(folder)
        >>> artifacts.verify(artifacts.add(model_file).digest).format
        'lightgbm'
        """
        artifact = self.get(digest)
        try:
            for member in sorted(set(artifact.members.values()) or {artifact.digest}):
                cache.check_blob(self.store.blobs, member)
        except Damaged as error:
            self._tell_violation(artifact.digest, "verify", [str(error)], EventSeverity.CRITICAL)
            raise
        return artifact

    @operation("POST", "/artifacts/collect", needs="artifacts.write")
    def collect(self, grace_hours: float = GRACE_HOURS, user: str = "system") -> Collected:
        """What was removed: artifacts that nothing held for the grace period, and bytes that no artifact had for so long.

        >>> ArtifactStore(folder).collect()
        Collected(artifacts=(), blobs=())
        """
        if not 0 <= grace_hours <= LONGEST_GRACE_HOURS:
            raise Invalid(f"grace_hours is {grace_hours}. Pass a number of hours from 0 to {LONGEST_GRACE_HOURS}.")
        with self.store.work(user) as work:
            before = micros(work.now - timedelta(hours=grace_hours))
            artifacts = store.drop_unheld(work.rows, before)
            for digest in artifacts:
                store_signatures.drop(work.rows, digest)
                store_releases.end(work.rows, digest, "the artifact was removed", micros(work.now))
                work.emit(EventType.ARTIFACT_REMOVED, Resource("artifact", digest), {"reason": "unused"})
            self._forget_old_uploads(work)
            blobs = self._collect_blobs(work, before)
        for digest in artifacts:
            shutil.rmtree(self.store.folder / "cache" / digest, ignore_errors=True)
        return Collected(artifacts=tuple(artifacts), blobs=tuple(blobs))

    def hold(self, rows: Connection, digest: str, holder: str) -> None:
        """Keep the artifact, within the caller's transaction, until the holder releases it."""
        if store.row_of(rows, digest) is None:
            raise NotFound(f"There is no artifact {digest}. Admit the file again.")
        store.hold(rows, digest, holder)

    def release(self, rows: Connection, digest: str, holder: str) -> None:
        """The holder needs the artifact no longer; a later collection may remove it."""
        store.release(rows, digest, holder)

    def _copied(self, digest: str) -> Path:
        """A verified copy of the bytes, whatever their admission."""
        artifact = self.get(digest)
        files = artifact.members or {artifact.name: artifact.digest}
        try:
            folder = cache.materialised(self.store.folder / "cache", self.store.blobs, artifact.digest, files)
        except Damaged as error:
            self._tell_violation(artifact.digest, "fetch", [str(error)], EventSeverity.CRITICAL)
            raise
        return folder if artifact.members else folder / artifact.name

    def _verified_bytes(self, digest: str) -> Artifact:
        return self.verify(digest)

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

    def _load(self, rows: Connection, digest: str) -> Artifact:
        row = store.row_of(rows, digest)
        if row is None:
            raise NotFound(f"There is no artifact {digest}. List them: modelyard artifacts list-artifacts")
        return store.artifact_of(row, store.members(rows, digest))

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
            return self._load(work.rows, source.digest)
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

    def _tell_violation(self, digest: str, action: str, reasons: list[str], severity: EventSeverity) -> None:
        details: dict[str, Any] = {"action": action, "reasons": reasons}
        with self.store.work() as work:
            work.emit(EventType.SECURITY_VIOLATION, Resource("artifact", digest), details, severity=severity)

    def _collect_blobs(self, work: Work, before: int) -> list[str]:
        """Remove bytes that belong to nothing, if an earlier collection saw them so before the moment."""
        gone: list[str] = []
        for key in list(self.store.blobs.keys("sha256/")):
            blob = rules.blob_of(key)
            if not blob or store.is_used(work.rows, blob):
                continue
            if store.saw_loose(work.rows, blob, micros(work.now)) <= before:
                self.store.blobs.delete(key)
                store.not_loose(work.rows, blob)
                gone.append(blob)
        return gone


def _details(artifact: Artifact) -> dict[str, Any]:
    return {
        "name": artifact.name,
        "format": artifact.format,
        "size": artifact.size,
        "files": len(artifact.members) or 1,
        "findings": artifact.findings,
    }
