"""Signatures are OpenSSF's: what we write its own tool verifies, and the other way round; nothing changed passes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import warnings
from pathlib import Path

import jsonschema
import pytest
import referencing
import referencing.jsonschema
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.artifacts import ArtifactStore, bundles
from modelyard.core.errors import Damaged, Forbidden, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.models import FeatureSpec, PackageManifest, Parity, Signature
from modelyard.core.packages import manifest_text

CURVES = {"256": ec.SECP256R1(), "384": ec.SECP384R1(), "521": ec.SECP521R1()}


def _keys(folder: Path, curve: ec.EllipticCurve = CURVES["256"], password: bytes = b"") -> tuple[Path, Path]:
    key = ec.generate_private_key(curve)
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private, public = folder / "key.pem", folder / "key.pub"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return private, public


def _folder(place: Path) -> Path:
    """Names whose order differs as texts and as paths."""
    for name in ("a/x.txt", "a-b.txt", "a.txt", "a/b/c.txt", "Z.txt", "é.txt"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"content of {name}\n")
    return place


@pytest.fixture
def artifacts(yard: Path) -> ArtifactStore:
    return ArtifactStore(yard)


def _tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("model_signing")
    command = [sys.executable, "-W", "ignore", "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("curve", CURVES)
def test_the_openssf_tool_verifies_what_we_sign(curve: str, artifacts: ArtifactStore, tmp_path: Path) -> None:
    private, public = _keys(tmp_path, CURVES[curve])
    model = _folder(tmp_path / "m")
    digest = artifacts.add(model).digest
    signature = artifacts.sign(digest, private, "ana")
    (tmp_path / "m.sig").write_text(artifacts.signature_bundle(digest, signature.key_id))
    verify = ("verify", "key", "--signature", tmp_path / "m.sig", "--public_key", public, model)
    assert _tool(*verify).returncode == 0
    (model / "a.txt").write_text("changed")
    assert _tool(*verify).returncode != 0


def test_the_openssf_tool_verifies_a_single_file_that_we_sign(
    artifacts: ArtifactStore, small_model: Path, tmp_path: Path
) -> None:
    private, public = _keys(tmp_path)
    digest = artifacts.add(small_model).digest
    signature = artifacts.sign(digest, private, "ana")
    (tmp_path / "m.sig").write_text(artifacts.signature_bundle(digest, signature.key_id))
    found = _tool("verify", "key", "--signature", tmp_path / "m.sig", "--public_key", public, small_model)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_we_verify_what_the_openssf_tool_signs(kind: str, artifacts: ArtifactStore, tmp_path: Path) -> None:
    private, public = _keys(tmp_path)
    model = _folder(tmp_path / "m") if kind == "folder" else _folder(tmp_path / "m") / "a.txt"
    made = _tool("sign", "key", "--private_key", private, "--signature", tmp_path / "m.sig", model)
    assert made.returncode == 0, made.stderr
    digest = artifacts.add(model).digest
    kept = artifacts.add_signature(digest, (tmp_path / "m.sig").read_text(), "ci")
    assert artifacts.verify_signature(digest, public) == kept


def test_a_signature_is_kept_told_and_belongs_to_its_key(
    artifacts: ArtifactStore, small_model: Path, tmp_path: Path
) -> None:
    private, public = _keys(tmp_path, password=b"secret")
    (tmp_path / "password").write_text("secret\n")
    digest = artifacts.add(small_model).digest
    with pytest.raises(Invalid, match=r"[Pp]assword"):
        artifacts.sign(digest, private, "ana")
    made = artifacts.sign(digest, private, "ana", password_path=tmp_path / "password")
    assert artifacts.list_signatures(digest) == [made]
    assert artifacts.verify_signature(digest, public).signed_by == "ana"
    with artifacts.store.reading() as rows:
        event = rows.one("SELECT event_type, actor FROM events ORDER BY position DESC LIMIT 1")
    assert event == {"event_type": EventType.ARTIFACT_SIGNED.value, "actor": "ana"}
    (tmp_path / "other").mkdir()
    with pytest.raises(NotFound, match="no signature by the key"):
        artifacts.verify_signature(digest, _keys(tmp_path / "other")[1])


def test_a_signature_that_was_changed_in_the_database_is_found(
    artifacts: ArtifactStore, small_model: Path, tmp_path: Path
) -> None:
    private, public = _keys(tmp_path)
    digest = artifacts.add(small_model).digest
    made = artifacts.sign(digest, private, "ana")
    bundle = json.loads(artifacts.signature_bundle(digest, made.key_id))
    raw = bytearray(base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"]))
    raw[-1] ^= 1
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(raw).decode()
    with artifacts.store.work() as work:
        work.rows.run("UPDATE artifact_signatures SET bundle = :bundle", bundle=json.dumps(bundle))
    with pytest.raises(Forbidden, match="not by this key"):
        artifacts.verify_signature(digest, public)
    with artifacts.store.reading() as rows:
        last = rows.one("SELECT event_type FROM events ORDER BY position DESC LIMIT 1")
    assert last == {"event_type": EventType.SECURITY_VIOLATION.value}


def test_changed_bytes_are_found_before_the_signature_is(
    artifacts: ArtifactStore, small_model: Path, tmp_path: Path
) -> None:
    private, public = _keys(tmp_path)
    digest = artifacts.add(small_model).digest
    artifacts.sign(digest, private, "ana")
    stored = next((artifacts.store.folder / "blobs" / "sha256").rglob(digest))
    stored.chmod(0o644)
    stored.write_bytes(b"other")
    with pytest.raises(Damaged):
        artifacts.verify_signature(digest, public)


def test_a_signature_of_other_files_is_not_kept(artifacts: ArtifactStore, small_model: Path, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    digest = artifacts.add(small_model).digest
    for files in ({".": "0" * 64}, {"model.txt": digest}, {".": digest, "more": digest}, {}):
        with pytest.raises(Forbidden, match="other files"):
            artifacts.add_signature(digest, bundles.signed("m", files, key), "ci")
    for text in ("", "{}", "[]", "null", "x" * 100, '{"mediaType": 1}', bundles.signed("m", {}, key)[:-20]):
        with pytest.raises(Damaged, match="no Sigstore bundle"):
            artifacts.add_signature(digest, text, "ci")


def test_keys_of_other_kinds_are_clear_errors(artifacts: ArtifactStore, small_model: Path, tmp_path: Path) -> None:
    digest = artifacts.add(small_model).digest
    with pytest.raises(NotFound, match="openssl"):
        artifacts.sign(digest, tmp_path / "none.pem", "ana")
    (tmp_path / "bad.pem").write_text("no key")
    with pytest.raises(Invalid, match="no private key"):
        artifacts.sign(digest, tmp_path / "bad.pem", "ana")
    other = ed25519.Ed25519PrivateKey.generate()
    raw = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "ed.pem").write_bytes(raw)
    with pytest.raises(Invalid, match="another kind"):
        artifacts.sign(digest, tmp_path / "ed.pem", "ana")


KEY = ec.generate_private_key(ec.SECP256R1())
FILES = {"a.txt": "1" * 64, "b.txt": "2" * 64}
BUNDLE = bundles.signed("m", FILES, KEY)


@settings(max_examples=300)
@given(st.integers(0, len(BUNDLE) - 1), st.characters(codec="ascii"))
def test_no_change_of_a_bundle_states_other_files(place: int, letter: str) -> None:
    changed = BUNDLE[:place] + letter + BUNDLE[place + 1 :]
    try:
        found = bundles.verified(changed, FILES, KEY.public_key())
    except (Forbidden, Damaged):
        return
    assert found.files == FILES, "a change that passes is one of the text around what is signed"


def test_without_the_network_a_keyless_signature_is_a_clear_error(artifacts: ArtifactStore, small_model: Path) -> None:
    pytest.importorskip("model_signing")
    digest = artifacts.add(small_model).digest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NotFound, match="no keyless"):
            artifacts.verify_keyless(digest, identity="ana@example.com", issuer="https://issuer.example")


def _package(folder: Path, source: Path) -> Path:
    folder.mkdir()
    (folder / "model.txt").write_bytes(source.read_bytes())
    manifest = PackageManifest(
        name="fraud",
        framework="sklearn",
        primary="lightgbm",
        files={"lightgbm": "model.txt"},
        signature=Signature(inputs=(FeatureSpec(name="a"),), task="binary", classes=(0, 1)),
        parity=Parity(rows=100, max_difference=1e-7, tolerance=1e-5, passed=True),
        metrics={"auc": 0.91},
        parameters={"depth": 3},
        environment={"python": "3.11.7", "scikit-learn": "1.7.0", "Foo_Bar": "2"},
    )
    (folder / "modelyard.json").write_text(manifest_text(manifest))
    return folder


def _check(document: dict[str, object], schemas: Path) -> None:
    registry = referencing.Registry()
    for file in schemas.glob("*.schema.json"):
        found = json.loads(file.read_text("utf-8"))
        kind = referencing.jsonschema.DRAFT7
        resource = referencing.Resource.from_contents(found, default_specification=kind)
        registry = registry.with_resource(f"http://cyclonedx.org/schema/{file.name}", resource)
    schema = json.loads((schemas / "bom-1.6.SNAPSHOT.schema.json").read_text("utf-8"))
    jsonschema.Draft7Validator(schema, registry=registry).validate(document)


@pytest.mark.parametrize("kind", ["package", "file", "mlflow"])
def test_the_bill_of_materials_follows_cyclonedx_schema(
    kind: str, artifacts: ArtifactStore, small_model: Path, tmp_path: Path, cyclonedx_schemas: Path
) -> None:
    if kind == "package":
        path = _package(tmp_path / "p", small_model)
    elif kind == "file":
        path = small_model
    else:
        path = tmp_path / "f"
        path.mkdir()
        (path / "model.txt").write_bytes(small_model.read_bytes())
        (path / "requirements.txt").write_text("mlflow==3.17.2\nscikit-learn==1.7.0 ; python_version > '3'\n-r other\n")
        (path / "MLmodel").write_text("flavors:\n  lightgbm: {data: model.txt}\n")
    digest = artifacts.add(path).digest
    artifacts.sign(digest, _keys(tmp_path)[0], "ana")
    for licence in ("", "Apache-2.0", "our own licence"):
        document = artifacts.bom(digest, name="fraud", version="1.2.0", licence=licence)
        _check(document, cyclonedx_schemas)
    assert document == artifacts.bom(digest, name="fraud", version="1.2.0", licence=licence)


def test_the_bill_of_materials_says_what_the_package_says(
    artifacts: ArtifactStore, small_model: Path, tmp_path: Path
) -> None:
    found = artifacts.bom(artifacts.add(_package(tmp_path / "p", small_model)).digest)
    component = found["metadata"]["component"]
    assert (component["type"], component["name"]) == ("machine-learning-model", "fraud")
    assert component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"] == [{"type": "auc", "value": "0.91"}]
    assert "Exported from sklearn to lightgbm" in component["pedigree"]["notes"]
    assert found["dependencies"][0]["dependsOn"] == ["pkg:pypi/foo-bar@2", "pkg:pypi/scikit-learn@1.7.0"]
    assert [one["name"] for one in found["components"] if one["type"] == "file"] == ["model.txt", "modelyard.json"]
