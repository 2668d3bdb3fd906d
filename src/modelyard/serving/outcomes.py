"""Outcomes: what turned out to be true, reported later by request id (and row), and joined to the logged predictions.

An outcome that comes again is told as repeated; one that says otherwise than before is kept back unless it is meant to
correct; one whose prediction is not in the log is kept (the log is a moment behind) and told as unknown, or as late if the
log has let go of that prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.area import Area
from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Invalid, nearest
from modelyard.core.events import EventType
from modelyard.core.ids import checked_name
from modelyard.core.instants import SYSTEM_CLOCK, from_micros, micros, written
from modelyard.core.operations import operation
from modelyard.core.pages import Page
from modelyard.core.ports import Clock, Row
from modelyard.core.refs import Resource
from modelyard.core.work import Store, Work
from modelyard.serving import reading, retention, segments, store
from modelyard.serving.places import Places
from modelyard.serving.sampling import drawn

TOLD = 20  # examples of each trouble
MANY = 500  # ids looked up in one statement
_NAMES = ("request_id", "row", "outcome", "at")
NEW, TOLD_ON, AWAITED = 0, 1, 2  # what became of an outcome
AWAITED_MICROS = 120_000_000
Key = tuple[str, int]  # request id and row


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeReport:
    """What became of reported outcomes: each is new, repeated, corrected or conflicting; examples name up to 20 of each.

    `unknown` and `late` count, among the new ones, those without a prediction in the log: never there, or let go of.
    """

    received: int
    new: int = 0
    repeated: int = 0
    corrected: int = 0
    conflicting: int = 0
    unknown: int = 0
    late: int = 0
    examples: Mapping[str, list[str]]

    @property
    def ok(self) -> bool:
        """Whether every outcome was taken and met its prediction."""
        return not (self.conflicting or self.unknown or self.late)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One reported outcome."""

    request_id: str
    row: int
    value: Any
    at: int  # microseconds since 1970: when it became known


def sorted_out(told: Sequence[Told], known: Mapping[Key, str], *, correct: bool) -> dict[str, list[Told]]:
    """Each outcome under what it is: new, repeated, corrected or conflicting. `known` has the canonical values so far.

    >>> one = Told(request_id="r1", row=0, value=1, at=0)
    >>> {name: len(found) for name, found in sorted_out([one, one], {}, correct=False).items() if found}
    {'new': 1, 'repeated': 1}
    """
    seen = dict(known)
    found: dict[str, list[Told]] = {"new": [], "repeated": [], "corrected": [], "conflicting": []}
    for one in told:
        key, value = (one.request_id, one.row), dumps(one.value)
        before = seen.get(key)
        if before is None:
            kind = "new"
        elif before == value:
            kind = "repeated"
        else:
            kind = "corrected" if correct else "conflicting"
        if kind in ("new", "corrected"):
            seen[key] = value
        found[kind].append(one)
    return found


