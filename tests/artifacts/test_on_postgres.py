"""Uploads, releases and signatures keep their promises on PostgreSQL too."""

from __future__ import annotations

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from modelyard.artifacts import ArtifactStore, bundles
from modelyard.core.errors import Conflict, Forbidden
from modelyard.core.work import Store

DATA = b"some notes\n" * 20_000


@pytest.fixture
def artifacts(postgres_url: str, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Store.at(postgres_url, files=tmp_path / "yard"))


@pytest.mark.postgres
def test_senders_of_one_upload_never_mix(artifacts: ArtifactStore) -> None:
    upload = artifacts.begin_upload("notes.txt", len(DATA), hashlib.sha256(DATA).hexdigest()).upload_id

    def send(_: int) -> None:
        for _attempt in range(500):
            received = artifacts.get_upload(upload).received
            if received == len(DATA):
                return
            try:
                artifacts.append(upload, received, DATA[received : received + 30_000])
            except Conflict:
                continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(4)))
    assert artifacts.finish_upload(upload).size == len(DATA)
    artifacts.begin_upload("notes.txt", 10, "0" * 64)
    artifacts.collect()
    artifacts.close()


@pytest.mark.postgres
def test_releases_and_signatures_are_kept(artifacts: ArtifactStore, tmp_path: Path, small_model: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(print))
    digest = artifacts.quarantine(tmp_path / "m.pkl", user="uma").digest
    artifacts.request_release(digest, "rob", "Compare with the export")
    with pytest.raises(Conflict, match="open already"):
        artifacts.request_release(digest, "rob", "Compare with the export")
    with pytest.raises(Forbidden):
        artifacts.approve_release(digest, "uma")
    assert [artifacts.approve_release(digest, person).status for person in ("ana", "max")] == ["open", "approved"]
    artifacts.revoke_release(digest, "rob")
    assert artifacts.request_release(digest, "rob", "Compare it once more").status == "open"
    model = artifacts.add(small_model)
    key = ec.generate_private_key(ec.SECP256R1())
    text = bundles.signed(model.name, {".": model.digest}, key)
    for _ in range(2):
        kept = artifacts.add_signature(model.digest, text, "ci")
    assert artifacts.list_signatures(model.digest) == [kept]
    assert artifacts.bom(model.digest)["metadata"]["component"]["hashes"][0]["content"] == model.digest
    artifacts.close()
