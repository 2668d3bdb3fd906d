"""What a monitor remembers, in memory or in a store: the reference, predictions, minute tallies, checks, the watch."""

from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Conflict, NotFound
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import Instant, as_utc, from_micros, micros
from modelyard.core.measures import Measurement
from modelyard.core.ports import Row
from modelyard.core.refs import Resource
from modelyard.core.work import Store, Work
from modelyard.monitoring import profile, store, tally, watching
from modelyard.monitoring.profile import Profile
from modelyard.monitoring.tally import Tally
from modelyard.monitoring.values import DriftAlert, DriftReport, LoggedPrediction, Watched
from modelyard.monitoring.watching import Watch

KEPT = timedelta(days=30)  # how long single predictions wait for their outcome; tallies stay
_IN_MEMORY = 100_000
_CHECKS = 1000

Advance = Callable[["Reference", Watch], Watched]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a monitor compares with."""

    profile: Profile
    sensitivity: float
    tally: Tally
    at: Instant


class Book(Protocol):
    """What one model version's monitor remembers."""

    def reference(self) -> Reference | None:
        """What it compares with."""
        ...

    def set_reference(self, reference: Reference) -> None:
        """Replace the reference; the watch starts anew."""
        ...

    def log(self, entries: Sequence[LoggedPrediction]) -> int:
        """Keep and count predictions; one whose request id is known already is skipped. Returns how many were new."""
        ...

    def settle(self, request_id: str, outcome: Any) -> None:
        """Join an outcome to its prediction."""
        ...

    def correct(self, request_id: str, outcome: Any, *, reason: str, user: str) -> None:
        """Count another outcome instead of the one that is known."""
        ...

    def tally(self, since: Instant) -> Tally:
        """The counts of the whole minutes from a moment on."""
        ...

    def recent(self, limit: int) -> list[Mapping[str, Any]]:
        """The features of the newest predictions."""
        ...

    def keep_check(self, report: DriftReport) -> None:
        """Keep one look at a window, with its alerts."""
        ...

    def checks(self, limit: int, *, with_alerts: bool) -> list[tuple[DriftAlert, ...]]:
        """The newest checks' alerts, newest first."""
        ...

    def watch(self, advance: Advance) -> Watched:
        """Carry the life-long test one window further."""
        ...

    def tell(self, event_type: EventType, details: Mapping[str, Any]) -> None:
        """Tell of something that changed no row."""
        ...


