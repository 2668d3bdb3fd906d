"""Takes committed events into the tree, in order, and signs a checkpoint over it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.audit import store
from modelyard.audit.keyring import Keyring
from modelyard.audit.keys import KeyFolder
from modelyard.audit.leaves import EventRow, leaf_hashes
from modelyard.audit.merkle import HASH_BYTES, append, fold, number, peaks
from modelyard.audit.notes import Checkpoint, PublicKey, SigningKey, checkpoint
from modelyard.core.errors import Damaged, Unavailable
from modelyard.core.events import EventType
from modelyard.core.ports import Connection

BATCH = 5_000  # events a transaction: other writers wait for it no longer than about 0.05 s


@dataclass(slots=True)
class Standing:
    """Where the log stands: what to go on from."""

    key: SigningKey
    frontier: list[bytes]  # the peaks' hashes
    size: int
    tail: bytes  # the hashes in the last block, if it is not full


def integrate(rows: Connection, keys: KeyFolder, now: int) -> int:
    """Append leaves for at most BATCH waiting events and sign the new tree; returns how many."""
    waiting = store.waiting(rows, BATCH)
    if waiting:
        take_in(rows, keys, standing(rows, keys), waiting, now)
    return len(waiting)


def take_in(rows: Connection, keys: KeyFolder, state: Standing, waiting: Sequence[EventRow], now: int) -> Checkpoint:
    """Append a leaf for each event and sign; returns the new checkpoint."""
    start, size, frontier = number(0, state.size), state.size, state.frontier
    known = [state.tail]
    runs = list(_runs(size, waiting, now))
    spans = [(run["leaf_index"], run["position"], run["count"], now) for run in runs]
    for leaf in leaf_hashes(spans, [event[1:] for event in waiting]):
        known += append(frontier, size, leaf)
        size += 1
    store.write_blocks(rows, start, b"".join(known))
    store.add_runs(rows, runs)
    head = Checkpoint(origin=state.key.name, size=size, root=fold(frontier))
    store.add_checkpoint(rows, size, _signed(head, state.key, keys, now))
    return head


def _signed(head: Checkpoint, key: SigningKey, keys: KeyFolder, now: int) -> str:
    note, seed = key.sign(head.text()), keys.cosigner_seed()
    if seed is None:
        return note
    from modelyard.audit.cosigning import CosigningKey  # needs a newer cryptography than all the rest

    return note + CosigningKey(key.name, seed).line(head, now // 1_000_000)


def _runs(size: int, waiting: Sequence[EventRow], now: int) -> Iterator[dict[str, Any]]:
    """The events as runs of consecutive positions: on PostgreSQL a transaction that was undone leaves a gap."""
    start = 0
    for stop in range(1, len(waiting) + 1):
        if stop == len(waiting) or waiting[stop][0] != waiting[stop - 1][0] + 1:
            times = [event[7] for event in waiting[start:stop]]
            yield {
                "leaf_index": size + start,
                "position": waiting[start][0],
                "count": stop - start,
                "integrated_at": now,
                "earliest": min(times),
                "latest": max(times),
            }
            start = stop


def standing(rows: Connection, keys: KeyFolder) -> Standing:
    """The key, the peaks' hashes and the size to go on from.

    A checkpoint that contradicts an earlier one must never be signed (C2SP tlog-checkpoint), so the stored peaks are
    first held against the last checkpoint.
    """
    last, run = store.last_checkpoint(rows), store.last_run(rows)
    if last is None and run is None:
        return Standing(keys.created(), [], 0, b"")
    if last is None or run is None:
        raise Damaged("The audit log has leaves but no checkpoint. See what was changed: modelyard audit verify")
    key, signed = _key_of(rows, keys, last["note"])
    size = run["leaf_index"] + run["count"]
    frontier, tail = _frontier(rows, size)
    if signed.size != size or signed.root != fold(frontier):
        raise Damaged(
            "The audit log is not what its last checkpoint signed. See what was changed: modelyard audit verify"
        )
    return Standing(key, frontier, size, tail)


def _key_of(rows: Connection, keys: KeyFolder, note: str) -> tuple[SigningKey, Checkpoint]:
    """The key that signed the last checkpoint, and what it says. A new key that signed it already is promoted: the
    process that changed the key ended before it could."""
    key = keys.signing()
    if key is None:
        raise Unavailable(
            f"This log is signed with a key that is not in {keys.folder}. Copy keys/ from where it was made."
        )
    try:
        return key, checkpoint(note, key.public)
    except Damaged as error:
        new = keys.pending()
        if new is not None:
            try:
                signed = checkpoint(note, new.public)
                keys.promote(new, statements(rows))
                return new, signed
            except Damaged:
                pass  # the key was staged and never came into force
        if ring(rows, key.public).newest != key.public:
            raise Unavailable(
                f"This log is signed with a newer key than the one in {keys.folder}. Copy keys/ from where it was changed."
            ) from error
        raise Damaged(f"{error} See what was changed: modelyard audit verify") from error


def _frontier(rows: Connection, size: int) -> tuple[list[bytes], bytes]:
    """The peaks' hashes and what stands in the last block."""
    count = number(0, size)
    try:
        frontier = store.hashes(rows, peaks(size))
    except (KeyError, TypeError) as error:
        raise Damaged("The audit log's tree lacks a hash. See what was changed: modelyard audit verify") from error
    block, place = divmod(count, store.IN_BLOCK)
    tail = store.blocks_of(rows, [block]).get(block, b"")
    if type(tail) is not bytes or len(tail) != place * HASH_BYTES:
        raise Damaged("The audit log's tree has too many hashes. See what was changed: modelyard audit verify")
    return frontier, tail


def statements(rows: Connection) -> list[str]:
    """The statements by which the log went over to other keys, oldest first."""
    told = [json.loads(row["details"]) for row in store.events_of(rows, EventType.KEY_ROTATED.value)]
    return [str(details["statement"]) for details in told if "statement" in details and not details.get("reported")]


def ring(rows: Connection, trusted: PublicKey) -> Keyring:
    """The log's keys, found from one that is trusted."""
    return Keyring.around(trusted, statements(rows))
