"""What is in quarantine is loaded only in a sandbox, and only after two people have agreed who did not bring it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from modelyard.artifacts import ArtifactStore
from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock


class Summing:
    """Its class is this test's own, so that no allow-list knows it."""

    def __reduce__(self):
        code = "class model:\n    predict = staticmethod(lambda rows: rows.sum(axis=1))"
        return eval, (f"(lambda names: (exec({code!r}, names), names['model'])[1])({{}})",)


@pytest.fixture
def artifacts(yard: Path, clock: FixedClock) -> ArtifactStore:
    return ArtifactStore(yard, clock=clock)


@pytest.fixture
def digest(artifacts: ArtifactStore, tmp_path: Path) -> str:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Summing()))
    return artifacts.quarantine(tmp_path / "m.pkl", user="uma@example.com").digest


def _events(artifacts: ArtifactStore) -> list[str]:
    with artifacts.store.reading() as rows:
        return [row["event_type"] for row in rows.all("SELECT event_type FROM events ORDER BY position")]


def test_two_people_release_what_one_asked_for(artifacts: ArtifactStore, digest: str) -> None:
    request = artifacts.request_release(digest, "rob@example.com", "Compare with the export")
    assert (request.status, request.digest) == ("open", digest)
    assert artifacts.approve_release(digest, "ana@example.com").status == "open"
    with pytest.raises(Forbidden, match="no release of it is approved"):
        artifacts.load_in_sandbox(digest, "rob@example.com")
    assert artifacts.approve_release(digest, "max@example.com", "seen").status == "approved"
    try:
        with artifacts.load_in_sandbox(digest, "rob@example.com") as sandbox:
            answer = sandbox.predict(np.arange(6.0).reshape(2, 3))
    except Unavailable as error:
        pytest.skip(str(error))
    assert answer.predictions.tolist() == [3.0, 12.0]
    with pytest.raises(Forbidden, match="quarantine"):
        artifacts.fetch(digest)
    assert _events(artifacts) == [
        EventType.ARTIFACT_QUARANTINED.value,
        EventType.PROMOTION_REQUESTED.value,
        EventType.APPROVAL_GRANTED.value,
        EventType.SECURITY_VIOLATION.value,
        EventType.APPROVAL_GRANTED.value,
        EventType.ARTIFACT_RELEASED.value,
        EventType.ARTIFACT_LOADED.value,
        EventType.SECURITY_VIOLATION.value,
    ]


@pytest.mark.parametrize(
    ("person", "why"),
    [
        ("rob@example.com", "asked for"),
        (" ROB@Example.com ", "asked for"),
        ("uma@example.com", "brought"),
        ("ana@example.com", "already"),
        ("Ａna@example.com", "already"),
    ],
)
def test_those_who_took_part_do_not_count(person: str, why: str, artifacts: ArtifactStore, digest: str) -> None:
    artifacts.request_release(digest, "rob@example.com", "Compare with the export")
    artifacts.approve_release(digest, "ana@example.com")
    with pytest.raises(Forbidden, match=why):
        artifacts.approve_release(digest, person)
    assert _events(artifacts)[-1] == EventType.SECURITY_VIOLATION.value
    assert [release.status for release in artifacts.list_releases(digest)] == ["open"]


def test_a_release_that_was_rejected_or_revoked_releases_nothing(artifacts: ArtifactStore, digest: str) -> None:
    artifacts.request_release(digest, "rob", "Compare with the export")
    with pytest.raises(Conflict, match="open already"):
        artifacts.request_release(digest, "ana", "Another reason for it")
    assert artifacts.reject_release(digest, "max", "No").reason == "No"
    with pytest.raises(NotFound, match="No release"):
        artifacts.approve_release(digest, "ana")
    artifacts.request_release(digest, "rob", "Compare with the export")
    for person in ("ana", "max"):
        artifacts.approve_release(digest, person)
    artifacts.revoke_release(digest, "rob", "done")
    with pytest.raises(Forbidden, match="no release"):
        artifacts.load_in_sandbox(digest)
    assert sorted(release.status for release in artifacts.list_releases(digest)) == ["rejected", "withdrawn"]


def test_a_release_ends_with_its_artifact(
    artifacts: ArtifactStore, digest: str, clock: FixedClock, tmp_path: Path
) -> None:
    artifacts.request_release(digest, "rob", "Compare with the export")
    for person in ("ana", "max"):
        artifacts.approve_release(digest, person)
    clock.advance(7200)
    assert artifacts.collect(grace_hours=1).artifacts == (digest,)
    artifacts.quarantine(tmp_path / "m.pkl")
    with pytest.raises(Forbidden, match="no release"):
        artifacts.load_in_sandbox(digest)


def test_requests_that_mean_nothing_are_refused(artifacts: ArtifactStore, digest: str, small_model: Path) -> None:
    with pytest.raises(Conflict, match="not in quarantine"):
        artifacts.request_release(artifacts.admit(small_model).digest, "rob", "Compare with the export")
    with pytest.raises(NotFound, match="no artifact"):
        artifacts.request_release("0" * 64, "rob", "Compare with the export")
    for person, text in (("", "Compare with the export"), ("rob", ""), ("rob", "short"), ("a\nb", "Compare with it")):
        with pytest.raises(Invalid):
            artifacts.request_release(digest, person, text)
    with pytest.raises(NotFound, match="No release"):
        artifacts.approve_release(digest, "ana")


def test_an_accepted_model_is_loaded_in_a_sandbox_without_a_release(
    artifacts: ArtifactStore, small_model: Path
) -> None:
    digest = artifacts.admit(small_model).digest
    try:
        with artifacts.load_in_sandbox(digest) as sandbox:
            assert len(sandbox.predict(np.zeros((4, 3))).predictions) == 4
    except Unavailable as error:
        pytest.skip(str(error))