class MemoryBook:
    """Forgets with the process; keeps the newest 100,000 predictions. Tells nobody."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._lock = threading.Lock()
        self._reference: Reference | None = None
        self._watch: Watch | None = None
        self._entries: dict[str, LoggedPrediction] = {}
        self._minutes: defaultdict[int, Tally] = defaultdict(Tally)
        self._checks: deque[tuple[DriftAlert, ...]] = deque(maxlen=_CHECKS)

    def reference(self) -> Reference | None:
        """What it compares with."""
        return self._reference

    def set_reference(self, reference: Reference) -> None:
        """Replace the reference; the watch starts anew."""
        with self._lock:
            self._reference, self._watch = reference, None

    def log(self, entries: Sequence[LoggedPrediction]) -> int:
        """Keep and count predictions; returns how many were new."""
        with self._lock:
            new = [entry for entry in _distinct(entries) if entry.request_id not in self._entries]
            for entry in new:
                self._entries[entry.request_id] = entry
                self._minutes[minute_of(entry.at)].add(entry)
            while len(self._entries) > _IN_MEMORY:
                del self._entries[next(iter(self._entries))]
            return len(new)

    def settle(self, request_id: str, outcome: Any) -> None:
        """Join an outcome to its prediction."""
        with self._lock:
            entry = self._entries.get(request_id)
            if unsettled(entry, request_id, self.model, outcome):
                assert entry is not None  # unsettled has raised for an unknown one
                self._entries[request_id] = replace(entry, outcome=outcome)
                self._minutes[minute_of(entry.at)].settle(entry, outcome)

    def correct(self, request_id: str, outcome: Any, *, reason: str, user: str) -> None:  # noqa: ARG002 - nobody is told
        """Count another outcome instead of the one that is known."""
        with self._lock:
            entry = settled(self._entries.get(request_id), request_id, self.model)
            self._entries[request_id] = replace(entry, outcome=outcome)
            counts = self._minutes[minute_of(entry.at)]
            counts.settle(entry, entry.outcome, -1)
            counts.settle(entry, outcome)

    def tally(self, since: Instant) -> Tally:
        """The counts of the whole minutes from a moment on."""
        with self._lock:
            return sum((t for minute, t in self._minutes.items() if minute >= minute_of(since)), Tally())

    def recent(self, limit: int) -> list[Mapping[str, Any]]:
        """The features of the newest predictions."""
        with self._lock:
            return [entry.features for entry in list(self._entries.values())[-limit:]]

    def keep_check(self, report: DriftReport) -> None:
        """Keep one look's alerts."""
        with self._lock:
            self._checks.appendleft(report.alerts)

    def checks(self, limit: int, *, with_alerts: bool) -> list[tuple[DriftAlert, ...]]:
        """The newest checks' alerts, newest first."""
        with self._lock:
            return [found for found in self._checks if found or not with_alerts][:limit]

    def watch(self, advance: Advance) -> Watched:
        """Carry the life-long test one window further."""
        with self._lock:
            reference = needed(self._reference, self.model)
            watch = self._watch or watching.new_watch(reference.profile)
            answer = advance(reference, watch)
            self._watch = watch
            return answer

    def tell(self, event_type: EventType, details: Mapping[str, Any]) -> None:
        """Nobody listens to a monitor in memory."""