class OutcomeLog(Area):
    """Takes outcomes and joins them to the payload log."""

    def __init__(self, storage_path: str | Path | Store, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(storage_path, clock=clock)
        self.places = Places(self.store.folder)

    @operation("POST", "/serving/endpoints/{endpoint}/outcomes/{request_id}", needs="serving.write")
    def record_outcome(
        self,
        endpoint: str,
        request_id: str,
        outcome: str | float | bool,
        *,
        row: int = 0,
        at: str = "",
        correct: bool = False,
    ) -> OutcomeReport:
        """What became of one outcome: the truth about a request's row, from 0. `at` is when it became known (ISO; now).

        An outcome that says otherwise than the one before is kept back unless `correct` says that it is to count.

        >>> from modelyard.serving import ModelServer
        >>> server = ModelServer(folder)
        >>> server.record_outcome("fraud", "r1", 1).unknown
        1
        >>> server.record_outcome("fraud", "r1", 0).conflicting
        1
        """
        given = {"request_id": request_id, "outcome": outcome, "row": row, "at": at}
        return self.record_outcomes(endpoint, [given], correct=correct)

    @operation("POST", "/serving/endpoints/{endpoint}/outcomes", needs="serving.write")
    def record_outcomes(self, endpoint: str, outcomes: list[dict[str, Any]], *, correct: bool = False) -> OutcomeReport:
        """What became of outcomes, each an object of request_id, outcome and, where needed, row (0) and at (ISO; now).

        >>> from modelyard.serving import ModelServer
        >>> report = ModelServer(folder).record_outcomes("fraud", [{"request_id": "r1", "outcome": 1}] * 2)
        >>> report.new, report.repeated
        (1, 1)
        """
        name = checked_name(endpoint, "endpoint")
        now = micros(self.store.clock.now())
        told = [_told(one, place, now) for place, one in enumerate(outcomes)]
        folder = self.places.payloads(name)
        keys = {(one.request_id, one.row) for one in told}
        there = self._answers(name, {request_id for request_id, _ in keys})
        with self.store.work() as work:
            known = store.outcomes_of(work.rows, name, sorted({request_id for request_id, _ in keys}))
            found = sorted_out(told, {key: text for key, (text, _) in known.items()}, correct=correct)
            store.put_outcomes(work, name, [*found["new"], *found["corrected"]])
            self._let_go(work, name)
            absent = [one for one in found["new"] if (one.request_id, one.row) not in there]
            gone = retention.gone(folder, {one.request_id for one in absent})
            found["late"] = [one for one in absent if one.request_id in gone]
            found["unknown"] = [one for one in absent if one.request_id not in gone]
            report = _report(told, found)
            if found["new"] or found["corrected"]:
                counts = {key: value for key, value in plain(report).items() if key != "examples"}
                work.emit(EventType.OUTCOMES_RECORDED, Resource("endpoint", name), counts)
        return report

    def _answers(self, endpoint: str, ids: set[str]) -> Mapping[Key, Mapping[str, Any]]:
        """The logged rows of these requests. What was answered a moment ago may be on its way to the log: it is waited for."""
        folder = self.places.payloads(endpoint)
        there = reading.answers(folder, ids)
        missing = ids - {request_id for request_id, _ in there}
        with self.store.reading() as rows:
            share = store.config_of(rows, endpoint).payload_sampling
        if any(drawn(share, one) for one in missing) and segments.settled(folder, within=1.0):
            return {**there, **reading.answers(folder, missing)}
        return there

    @operation("POST", "/serving/endpoints/{endpoint}/outcomes-file", needs="serving.write")
    def load_outcomes(self, endpoint: str, path: str | Path, *, correct: bool = False) -> OutcomeReport:
        """What became of the outcomes in a file's table (CSV, JSON lines, Parquet): request_id, outcome, and row, at if any.

        >>> from modelyard.serving import ModelServer
        >>> _ = (folder / "truth.csv").write_text("request_id,outcome\\nr1,1\\nr2,0\\n")
        >>> ModelServer(folder).load_outcomes("fraud", folder / "truth.csv").new
        2
        """
        tables = plugins.load("tables", "pandas")
        columns = {name: plain(values) for name, values in tables.columns(tables.read(path)).items()}
        for name in ("request_id", "outcome"):
            if name not in columns:
                raise Invalid(f"{path} has no column {name!r}. {nearest(name, list(columns))}")
        names = [name for name in _NAMES if name in columns]
        records = [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]
        for record in records:
            record["request_id"] = str(record["request_id"])
        return self.record_outcomes(endpoint, records, correct=correct)

    @operation("GET", "/serving/endpoints/{endpoint}/labelled", needs="serving.read")
    def labelled(
        self,
        endpoint: str,
        since: float | str = 0.0,
        *,
        until: float | str = "",
        arm: str = "",
        model: str = "",
        version: str = "",
        unit: str = "",
        limit: int = 1000,
        page_token: str = "",
    ) -> Page[dict[str, Any]]:
        """A page of the logged predictions whose outcome is known, by the time of the prediction, oldest first.

        Each is as in `payloads`, with outcome, outcome_at (seconds since 1970) and delay_s between the two.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).labelled("fraud").items
        ()
        """
        name = checked_name(endpoint, "endpoint")

        def find(which: reading.Wanted, after: reading.Place | None, most: int) -> list[dict[str, Any]]:
            return list(islice(self._labelled(name, which, after), most))

        which = reading.wanted(since, until, arm=arm, model=model, version=version, unit=unit)
        return reading.paged(f"labelled {name}", which, find, limit=limit, page_token=page_token)

    def labelled_rows(
        self, endpoint: str, since: float | str = 0.0, *, until: float | str = "", **equal: str
    ) -> Iterator[dict[str, Any]]:
        """Every row of `labelled`, one after the other; `equal` are its filters. Memory does not grow with the log."""
        return self._labelled(checked_name(endpoint, "endpoint"), reading.which(since, until, equal), None)

    def _labelled(self, endpoint: str, which: reading.Wanted, after: reading.Place | None) -> Iterator[dict[str, Any]]:
        rows = reading.rows(self.places.payloads(endpoint), which, after=after)
        while some := list(islice(rows, MANY)):
            with self.store.reading() as connection:
                known = store.outcomes_of(connection, endpoint, sorted({one["request_id"] for one in some}))
            for one in some:
                found = known.get((one["request_id"], one["row"]))
                if found is not None:
                    text, at = found
                    outcome = store.outcome_value(text)
                    yield {**one, "outcome": outcome, "outcome_at": at / 1e6, "delay_s": at / 1e6 - one["at"]}

    @operation("POST", "/serving/endpoints/{endpoint}/labelled-file", needs="serving.read", remote=False)
    def export_labelled(
        self,
        endpoint: str,
        path: str | Path,
        *,
        model: str = "",
        version: str = "",
        since: float | str = 0.0,
        until: float | str = "",
    ) -> int:
        """How many labelled predictions were written to a .csv or .parquet file, as `modelyard monitoring log` reads them.

        The columns are the features and request_id, prediction, probability (of the last class), outcome, latency_ms and
        at. `model` and `version` choose one version's; without them all must take the same features.

        >>> from modelyard.serving import ModelServer
        >>> ModelServer(folder).export_labelled("fraud", folder / "labelled.csv")
        0
        """
        columns: dict[str, list[Any]] = {}
        for one in self.labelled_rows(endpoint, since, until=until, model=model, version=version):
            row = _flat(one)
            if not columns:
                columns = {name: [] for name in row}
            if columns.keys() != row.keys():
                raise Invalid(f"The versions behind {endpoint} take different features. Choose one with version.")
            for name, value in row.items():
                columns[name].append(value)
        tables = plugins.load("tables", "pandas")
        columns = columns or {name: [] for name in _flat(None)}
        tables.write(tables.frame(columns), path)
        return len(columns["request_id"])

    def labelled_frame(self, endpoint: str, since: float | str = 0.0, *, until: float | str = "", **equal: str) -> Any:
        """The rows of `labelled` as a pandas frame: those of `payload_frame`, with outcome, outcome_at and delay_s.

        >>> from modelyard.serving import ModelServer
        >>> len(ModelServer(folder).labelled_frame("fraud"))
        0
        """
        name = checked_name(endpoint, "endpoint")
        frame = reading.frame(self.places.payloads(name), reading.which(since, until, equal))
        keys = list(zip(frame["request_id"].tolist(), frame["row"].tolist(), strict=True))
        with self.store.reading() as connection:
            known = store.outcomes_of(connection, name, sorted({request_id for request_id, _ in keys}))
        told = [known.get(key) for key in keys]
        places = [place for place, one in enumerate(told) if one is not None]
        values = [(store.outcome_value(one[0]), one[1]) for one in told if one is not None]
        frame = frame.iloc[places].reset_index(drop=True)
        at = np.array([moment for _, moment in values], dtype="datetime64[us]")
        frame["outcome"] = [value for value, _ in values]
        frame["outcome_at"] = at
        frame["outcome_at"] = frame["outcome_at"].dt.tz_localize("UTC")
        frame["delay_s"] = (frame["outcome_at"] - frame["at"]).dt.total_seconds()
        return frame

    def untold(self, endpoint: str) -> list[dict[str, Any]]:
        """Labelled predictions that have not been handed on yet, at most 500; say `told` of each once it has been.

        One whose prediction is not in the log, though it was to be sampled, is looked for again for two minutes.
        """
        name = checked_name(endpoint, "endpoint")
        while waiting := self._waiting(name, NEW, 0):
            if found := self._found(name, waiting):
                return found
        return self._found(name, self._waiting(name, AWAITED, micros(self.store.clock.now()) - AWAITED_MICROS))

    def has_outcomes(self, endpoint: str) -> bool:
        """Whether any outcome has been handed on."""
        with self.store.reading() as rows:
            return bool(store.untold_outcomes(rows, endpoint, TOLD_ON, 0, 1))

    def _waiting(self, endpoint: str, told: int, since: int) -> list[Row]:
        with self.store.reading() as rows:
            return store.untold_outcomes(rows, endpoint, told, since, MANY)

    def _found(self, endpoint: str, waiting: Sequence[Row]) -> list[dict[str, Any]]:
        """Those whose prediction is in the log, with it; what becomes of the others is noted."""
        there = reading.answers(self.places.payloads(endpoint), {one["request_id"] for one in waiting})
        found = []
        absent: dict[int, list[Key]] = {AWAITED: [], TOLD_ON: []}
        with self.store.work() as work:
            share = store.config_of(work.rows, endpoint).payload_sampling
            for one in waiting:
                key = (one["request_id"], one["row_number"])
                if key in there:
                    outcome = store.outcome_value(one["value"])
                    found.append({**there[key], "outcome": outcome, "outcome_at": one["known_at"] / 1e6})
                else:
                    absent[AWAITED if drawn(share, key[0]) else TOLD_ON].append(key)
            for told, keys in absent.items():
                store.set_told(work, endpoint, keys, told)
        return found

    def told(self, endpoint: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Note that labelled predictions have been handed on, as they were then: one corrected since is untold again."""
        with self.store.work() as work:
            store.confirm_told(work, endpoint, [(one["request_id"], one["row"], one["outcome"]) for one in rows])

    def _let_go(self, work: Work, endpoint: str) -> None:
        """An outcome is kept as long as its prediction may be."""
        days = store.config_of(work.rows, endpoint).payload_days
        if days:
            store.drop_outcomes(work, endpoint, before=micros(work.now) - round(days * 86_400e6))


def _told(given: Mapping[str, Any], place: int, now: int) -> Told:
    """A reported outcome; Invalid names what is wrong with which."""
    unknown = [str(name) for name in given if name not in _NAMES]
    if unknown:
        raise Invalid(f"Outcome {place} has the unknown key {unknown[0]!r}. {nearest(unknown[0], list(_NAMES))}")
    request_id, row, value = given.get("request_id"), given.get("row"), given.get("outcome")
    if not isinstance(request_id, str) or not request_id:
        raise Invalid(f"Outcome {place} has the request_id {request_id!r}. Give the answer's request_id as text.")
    row = 0 if row is None else row
    if isinstance(row, float) and row.is_integer():
        row = int(row)
    if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < 2**31:
        raise Invalid(f"Outcome {place} ({request_id}) has the row {row!r}. Give the row within the request, from 0.")
    if not isinstance(value, (str, int, float, bool)) or value != value:  # noqa: PLR0124 - not-a-number
        raise Invalid(f"Outcome {place} ({request_id}) is {value!r}. Give a class, a number or true or false.")
    at = given.get("at")
    if at in (None, ""):
        return Told(request_id=request_id, row=row, value=value, at=now)
    try:
        moment = written(str(at))
    except ValueError as error:
        raise Invalid(f"Outcome {place} ({request_id}) is of {at!r}. Write a time as 2026-01-31T12:00:00Z.") from error
    return Told(request_id=request_id, row=row, value=value, at=micros(moment))


def _report(told: Sequence[Told], found: Mapping[str, Sequence[Told]]) -> OutcomeReport:
    examples = {
        kind: [one.request_id if one.row == 0 else f"{one.request_id} row {one.row}" for one in some[:TOLD]]
        for kind, some in found.items()
        if some and kind != "new"
    }
    counts: dict[str, Any] = {kind: len(some) for kind, some in found.items()}
    return OutcomeReport(received=len(told), examples=examples, **counts)


def _flat(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """A labelled prediction as a row of the table that monitoring reads."""
    if row is None:
        return dict.fromkeys(("request_id", "prediction", "probability", "outcome", "latency_ms", "at"))
    return {
        **row["features"],
        "request_id": row["request_id"] if row["row"] == 0 else f"{row['request_id']}:{row['row']}",
        "prediction": row["prediction"],
        "probability": row["probabilities"][-1] if row["probabilities"] else None,
        "outcome": row["outcome"],
        "latency_ms": row["latency_ms"],
        "at": from_micros(round(row["at"] * 1e6)).isoformat(),
    }
