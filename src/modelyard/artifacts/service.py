"""ArtifactStore: model files by digest, admitted by what they hold, collected once nobody needs them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta

from modelyard.artifacts import rules, store, store_releases, store_signatures
from modelyard.artifacts.releases import Releases
from modelyard.artifacts.signatures import Signatures
from modelyard.artifacts.uploads import Uploads
from modelyard.core.errors import Invalid
from modelyard.core.events import EventType
from modelyard.core.instants import micros
from modelyard.core.operations import operation
from modelyard.core.refs import Resource
from modelyard.core.work import Work

GRACE_HOURS = 168.0
LONGEST_GRACE_HOURS = 876_600.0  # a hundred years


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection removed: artifacts that nobody held, and bytes that belonged to none."""

    artifacts: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()


class ArtifactStore(Releases, Uploads, Signatures):
    """Keeps files and folders by the SHA-256 of their content, and lets in only what cannot run code when it is loaded.

    >>> artifacts = ArtifactStore(folder)
    >>> model = artifacts.add(model_file, user="ana@example.com")
    >>> model.format, artifacts.fetch(model.digest).read_bytes() == model_file.read_bytes()
    ('lightgbm', True)
    """

    @operation("POST", "/artifacts/collect", needs="artifacts.write")
    def collect(self, grace_hours: float = GRACE_HOURS, user: str = "system") -> Collected:
        """What was removed: artifacts that nothing held for the grace period, and bytes that no artifact had for so long.

        >>> from modelyard.artifacts import ArtifactStore
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
