"""The operations on the payload log: what was asked and answered, how complete that is, and making it Parquet now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard.core.area import Area
from modelyard.core.ids import checked_name
from modelyard.core.instants import SYSTEM_CLOCK
from modelyard.core.operations import operation
from modelyard.core.ports import Clock
from modelyard.core.work import Store
from modelyard.serving import compaction, logged, segments, store
from modelyard.serving.places import Places, held


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadState:
    """How complete an endpoint's payload log is, in rows, over all its writers since the log began or was removed.

    Of the rows offered: written; dropped, since the queue was full; failed, since the disk was; lost with a process that
    was killed; damaged since. Rows that a living process has been offered and not written yet are `waiting`. `writers` are
    the living processes, `segments` the Parquet files and `raw_segments` those that are to become Parquet.
    """

    endpoint: str
    folder: str
    offered: int
    written: int
    dropped: int
    failed: int
    lost: int
    damaged: int
    waiting: int
    writers: int
    segments: int
    raw_segments: int
    size: int


class LoggedPredictions(Area):
    """Reads the payload log."""

    def __init__(self, storage_path: str | Path | Store, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(storage_path, clock=clock)
        self.places = Places(self.store.folder)

    @operation("GET", "/serving/endpoints/{endpoint}/payloads", needs="serving.read")
    def payloads(self, endpoint: str, since: float = 0.0) -> list[dict[str, Any]]:
        """What the endpoint was asked and answered from a moment on (seconds since 1970): one mapping a row, oldest first.

        Keys: request_id, row, at, endpoint, arm, model, version, unit, features, prediction, probabilities, latency_ms.
        The log is at most a second behind. Features are as the model saw them.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).payloads("fraud")
        []
        """
        return logged.payloads(self._folder(endpoint), since=since)

    @operation("GET", "/serving/endpoints/{endpoint}/payload-state", needs="serving.read")
    def payload_state(self, endpoint: str) -> PayloadState:
        """How complete the endpoint's payload log is: rows offered, written, dropped, and lost with killed processes.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).payload_state("fraud").lost
        0
        """
        folder = self._folder(endpoint)
        if folder.is_dir():
            with segments.locked(folder):
                compaction.settle(folder)
        ended = compaction.losses(folder)
        alive = [one for path in folder.glob("*.tally") if held(path) and (one := segments.counted(path)) is not None]
        written = sum(one.written for one in alive)
        dropped, failed = sum(one.dropped for one in alive), sum(one.failed for one in alive)
        offered = sum(one.offered for one in alive)
        return PayloadState(
            endpoint=endpoint,
            folder=str(folder),
            offered=offered + sum(one.offered for one in ended),
            written=written + sum(one.written for one in ended),
            dropped=dropped + sum(one.dropped for one in ended),
            failed=failed + sum(one.failed for one in ended),
            lost=sum(one.lost for one in ended),
            damaged=sum(one.damaged for one in ended),
            waiting=max(offered - dropped - failed - written, 0),
            writers=len(alive),
            segments=len(list(folder.glob("*.parquet"))),
            raw_segments=len(logged.raw(folder)),
            size=sum(path.stat().st_size for path in folder.glob("*") if path.is_file()),
        )

    @operation("POST", "/serving/endpoints/{endpoint}/payload-state", needs="serving.write")
    def compact_payloads(self, endpoint: str) -> int:
        """How many closed raw segments became Parquet now; the serving processes see to it by themselves every few minutes.

        Small files are merged, and what is older or more than the endpoint's payload_days and payload_mib goes.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).compact_payloads("fraud")
        0
        """
        with self.store.reading() as rows:
            config = store.config_of(rows, endpoint)
        return compaction.compact(self._folder(endpoint), days=config.payload_days, mib=config.payload_mib)

    def _folder(self, endpoint: str) -> Path:
        return self.places.payloads(checked_name(endpoint, "endpoint"))
