"""What is kept: artifacts by digest, their bytes verified as they are read, and who needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelyard.artifacts import cache, rules, store
from modelyard.core.area import Area
from modelyard.core.errors import Damaged, Forbidden, Invalid, NotFound
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.models import Artifact
from modelyard.core.operations import operation
from modelyard.core.ports import Connection, Row
from modelyard.core.refs import Resource


class KeptArtifacts(Area):
    """Answers for what was admitted, and hands out exactly those bytes."""

    @operation("GET", "/artifacts/{digest}", needs="artifacts.read")
    def get(self, digest: str) -> Artifact:
        """The artifact with this digest; NotFound for an unknown one.

        >>> from modelyard.artifacts import ArtifactStore
        >>> artifacts = ArtifactStore(folder)
        >>> artifacts.get(artifacts.add(model_file).digest).name
        'model.txt'
        """
        with self.store.reading() as rows:
            return artifact_at(rows, rules.checked_digest(digest))

    @operation("GET", "/artifacts", needs="artifacts.read")
    def list_artifacts(self, after: str = "", limit: int = 100) -> list[Artifact]:
        """Up to `limit` artifacts in the order of their digests, from behind the digest `after`.

        >>> from modelyard.artifacts import ArtifactStore
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

        >>> from modelyard.artifacts import ArtifactStore
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

    def _tell_violation(self, digest: str, action: str, reasons: list[str], severity: EventSeverity) -> None:
        details: dict[str, Any] = {"action": action, "reasons": reasons}
        with self.store.work() as work:
            work.emit(EventType.SECURITY_VIOLATION, Resource("artifact", digest), details, severity=severity)


def known(rows: Connection, digest: str) -> Row:
    """The artifact's row; NotFound if there is none."""
    row = store.row_of(rows, digest)
    if row is None:
        raise NotFound(f"There is no artifact {digest}. List them: modelyard artifacts list-artifacts")
    return row


def artifact_at(rows: Connection, digest: str) -> Artifact:
    """The artifact with its files; NotFound if there is none."""
    return store.artifact_of(known(rows, digest), store.members(rows, digest))
