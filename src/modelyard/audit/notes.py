"""Signed text that anyone can check: C2SP signed notes with Ed25519, and checkpoints of the log.

Formats: https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from modelyard.audit.merkle import HASH_BYTES
from modelyard.core.errors import Damaged, Invalid

ED25519 = b"\x01"  # the signed-note algorithm identifiers
MLDSA44 = b"\x06"
_KEY_BYTES = {ED25519: 32, MLDSA44: 1312}
_DASH = "\u2014 "  # an em dash and a space start every signature line
_KEY_NAME = re.compile(r"[^\s+]+")
DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A log's name and public key, written `name+hash+key` as signed-note writes verifier keys."""

    name: str
    raw: bytes
    algorithm: bytes = ED25519

    @classmethod
    def parse(cls, text: str, algorithm: bytes = ED25519) -> PublicKey:
        """The key that the text spells; Invalid for anything else."""
        name, hint, raw = _key_fields(text.strip(), "public key", algorithm)
        key = cls(name, raw, algorithm)
        if key.hint != hint:
            raise Invalid("The public key's hash does not belong to its name and bytes. Copy the whole line again.")
        return key

    @property
    def hint(self) -> bytes:
        """The four bytes that tell which key made a signature."""
        return hashlib.sha256(self.name.encode() + b"\n" + self.algorithm + self.raw).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.hint.hex()}+{b64(self.algorithm + self.raw)}"


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A log's name and Ed25519 seed, written `PRIVATE+KEY+name+hash+seed` as Go's note package writes signer keys."""

    name: str
    seed: bytes

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """The key that the text spells; the error of a bad one shows none of it."""
        if not text.startswith("PRIVATE+KEY+"):
            raise Invalid("This is no signing key: it does not start with PRIVATE+KEY+. Restore it from a backup.")
        name, hint, seed = _key_fields(text.strip().removeprefix("PRIVATE+KEY+"), "signing key", ED25519)
        key = cls(name, seed)
        if key.public.hint != hint:
            raise Invalid("The signing key's hash does not belong to it. Restore it from a backup.")
        return key

    @property
    def public(self) -> PublicKey:
        """The key to check this one's signatures with."""
        return PublicKey(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def text(self) -> str:
        """The key's line, secret."""
        return f"PRIVATE+KEY+{self.name}+{self.public.hint.hex()}+{b64(ED25519 + self.seed)}"

    def sign(self, text: str) -> str:
        """The signed note of a text that ends in a newline."""
        return f"{text}\n{self.line(text)}"

    def line(self, text: str) -> str:
        """The signature line of a text."""
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())
        return signature_line(self.public, signature)

    def __repr__(self) -> str:
        return f"SigningKey({self.name!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A log's name, how many leaves it has, and the root over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The tlog-checkpoint body."""
        return f"{self.origin}\n{self.size}\n{b64(self.root)}\n"


def signature_line(key: PublicKey, signature: bytes) -> str:
    """How a signed note shows a key's signature."""
    return f"{_DASH}{key.name} {b64(key.hint + signature)}\n"


def signatures(note: str) -> list[tuple[str, bytes, bytes]]:
    """(key name, key hint, signature) of each signature line of a note; Damaged where there is none."""
    _, gap, lines = note.rpartition("\n\n") if isinstance(note, str) else ("", "", "")
    if not gap or not lines.endswith("\n") or len(note) > 1_000_000:
        raise Damaged("This is no signed note: a blank line and signature lines must follow the text.")
    found = []
    for line in lines.split("\n")[:-1]:
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not name:
            raise Damaged("This is no signed note: a signature line is malformed.")
        signature = from_b64(encoded, "a signature")
        found.append((name, signature[:4], signature[4:]))
    return found


def opened(note: str, key: PublicKey) -> str:
    """The text of a note that carries the key's valid signature; Damaged if it carries none.

    Signatures of other keys (witnesses) are passed over, as the format demands.
    """
    lines = signatures(note)
    text, good = note.rpartition("\n\n")[0] + "\n", False
    for name, hint, signature in lines:
        if name == key.name and hint == key.hint:
            _check(key, signature, text)
            good = True
    if not good:
        raise Damaged(
            f"The note carries no signature by {key.name}. Check it with the public key of the log that made it."
        )
    return text


def checkpoint(note: str, key: PublicKey) -> Checkpoint:
    """The checkpoint in a signed note, its signature checked."""
    lines = opened(note, key).split("\n")[:-1]
    if len(lines) < 3 or not all(lines) or not DECIMAL.fullmatch(lines[1]):
        raise Damaged("The signed text is no checkpoint: origin, size and root must stand in its first three lines.")
    root = from_b64(lines[2], "the root")
    if len(root) != HASH_BYTES or lines[0] != key.name:
        raise Damaged(f"The checkpoint is not one of {key.name}: its origin or its root does not fit.")
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root)


def _key_fields(text: str, what: str, algorithm: bytes) -> tuple[str, bytes, bytes]:
    """(name, hint, key bytes) of `name+hash+base64`."""
    name, _, rest = text.partition("+")
    hint, _, encoded = rest.partition("+")
    if not _KEY_NAME.fullmatch(name) or not re.fullmatch(r"[0-9a-f]{8}", hint):
        raise Invalid(f"This is no {what}: it must read name+hash+key, in one line.")
    try:
        raw = from_b64(encoded, "it")
    except Damaged as error:
        raise Invalid(f"This is no {what}: its last part is not base64.") from error
    if len(raw) != 1 + _KEY_BYTES[algorithm] or raw[:1] != algorithm:
        raise Invalid(f"This {what} is not an {'Ed25519' if algorithm == ED25519 else 'ML-DSA-44'} key.")
    return name, bytes.fromhex(hint), raw[1:]


def _check(key: PublicKey, signature: bytes, text: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, text.encode("utf-8", "surrogatepass"))
    except InvalidSignature as error:
        raise Damaged(f"The signature by {key.name} does not belong to this text: one of them was changed.") from error


def b64(data: bytes) -> str:
    """The bytes in base64's standard form."""
    return binascii.b2a_base64(data, newline=False).decode()


def from_b64(text: str, what: str) -> bytes:
    """Exactly the bytes whose standard form the text is: a second spelling of the same bytes is refused."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Damaged(f"{what} is not base64.") from error
    if b64(data) != text:
        raise Damaged(f"{what} is not in base64's standard form.")
    return data
