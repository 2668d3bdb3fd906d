"""Releases: what is in quarantine may be loaded in a sandbox once two people have said so who neither asked nor brought it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelyard.artifacts import rules, store_releases
from modelyard.artifacts.kept import KeptArtifacts, known
from modelyard.artifacts.rules import Release
from modelyard.core import plugins
from modelyard.core.errors import Conflict, Forbidden, NotFound
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import new_id
from modelyard.core.operations import operation
from modelyard.core.people import checked_person
from modelyard.core.ports import Connection, Row
from modelyard.core.refs import Resource
from modelyard.core.work import Work


class Releases(KeptArtifacts):
    """Requests to load quarantined bytes, the approvals they need, and the sandbox they are loaded in."""

    @operation("POST", "/artifacts/{digest}/release", needs="artifacts.write")
    def request_release(self, digest: str, requested_by: str, justification: str) -> Release:
        """The open request to load quarantined bytes in a sandbox; Conflict if one stands already or nothing is held back.

        >>> import pickle
        >>> from modelyard.artifacts import ArtifactStore
        >>> artifacts, _ = ArtifactStore(folder), (folder / "old.pkl").write_bytes(pickle.dumps(print))
        >>> kept = artifacts.quarantine(folder / "old.pkl", user="ana")
        >>> artifacts.request_release(kept.digest, "ben", "Compare it with its ONNX export").status
        'open'
        """
        digest = rules.checked_digest(digest)
        checked_person(requested_by, "requested_by")
        rules.checked_text(justification, "justification", least=10)
        with self.store.work(requested_by) as work:
            row = _quarantined(work.rows, digest)
            standing = store_releases.live(work.rows, digest)
            if standing is not None:
                raise Conflict(f"A release of {row['name']} ({digest[:12]}) is {standing.status} already.")
            release = Release(
                release_id=new_id("rel"),
                digest=digest,
                requested_by=requested_by,
                justification=justification,
                status="open",
                created_at=work.now,
            )
            store_releases.add(work.rows, release)
            _tell(work, EventType.PROMOTION_REQUESTED, release, {"justification": justification})
        return release

    @operation("POST", "/artifacts/{digest}/release/approve", needs="artifacts.approve")
    def approve_release(self, digest: str, approver: str, comment: str = "") -> Release:
        """The release after one more approval: with two people's, the bytes may be loaded in a sandbox.

        Forbidden, and an event, for the person who asked, who brought the file in, or who has approved already.

        >>> import pickle
        >>> from modelyard.artifacts import ArtifactStore
        >>> artifacts, _ = ArtifactStore(folder), (folder / "old.pkl").write_bytes(pickle.dumps(print))
        >>> kept = artifacts.quarantine(folder / "old.pkl", user="ana")
        >>> _ = artifacts.request_release(kept.digest, "ben", "Compare it with its ONNX export")
        >>> [artifacts.approve_release(kept.digest, person).status for person in ("cleo", "dora")]
        ['open', 'approved']
        """
        checked_person(approver, "approver")
        rules.checked_text(comment, "comment")
        with self.store.work(approver) as work:
            release, uploader, why = self._decidable(work, digest, approver, "approve_release")
            if not why:
                barred = [release.requested_by, uploader, *release.approvers]  # heard by what knows services' owners
                approvers = (*release.approvers, approver)
                store_releases.approve(work.rows, release, approver, comment, work.now)
                done = replace(release, approvers=approvers, status=rules.status_with(approvers))
                _tell(work, EventType.APPROVAL_GRANTED, done, {"barred": barred, "comment": comment})
                if done.status == "approved":
                    store_releases.decide(work.rows, done, work.now)
                    _tell(work, EventType.ARTIFACT_RELEASED, done, {"approvers": approvers}, EventSeverity.WARNING)
                return done
        raise Forbidden(why, told=True)

    @operation("POST", "/artifacts/{digest}/release/reject", needs="artifacts.approve")
    def reject_release(self, digest: str, approver: str, reason: str) -> Release:
        """The release, closed by the no of one who might have approved it.

        >>> import pickle
        >>> from modelyard.artifacts import ArtifactStore
        >>> artifacts, _ = ArtifactStore(folder), (folder / "old.pkl").write_bytes(pickle.dumps(print))
        >>> kept = artifacts.quarantine(folder / "old.pkl", user="ana")
        >>> _ = artifacts.request_release(kept.digest, "ben", "Compare it with its ONNX export")
        >>> artifacts.reject_release(kept.digest, "cleo", "Nobody knows where it is from").status
        'rejected'
        """
        checked_person(approver, "approver")
        rules.checked_text(reason, "reason", least=1)
        with self.store.work(approver) as work:
            release, _, why = self._decidable(work, digest, approver, "reject_release")
            if not why:
                done = replace(release, status="rejected", reason=reason)
                store_releases.decide(work.rows, done, work.now)
                told = {"approver": approver, "reason": reason}
                _tell(work, EventType.APPROVAL_REJECTED, done, told, EventSeverity.WARNING)
                return done
        raise Forbidden(why, told=True)

    @operation("POST", "/artifacts/{digest}/release/revoke", needs="artifacts.write")
    def revoke_release(self, digest: str, user: str, reason: str = "") -> Release:
        """The release, taken back: what is loaded already goes on, and nothing more can be loaded.

        >>> import pickle
        >>> from modelyard.artifacts import ArtifactStore
        >>> artifacts, _ = ArtifactStore(folder), (folder / "old.pkl").write_bytes(pickle.dumps(print))
        >>> kept = artifacts.quarantine(folder / "old.pkl", user="ana")
        >>> _ = artifacts.request_release(kept.digest, "ben", "Compare it with its ONNX export")
        >>> artifacts.revoke_release(kept.digest, "ben").status
        'withdrawn'
        """
        checked_person(user, "user")
        rules.checked_text(reason, "reason")
        with self.store.work(user) as work:
            done = replace(_standing(work.rows, rules.checked_digest(digest)), status="withdrawn", reason=reason)
            store_releases.decide(work.rows, done, work.now)
            _tell(work, EventType.APPROVAL_WITHDRAWN, done, {"reason": reason})
        return done

    @operation("GET", "/artifacts/{digest}/releases", needs="artifacts.read")
    def list_releases(self, digest: str) -> list[Release]:
        """Every release that was asked for of these bytes, the newest first.

        >>> from modelyard.artifacts import ArtifactStore
        >>> ArtifactStore(folder).list_releases("0" * 64)
        []
        """
        with self.store.reading() as rows:
            return store_releases.of_digest(rows, rules.checked_digest(digest))

    def load_in_sandbox(
        self, digest: str, user: str = "system", *, signature: Mapping[str, Any] | None = None, **settings: Any
    ) -> Any:
        """A handle whose `predict` answers from a process of its own; close it, or use it in a `with`.

        For a quarantined file, Forbidden unless its release is approved. `settings` are those of the sandbox: `limits`,
        and `required`, the kinds of isolation without which it refuses to start (all five unless named).
        """
        digest = rules.checked_digest(digest)
        with self.store.reading() as rows:
            row = known(rows, digest)
            release = store_releases.live(rows, digest)
        if row["admission"] == "quarantined" and (release is None or release.status != "approved"):
            why = f"{row['name']} ({digest[:12]}) is in quarantine, and no release of it is approved."
            with self.store.work(user) as work:
                told = {"action": "load_in_sandbox", "reasons": [why]}
                work.emit(EventType.SECURITY_VIOLATION, _resource(digest), told, severity=EventSeverity.WARNING)
            raise Forbidden(f"{why} Ask for one: modelyard artifacts request-release {digest[:12]}...", told=True)
        path = self._copied(digest)
        sandbox = plugins.load("sandbox", "process")(
            path, format=row["format"], hidden=self.store.folder, signature=signature, **settings
        )
        with self.store.work(user) as work:
            told = {"isolation": sandbox.isolation, "release": release.release_id if release else ""}
            work.emit(EventType.ARTIFACT_LOADED, _resource(digest), told, severity=EventSeverity.WARNING)
        return sandbox

    def _decidable(self, work: Work, digest: str, person: str, action: str) -> tuple[Release, str, str]:
        """The release that stands, who brought its bytes in, and why the person may not decide on it."""
        digest = rules.checked_digest(digest)
        row = _quarantined(work.rows, digest)
        release = _standing(work.rows, digest)
        why = rules.why_not(release, row["created_by"], person)
        if why:
            told = {"action": action, "reasons": [why]}
            work.emit(EventType.SECURITY_VIOLATION, _resource(digest), told, severity=EventSeverity.WARNING)
        return release, row["created_by"], why


def _quarantined(rows: Connection, digest: str) -> Row:
    row = known(rows, digest)
    if row["admission"] != "quarantined":
        raise Conflict(f"{row['name']} ({digest[:12]}) is not in quarantine: fetch it as it is.")
    return row


def _standing(rows: Connection, digest: str) -> Release:
    release = store_releases.live(rows, digest)
    if release is None:
        raise NotFound(f"No release of {digest[:12]} is open. Ask for one: modelyard artifacts request-release")
    return release


def _resource(digest: str) -> Resource:
    return Resource("artifact", digest)


def _tell(
    work: Work, told: EventType, release: Release, more: Mapping[str, Any], severity: EventSeverity = EventSeverity.INFO
) -> None:
    details = {"release": release.release_id, "requested_by": release.requested_by, "status": release.status, **more}
    work.emit(told, _resource(release.digest), details, severity=severity)
