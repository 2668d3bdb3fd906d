"""Monitors: the operations on every stored monitor, by model reference and file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.core import plugins
from modelyard.core.area import Area
from modelyard.core.operations import operation
from modelyard.core.refs import ModelRef
from modelyard.monitoring import store
from modelyard.monitoring.values import DriftAlert, DriftReport, ModelPerformance, ReferenceSummary, Watched

if TYPE_CHECKING:
    from modelyard.monitoring.monitor import MLMonitor


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
    def set_reference(self, model: str, path: str | Path, sensitivity: float = 0.05) -> ReferenceSummary:
        """What the monitor compares with from now on: the table in a .csv, .parquet, .json or .jsonl file.

        `sensitivity` is the chance of a false alarm in one check, and over the life of `watch`. A new reference starts
        the watch anew.

        >>> _ = (folder / "train.csv").write_text("age,city\\n" + "41,Bern\\n35,Rome\\n" * 50)
        >>> Monitors(folder).set_reference("credit:v1.0.0", folder / "train.csv").rows
        100
        """
        return self.monitor(model).set_reference_data(_table(path), sensitivity)

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
