"""The operations on the payload log: what was asked and answered, how complete that is, and making it Parquet now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from modelyard.core import plugins
from modelyard.core.area import Area
from modelyard.core.errors import Invalid, Unavailable
from modelyard.core.events import EventType
from modelyard.core.ids import checked_name
from modelyard.core.instants import SYSTEM_CLOCK, micros
from modelyard.core.operations import operation
from modelyard.core.pages import Page
from modelyard.core.ports import Clock
from modelyard.core.refs import Resource
from modelyard.core.work import Store
from modelyard.serving import compaction, erasing, logged, reading, segments, store
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedPayloads:
    """How many logged rows and reported outcomes were erased."""

    endpoint: str
    rows: int
    outcomes: int


class LoggedPredictions(Area):
    """Reads the payload log."""

    def __init__(self, storage_path: str | Path | Store, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(storage_path, clock=clock)
        self.places = Places(self.store.folder)

    @operation("GET", "/serving/endpoints/{endpoint}/payloads", needs="serving.read")
    def payloads(
        self,
        endpoint: str,
        since: float | str = 0.0,
        *,
        until: float | str = "",
        arm: str = "",
        model: str = "",
        version: str = "",
        request_id: str = "",
        unit: str = "",
        result: str = reading.ANSWERED,
        limit: int = 1000,
        page_token: str = "",
    ) -> Page[dict[str, Any]]:
        """A page of what the endpoint was asked and answered, one mapping a row, oldest first.

        `since` and `until` (exclusive) are in seconds since 1970 or ISO 8601. Keys: request_id, row, at (seconds), endpoint,
        arm, model, version, unit, features, prediction, probabilities, latency_ms, sampling (each row stands for
        1 / sampling requests) and split (the experiment or deployment that it was served under). The log is at most a
        second behind. Features are as the model saw them. `payload_rows` gives all rows, `payload_frame` a table.

        With the result "failed" (or "all") come the requests that an arm failed to answer, testers' too, the first 20 rows
        of each, with error, status, rows (of the request), pinned, and missed: how many came too fast before to be kept.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).payloads("fraud").items
        ()
        """
        which = reading.wanted(
            since, until, result=result, arm=arm, model=model, version=version, request_id=request_id, unit=unit
        )
        find = partial(reading.page, self._folder(endpoint))
        return reading.paged(f"payloads {endpoint}", which, find, limit=limit, page_token=page_token)

    def payload_rows(
        self, endpoint: str, since: float | str = 0.0, *, until: float | str = "", **equal: str
    ) -> Iterator[dict[str, Any]]:
        """Every row of `payloads`, one after the other; `equal` are its filters. Memory does not grow with the log.

        >>> from modelyard.serving import ModelServer
        >>> sum(1 for row in ModelServer(folder).payload_rows("fraud", version="v1.0.0"))
        0
        """
        return reading.rows(self._folder(endpoint), reading.which(since, until, equal))

    def payload_frame(
        self,
        endpoint: str,
        since: float | str = 0.0,
        *,
        until: float | str = "",
        columns: Sequence[str] = (),
        **equal: str,
    ) -> Any:
        """The rows of `payloads` as a pandas frame, oldest first: a column for each feature, `feature_NAME`, and `at` in UTC.

        `columns` chooses some, and only they are read. Invalid for a column that there is not.

        >>> from modelyard.serving import ModelServer
        >>> len(ModelServer(folder).payload_frame("fraud", columns=["at", "prediction"]))
        0
        """
        return reading.frame(self._folder(endpoint), reading.which(since, until, equal), tuple(columns))

    @operation("POST", "/serving/endpoints/{endpoint}/payloads-file", needs="serving.read", remote=False)
    def export_payloads(
        self,
        endpoint: str,
        path: str | Path,
        *,
        since: float | str = 0.0,
        until: float | str = "",
        arm: str = "",
        model: str = "",
        version: str = "",
        unit: str = "",
    ) -> int:
        """How many rows of `payloads` were written to one .parquet or .csv file, which appears whole.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).export_payloads("fraud", folder / "day.parquet", since="2026-01-31", until="2026-02-01")
        0
        """
        place, file = self._folder(endpoint), Path(path)
        if file.suffix.lower() not in (".parquet", ".pq", ".csv"):
            raise Invalid(f"{file} ends in {file.suffix!r}. Write to a file that ends in .parquet or .csv.")
        which = reading.wanted(since, until, arm=arm, model=model, version=version, unit=unit)

        def write() -> int:
            found = reading.chosen(place, which)
            if found is not None:
                return int(found.write(file))
            plugins.load("tables", "pandas").write(reading.frame(place, which), file)  # an empty one
            return 0

        try:
            return reading.steady(place, write)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Unavailable(f"{file} cannot be written: {error}. Make room, or choose another folder.") from error

    @operation("POST", "/serving/endpoints/{endpoint}/payload-erasures", needs="serving.write")
    def erase_payloads(
        self, endpoint: str, *, request_id: str = "", unit: str = "", reason: str, user: str
    ) -> ErasedPayloads:
        """What was erased of a request, or of a unit (a person, say): its rows, and the outcomes that were told of them.

        Nobody reads the rows any more once this returns, and Parquet is written anew without them; bytes of a segment that
        a living process appends to go when it is closed, within minutes. Erase a person at every endpoint that has been
        asked with their unit, and in the log of events with `audit erase-subject`. Emits PAYLOADS_ERASED.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).erase_payloads("fraud", unit="customer-17", reason="Art. 17", user="dpo@example.org").rows
        0
        """
        if bool(request_id) == bool(unit):
            raise Invalid("Name either the request_id or the unit whose rows are to be erased.")
        folder = self._folder(endpoint)
        rows = list(reading.places(folder, reading.wanted(0, "", result=reading.ALL, request_id=request_id, unit=unit)))
        with self.store.work(user) as work:
            told = {"rows": len(rows), "by": "request_id" if request_id else "unit", "reason": reason}
            work.emit(EventType.PAYLOADS_ERASED, Resource("endpoint", endpoint), told)
            outcomes = store.erase_outcomes(work, endpoint, sorted({request_id or one for _, one, _ in rows}))
            if folder.is_dir():
                with segments.locked(folder):
                    erasing.note(
                        folder, "request_id" if request_id else "unit", request_id or unit, until=micros(work.now)
                    )
        if folder.is_dir():
            self.compact_payloads(endpoint)
            if not all(entry.done for entry in erasing.read(folder).entries):
                raise Unavailable(
                    f"What is to be forgotten still stands in {folder}, which cannot be written. It is noted, and goes as "
                    "soon as there is room: modelyard serving compact-payloads " + endpoint
                )
        return ErasedPayloads(endpoint=endpoint, rows=len(rows), outcomes=outcomes)

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
