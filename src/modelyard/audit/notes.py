"""Signed text that anyone can check: C2SP signed notes, checkpoints of the log, and proofs of single events.

Formats: https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint and https://c2sp.org/tlog-proof, with Ed25519.
A proof's `extra` line holds the leaf's own bytes, so that one text file and the public key are all a checker needs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from modelyard.audit.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from modelyard.core.errors import Damaged, Invalid

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
_ED25519 = b"\x01"  # the signed-note algorithm identifier
_DASH = "\u2014 "  # an em dash and a space start every signature line
_KEY_NAME = re.compile(r"[^\s+]+")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A log's name and Ed25519 key, written `name+hash+key` as signed-note writes verifier keys."""

    name: str
    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """The key that the text spells; Invalid for anything else."""
        name, hint, raw = _key_fields(text.strip(), "public key")
        key = cls(name, raw)
        if key.hint != hint:
            raise Invalid("The public key's hash does not belong to its name and bytes. Copy the whole line again.")
        return key

    @property
    def hint(self) -> bytes:
        """The four bytes that tell which key made a signature."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.raw).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.hint.hex()}+{_b64(_ED25519 + self.raw)}"


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
        name, hint, seed = _key_fields(text.strip().removeprefix("PRIVATE+KEY+"), "signing key")
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
        return f"PRIVATE+KEY+{self.name}+{self.public.hint.hex()}+{_b64(_ED25519 + self.seed)}"

    def sign(self, text: str) -> str:
        """The signed note of a text that ends in a newline."""
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())
        return f"{text}\n{_DASH}{self.name} {_b64(self.public.hint + signature)}\n"

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
        return f"{self.origin}\n{self.size}\n{_b64(self.root)}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedEvent:
    """What a proof shows: the log held this record at this index when it signed a tree of this size."""

    origin: str
    index: int
    size: int
    root: str
    record: Mapping[str, Any]


def opened(note: str, key: PublicKey) -> str:
    """The text of a note that carries the key's valid signature; Damaged if it carries none.

    Signatures of other keys (witnesses) are passed over, as the format demands.
    """
    text, gap, signatures = note.rpartition("\n\n")
    if not gap or not signatures.endswith("\n") or len(note) > 1_000_000:
        raise Damaged("This is no signed note: a blank line and signature lines must follow the text.")
    text += "\n"
    good = False
    for line in signatures.split("\n")[:-1]:
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not name:
            raise Damaged("This is no signed note: a signature line is malformed.")
        signature = _from_b64(encoded, "a signature")
        if name == key.name and signature[:4] == key.hint:
            _check(key, signature[4:], text)
            good = True
    if not good:
        raise Damaged(
            f"The note carries no signature by {key.name}. Check it with the public key of the log that made it."
        )
    return text


def checkpoint(note: str, key: PublicKey) -> Checkpoint:
    """The checkpoint in a signed note, its signature checked."""
    lines = opened(note, key).split("\n")[:-1]
    if len(lines) < 3 or not all(lines) or not _DECIMAL.fullmatch(lines[1]):
        raise Damaged("The signed text is no checkpoint: origin, size and root must stand in its first three lines.")
    root = _from_b64(lines[2], "the root")
    if len(root) != HASH_BYTES or lines[0] != key.name:
        raise Damaged(f"The checkpoint is not one of {key.name}: its origin or its root does not fit.")
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root)


def proof_text(leaf: bytes, index: int, path: Sequence[bytes], note: str) -> str:
    """The tlog-proof file that shows a leaf to be in the log."""
    lines = [PROOF_HEADER, f"extra {_b64(leaf)}", f"index {index}", *map(_b64, path)]
    return "\n".join(lines) + "\n\n" + note


def check_proof(text: str, public_key: str) -> ProvedEvent:
    """What a proof shows, checked offline with nothing but the log's public key; Damaged if it shows nothing.

    >>> from modelyard.audit import AuditLogger
    >>> logger = AuditLogger(folder)
    >>> event = logger.log_security_violation("eve", "model", "fraud:v1", "unauthorized_access")
    >>> proof, key = logger.prove(event.event_id), (folder / "keys" / "audit.ed25519.pub").read_text()
    >>> check_proof(proof, key).record["actor"]
    'eve'
    """
    key = PublicKey.parse(public_key)
    head, gap, note = text.partition("\n\n")
    lines = head.split("\n")
    if not gap or lines[0] != PROOF_HEADER or len(lines) < 3:
        raise Damaged(f"This is no event's proof: it must start with {PROOF_HEADER}, an extra line and an index line.")
    word, _, extra = lines[1].partition(" ")
    index_word, _, index = lines[2].partition(" ")
    if word != "extra" or index_word != "index" or not _DECIMAL.fullmatch(index):
        raise Damaged("This is no event's proof: its second line must be `extra ...` and its third `index ...`.")
    signed = checkpoint(note, key)
    leaf = _from_b64(extra, "the record")
    path = [_from_b64(line, "a hash") for line in lines[3:]]
    if not verify_inclusion(leaf_hash(leaf), int(index), signed.size, path, signed.root):
        raise Damaged("The proof does not hold: the record, its index or a hash was changed.")
    return ProvedEvent(
        origin=signed.origin, index=int(index), size=signed.size, root=signed.root.hex(), record=json.loads(leaf)
    )


def _key_fields(text: str, what: str) -> tuple[str, bytes, bytes]:
    """(name, hint, 32 key bytes) of `name+hash+base64`."""
    name, _, rest = text.partition("+")
    hint, _, encoded = rest.partition("+")
    if not _KEY_NAME.fullmatch(name) or not re.fullmatch(r"[0-9a-f]{8}", hint):
        raise Invalid(f"This is no {what}: it must read name+hash+key, in one line.")
    try:
        raw = _from_b64(encoded, "it")
    except Damaged as error:
        raise Invalid(f"This is no {what}: its last part is not base64.") from error
    if len(raw) != 33 or raw[:1] != _ED25519:
        raise Invalid(f"This {what} is not an Ed25519 key.")
    return name, bytes.fromhex(hint), raw[1:]


def _check(key: PublicKey, signature: bytes, text: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, text.encode("utf-8", "surrogatepass"))
    except InvalidSignature as error:
        raise Damaged(f"The signature by {key.name} does not belong to this text: one of them was changed.") from error


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_b64(text: str, what: str) -> bytes:
    """Exactly the bytes whose standard form the text is: a second spelling of the same bytes is refused."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Damaged(f"{what} is not base64.") from error
    if _b64(data) != text:
        raise Damaged(f"{what} is not in base64's standard form.")
    return data
