"""Packages: what was signed comes in as any upload does, and nothing else comes in."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelyard import Yard
from modelyard.audit import check_proof
from modelyard.core.errors import Conflict, Damaged, Forbidden, Invalid, NotFound, YardError
from modelyard.core.events import EventType
from modelyard.marketplace import Listing, Packed, package, signing

MEMBERS = [
    "package.dsse.json",
    "metadata.json",
    "card.md",
    "bom.json",
    "approvals.json",
    "proof/registration.tlog-proof",
]


def repacked(source: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    """The package with members changed, added or (None) left out, packed as ours are."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        members = {name: old.read(name) for name in old.namelist()} | changes
        for name, data in members.items():
            if data is not None:
                new.writestr(name, data)
    return target


def member(source: Path, name: str) -> bytes:
    with zipfile.ZipFile(source) as archive:
        return archive.read(name)


def signed_anew(
    source: Path, target: Path, key: Ed25519PrivateKey, changes: dict[str, bytes | None], **head: Any
) -> Path:
    """What the publisher itself could make: another content with a signature that holds."""
    manifest = json.loads(base64.b64decode(json.loads(member(source, package.ENVELOPE))["payload"]))
    middle = repacked(source, target.with_suffix(".middle"), {package.ENVELOPE: None, **changes})
    with zipfile.ZipFile(middle) as archive:
        manifest["files"] = {
            name: {"sha256": hashlib.sha256(archive.read(name)).hexdigest(), "size": len(archive.read(name))}
            for name in archive.namelist()
        }
    text = signing.envelope(json.dumps({**manifest, **head}).encode(), key)
    return repacked(middle, target, {package.ENVELOPE: text.encode()})


def signing_key(yard: Yard) -> Ed25519PrivateKey:
    return signing.KeyFile(yard.store.folder).signing()


def nothing_came_in(yard: Yard) -> bool:
    return yard.registry.list_models() == []


def test_a_package_brings_the_version_and_where_it_came_from(ours: Yard, theirs: Yard, packed: Packed) -> None:
    came = ours.marketplace.receive(packed.path, "root")
    assert (came.model, came.version, came.publisher, came.proved) == ("fraud", "v1.0.0", "fraud team", True)
    assert came.approvals[0]["approvals"][0]["approver"] == "max@example.org"
    here, there = ours.registry.get_model("fraud", "v1.0.0"), theirs.registry.get_model("fraud", "v1.0.0")
    same = ("digest", "framework", "metrics", "parameters", "tags", "signature", "description", "size")
    assert {name: getattr(here, name) for name in same} == {name: getattr(there, name) for name in same}
    assert (here.stage.value, here.created_by, here.trained_by) == ("development", "root", "ana@example.org")
    assert here.source == "marketplace:fraud team/fraud:v1.0.0"
    assert here.metadata["marketplace"]["package"] == packed.sha256
    told = ours.audit.query_events(EventType.LISTING_FETCHED)[0]
    assert told.details["digest"] == there.digest
    counted = theirs.audit.query_events(EventType.LISTING_FETCHED)[0]
    assert (counted.actor, counted.details["sha256"]) == ("ben@example.org", packed.sha256)
    with pytest.raises(Conflict, match="exists already"):
        ours.marketplace.receive(packed.path, "root")
    assert ours.marketplace.receive(packed.path, "root", model="scam", version="v7.0.0").version == "v7.0.0"


