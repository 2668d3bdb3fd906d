"""Signatures of artifacts, kept beside them, and the bill of materials that goes with one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard.artifacts import bom, bundles, rules, store_signatures
from modelyard.artifacts.kept import KeptArtifacts, known
from modelyard.core import plugins
from modelyard.core.errors import Damaged, Forbidden, NotFound
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import Instant, micros
from modelyard.core.models import PACKAGE_MANIFEST, Artifact
from modelyard.core.operations import operation
from modelyard.core.packages import manifest_of
from modelyard.core.people import checked_person
from modelyard.core.refs import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature that is kept: who brought it when, and the SHA-256 of the key it names (empty for keyless ones)."""

    digest: str
    key_id: str
    method: str
    signed_by: str
    signed_at: Instant


class Signatures(KeptArtifacts):
    """Signs what is stored, keeps others' signatures, and verifies both."""

    @operation("POST", "/artifacts/{digest}/sign", needs="artifacts.write", remote=False)
    def sign(
        self, digest: str, key_path: str | Path, user: str = "system", *, password_path: str | Path = ""
    ) -> Signature:
        """The signature of every file of the artifact by an elliptic-curve key, kept beside it as a Sigstore bundle.

        The bytes are read again first. `password_path` is a file with the key's password, for a key that has one.

        >>> import subprocess
        >>> from modelyard.artifacts import ArtifactStore
        >>> make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(folder / "key.pem")]
        >>> _ = subprocess.run(make, check=True)
        >>> artifacts = ArtifactStore(folder)
        >>> artifacts.sign(artifacts.add(model_file).digest, folder / "key.pem", "ana").method
        'key'
        """
        artifact = self.verify(digest)
        password = Path(password_path).read_text().strip() if str(password_path) else ""
        key = bundles.private_key(Path(key_path), password)
        bundle = bundles.signed(artifact.name, _files(artifact), key)
        return self._keep(artifact, bundle, bundles.key_id(key.public_key()), "key", user)

    @operation("POST", "/artifacts/{digest}/signatures", needs="artifacts.write")
    def add_signature(self, digest: str, bundle: str, user: str = "system") -> Signature:
        """A signature that another tool made of the same files, kept; Forbidden if it is of others.

        Whether to trust its key is for `verify_signature` to say.

        >>> from modelyard.artifacts import ArtifactStore, bundles
        >>> from cryptography.hazmat.primitives.asymmetric import ec
        >>> artifacts = ArtifactStore(folder)
        >>> model = artifacts.add(model_file)
        >>> text = bundles.signed(model.name, {".": model.digest}, ec.generate_private_key(ec.SECP256R1()))
        >>> artifacts.add_signature(model.digest, text, "ci").signed_by
        'ci'
        """
        artifact = self.get(digest)
        found = bundles.read(bundle)
        if found.files != _files(artifact):
            raise Forbidden(f"The signature is of other files than those of {artifact.name} ({artifact.digest[:12]}).")
        return self._keep(artifact, bundle, found.key_id, "key" if found.key_id else "keyless", user)

    @operation("POST", "/artifacts/{digest}/signatures/verify", needs="artifacts.read", remote=False)
    def verify_signature(self, digest: str, public_key_path: str | Path) -> Signature:
        """The kept signature by this key, once it and every stored byte are found to be right; else Forbidden, and an event.

        >>> import subprocess
        >>> from modelyard.artifacts import ArtifactStore
        >>> artifacts, key = ArtifactStore(folder), folder / "key.pem"
        >>> make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)]
        >>> _ = subprocess.run(make, check=True)
        >>> _ = subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", f"{key}.pub"], check=True, stderr=-3)
        >>> model = artifacts.add(model_file)
        >>> artifacts.sign(model.digest, key, "ana") == artifacts.verify_signature(model.digest, f"{key}.pub")
        True
        """
        artifact = self.verify(digest)
        key = bundles.public_key(Path(public_key_path))
        with self.store.reading() as rows:
            row = store_signatures.load(rows, artifact.digest, bundles.key_id(key))
        if row is None:
            raise NotFound(
                f"{artifact.name} ({artifact.digest[:12]}) has no signature by the key {bundles.key_id(key)[:12]}. "
                "Sign it: modelyard artifacts sign DIGEST key.pem"
            )
        try:
            bundles.verified(row["bundle"], _files(artifact), key)
        except (Forbidden, Damaged) as error:
            with self.store.work() as work:
                told = {"action": "verify_signature", "reasons": [str(error)], "key": row["key_id"]}
                resource = Resource("artifact", artifact.digest)
                work.emit(EventType.SECURITY_VIOLATION, resource, told, severity=EventSeverity.CRITICAL)
            raise
        return store_signatures.value(row, Signature)

    @operation("GET", "/artifacts/{digest}/signatures", needs="artifacts.read")
    def list_signatures(self, digest: str) -> list[Signature]:
        """The signatures that are kept of the artifact, the oldest first.

        >>> from modelyard.artifacts import ArtifactStore
        >>> artifacts = ArtifactStore(folder)
        >>> artifacts.list_signatures(artifacts.add(model_file).digest)
        []
        """
        with self.store.reading() as rows:
            found = store_signatures.of_digest(rows, rules.checked_digest(digest))
        return [store_signatures.value(row, Signature) for row in found]

    @operation("GET", "/artifacts/{digest}/signatures/{key_id}/bundle", needs="artifacts.read")
    def signature_bundle(self, digest: str, key_id: str) -> str:
        """The Sigstore bundle by this key (its SHA-256), which `model_signing verify key` takes too.

        >>> from modelyard.artifacts import ArtifactStore, bundles
        >>> from cryptography.hazmat.primitives.asymmetric import ec
        >>> artifacts, key = ArtifactStore(folder), ec.generate_private_key(ec.SECP256R1())
        >>> model = artifacts.add(model_file)
        >>> text = bundles.signed(model.name, {".": model.digest}, key)
        >>> _ = artifacts.add_signature(model.digest, text, "ci")
        >>> artifacts.signature_bundle(model.digest, bundles.key_id(key.public_key())) == text
        True
        """
        with self.store.reading() as rows:
            row = store_signatures.load(rows, rules.checked_digest(digest), key_id)
        if row is None:
            raise NotFound(f"{digest[:12]} has no signature by the key {key_id[:12]!r}. List them: list-signatures")
        text: str = row["bundle"]
        return text

    def sign_keyless(self, digest: str, user: str = "system", *, identity_token: str = "") -> Signature:
        """The signature by a short-lived certificate of Sigstore's for the identity that signs in, kept beside the artifact.

        Needs the network and the `sign` extra. Without `identity_token` it asks in the browser, or the CI's own provider.
        """
        artifact = self.verify(digest)
        made = plugins.load("signer", "sigstore").sign(self._copied(artifact.digest), identity_token)
        return self._keep(artifact, made, "", "keyless", user)

    def verify_keyless(self, digest: str, *, identity: str, issuer: str) -> Signature:
        """The kept keyless signature, if it is by this identity as this OpenID issuer vouches for it; else Forbidden."""
        artifact = self.verify(digest)
        with self.store.reading() as rows:
            row = store_signatures.load(rows, artifact.digest, "")
        if row is None:
            raise NotFound(f"{artifact.name} ({artifact.digest[:12]}) has no keyless signature. Sign it: sign_keyless")
        plugins.load("signer", "sigstore").verify(self._copied(artifact.digest), row["bundle"], identity, issuer)
        return store_signatures.value(row, Signature)

    @operation("GET", "/artifacts/{digest}/bom", needs="artifacts.read")
    def bom(self, digest: str, name: str = "", version: str = "", licence: str = "") -> dict[str, Any]:
        """The artifact's CycloneDX 1.6 bill of materials: its files, its packages, and a model card from its manifest.

        `name`, `version` and `licence` (an SPDX identifier) are the registry's to say; they default to the file's name
        and digest.

        >>> from modelyard.artifacts import ArtifactStore
        >>> artifacts = ArtifactStore(folder)
        >>> artifacts.bom(artifacts.add(model_file).digest)["metadata"]["component"]["type"]
        'machine-learning-model'
        """
        artifact = self.get(digest)
        text = {path: self._text(member) for path, member in artifact.members.items() if path in bom.READ}
        manifest = manifest_of(text[PACKAGE_MANIFEST]) if PACKAGE_MANIFEST in text else None
        with self.store.reading() as rows:
            row = known(rows, artifact.digest)
        facts = bom.Facts(
            artifact=artifact,
            manifest=manifest,
            requirements=text.get("requirements.txt", ""),
            created_at=row["created_at"],
            created_by=row["created_by"],
            signatures=tuple(one.key_id or "keyless" for one in self.list_signatures(artifact.digest)),
        )
        return bom.document(facts, name=name, version=version, licence=licence)

    def _text(self, digest: str) -> str:
        with self.store.blobs.open(rules.blob_key(digest)) as stream:
            return stream.read(bom.TEXT_LIMIT).decode("utf-8", "replace")

    def _keep(self, artifact: Artifact, bundle: str, key_id: str, method: str, user: str) -> Signature:
        checked_person(user, "user")
        with self.store.work(user) as work:
            found = Signature(digest=artifact.digest, key_id=key_id, method=method, signed_by=user, signed_at=work.now)
            store_signatures.put(work.rows, found, bundle, micros(work.now))
            told = {"key": key_id, "method": method, "files": len(_files(artifact))}
            work.emit(EventType.ARTIFACT_SIGNED, Resource("artifact", artifact.digest), told)
        return found


def _files(artifact: Artifact) -> dict[str, str]:
    return dict(artifact.members) or {bundles.ALONE: artifact.digest}