class StoreBook:
    """Remembers in a store; every change is an event of the model version."""

    def __init__(self, model: str, place: Store) -> None:
        self.model = model
        self.place = place

    def reference(self) -> Reference | None:
        """What it compares with."""
        with self.place.reading() as rows:
            return _reference(store.monitor(rows, self.model))

    def set_reference(self, reference: Reference) -> None:
        """Replace the reference; the watch starts anew."""
        details = {"reference_set": True, "rows": reference.profile.rows, "columns": list(reference.profile.columns)}
        with self.place.work() as work:
            store.put_monitor(
                work.rows,
                model=self.model,
                sensitivity=reference.sensitivity,
                set_at=micros(reference.at),
                profile=profile.packed(reference.profile),
                tally=tally.written(reference.tally),
            )
            self._emit(work, EventType.CONFIGURATION_CHANGED, details)

    def log(self, entries: Sequence[LoggedPrediction]) -> int:
        """Keep and count predictions; returns how many were new."""
        entries = _distinct(entries)
        with self.place.work() as work:
            known = store.known_requests(work.rows, self.model, [entry.request_id for entry in entries])
            new = [entry for entry in entries if entry.request_id not in known]
            store.add_predictions(work.rows, [self._row(entry) for entry in new])
            by_minute: defaultdict[int, list[LoggedPrediction]] = defaultdict(list)
            for entry in new:
                by_minute[minute_of(entry.at)].append(entry)
            for minute, group in by_minute.items():
                self._count(work, minute, group)
        return len(new)

    def settle(self, request_id: str, outcome: Any) -> None:
        """Join an outcome to its prediction."""
        with self.place.work() as work:
            row = store.prediction(work.rows, self.model, request_id)
            entry = None if row is None else _entry(row)
            if not unsettled(entry, request_id, self.model, outcome):
                return
            assert entry is not None  # unsettled has raised for an unknown one
            store.set_outcome(work.rows, self.model, request_id, dumps(outcome))
            minute = minute_of(entry.at)
            counts = tally.read(store.minute(work.rows, self.model, minute) or tally.written(Tally()))
            counts.settle(entry, outcome)
            store.put_minute(work.rows, self.model, minute, tally.written(counts))

    def correct(self, request_id: str, outcome: Any, *, reason: str, user: str) -> None:
        """Count another outcome instead of the one that is known, and tell of it."""
        with self.place.work(user) as work:
            row = store.prediction(work.rows, self.model, request_id)
            entry = settled(None if row is None else _entry(row), request_id, self.model)
            if entry.outcome == outcome:
                return
            store.set_outcome(work.rows, self.model, request_id, dumps(outcome))
            minute = minute_of(entry.at)
            counts = tally.read(store.minute(work.rows, self.model, minute) or tally.written(Tally()))
            counts.settle(entry, entry.outcome, -1)
            counts.settle(entry, outcome)
            store.put_minute(work.rows, self.model, minute, tally.written(counts))
            details = {"request_id": request_id, "before": entry.outcome, "after": outcome, "reason": reason}
            self._emit(work, EventType.OUTCOME_CORRECTED, details)

    def tally(self, since: Instant) -> Tally:
        """The counts of the whole minutes from a moment on."""
        with self.place.reading() as rows:
            texts = store.minutes(rows, self.model, minute_of(since))
        return sum((tally.read(text) for text in texts), Tally())

    def recent(self, limit: int) -> list[Mapping[str, Any]]:
        """The features of the newest predictions."""
        with self.place.reading() as rows:
            return [json.loads(text) for text in store.recent_features(rows, self.model, limit)]

    def keep_check(self, report: DriftReport) -> None:
        """Keep one look at a window and tell of it."""
        found = [
            {"feature": a.feature_name, "test": a.test, "p": a.adjusted_p_value, "message": a.message}
            for a in report.alerts
        ]
        details = {"rows": report.rows, "sensitivity": report.sensitivity, "method": report.method, "alerts": found}
        with self.place.work() as work:
            store.add_check(
                work.rows,
                model=self.model,
                at=micros(report.at),
                row_count=report.rows,
                alert_count=len(report.alerts),
                alerts=dumps(report.alerts),
            )
            self._emit(work, EventType.DRIFT_CHECKED, details)
            if found:
                grave = [alert.severity for alert in report.alerts]
                worst = max(grave, key=list(EventSeverity).index)
                self._emit(work, EventType.DRIFT_DETECTED, details, severity=worst)

    def checks(self, limit: int, *, with_alerts: bool) -> list[tuple[DriftAlert, ...]]:
        """The newest checks' alerts, newest first."""
        with self.place.reading() as rows:
            texts = store.last_checks(rows, self.model, limit, int(with_alerts))
        return [tuple(_alert(value) for value in json.loads(text)) for text in texts]

    def watch(self, advance: Advance) -> Watched:
        """Carry the life-long test one window further, in one transaction."""
        with self.place.work() as work:
            row = store.monitor(work.rows, self.model)
            reference = needed(_reference(row), self.model)
            text = row["watch"] if row else None
            watch = watching.read(text) if text else watching.new_watch(reference.profile)
            before = set(watch.alarms)
            answer = advance(reference, watch)
            store.set_watch(work.rows, self.model, watching.written(watch))
            details = {"window": answer.window, "e_value": answer.e_value, "threshold": answer.threshold}
            self._emit(work, EventType.DRIFT_CHECKED, details)
            if set(watch.alarms) - before:
                details["columns"] = watch.alarms  # type: ignore[assignment]
                self._emit(work, EventType.DRIFT_DETECTED, details, severity=EventSeverity.ERROR)
        return answer

    def tell(self, event_type: EventType, details: Mapping[str, Any]) -> None:
        """Tell of something that changed no row."""
        with self.place.work() as work:
            self._emit(work, event_type, details)

    def _emit(
        self,
        work: Work,
        event_type: EventType,
        details: Mapping[str, Any],
        severity: EventSeverity = EventSeverity.INFO,
    ) -> None:
        work.emit(event_type, Resource("model", self.model), details, severity=severity)

    def _row(self, entry: LoggedPrediction) -> dict[str, Any]:
        return {
            "model": self.model,
            "request_id": entry.request_id,
            "at": micros(entry.at),
            "prediction": dumps(entry.prediction),
            "probability": entry.probability,
            "features": dumps(entry.features),
            "outcome": None if entry.outcome is None else dumps(entry.outcome),
            "latency_ms": entry.latency_ms,
            "failed": int(entry.failed),
        }

    def _count(self, work: Work, minute: int, entries: list[LoggedPrediction]) -> None:
        text = store.minute(work.rows, self.model, minute)
        if text is None:  # once a minute is often enough
            store.forget_before(work.rows, self.model, micros(work.now - KEPT))
        counts = tally.read(text) if text else Tally()
        for entry in entries:
            counts.add(entry)
        store.put_minute(work.rows, self.model, minute, tally.written(counts))


