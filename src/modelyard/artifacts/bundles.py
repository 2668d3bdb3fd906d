"""OpenSSF model signatures: a list of SHA-256 in an in-toto statement, in a DSSE envelope, in a Sigstore bundle.

https://github.com/sigstore/model-transparency (predicate v1.0), https://github.com/secure-systems-lab/dsse/blob/master/protocol.md,
https://docs.sigstore.dev/about/bundle/ (v0.3). Keys are elliptic-curve keys in PEM.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelyard.artifacts.inspection import Malformed
from modelyard.artifacts.tensors import strict_json
from modelyard.core.errors import Damaged, Forbidden, Invalid, NotFound

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
BUNDLE_LIMIT = 16 << 20
ALONE = "."  # the name of a file that is a model by itself
HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a bundle says of a model: the SHA-256 of each of its files, by relative path (`.` for a single file)."""

    name: str
    files: Mapping[str, str]
    key_id: str


def signed(name: str, files: Mapping[str, str], key: ec.EllipticCurvePrivateKey) -> str:
    """The bundle, as JSON text, that states the files' digests under the key."""
    listed = sorted(files.items())
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in listed)).hexdigest()
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []},
            "resources": [{"name": path, "algorithm": "sha256", "digest": digest} for path, digest in listed],
        },
    }
    payload = json.dumps(statement, indent=2).encode()
    signature = key.sign(_encoded(payload), ec.ECDSA(_hash(key.public_key())))
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, separators=(",", ":"))


def read(bundle: str | bytes) -> Statement:
    """What the bundle says, without any check of its signature; Damaged if it is no bundle of a model's signature."""
    try:
        statement, _, hint = _parts(bundle)
        subject, predicate = statement["subject"], statement["predicate"]
        listed = [(one["name"], one["algorithm"], one["digest"]) for one in predicate["resources"]]
        root = hashlib.sha256(b"".join(bytes.fromhex(digest) for *_, digest in listed)).hexdigest()
        sound = (
            statement["_type"] == STATEMENT
            and statement["predicateType"] == PREDICATE
            and predicate["serialization"]["method"] == "files"
            and len(subject) == 1
            and subject[0]["digest"] == {"sha256": root}
            and all(algorithm == "sha256" and len(digest) == 64 for _, algorithm, digest in listed)
            and len({name for name, *_ in listed}) == len(listed)
        )
        found = Statement(name=str(subject[0]["name"]), files={name: digest for name, _, digest in listed}, key_id=hint)
    except (Malformed, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Damaged(f"The signature is no Sigstore bundle of a model ({type(error).__name__}: {error}).") from error
    if not sound:
        raise Damaged("The signature does not state a model's files in a way that is known here. Sign it again.")
    return found


def verified(bundle: str | bytes, files: Mapping[str, str], key: ec.EllipticCurvePublicKey) -> Statement:
    """What the bundle says, signed by the key, of exactly these files; Forbidden if it is signed or says otherwise."""
    found = read(bundle)
    _, envelope, _ = _parts(bundle)
    if found.key_id not in ("", key_id(key)):
        raise Forbidden(f"The signature is by another key ({found.key_id[:12]}...) than {key_id(key)[:12]}...")
    signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
    try:
        key.verify(signature, _encoded(base64.b64decode(envelope["payload"])), ec.ECDSA(_hash(key)))
    except InvalidSignature as error:
        raise Forbidden("The signature is not by this key, or was changed.") from error
    if found.files != files:
        other = {path for path in found.files.keys() | files.keys() if found.files.get(path) != files.get(path)}
        raise Forbidden(f"The signature is of other files: {', '.join(sorted(other)[:5])}.")
    return found


def _parts(bundle: str | bytes) -> tuple[Any, Any, str]:
    """(statement, envelope, key hint)."""
    if len(bundle) > BUNDLE_LIMIT:
        raise ValueError(f"it has more than {BUNDLE_LIMIT:,} bytes")
    found = strict_json(bundle)
    envelope = found["dsseEnvelope"]
    if found["mediaType"] != MEDIA_TYPE or envelope["payloadType"] != PAYLOAD_TYPE or len(envelope["signatures"]) != 1:
        raise ValueError("its media type, payload type or number of signatures is unknown")
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
    except binascii.Error as error:
        raise ValueError("it is no base64") from error
    hint = found["verificationMaterial"].get("publicKey", {}).get("hint", "")
    return strict_json(payload), envelope, str(hint)


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the public key's PEM text, as bundles name their key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.PEM, form)).hexdigest()


def private_key(path: Path, password: str = "") -> ec.EllipticCurvePrivateKey:
    """The private key in a PEM file; Invalid for a key of another kind."""
    try:
        found = serialization.load_pem_private_key(_pem(path), password.encode() or None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Invalid(f"{path} holds no private key that can be read: {error}. Make one: {HOW}") from error
    if not isinstance(found, ec.EllipticCurvePrivateKey) or found.curve.name not in HASHES:
        raise Invalid(f"{path} holds a key of another kind than {', '.join(HASHES)}. Make one: {HOW}")
    return found


def public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """The public key in a PEM file; Invalid for a key of another kind."""
    try:
        found = serialization.load_pem_public_key(_pem(path))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Invalid(f"{path} holds no public key that can be read: {error}.") from error
    if not isinstance(found, ec.EllipticCurvePublicKey) or found.curve.name not in HASHES:
        raise Invalid(f"{path} holds a key of another kind than {', '.join(HASHES)}.")
    return found


def _hash(key: ec.EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    return HASHES[key.curve.name]


def _pem(path: Path) -> bytes:
    try:
        with Path(path).open("rb") as stream:
            return stream.read(1 << 16)
    except FileNotFoundError as error:
        raise NotFound(f"There is no key file {path}. Make one: {HOW}") from error
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}.") from error


HOW = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
