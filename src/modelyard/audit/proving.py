"""Checkpoints, proofs of single events, and the check of the whole log."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from modelyard.audit import rules, store
from modelyard.audit.copies import copies_at
from modelyard.audit.integration import ring
from modelyard.audit.keyring import Keyring
from modelyard.audit.keys import keyring_at
from modelyard.audit.leaves import leaf_bytes
from modelyard.audit.log import Log
from modelyard.audit.merkle import Subtree, inclusion_proof, leaf_hash, verify_inclusion
from modelyard.audit.notes import Checkpoint
from modelyard.audit.proofs import ProvedEvent, check_proof, proof_text
from modelyard.audit.verification import Walk
from modelyard.core.errors import Damaged, NotFound, Unavailable
from modelyard.core.operations import operation
from modelyard.core.ports import Connection

REMEMBERED = 50_000  # hashes of the tree's upper part
UPPER = 7  # levels below are near the leaf: one or two blocks hold them


class Proving(Log):
    """What shows to others that the log is whole."""

    @cached_property
    def _upper(self) -> dict[Subtree, bytes]:
        """Hashes of large complete subtrees, which never change. A proof is checked before it is given out."""
        return {}

    @operation("GET", "/audit/checkpoint", needs="audit.read")
    def checkpoint(self) -> str:
        """The newest signed checkpoint (C2SP tlog-checkpoint): the log's name, size and root, and the signature.

        Keep copies where the database's owner cannot write; `verify` holds the log against them, and `add_witness`
        copies by rule.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> _ = logger.log_model_deployment("fraud", "v1.0.0", "bob")
        >>> logger.checkpoint().splitlines()[1]
        '1'
        """
        self.catch_up()
        with self.store.reading() as rows:
            head = self._head(rows)
        if head is None:
            raise NotFound("The audit log has no checkpoint, because nothing has happened yet.")
        return head[0]

    @operation("GET", "/audit/proofs/{event_id}", needs="audit.read")
    def prove(self, event_id: str) -> str:
        """One text file (C2SP tlog-proof) that shows an event to be in the log to whoever has the public key.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> event = logger.log_model_deployment("fraud", "v1.0.0", "bob")
        >>> logger.prove(event.event_id).splitlines()[0]
        'c2sp.org/tlog-proof@v1'
        """
        with self.store.reading() as rows:
            proof = self._proof(rows, event_id)
        if proof is None:
            self.catch_up()
            with self.store.reading() as rows:
                proof = self._proof(rows, event_id)
        if proof is None:
            raise Unavailable(f"Event {event_id} waits for the host that signs this log. Try again in a second.")
        return proof

    @operation("POST", "/audit/proofs/check", needs="audit.read")
    def check(self, proof_path: str | Path, public_key_path: str | Path) -> ProvedEvent:
        """What a proof file shows, by the public key alone: this log's database is not asked.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> event = logger.log_model_deployment("fraud", "v1.0.0", "bob")
        >>> _ = (folder / "event.tlog-proof").write_text(logger.prove(event.event_id))
        >>> logger.check(folder / "event.tlog-proof", logger.keys.public_file).record["resource_id"]
        'fraud:v1.0.0'
        """
        keyring_at(public_key_path)  # so that a file without a key is told as such
        return check_proof(_text_of(proof_path, "proof"), _text_of(public_key_path, "public key"))

    @operation("POST", "/audit/verify", needs="audit.read")
    def verify(
        self,
        checkpoint_path: str | Path | None = None,
        public_key_path: str | Path | None = None,
        *,
        against: str | Path | None = None,
    ) -> rules.Verification:
        """What a full check found: every event, hash and checkpoint, and what expired, was erased or is held.

        With a checkpoint kept elsewhere, or `against` a folder or s3://bucket/prefix of copies (and the public key kept
        with them), it also finds a log that was cut or rewritten as a whole; without them it cannot, since whoever holds
        the database and the key can sign anew.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> _ = logger.log_model_deployment("fraud", "v1.0.0", "bob")
        >>> logger.verify().ok
        True
        """
        notes = [] if checkpoint_path is None else [_text_of(checkpoint_path, "checkpoint")]
        notes += [] if against is None else copies_at(against)
        with suppress(Damaged, Unavailable):  # the walk says what is damaged, and where; without the key it reads only
            self.catch_up()
        with self.store.reading() as rows:
            keys = self._trusted(rows, public_key_path)
        walk = Walk(keys, _outside(notes, keys))
        try:
            with self.store.reading() as rows:
                return walk.result(rows, self.store.folder)
        except Damaged as error:
            return walk.unreadable(error)

    def _trusted(self, rows: Connection, path: str | Path | None) -> Keyring | None:
        """The keys to verify with; None for a log that has never signed."""
        if path is not None:
            return ring(rows, keyring_at(path).newest)
        if store.last_checkpoint(rows) is None and not self.keys.public_file.exists():
            return None
        return self._ring(rows)

    def _proof(self, rows: Connection, event_id: str) -> str | None:
        """The proof's text, None for an event that no leaf holds yet."""
        found = store.leaf_of(rows, event_id)
        if found is None:
            raise NotFound(f"There is no event {event_id!r}. Find events with: modelyard audit query-events")
        event, (first, position, count, integrated_at), note = found
        if first is None or event[0] >= position + count:
            return None
        index = first + event[0] - position
        head = None if note is None else self._said(rows, note)
        if note is None or head is None or head.size <= index:
            raise Damaged("No checkpoint signs this event. See what was changed: modelyard audit verify")
        leaf = leaf_bytes(index, integrated_at, event)
        path = self._path(rows, index, head, leaf_hash(leaf))
        if path is None:
            raise self._unprovable(rows, event)
        return proof_text(leaf, index, path, note)

    def _path(self, rows: Connection, index: int, head: Checkpoint, leaf: bytes) -> list[bytes] | None:
        """The audit path, None if it does not hold: a proof that does not hold must not leave the house."""
        for _ in range(2):  # what is remembered may be older than a repair of the database
            path = inclusion_proof(index, head.size, lambda subtrees: self._hashes(rows, subtrees))
            if verify_inclusion(leaf, index, head.size, path, head.root):
                return path
            self._upper.clear()
        return None

    def _hashes(self, rows: Connection, subtrees: Sequence[Subtree]) -> list[bytes]:
        known = self._upper
        hashes = list(map(known.get, subtrees))
        missing = [subtree for subtree, value in zip(subtrees, hashes, strict=True) if value is None]
        try:
            found = store.hashes(rows, missing)
        except (KeyError, TypeError) as error:
            raise Damaged("The audit log's tree lacks a hash. See what was changed: modelyard audit verify") from error
        if len(known) >= REMEMBERED:
            known.clear()
        known.update(pair for pair in zip(missing, found, strict=True) if pair[0][0] >= UPPER)
        rest = iter(found)
        return [next(rest) if value is None else value for value in hashes]

    def _unprovable(self, rows: Connection, event: tuple[object, ...]) -> Exception:
        if rows.one("SELECT 1 AS found FROM audit_expired WHERE position = :position", position=event[0]):
            return NotFound(f"Event {event[1]} has expired: what it said is gone. A proof made before still holds.")
        return Damaged(f"Event {event[1]} is not what was logged. See what was changed: modelyard audit verify")


def _outside(notes: Sequence[str], keys: Keyring | None) -> tuple[Checkpoint, ...]:
    """The checkpoints kept elsewhere, in the order of their sizes."""
    if notes and keys is None:
        raise Unavailable("A checkpoint is checked with the log's public key. Pass public_key_path.")
    return tuple(sorted((keys.checkpoint(note) for note in notes if keys), key=lambda head: head.size))


def _text_of(path: str | Path, what: str) -> str:
    try:
        return Path(path).read_text()
    except FileNotFoundError as error:
        raise NotFound(f"There is no {what} file {path}.") from error
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is no {what}: it is not text.") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}.") from error
