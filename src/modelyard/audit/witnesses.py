"""Copies checkpoints to second places by rule, where the owner of the database cannot write."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from modelyard.audit import rules, store, tables
from modelyard.audit.copies import checked_target, copy, copy_name
from modelyard.audit.log import Log
from modelyard.audit.notes import Checkpoint
from modelyard.core.errors import Conflict, Damaged, Invalid, NotFound, Unavailable, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.operations import operation
from modelyard.core.ports import Row
from modelyard.core.refs import Resource

SLACK = 1_000_000  # microseconds before a copy is due at which it is made: the sequencer looks every half second
LONGEST_PAUSE = 300_000_000  # microseconds between two tries at a place that fails
_log = logging.getLogger("modelyard.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A second place for checkpoints: how soon they are copied, and the newest that is there."""

    target: str
    within_seconds: int
    added_by: str
    copied_size: int
    copied_at: Instant | None
    failures: int


class Witnesses(Log):
    """Where checkpoints are copied to."""

    @operation("POST", "/audit/witnesses", needs="audit.write", remote=False)
    def add_witness(self, target: str, *, user: str, within_seconds: int = 60) -> Witness:
        """The second place that checkpoints are copied to from now on, at most that many seconds after they are signed.

        `target` is a folder (best one that another machine mounts and keeps), s3://bucket/prefix (with object lock set on
        the bucket), or https://host/path that takes a POST of the checkpoint's text. The sequencer copies, so a process
        must run one (`modelyard serve` does). Keep the public key there too.

        >>> from modelyard.audit import AuditLogger
        >>> AuditLogger(folder).add_witness(str(folder / "elsewhere"), user="ana@example.org").within_seconds
        60
        """
        place = checked_target(target)
        if type(within_seconds) is not int or within_seconds < 1:
            raise Invalid(f"within_seconds must be at least 1, not {within_seconds!r}.")
        with self.store.work(rules.checked_text(user, "user")) as work:
            if not tables.add_witness(work.rows, place, within_seconds, user):
                raise Conflict(f"Checkpoints are copied to {place} already.")
            told = {"target": place, "within": within_seconds}
            work.emit(EventType.CONFIGURATION_CHANGED, _resource(place), told, severity=EventSeverity.WARNING)
        return next(witness for witness in self.list_witnesses() if witness.target == place)

    @operation("DELETE", "/audit/witnesses", needs="audit.write", remote=False)
    def remove_witness(self, target: str, *, user: str) -> Witness:
        """The second place that checkpoints are copied to no longer.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> place = logger.add_witness(str(folder / "elsewhere"), user="ana@example.org").target
        >>> logger.remove_witness(place, user="ana@example.org").copied_size
        0
        """
        known = {witness.target: witness for witness in self.list_witnesses()}
        with self.store.work(rules.checked_text(user, "user")) as work:
            if not tables.drop_witness(work.rows, target):
                raise NotFound(f"Checkpoints are not copied to {target!r}. {nearest(target, list(known))}")
            told = {"target": target, "removed": True}
            work.emit(EventType.CONFIGURATION_CHANGED, _resource(target), told, severity=EventSeverity.WARNING)
        return known[target]

    @operation("GET", "/audit/witnesses", needs="audit.read")
    def list_witnesses(self) -> list[Witness]:
        """Every second place, with the newest checkpoint that is there.

        >>> from modelyard.audit import AuditLogger
        >>> AuditLogger(folder).list_witnesses()
        []
        """
        with self.store.reading() as rows:
            return [_witness(row) for row in tables.witnesses(rows)]

    def copy_checkpoints(self) -> int:
        """Copy the newest checkpoint to each place where that is due; returns how many copies were made.

        The first failure of a place, and its end, are events; between them it is tried again after ever longer pauses.
        """
        now = micros(self.store.clock.now())
        with self.store.reading() as rows:
            head = self._head(rows)
        if head is None:
            return 0
        return sum(self._copied(place, head, now) for place in self.copies_due())

    def copies_due(self) -> list[Row]:
        """The second places that shall get the newest checkpoint now."""
        with self.store.reading() as rows:
            places, last = tables.witnesses(rows), store.last_checkpoint(rows)
        now = micros(self.store.clock.now())
        return [place for place in places if last is not None and _due(place, last["size"], now)]

    def _copied(self, place: Row, head: tuple[str, Checkpoint], now: int) -> bool:
        target, size = place["target"], head[1].size
        try:
            copy(target, copy_name(size, head[1].root), head[0])
        except (Unavailable, Damaged, Invalid) as error:
            _log.warning("The checkpoint of %d leaves was not copied and will be tried again: %s", size, error)
            with self.store.work("audit") as work:
                tables.not_copied(work.rows, target, now)
                if not place["failures"]:
                    told = {"target": target, "copied": False, "error": str(error), "size": size}
                    work.emit(EventType.CHECKPOINT_COPIED, _resource(target), told, severity=EventSeverity.ERROR)
            return False
        with self.store.work("audit") as work:
            tables.copied(work.rows, target, size, now)
            if place["failures"]:  # an event for each copy would make a checkpoint to copy, and so on for ever
                told = {"target": target, "copied": True, "failures": place["failures"], "size": size}
                work.emit(EventType.CHECKPOINT_COPIED, _resource(target), told)
        return True


def _due(place: Row, size: int, now: int) -> bool:
    """Whether a place shall get the newest checkpoint now; a time ahead of now was given by a clock that jumped back."""
    if place["copied_size"] >= size:
        return False
    if place["failures"]:
        return not 0 <= now - place["tried_at"] < min(SLACK << min(place["failures"], 20), LONGEST_PAUSE)
    return not 0 <= now - place["copied_at"] < place["within"] * 1_000_000 - SLACK


def _resource(target: str) -> Resource:
    return Resource("audit_witness", target[: rules.LONGEST_TEXT])


def _witness(row: Row) -> Witness:
    return Witness(
        target=row["target"],
        within_seconds=row["within"],
        added_by=row["added_by"],
        copied_size=row["copied_size"],
        copied_at=from_micros(row["copied_at"]) if row["copied_at"] else None,
        failures=row["failures"],
    )
