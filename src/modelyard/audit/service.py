"""AuditLogger: writes events, answers questions about them, and proves that none was changed."""

from __future__ import annotations

import threading
from functools import cached_property

from modelyard.audit.erasure import Erasing
from modelyard.audit.integration import BATCH, integrate
from modelyard.audit.proving import Proving
from modelyard.audit.reading import Reading
from modelyard.audit.retention import Retention
from modelyard.audit.rotation import Rotating
from modelyard.audit.witnesses import Witnesses
from modelyard.core.background import Background, Lease
from modelyard.core.instants import micros

LEASE = Lease("audit.sequencer", 5.0)


class AuditLogger(Reading, Proving, Retention, Erasing, Witnesses, Rotating):
    """The log of everything that happened in a store: every area's events, in one order, bound by signed checkpoints.

    Each change writes its event in its own transaction. The sequencer takes committed events into an RFC 6962 Merkle
    tree and signs its root; every reading method here does so first. Someone who can write the database and read
    `keys/` can rewrite everything: have checkpoints copied where they cannot write (`add_witness`), and verify against
    those.
    """

    @cached_property
    def _sequencers(self) -> list[Background[AuditLogger]]:
        return []

    def start_sequencer(self, interval: float = 0.5) -> Background[AuditLogger]:
        """A running background thread that integrates every `interval` seconds, so a checkpoint is at most 1 s late.

        Of several processes on one store, the one that holds the lease does the work, and copies checkpoints to the
        witnesses. Call `stop()` to end it.
        """
        sequencer = Background(self, interval, name="modelyard-audit", turn=_turn, last=_last)
        sequencer.start()
        self._sequencers.append(sequencer)
        return sequencer

    def close(self) -> None:
        """Stop the sequencers started here and give connections back. Not closing loses nothing."""
        while self._sequencers:
            self._sequencers.pop().stop()
        super().close()

    def integrate_as(self, holder: str) -> int:
        """Integrate if the holder has the lease or can take it; returns how many events it took in."""
        total, more = 0, self._is_behind()
        while more:
            with self.store.work("audit") as work:
                if not LEASE.take(work, holder):
                    return total
                taken = integrate(work.rows, self.keys, micros(work.now))
            total, more = total + taken, taken == BATCH
        return total

    def copy_as(self, holder: str) -> int:
        """Copy the newest checkpoint to the witnesses that are due, if the holder has the lease or can take it."""
        if not self.copies_due():
            return 0
        with self.store.work("audit") as work:
            if not LEASE.take(work, holder):
                return 0
        return self.copy_checkpoints()

    def release(self, holder: str) -> None:
        """Give the sequencer's lease back, so that another process need not wait for its end."""
        with self.store.work("audit") as work:
            LEASE.drop(work, holder)


def _turn(logger: AuditLogger, holder: str, stop: threading.Event) -> None:  # noqa: ARG001 - a turn is short
    logger.integrate_as(holder)
    logger.copy_as(holder)


def _last(logger: AuditLogger, holder: str) -> None:
    logger.integrate_as(holder)
    logger.release(holder)
