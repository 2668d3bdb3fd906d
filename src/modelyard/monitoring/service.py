"""Monitors: the operations on every stored monitor, by model reference and file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.core import plugins
from modelyard.core.area import Area
from modelyard.core.canonical import plain
from modelyard.core.errors import Invalid, nearest
from modelyard.core.events import EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import Instant, written
from modelyard.core.measures import Measurement
from modelyard.core.operations import operation
from modelyard.core.refs import ModelRef, Resource
from modelyard.monitoring import store
from modelyard.monitoring.values import (
    DriftAlert,
    DriftReport,
    LoggedPrediction,
    ModelPerformance,
    ReferenceSummary,
    Watched,
)

if TYPE_CHECKING:
    from modelyard.monitoring.monitor import MLMonitor


_NOT_FEATURES = ("request_id", "at", "prediction", "probability", "outcome", "latency_ms")


class Monitors(Area):
    """Every monitor of a store. `model` is always written name:version."""

    def monitor(self, model: str) -> MLMonitor:
        """The monitor of one model version, on this store."""
        from modelyard.monitoring.monitor import MLMonitor  # brings NumPy and SciPy, which listing operations must not

        ref = ModelRef.parse(model)
        return MLMonitor(ref.name, ref.version, self.store)

    @operation("GET", "/monitors", needs="monitoring.read")
    def list_monitors(self) -> list[str]:
        """The model versions that have a reference or logged predictions, as name:version.

        >>> Monitors(folder).list_monitors()
        []
        """
        with self.store.reading() as rows:
            return store.models(rows)

    @operation("POST", "/monitors/{model}/reference", needs="monitoring.write")
    def set_reference(
        self,
        model: str,
        path: str | Path,
        sensitivity: float = 0.05,
        *,
        prediction_column: str = "",
        outcome_column: str = "",
        probability_column: str = "",
    ) -> ReferenceSummary:
        """What the monitor compares with from now on: the table in a .csv, .parquet, .json or .jsonl file.

        `sensitivity` is the chance of a false alarm in one check, and over the life of `watch`. A new reference starts
        the watch anew. Columns named as prediction, outcome or probability are not features: with them performance is
        compared too.

        >>> _ = (folder / "train.csv").write_text("age,city,said,truth\\n" + "41,Bern,1,1\\n35,Rome,0,1\\n" * 50)
        >>> found = Monitors(folder).set_reference("credit:v1.0.0", folder / "train.csv",
        ...     prediction_column="said", outcome_column="truth")
        >>> found.columns, found.labelled
        (('age', 'city'), 100)
        """
        columns = _columns(path)
        named = (prediction_column, outcome_column, probability_column)
        said, truth, chance = (_taken(columns, name, path) for name in named)
        return self.monitor(model).set_reference_data(
            columns, sensitivity, predictions=said, ground_truth=truth, probabilities=chance
        )

    @operation("POST", "/monitors/{model}/predictions", needs="monitoring.write")
    def log(self, model: str, path: str | Path) -> int:
        """How many new predictions were logged from a file's table, one a row.

        Columns with these names are not features: prediction, and if there are any, request_id, outcome, probability,
        latency_ms, at (ISO time; else now). A request id that is known already is skipped.

        >>> rows = "request_id,age,prediction,outcome\\nr1,41,1,1\\nr2,35,0,1\\n"
        >>> _ = (folder / "answers.csv").write_text(rows)
        >>> monitors = Monitors(folder)
        >>> monitors.log("credit:v1.0.0", folder / "answers.csv"), monitors.log("credit:v1.0.0", folder / "answers.csv")
        (2, 0)
        >>> monitors.performance("credit:v1.0.0").accuracy
        0.5
        """
        columns = _columns(path)
        if "prediction" not in columns:
            raise Invalid(f"{path} has no column 'prediction'. {nearest('prediction', list(columns))}")
        records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        now = self.store.clock.now()
        return self.monitor(model).log_predictions(_logged(record, now) for record in records)

    @operation("POST", "/monitors/{model}/check", needs="monitoring.write")
    def check(self, model: str, path: str | Path) -> DriftReport:
        """The drift of a file's table against the reference: alerts, and every column's statistics.

        If nothing has changed, the chance of any alert is at most the sensitivity. Emits DRIFT_CHECKED, and
        DRIFT_DETECTED where there are alerts.

        >>> _ = (folder / "train.csv").write_text("age,city\\n" + "41,Bern\\n35,Rome\\n" * 50)
        >>> _ = (folder / "today.csv").write_text("age,city\\n" + "41,Bern\\n35,Bern\\n" * 50)
        >>> monitors = Monitors(folder)
        >>> _ = monitors.set_reference("credit:v1.0.0", folder / "train.csv")
        >>> [alert.feature_name for alert in monitors.check("credit:v1.0.0", folder / "today.csv").alerts]
        ['city']
        """
        return self.monitor(model).drift_report(_table(path))

    @operation("POST", "/monitors/{model}/watch", needs="monitoring.write")
    def watch(self, model: str, path: str | Path) -> Watched:
        """The state of the monitor's life-long test after one more window, the table in a file.

        The chance that an unchanged stream ever alarms is at most the sensitivity, for any number of windows.

        >>> _ = (folder / "train.csv").write_text("age,city\\n" + "41,Bern\\n35,Rome\\n" * 50)
        >>> monitors = Monitors(folder)
        >>> _ = monitors.set_reference("credit:v1.0.0", folder / "train.csv")
        >>> monitors.watch("credit:v1.0.0", folder / "train.csv").alarmed
        False
        """
        return self.monitor(model).watch(_table(path))

    @operation("POST", "/monitors/{model}/outcomes/{request_id}", needs="monitoring.write")
    def record_outcome(self, model: str, request_id: str, value: str | float | bool) -> None:
        """Join what turned out to be true to a logged prediction. NotFound for an unknown request.

        >>> import asyncio
        >>> monitors = Monitors(folder)
        >>> one = monitors.monitor("credit:v1.0.0").log_prediction({"age": 41}, 1, request_id="r1")
        >>> _ = asyncio.run(one)
        >>> monitors.record_outcome("credit:v1.0.0", "r1", 1)
        >>> monitors.performance("credit:v1.0.0").accuracy
        1.0
        """
        self.monitor(model).record_outcome(request_id, value)

    @operation("POST", "/monitors/{model}/outcomes/{request_id}/correction", needs="monitoring.write")
    def correct_outcome(
        self, model: str, request_id: str, value: str | float | bool, *, reason: str, user: str = "system"
    ) -> None:
        """Count another outcome than the one that was recorded: every figure is as if it had been told so at once.

        NotFound for an unknown request, Conflict for one without an outcome. Emits OUTCOME_CORRECTED.

        >>> import asyncio
        >>> monitors = Monitors(folder)
        >>> one = monitors.monitor("credit:v1.0.0").log_prediction({"age": 41}, 1, ground_truth=1, request_id="r1")
        >>> _ = asyncio.run(one)
        >>> monitors.correct_outcome("credit:v1.0.0", "r1", 0, reason="charged back")
        >>> monitors.performance("credit:v1.0.0").accuracy
        0.0
        """
        self.monitor(model).correct_outcome(request_id, value, reason=reason, user=user)

    def forget_requests(self, request_ids: Iterable[str], *, reason: str, user: str) -> int:
        """How many logged predictions were removed, of whichever model; what was counted of them stays counted.

        >>> Monitors(folder).forget_requests(["r1"], reason="Art. 17", user="dpo@example.org")
        0
        """
        with self.store.work(user) as work:
            removed = store.forget_requests(work.rows, request_ids)
            if removed:
                told = {"predictions": removed, "reason": reason}
                work.emit(EventType.PREDICTIONS_FORGOTTEN, Resource("monitor", "all"), told)
        return removed

    @operation("GET", "/monitors/{model}/performance", needs="monitoring.read")
    def performance(self, model: str, window_minutes: float = 60) -> ModelPerformance:
        """What the model did in the last minutes: counts, latency, failures, and quality where there are labels.

        >>> Monitors(folder).performance("credit:v1.0.0").prediction_count
        0
        """
        return self.monitor(model).get_performance_metrics(window_minutes)

    @operation("POST", "/monitors/{model}/performance", needs="monitoring.write")
    def check_performance(self, model: str, window_minutes: float = 60) -> list[dict[str, Any]]:
        """Whether the model is worse than on its labelled reference: changes with intervals and p-values.

        Empty where reference or window have no labels. Emits PERFORMANCE_MEASURED.

        >>> _ = (folder / "train.csv").write_text("age\\n" + "41\\n35\\n" * 50)
        >>> monitors = Monitors(folder)
        >>> _ = monitors.set_reference("credit:v1.0.0", folder / "train.csv")
        >>> monitors.check_performance("credit:v1.0.0")
        []
        """
        found = self.monitor(model).check_performance(window_minutes)
        keys = ("name", "value", "low", "high", "n", "p_value", "method")
        return [{key: getattr(measurement, key) for key in keys} for measurement in found]

    @operation("GET", "/monitors/{model}/estimate", needs="monitoring.read")
    def estimate(self, model: str, window_minutes: float = 60) -> dict[str, Measurement]:
        """Accuracy, precision, recall, F1 and AUC without labels, as the logged probabilities promise them.

        Each estimate's note says what it cannot see: a change of the outcome given the inputs.

        >>> _ = (folder / "answers.csv").write_text("age,prediction,probability\\n41,1,0.9\\n35,0,0.3\\n")
        >>> monitors = Monitors(folder)
        >>> _ = monitors.log("credit:v1.0.0", folder / "answers.csv")
        >>> round(monitors.estimate("credit:v1.0.0")["accuracy"].value, 2)
        0.8
        """
        return self.monitor(model).estimated_performance(window_minutes)

    @operation("GET", "/monitors/{model}/dashboard", needs="monitoring.read")
    def dashboard(self, model: str, window_minutes: float = 60) -> dict[str, Any]:
        """One look at everything: the health score with its components, the last check, performance.

        >>> Monitors(folder).dashboard("credit:v1.0.0")["drifted"]
        []
        """
        return self.monitor(model).get_monitoring_dashboard(window_minutes)

    @operation("GET", "/monitors/{model}/alerts", needs="monitoring.read")
    def alerts(self, model: str, limit: int = 100) -> list[DriftAlert]:
        """The newest drift alerts, newest first.

        >>> Monitors(folder).alerts("credit:v1.0.0")
        []
        """
        return self.monitor(model).alerts(limit)

    @operation("POST", "/monitors/{model}/explain", needs="monitoring.write")
    def explain(self, model: str, model_path: str | Path, row: dict[str, Any]) -> dict[str, Any]:
        """Each column's part in the answer of the model in a file to one row, and how it was found.

        Emits PREDICTION_EXPLAINED.

        >>> found = Monitors(folder).explain("demo:v1.0.0", model_file, {"a": 1.0, "b": 0.0, "c": 0.0})
        >>> found["method"], max(found["feature_importance"], key=found["feature_importance"].get)
        ('contributions', 'a')
        """
        loaded = plugins.load("loader", "path")(model_path)
        monitor = self.monitor(model)
        monitor.set_explainer(loaded, loaded.signature.names)
        return monitor.explain_prediction(row)


def _table(path: str | Path) -> Any:
    return plugins.load("tables", "pandas").read(path)


def _columns(path: str | Path) -> dict[str, Any]:
    """A file's columns as lists of plain values; a missing one is None."""
    found = plugins.load("tables", "pandas").columns(_table(path))
    return {name: plain(values) for name, values in found.items()}


def _taken(columns: dict[str, Any], name: str, path: str | Path) -> Any:
    """A column that is no feature, taken out; None where none is named."""
    if not name:
        return None
    if name not in columns:
        raise Invalid(f"{path} has no column {name!r}. {nearest(name, list(columns))}")
    return columns.pop(name)


def _logged(record: dict[str, Any], now: Instant) -> LoggedPrediction:
    taken = {name: record.pop(name, None) for name in _NOT_FEATURES}
    at = now
    if taken["at"] is not None:
        try:
            at = written(str(taken["at"]))
        except ValueError as error:
            raise Invalid(f"{taken['at']!r} is no time. Write it as 2026-01-31T12:00:00Z.") from error
    chance = taken["probability"]
    if chance is not None and not (isinstance(chance, (int, float)) and 0 <= chance <= 1):
        raise Invalid(f"{chance!r} is no probability. Pass the positive class's, between 0 and 1.")
    latency = taken["latency_ms"]
    return LoggedPrediction(
        request_id=str(taken["request_id"] or new_id("req")),
        at=at,
        features=record,
        prediction=taken["prediction"],
        probability=chance,
        outcome=taken["outcome"],
        latency_ms=None if latency is None else float(latency),
        failed=taken["prediction"] is None,
    )