def needed(reference: Reference | None, model: str) -> Reference:
    """The reference itself; Conflict where none is set."""
    if reference is None:
        raise Conflict(f"{model} has no reference data to compare with. Set it first: set_reference_data(frame).")
    return reference


def minute_of(at: Instant) -> int:
    """The minute since 1970 that a moment lies in."""
    return int(as_utc(at).timestamp() // 60)


def unsettled(entry: LoggedPrediction | None, request_id: str, model: str, outcome: Any) -> bool:
    """Whether the outcome is news; NotFound for an unknown request, Conflict if another outcome is known."""
    entry = _logged(entry, request_id, model)
    if entry.outcome is not None and plain(entry.outcome) != plain(outcome):
        raise Conflict(
            f"Request {request_id!r} has the outcome {entry.outcome!r} already; {outcome!r} contradicts it. If that one "
            "was wrong: correct_outcome."
        )
    return entry.outcome is None


def settled(entry: LoggedPrediction | None, request_id: str, model: str) -> LoggedPrediction:
    """The prediction itself, whose outcome is known; NotFound for an unknown request, Conflict without an outcome."""
    entry = _logged(entry, request_id, model)
    if entry.outcome is None:
        raise Conflict(f"Request {request_id!r} has no outcome that could be corrected. Record it: record_outcome.")
    return entry


def _logged(entry: LoggedPrediction | None, request_id: str, model: str) -> LoggedPrediction:
    if entry is None:
        raise NotFound(
            f"{model} has logged no request {request_id!r} within {KEPT.days} days. Log the prediction first, with its id."
        )
    return entry


def _distinct(entries: Sequence[LoggedPrediction]) -> list[LoggedPrediction]:
    return list({entry.request_id: entry for entry in reversed(entries)}.values())[::-1]


def _reference(row: Row | None) -> Reference | None:
    if row is None:
        return None
    return Reference(
        profile=profile.unpacked(row["profile"]),
        sensitivity=row["sensitivity"],
        tally=tally.read(row["tally"]),
        at=from_micros(row["set_at"]),
    )


def _entry(row: Row) -> LoggedPrediction:
    return LoggedPrediction(
        request_id=row["request_id"],
        at=from_micros(row["at"]),
        prediction=json.loads(row["prediction"]),
        probability=row["probability"],
        features=json.loads(row["features"]),
        outcome=None if row["outcome"] is None else json.loads(row["outcome"]),
        latency_ms=row["latency_ms"],
        failed=bool(row["failed"]),
    )


def _alert(value: dict[str, Any]) -> DriftAlert:
    measurements = tuple(Measurement(**{**m, "window": None}) for m in value["measurements"])
    severity, at = EventSeverity(value["severity"]), Instant.fromisoformat(value["at"])
    return DriftAlert(**{**value, "measurements": measurements, "severity": severity, "at": at})
