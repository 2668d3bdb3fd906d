"""The publishing key, and DSSE envelopes signed with it (https://github.com/secure-systems-lab/dsse, Ed25519).

The key is the marketplace's own, not the audit log's: a log's key signs checkpoints and nothing else. It lies in the
store's `keys/publishing.ed25519.pem` (PKCS #8, mode 0600), the public key beside it in `publishing.ed25519.pub.pem`, both
in the forms that `openssl` reads.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from modelyard.core.canonical import dumps
from modelyard.core.errors import Damaged, Forbidden, Invalid, Unavailable
from modelyard.core.files import PRIVATE, place_whole
from modelyard.marketplace.values import PublishingKey

PAYLOAD_TYPE = "application/vnd.modelyard.package.v1+json"
KEY_LIMIT = 4_096  # characters of a key file


class KeyFile:
    """The publishing key of one store, made on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "keys"
        self.secret = self.folder / "publishing.ed25519.pem"
        self.public = self.folder / "publishing.ed25519.pub.pem"

    def signing(self) -> Ed25519PrivateKey:
        """The secret key; when two make it at once, both get the first one's."""
        data = self._read()
        if data is None:
            made = Ed25519PrivateKey.from_private_bytes(secrets.token_bytes(32))
            pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            place_whole(self.secret, pem.decode(), PRIVATE)
            data = self._read() or b""
        try:
            key = load_pem_private_key(data, None)
        except ValueError as error:
            raise Damaged(f"{self.secret} is no private key. Restore it from a backup.") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise Damaged(f"{self.secret} is no Ed25519 key. Restore it from a backup.")
        if not self.public.exists():
            place_whole(self.public, _pem(key.public_key()).decode())
        return key

    def published(self) -> PublishingKey:
        """The public key and its id."""
        key = self.signing().public_key()
        return PublishingKey(key_id=key_id(key), public_key=_pem(key).decode())

    def _read(self) -> bytes | None:
        try:
            return self.secret.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"{self.secret} cannot be read: {error.strerror}. Only its owner may read it.") from error


def public_key_of(text: str) -> Ed25519PublicKey:
    """The public key that a PEM text holds; Invalid for anything else."""
    try:
        whole = isinstance(text, str) and len(text) <= KEY_LIMIT
        key = load_pem_public_key(text.strip().encode()) if whole else None
    except ValueError as error:
        raise Invalid(
            "public_key is no public key. Pass the PEM text that the publisher's `publishing_key` answers with."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise Invalid("public_key is no Ed25519 key in PEM form. Ask the publisher for the text of `publishing_key`.")
    return key


def pem_of(key: Ed25519PublicKey) -> str:
    """The key in the one form that is kept."""
    return _pem(key).decode()


def key_id(key: Ed25519PublicKey) -> str:
    """The key's name in signatures: SHA-256 of its raw bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def envelope(payload: bytes, key: Ed25519PrivateKey) -> str:
    """The DSSE envelope of a payload."""
    signature = {"keyid": key_id(key.public_key()), "sig": _b64(key.sign(_pae(payload)))}
    return dumps({"payload": _b64(payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]})


def opened(text: bytes, keys: Mapping[str, Ed25519PublicKey]) -> tuple[bytes, str]:
    """(payload, key id) of an envelope that one of the keys signed.

    Forbidden where none of its signers is among the keys; Damaged where the one that is did not sign these bytes.
    """
    try:
        found: Any = json.loads(text)
        payload, signatures = _from_b64(found["payload"]), found["signatures"]
        if found["payloadType"] != PAYLOAD_TYPE or set(found) != {"payload", "payloadType", "signatures"}:
            raise ValueError("it is another kind of envelope")  # told by the handler below
        signed = [(str(one["keyid"]), _from_b64(one["sig"])) for one in signatures]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(
            f"The package has no readable signature: {error!r:.200}. Ask its publisher for another copy."
        ) from error
    for name, signature in signed:
        if name not in keys:
            continue
        try:
            keys[name].verify(signature, _pae(payload))
        except InvalidSignature as error:
            raise Damaged("The package's signature does not belong to it: one of them was changed.") from error
        return payload, name
    signers = ", ".join(name[:16] for name, _ in signed[:3]) or "nobody"
    raise Forbidden(
        f"The package is signed by {signers}, whom nobody here trusts. Check the key with its publisher, then: "
        "modelyard marketplace trust-publisher NAME PUBLIC_KEY"
    )


def _pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed names its type and its lengths."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_b64(text: Any) -> bytes:
    """Exactly the bytes whose standard form the text is: a second spelling of the same bytes is refused."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if _b64(data) != text:
        raise ValueError("base64 in another than its standard form")
    return data
