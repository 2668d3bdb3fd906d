"""Takes committed events into the tree, in order, and signs a checkpoint; one process at a time."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from typing import Protocol

from modelyard.audit import store
from modelyard.audit.keys import KeyFolder
from modelyard.audit.merkle import append, fold, leaf_hash, number, peaks
from modelyard.audit.notes import Checkpoint, PublicKey, SigningKey, checkpoint
from modelyard.audit.rules import leaf_bytes
from modelyard.core.errors import Damaged, Unavailable, YardError
from modelyard.core.ids import new_id
from modelyard.core.ports import Connection

BATCH = 5_000  # events a transaction: other writers wait for it no longer than about 0.1 s
LEASE_SECONDS = 5.0
_log = logging.getLogger("modelyard.audit")


class Integrating(Protocol):
    """What the thread drives: an AuditLogger."""

    def integrate_as(self, holder: str) -> int:
        """Integrate if the holder may."""
        ...

    def release(self, holder: str) -> None:
        """Give the lease back."""
        ...


def integrate(rows: Connection, keys: KeyFolder, now: int) -> int:
    """Append leaves for at most BATCH waiting events and sign the new tree; returns how many."""
    waiting = store.waiting(rows, BATCH)
    if not waiting:
        return 0
    key, frontier, size = _standing(rows, keys)
    leaves, nodes = [], []
    for index, event in enumerate(waiting, start=size):
        known = append(frontier, index, leaf_hash(leaf_bytes(index, now, event)))
        first = number(0, index)
        nodes += [{"number": first + above, "hash": value} for above, value in enumerate(known)]
        leaves.append({"leaf_index": index, "position": event["position"], "integrated_at": now})
    store.add_nodes(rows, nodes)
    store.add_leaves(rows, leaves)
    size += len(leaves)
    store.add_checkpoint(rows, size, key.sign(Checkpoint(origin=key.name, size=size, root=fold(frontier)).text()))
    return len(leaves)


def _standing(rows: Connection, keys: KeyFolder) -> tuple[SigningKey, list[bytes], int]:
    """The key, the peaks' hashes and the size to go on from.

    A checkpoint that contradicts an earlier one must never be signed (C2SP tlog-checkpoint), so the stored peaks are
    first held against the last checkpoint.
    """
    last, size = store.last_checkpoint(rows), store.size(rows)
    if last is None and size == 0:
        return keys.created(), [], 0
    key = keys.signing()
    if key is None:
        raise Unavailable(
            f"This log is signed with a key that is not in {keys.folder}. Copy keys/ from where it was made."
        )
    if last is None:
        raise Damaged("The audit log has leaves but no checkpoint. See what was changed: modelyard audit verify")
    frontier = _peaks_hashes(rows, size)
    try:
        signed = checkpoint(last["note"], key.public)
    except Damaged as error:
        raise Damaged(f"{error} See what was changed: modelyard audit verify") from error
    if signed.size != size or signed.root != fold(frontier):
        raise Damaged(
            "The audit log is not what its last checkpoint signed. See what was changed: modelyard audit verify"
        )
    return key, frontier, size


def _peaks_hashes(rows: Connection, size: int) -> list[bytes]:
    try:
        return store.hashes(rows, peaks(size))
    except KeyError as error:
        raise Damaged("The audit log's tree lacks a hash. See what was changed: modelyard audit verify") from error


def signed_head(rows: Connection, key: PublicKey) -> tuple[str, Checkpoint] | None:
    """The newest checkpoint's note and what it says, None for an empty log."""
    last = store.last_checkpoint(rows)
    return None if last is None else (last["note"], checkpoint(last["note"], key))


class Sequencer(threading.Thread):
    """Integrates every `interval` seconds in the background, if no other process does. Stops with its logger."""

    def __init__(self, logger: Integrating, interval: float) -> None:
        super().__init__(name="modelyard-audit", daemon=True)
        self.interval = interval
        self.holder = new_id(f"seq{os.getpid()}")
        self._logger = weakref.ref(logger)
        self._stopped = threading.Event()
        atexit.register(self._end)  # before the database closes its connections at exit, which is registered earlier

    def run(self) -> None:
        """Integrate until stopped; what fails is logged and tried again."""
        while not self._stopped.wait(self.interval):
            logger = self._logger()
            if logger is None:
                return
            try:
                logger.integrate_as(self.holder)
            except YardError as error:
                _log.warning("The audit log was not integrated and will be tried again: %s", error)
            del logger  # held only while at work, so that a dropped logger ends the thread

    def stop(self) -> None:
        """End the thread, and integrate what is left."""
        self._end()
        atexit.unregister(self._end)
        logger = self._logger()
        if logger is not None:
            logger.integrate_as(self.holder)
            logger.release(self.holder)

    def _end(self) -> None:
        self._stopped.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()
