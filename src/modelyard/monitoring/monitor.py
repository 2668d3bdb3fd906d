"""MLMonitor: watches one version of a model, in memory or in a store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from modelyard.core import plugins
from modelyard.core.canonical import plain
from modelyard.core.errors import Invalid
from modelyard.core.events import EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import SYSTEM_CLOCK, Instant, as_utc
from modelyard.core.measures import Measurement
from modelyard.core.ports import Clock
from modelyard.core.refs import ModelRef
from modelyard.core.work import Store
from modelyard.monitoring import rules
from modelyard.monitoring.book import Book, MemoryBook, Reference, StoreBook, needed
from modelyard.monitoring.explain import Explained, ModelType, explained
from modelyard.monitoring.performance.change import changes
from modelyard.monitoring.performance.estimated import estimated
from modelyard.monitoring.profile import columns_of, profile, reference_profile
from modelyard.monitoring.tally import Tally
from modelyard.monitoring.values import (
    DriftAlert,
    DriftReport,
    LoggedPrediction,
    ModelPerformance,
    ReferenceSummary,
    Watched,
)
from modelyard.monitoring.watching import Watch

_LIVE_ROWS = 10_000  # how many logged rows check_drift() without a table looks at


class MLMonitor:
    """Watches one version of a model: drift, performance, explanations.

    Without a storage path it remembers until the process ends; with a folder, a database URL or a Store it persists, and
    every check is an event of the model version.

    >>> import asyncio
    >>> import numpy as np
    >>> monitor = MLMonitor("credit", "v1.0.0")
    >>> rng = np.random.default_rng(0)
    >>> _ = monitor.set_reference_data({"age": rng.normal(40, 9, 2000), "income": rng.lognormal(8, 1, 2000)})
    >>> window = {"age": rng.normal(40, 9, 500) * 12, "income": rng.lognormal(8, 1, 500)}
    >>> alerts = asyncio.run(monitor.check_drift(window))
    >>> print(alerts[0].feature_name, len(alerts), alerts[0].message.partition("; ")[2])
    age 1 looks multiplied by about 12 (a unit error? years in months, or feet in inches).
    """

    def __init__(
        self,
        model_id: str,
        model_version: str,
        storage_path: str | Path | Store | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.ref = ModelRef.parse(f"{model_id}:{model_version}")
        self._explained: Explained | None = None
        if storage_path is None:
            self._clock = clock
            self._book: Book = MemoryBook(str(self.ref))
        else:
            place = Store.at(storage_path, clock=clock)
            self._clock = place.clock
            self._book = StoreBook(str(self.ref), place)

    def __repr__(self) -> str:
        return f"MLMonitor({str(self.ref)!r})"

    def set_reference_data(
        self,
        frame: Any,
        sensitivity: float = 0.05,
        *,
        predictions: Sequence[Any] | None = None,
        ground_truth: Sequence[Any] | None = None,
        probabilities: Sequence[float] | None = None,
    ) -> ReferenceSummary:
        """Compare everything with this table (a DataFrame, a mapping of columns, or records) from now on.

        `sensitivity` is the chance of a false alarm: in one check over all columns, and over the whole life of `watch`.
        With the model's predictions and the ground truth of the same rows, performance is compared too; probabilities
        (of the positive class) calibrate `estimated_performance`. Only counts are kept, never rows.
        """
        now = self._clock.now()
        columns = columns_of(frame)
        rows = len(next(iter(columns.values())))
        counts = Tally()
        if predictions is not None:
            for entry in _entries(rows, predictions, ground_truth, probabilities, now):
                counts.add(entry)
        reference = Reference(
            profile=reference_profile(columns),
            sensitivity=rules.checked_sensitivity(sensitivity),
            tally=counts,
            at=now,
        )
        self._book.set_reference(reference)
        return ReferenceSummary(
            model=str(self.ref), rows=rows, columns=tuple(columns), sensitivity=sensitivity, labelled=counts.labelled
        )

    async def log_prediction(  # noqa: PLR0917  # the order that the mission's documents call it in
        self,
        features: Mapping[str, Any],
        prediction: Any,
        ground_truth: Any = None,
        latency_ms: float | None = None,
        request_id: str | None = None,
        timestamp: Instant | None = None,
        *,
        probability: float | None = None,
        failed: bool = False,
    ) -> str:
        """Keep and count one prediction; returns its request id, by which `record_outcome` joins the truth later.

        `probability` is the positive class's; `failed` marks a request that got no answer. A request id that is known
        already is not counted again.
        """
        entry = LoggedPrediction(
            request_id=request_id or new_id("req"),
            at=as_utc(timestamp) if timestamp else self._clock.now(),
            features={str(name): plain(value) for name, value in features.items()},
            prediction=plain(prediction),
            probability=_probability(probability),
            outcome=plain(ground_truth),
            latency_ms=None if latency_ms is None else float(latency_ms),
            failed=failed,
        )
        await asyncio.to_thread(self._book.log, [entry])
        return entry.request_id

    def log_predictions(self, entries: Iterable[LoggedPrediction]) -> int:
        """Keep and count many predictions in one transaction; returns how many were new."""
        return self._book.log(list(entries))

    def record_outcome(self, request_id: str, value: Any) -> None:
        """Join what turned out to be true to its prediction; the same outcome twice is counted once."""
        self._book.settle(request_id, plain(value))

    def correct_outcome(self, request_id: str, value: Any, *, reason: str, user: str = "system") -> None:
        """Count another outcome than the one that was recorded, which turned out to be wrong; again, it changes nothing."""
        if not reason.strip():
            raise Invalid("A correction needs a reason, which is kept with it. Pass reason.")
        self._book.correct(request_id, plain(value), reason=reason, user=user)

    async def check_drift(self, frame: Any = None) -> list[DriftAlert]:
        """The columns of this table that have changed since the reference, the surest first; [] where none has.

        If nothing has changed, the chance of any alert is at most the sensitivity (Benjamini-Hochberg over the columns).
        It looks at its argument alone; without one, at the newest 10,000 logged predictions. To check many windows one
        after the other without adding up false alarms, use `watch`.
        """
        report = await asyncio.to_thread(self.drift_report, frame)
        return list(report.alerts)

    def drift_report(self, frame: Any = None) -> DriftReport:
        """The same look with every column's statistics: Anderson-Darling and KS or chi-square,
        missing rate, PSI, Jensen-Shannon, Wasserstein."""
        reference = needed(self._book.reference(), str(self.ref))
        columns = columns_of(self._live() if frame is None else frame)
        current = profile(reference.profile, columns)
        now = self._clock.now()
        statistics = rules.measured(reference.profile, current)
        found = rules.alerts(reference.profile, statistics, rows=columns, sensitivity=reference.sensitivity, at=now)
        report = DriftReport(
            model=str(self.ref),
            at=now,
            rows=current.rows,
            reference_rows=reference.profile.rows,
            sensitivity=reference.sensitivity,
            alerts=found,
            columns=statistics,
        )
        self._book.keep_check(report)
        return report

    def watch(self, frame: Any) -> Watched:
        """Take the next window of a stream into a test for the monitor's whole life.

        The chance that an unchanged stream EVER alarms is at most the sensitivity, however many windows there are. A
        column that alarms stays so until a new reference is set. Rows count in the order they came.
        """
        columns = columns_of(frame)

        def advance(reference: Reference, state: Watch) -> Watched:
            profile(reference.profile, columns)  # refuses a table that does not fit
            return state.advance(reference.profile, columns, model=str(self.ref), alpha=reference.sensitivity)

        return self._book.watch(advance)

    def get_performance_metrics(self, window_minutes: float = 60) -> ModelPerformance:
        """What the model did in the last minutes (whole minutes, the current one included)."""
        counts = self._tally(window_minutes)
        found = {name: plugins.load("performance", name)(counts) for name in plugins.names("performance")}
        fields = ModelPerformance.__dataclass_fields__
        return ModelPerformance(
            model=str(self.ref),
            window_minutes=window_minutes,
            prediction_count=counts.count,
            labelled_count=counts.labelled,
            measurements=found,
            **{name: m.value for name, m in found.items() if name in fields},
        )

    def estimated_performance(self, window_minutes: float = 60) -> dict[str, Measurement]:
        """Accuracy, precision, recall, F1 and AUC as the logged probabilities promise them, without labels.

        Calibrated on the reference's labels where it has some. Each estimate's `note` says what it cannot see: a change
        of the outcome given the inputs. {} where no probabilities of two classes were logged.
        """
        reference = self._book.reference()
        return estimated(self._tally(window_minutes), reference.tally if reference else Tally())

    def check_performance(self, window_minutes: float = 60) -> tuple[Measurement, ...]:
        """Has the model become worse than on its labelled reference? Window minus reference, with intervals and p-values.

        Emits PERFORMANCE_MEASURED.
        """
        reference = needed(self._book.reference(), str(self.ref))
        found = changes(reference.tally, self._tally(window_minutes))
        performance = self.get_performance_metrics(window_minutes)
        numbers = {name: m.value for name, m in performance.measurements.items()}
        details = {"window_minutes": window_minutes, "prediction_count": performance.prediction_count}
        self._book.tell(EventType.PERFORMANCE_MEASURED, {**details, **numbers, "changes": [asdict(m) for m in found]})
        return found

    def alerts(self, limit: int = 100) -> list[DriftAlert]:
        """The newest alerts of all checks, newest first."""
        return [alert for found in self._book.checks(limit, with_alerts=True) for alert in found][:limit]

    def get_monitoring_dashboard(self, window_minutes: float = 60) -> dict[str, Any]:
        """One look at everything: `health_score` (0 to 100) with its `components`, the last check, and performance.

        components, each 0 to 1 and left out where it was not measured: `data` (1 less the largest magnitude among the
        last check's alerts), `failures` (1 less the failed share over 5 %), `quality` (accuracy over the reference's).
        The score is 50 x (their mean + their minimum); None where nothing was measured.
        """
        performance = self.get_performance_metrics(window_minutes)
        reference = self._book.reference()
        last = self._book.checks(1, with_alerts=False)
        accuracy = plugins.load("performance", "accuracy")
        parts = rules.components(
            magnitudes=[alert.magnitude for alert in last[0]] if last else None,
            failed=performance.measurements["error_rate"],
            accuracy=performance.accuracy,
            reference_accuracy=accuracy(reference.tally).value if reference else None,
        )
        return {
            "model": str(self.ref),
            "at": self._clock.now(),
            "health_score": rules.health(parts),
            "components": parts,
            "reference_rows": reference.profile.rows if reference else 0,
            "drifted": [alert.feature_name for alert in last[0]] if last else [],
            "last_check": "none" if not last else f"{len(last[0])} alerts",
            "performance": performance,
            "estimated": self.estimated_performance(window_minutes),
        }

    def set_explainer(self, model: Any, feature_names: Sequence[str], model_type: ModelType = "auto") -> None:
        """Explain with this model: `load_model(path)` or a fitted estimator, with its columns.

        `auto`, `tree` and `linear` read the model's own contributions where it has them and else probe it; `other`
        always probes it, with SHAP or LIME (extra `explain`), which needs reference data.
        """
        self._explained = explained(model, feature_names, model_type)

    def explain_prediction(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Each column's part in the answer to one row, and how it was found.

        Keys: `feature_importance` (column -> part), `base_value`, `output` (base value + parts, on the model's own
        scale), `prediction`, `method` (contributions, shap, lime). Emits PREDICTION_EXPLAINED, without the row.
        """
        if self._explained is None:
            raise Invalid("There is no model to explain with. Call set_explainer(model, feature_names) first.")
        reference = self._book.reference()
        found = self._explained.explain(features, reference.profile if reference else None)
        largest = sorted(found["feature_importance"].items(), key=lambda item: -abs(item[1]))[:5]
        told = {"method": found["method"], "prediction": found["prediction"], "largest": dict(largest)}
        self._book.tell(EventType.PREDICTION_EXPLAINED, told)
        return found

    def _live(self) -> list[Mapping[str, Any]]:
        rows = self._book.recent(_LIVE_ROWS)
        if not rows:
            raise Invalid(f"{self.ref} has logged no predictions to check. Pass a table: check_drift(frame).")
        return rows

    def _tally(self, window_minutes: float) -> Tally:
        if not window_minutes > 0:
            raise Invalid(f"A window of {window_minutes} minutes is empty. Pass a positive number.")
        return self._book.tally(self._clock.now() - timedelta(minutes=window_minutes))


def _probability(value: float | None) -> float | None:
    if value is None:
        return None
    if not 0 <= float(value) <= 1:
        raise Invalid(f"{value} is no probability. Pass the positive class's, between 0 and 1.")
    return float(value)


def _entries(
    rows: int,
    predictions: Sequence[Any],
    truths: Sequence[Any] | None,
    probabilities: Sequence[float] | None,
    at: Instant,
) -> Iterable[LoggedPrediction]:
    for name, values in (("predictions", predictions), ("ground_truth", truths), ("probabilities", probabilities)):
        if values is not None and len(values) != rows:
            raise Invalid(f"{name} has {len(values)} values for {rows} rows. Pass one a row.")
    said, true = plain(list(predictions)), [None] * rows if truths is None else plain(list(truths))
    chances = [None] * rows if probabilities is None else [_probability(p) for p in probabilities]
    for i in range(rows):
        yield LoggedPrediction(request_id=str(i), at=at, prediction=said[i], probability=chances[i], outcome=true[i])
