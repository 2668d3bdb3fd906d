"""Proofs of single events: one text file that anyone can check with the log's public key.

Format: https://c2sp.org/tlog-proof. The `extra` line holds the leaf's own bytes, so that the file and the key are all a
checker needs.
"""

from __future__ import annotations

import json
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.audit.keyring import Keyring
from modelyard.audit.merkle import leaf_hash, verify_inclusion
from modelyard.audit.notes import DECIMAL, b64, from_b64
from modelyard.core.errors import Damaged

PROOF_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedEvent:
    """What a proof shows: the log held this record at this index when it signed a tree of this size."""

    origin: str
    index: int
    size: int
    root: str
    record: Mapping[str, Any]


def proof_text(leaf: bytes, index: int, path: Sequence[bytes], note: str) -> str:
    """The tlog-proof file that shows a leaf to be in the log."""
    hashes = b"".join(map(b2a_base64, path)).decode()  # a line each
    return f"{PROOF_HEADER}\nextra {b64(leaf)}\nindex {index}\n{hashes}\n{note}"


def check_proof(text: str, public_key: str) -> ProvedEvent:
    """What a proof shows, checked offline with nothing but the log's public key; Damaged if it shows nothing.

    Behind the key may stand, after a blank line, the statements by which the log went over to other keys.

    >>> from modelyard.audit import AuditLogger
    >>> logger = AuditLogger(folder)
    >>> event = logger.log_security_violation("eve", "model", "fraud:v1", "unauthorized_access")
    >>> proof, key = logger.prove(event.event_id), (folder / "keys" / "audit.ed25519.pub").read_text()
    >>> check_proof(proof, key).record["actor"]
    'eve'
    """
    keys = Keyring.parse(public_key)
    head, gap, note = text.partition("\n\n")
    lines = head.split("\n")
    if not gap or lines[0] != PROOF_HEADER or len(lines) < 3:
        raise Damaged(f"This is no event's proof: it must start with {PROOF_HEADER}, an extra line and an index line.")
    word, _, extra = lines[1].partition(" ")
    index_word, _, index = lines[2].partition(" ")
    if word != "extra" or index_word != "index" or not DECIMAL.fullmatch(index):
        raise Damaged("This is no event's proof: its second line must be `extra ...` and its third `index ...`.")
    signed = keys.checkpoint(note)
    leaf = from_b64(extra, "the record")
    path = [from_b64(line, "a hash") for line in lines[3:]]
    if not verify_inclusion(leaf_hash(leaf), int(index), signed.size, path, signed.root):
        raise Damaged("The proof does not hold: the record, its index or a hash was changed.")
    return ProvedEvent(
        origin=signed.origin, index=int(index), size=signed.size, root=signed.root.hex(), record=json.loads(leaf)
    )
