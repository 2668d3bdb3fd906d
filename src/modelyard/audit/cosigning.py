"""A second signature on each checkpoint, by ML-DSA-44, against the day when Ed25519 can be broken.

Format: https://c2sp.org/tlog-cosignature, with the log as its own cosigner.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from modelyard.audit.notes import MLDSA44, Checkpoint, PublicKey, signature_line, signatures
from modelyard.core.errors import Damaged

_LABEL = b"subtree/v1\n\0"
_STAMP = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Cosigner:
    """An ML-DSA-44 public key that signs checkpoints beside the log's own."""

    name: str
    raw: bytes

    @classmethod
    def parse(cls, text: str) -> Cosigner:
        """The key that a `name+hash+key` line spells."""
        key = PublicKey.parse(text, algorithm=MLDSA44)
        return cls(key.name, key.raw)

    @property
    def key(self) -> PublicKey:
        """The key as signed notes write it."""
        return PublicKey(self.name, self.raw, MLDSA44)

    def check(self, note: str, head: Checkpoint) -> None:
        """Damaged unless the note carries this key's signature of the checkpoint."""
        for name, hint, signature in signatures(note):
            if name == self.name and hint == self.key.hint and len(signature) > _STAMP.size:
                stamp = _STAMP.unpack(signature[: _STAMP.size])[0]
                try:
                    MLDSA44PublicKey.from_public_bytes(self.raw).verify(
                        signature[_STAMP.size :], _message(self.name, stamp, head)
                    )
                except (InvalidSignature, ValueError) as error:
                    raise Damaged(f"The ML-DSA signature by {self.name} does not belong to this checkpoint.") from error
                return
        raise Damaged(f"The checkpoint carries no ML-DSA signature by {self.name}.")


@dataclass(frozen=True, slots=True, repr=False)
class CosigningKey:
    """An ML-DSA-44 seed and its name."""

    name: str
    seed: bytes

    @property
    def public(self) -> Cosigner:
        """The key to check with."""
        return Cosigner(self.name, MLDSA44PrivateKey.from_seed_bytes(self.seed).public_key().public_bytes_raw())

    def line(self, head: Checkpoint, stamp: int) -> str:
        """The signature line for a checkpoint, at a time in seconds since 1970."""
        key = MLDSA44PrivateKey.from_seed_bytes(self.seed)
        signature = _STAMP.pack(stamp) + key.sign(_message(self.name, stamp, head))
        return signature_line(self.public.key, signature)


def _message(name: str, stamp: int, head: Checkpoint) -> bytes:
    """The cosigned_message structure of a checkpoint."""
    texts = [bytes([len(text)]) + text for text in (name.encode(), head.origin.encode())]
    numbers = struct.pack(">QQ", 0, head.size)
    return _LABEL + texts[0] + _STAMP.pack(stamp) + texts[1] + numbers + head.root