def test_a_package_folder_travels_whole(theirs: Yard, ours: Yard, small_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my package"
    (folder / "notes").mkdir(parents=True)
    shutil.copy(small_model, folder / "model.txt")
    (folder / "notes" / "read me.json").write_text("{}")
    theirs.registry.register_model("fraud", "v2.0.0", folder, "lightgbm", "ana@example.org")
    told = {"licence": "MIT", "owner": "ana@example.org", "summary": "x"}
    made = theirs.marketplace.publish("fraud", "v2.0.0", "ana@example.org", **told)
    packed = theirs.marketplace.pack(made.listing_id, tmp_path / "x.zip", "ben@example.org")
    came = ours.marketplace.receive(packed.path, "root")
    assert (ours.registry.path("fraud", "v2.0.0") / "notes" / "read me.json").read_text() == "{}"
    assert came.digest == theirs.registry.get_model("fraud", "v2.0.0").digest


def test_a_stranger_checks_a_package_without_modelyard(theirs: Yard, packed: Packed, tmp_path: Path) -> None:
    """unzip, sha256 and openssl: the signature is over DSSE's encoding of the manifest, which names every other member."""
    envelope = json.loads(member(Path(packed.path), package.ENVELOPE))
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    (tmp_path / "pae").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    key = theirs.store.folder / "keys" / "publishing.ed25519.pub.pem"
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(key), "-rawin"]
    done = subprocess.run(
        [*command, "-in", str(tmp_path / "pae"), "-sigfile", str(tmp_path / "sig")], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads(payload)
    with zipfile.ZipFile(packed.path) as archive:
        assert set(archive.namelist()) == {*manifest["files"], package.ENVELOPE}
        for name, kept in manifest["files"].items():
            assert hashlib.sha256(archive.read(name)).hexdigest() == kept["sha256"]
        proof, log_key = archive.read(package.PROOF).decode(), archive.read(package.LOG_KEY).decode()
    assert check_proof(proof, log_key).record["details"]["digest"] == manifest["digest"]
    assert (theirs.store.folder / "keys" / "publishing.ed25519.pem").stat().st_mode & 0o777 == 0o600


def test_the_same_listing_is_packed_into_the_same_bytes(theirs: Yard, listing: Listing, tmp_path: Path) -> None:
    """Apart from the log, which goes on with every package, nothing in a package depends on when it was made."""
    names = []
    for number in range(2):
        theirs.marketplace.pack(listing.listing_id, tmp_path / f"{number}.zip", "ben@example.org")
        with zipfile.ZipFile(tmp_path / f"{number}.zip") as archive:
            names.append(
                {one: archive.read(one) for one in archive.namelist() if one not in (package.ENVELOPE, package.PROOF)}
            )
    assert names[0] == names[1]


@pytest.mark.parametrize("name", [*MEMBERS, "model/model.txt", "proof/log.pub"])
def test_a_changed_byte_anywhere_is_noticed(ours: Yard, packed: Packed, tmp_path: Path, name: str) -> None:
    data = member(Path(packed.path), name)
    for at in {0, len(data) // 2, len(data) - 2}:
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises((Damaged, Forbidden, Invalid)):
            ours.marketplace.receive(repacked(Path(packed.path), tmp_path / "x.zip", {name: changed}), "root")
    assert nothing_came_in(ours)


def test_a_changed_byte_of_the_file_itself_is_noticed(ours: Yard, packed: Packed, tmp_path: Path) -> None:
    data = Path(packed.path).read_bytes()
    for at in range(0, len(data), len(data) // 150):
        (tmp_path / "x.zip").write_bytes(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
        try:
            came = ours.marketplace.receive(tmp_path / "x.zip", "root", version=f"v1.0.{at}")
        except (Damaged, Forbidden, Invalid):
            continue
        assert (
            came.digest == ours.registry.get_model("fraud", f"v1.0.{at}").digest
        )  # a byte of the ZIP that means nothing
        unpacked = {name: member(tmp_path / "x.zip", name) for name in zipfile.ZipFile(tmp_path / "x.zip").namelist()}
        assert unpacked == {name: member(Path(packed.path), name) for name in unpacked}


@pytest.mark.parametrize("name", [*MEMBERS, "model/model.txt"])
def test_a_missing_member_is_noticed(ours: Yard, packed: Packed, tmp_path: Path, name: str) -> None:
    with pytest.raises(Damaged):
        ours.marketplace.receive(repacked(Path(packed.path), tmp_path / "x.zip", {name: None}), "root")
    with pytest.raises((Damaged, Invalid)):
        ours.marketplace.receive(repacked(Path(packed.path), tmp_path / "x.zip", {"model/more.txt": b"x"}), "root")
    assert nothing_came_in(ours)


def test_a_replaced_card_is_noticed(ours: Yard, packed: Packed, tmp_path: Path) -> None:
    changed = repacked(Path(packed.path), tmp_path / "x.zip", {package.CARD: b"# fraud v1.0.0\n\nNo known limits.\n"})
    with pytest.raises(Damaged, match=r"another card\.md"):
        ours.marketplace.receive(changed, "root")
    told = ours.audit.query_events(EventType.SECURITY_VIOLATION)[0]
    assert told.details["action"] == "receive"


def test_nobody_is_trusted_at_first_sight(new_yard: Callable[[str], Yard], theirs: Yard, packed: Packed) -> None:
    stranger = new_yard("stranger")
    with pytest.raises(Forbidden, match="trust-publisher"):
        stranger.marketplace.receive(packed.path, "root")
    key = theirs.marketplace.publishing_key().public_key
    stranger.marketplace.trust_publisher("fraud team", key, "root")
    for name in ("fraud team", "the same under another name"):
        with pytest.raises(Conflict):
            stranger.marketplace.trust_publisher(name, key, "root")
    stranger.marketplace.receive(packed.path, "root")
    stranger.marketplace.distrust_publisher("fraud team", "root")
    with pytest.raises(Forbidden):
        stranger.marketplace.receive(packed.path, "root", version="v2.0.0")
    told = [event.event_type for event in stranger.audit.query_events(resource_type="publisher")]
    assert told == [EventType.PUBLISHER_TRUSTED, EventType.PUBLISHER_DISTRUSTED]


def test_another_key_signs_nothing(ours: Yard, packed: Packed, tmp_path: Path) -> None:
    """Neither under its own name nor under that of the trusted key."""
    other = Ed25519PrivateKey.generate()
    changed = signed_anew(Path(packed.path), tmp_path / "x.zip", other, {})
    with pytest.raises(Forbidden):
        ours.marketplace.receive(changed, "root")
    envelope = json.loads(member(changed, package.ENVELOPE))
    envelope["signatures"][0]["keyid"] = packed.key_id
    with pytest.raises(Damaged):
        ours.marketplace.receive(
            repacked(changed, tmp_path / "y.zip", {package.ENVELOPE: json.dumps(envelope).encode()}), "root"
        )
    for signatures in ([], None, [{}], "x"):
        envelope["signatures"] = signatures
        text = json.dumps(envelope).encode()
        with pytest.raises((Forbidden, Damaged)):
            ours.marketplace.receive(repacked(changed, tmp_path / "z.zip", {package.ENVELOPE: text}), "root")
    assert nothing_came_in(ours)


def test_a_hostile_model_is_refused_though_it_is_signed(
    ours: Yard, theirs: Yard, packed: Packed, tmp_path: Path
) -> None:
    data = pickle.dumps(print)
    digest = hashlib.sha256(data).hexdigest()
    changes = {"model/model.txt": data, package.PROOF: None, package.LOG_KEY: None}
    hostile = signed_anew(Path(packed.path), tmp_path / "x.zip", signing_key(theirs), changes, digest=digest)
    with pytest.raises(Invalid, match="refused"):
        ours.marketplace.receive(hostile, "root")
    assert nothing_came_in(ours)
    actions = [event.details["action"] for event in ours.audit.query_events(EventType.SECURITY_VIOLATION)]
    assert actions == ["admit", "receive"]


def test_a_publisher_cannot_sign_what_contradicts_itself(
    ours: Yard, theirs: Yard, packed: Packed, tmp_path: Path
) -> None:
    key, source = signing_key(theirs), Path(packed.path)
    event = theirs.audit.log_event(EventType.DATA_ACCESSED, "dataset", "d", user="ana")
    cases: list[tuple[dict[str, bytes | None], dict[str, Any]]] = [
        ({}, {"digest": "0" * 64}),
        ({package.PROOF: theirs.audit.prove(event.event_id).encode()}, {}),
        ({package.METADATA: b"{}"}, {}),
        ({package.METADATA: b"[" * 100_000}, {}),
        ({package.METADATA: b"\xff"}, {}),
        ({package.CARD: None}, {}),
        ({"model/other.txt": b"x"}, {}),
        ({"../../evil": b"x"}, {}),
        ({"more.txt": b"x"}, {}),
        ({}, {"format_version": 2}),
        ({}, {"format": "x"}),
        ({}, {"model": "../fraud"}),
        ({}, {"version": "latest"}),
    ]
    for number, (changes, head) in enumerate(cases):
        made = signed_anew(source, tmp_path / f"{number}.zip", key, changes, **head)
        with pytest.raises((Damaged, Invalid)):
            ours.marketplace.receive(made, "root")
    assert nothing_came_in(ours)
    assert not (tmp_path.parent / "evil").exists()


def test_a_package_without_a_proof_comes_in_and_says_so(
    ours: Yard, theirs: Yard, packed: Packed, tmp_path: Path
) -> None:
    changes: dict[str, bytes | None] = {package.PROOF: None, package.LOG_KEY: None}
    made = signed_anew(Path(packed.path), tmp_path / "x.zip", signing_key(theirs), changes)
    assert ours.marketplace.receive(made, "root").proved is False


def test_garbage_is_no_package(ours: Yard, tmp_path: Path) -> None:
    for number, data in enumerate((b"", b"PK", b"x" * 1000, b"PK\x05\x06" + bytes(18))):
        (tmp_path / f"{number}.zip").write_bytes(data)
        with pytest.raises(YardError):
            ours.marketplace.receive(tmp_path / f"{number}.zip", "root")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(package.ENVELOPE, bytes(300 << 20))
    with pytest.raises(Invalid, match="too many"):
        ours.marketplace.receive(tmp_path / "bomb.zip", "root")
    with pytest.raises(NotFound):
        ours.marketplace.receive(tmp_path / "nowhere.zip", "root")


def test_a_bad_key_is_nobodys(ours: Yard) -> None:
    rsa = subprocess.run(["openssl", "genrsa", "1024"], capture_output=True, check=True).stdout
    public = subprocess.run(["openssl", "rsa", "-pubout"], input=rsa, capture_output=True, check=True).stdout.decode()
    for text in ("", "x", public, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "x" * 10_000):
        with pytest.raises(Invalid, match="public_key"):
            ours.marketplace.trust_publisher("other", text, "root")


def test_damaged_bytes_leave_no_package(theirs: Yard, listing: Listing, tmp_path: Path) -> None:
    blob = next((theirs.store.folder / "blobs").rglob(listing.digest))
    blob.chmod(0o600)
    blob.write_bytes(b"changed")
    shutil.rmtree(theirs.store.folder / "cache", ignore_errors=True)
    with pytest.raises(Damaged):
        theirs.marketplace.pack(listing.listing_id, tmp_path / "out" / "x.zip", "ben@example.org")
    assert list((tmp_path / "out").iterdir()) == []
    assert theirs.marketplace.usage(listing.listing_id).fetches == 0
