"""A run as a `with` block: the pleasant way to log."""

from __future__ import annotations

import hashlib
import io
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from modelyard.core.errors import YardError
from modelyard.tracking import rules
from modelyard.tracking.experiments import millis
from modelyard.tracking.values import (
    DATASET_CONTEXT,
    PARENT_RUN,
    Dataset,
    DatasetInput,
    LoggedModel,
    LoggedModelStatus,
    ModelOutput,
    Point,
    Run,
    RunStatus,
)

if TYPE_CHECKING:
    from modelyard.tracking.service import ExperimentTracker

DELAY = 0.5  # seconds that a metric waits for others at most
FULL = 1_000  # metrics that wait together at most
ERROR_TYPE = "error.type"  # the tag that names what a failed run failed of


class MetricBuffer:
    """Metrics on their way into a run: written together when there are enough or after half a second, and at the latest
    when the buffer is flushed, dropped, or the interpreter ends. Each is checked when it is added, so that a wrong one is
    told where it was logged."""

    def __init__(self, tracker: ExperimentTracker, run_id: str, user: str) -> None:
        self._tracker, self._run_id, self._user = tracker, run_id, user
        self._points: list[Point] = []
        self._adding, self._writing = threading.Lock(), threading.Lock()
        self._timer: threading.Timer | None = None
        self._failed: YardError | None = None

    def add(self, points: list[Point]) -> None:
        """Take metrics. An error of an earlier writing is raised here."""
        rules.metric_rows(0, points)
        with self._adding:
            failed, self._failed = self._failed, None
            self._points += points
            full = len(self._points) >= FULL
            if not full and self._timer is None:
                self._timer = threading.Timer(DELAY, self._flush_later)
                self._timer.daemon = True  # the finalizer of the run writes what waits at the interpreter's end
                self._timer.start()
        if failed is not None:
            raise failed
        if full:
            self.flush()

    def flush(self) -> None:
        """Write what waits, in one transaction; if that fails it waits on, and the error is raised."""
        with self._writing:
            with self._adding:
                points, self._points = self._points, []
                timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
            if not points:
                return
            try:
                self._tracker.log_batch(self._run_id, metrics=points, user=self._user)
            except BaseException:
                with self._adding:
                    self._points = points + self._points
                raise

    def _flush_later(self) -> None:
        try:
            self.flush()
        except YardError as error:
            with self._adding:
                self._failed = error


class ActiveRun:
    """A run that is being logged into. The block's end ends it: FINISHED, FAILED by an error, KILLED by an interrupt.

    Parameters, tags and files are stored when the call returns. Metrics wait for each other, for half a second at most:
    they are stored by then, and by `flush`, by the end of the block and at the interpreter's end; only a process that is
    killed outright loses what it logged in its last half second. Any thread may log.

    >>> from modelyard.tracking import ExperimentTracker
    >>> tracker = ExperimentTracker(folder)
    >>> with tracker.run("fraud", name="first") as run:
    ...     run.log_params({"depth": 6})
    ...     for step in range(3):
    ...         run.log_metric("loss", 1 / (step + 1), step=step)
    ...     with run.nested("fold 1") as fold:
    ...         fold.log_metric("auc", 0.9)
    >>> found = tracker.get_run(run.run_id)
    >>> found.status.value, found.params, round(found.metrics["loss"], 2)
    ('FINISHED', {'depth': '6'}, 0.33)
    """

    def __init__(self, tracker: ExperimentTracker, run: Run, *, user: str = "system") -> None:
        self.tracker, self.run_id, self.experiment_id = tracker, run.run_id, run.experiment_id
        self._user = user
        self._buffer = MetricBuffer(tracker, run.run_id, user)
        self._finalizer = weakref.finalize(self, self._buffer.flush)

    def log_metric(self, key: str, value: float, *, step: int = 0) -> None:
        """Log one value of a metric."""
        self.log_metrics({key: value}, step=step)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log one value of each metric."""
        now = millis(self.tracker.store.clock.now())
        self._buffer.add([(key, value, now, step) for key, value in metrics.items()])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, as the text that Python gives them. Conflict if one was logged with another value."""
        texts = {key: rules.parameter_text(value) for key, value in params.items()}
        self.tracker.log_batch(self.run_id, params=texts, user=self._user)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, as the text that Python gives them."""
        texts = {key: rules.parameter_text(value) for key, value in tags.items()}
        self.tracker.log_batch(self.run_id, tags=texts, user=self._user)

    def log_artifact(self, path: str | Path, *, folder: str = "") -> None:
        """Store a copy of a file, or of a folder with all that is in it, with the run."""
        self.tracker.log_artifact(self.run_id, path, folder=folder)

    def log_text(self, text: str, path: str) -> None:
        """Store a text as a file of the run."""
        self.tracker.write_artifact(self.run_id, path, io.BytesIO(text.encode()))

    def log_dataset(self, name: str, source: str | Path, *, digest: str = "", context: str = "training") -> None:
        """Note which data the run used. Without a digest, `source` is a file and its SHA-256 is taken."""
        if not digest:
            with Path(source).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()[:36]  # as long as a digest may be
        used = Dataset(name=name, digest=digest, source_type="local", source=str(source))
        tags = {DATASET_CONTEXT: context}
        self.tracker.log_inputs(self.run_id, datasets=[DatasetInput(dataset=used, tags=tags)], user=self._user)

    def log_model(
        self, path: str | Path, *, name: str = "model", params: Mapping[str, Any] | None = None, step: int = 0
    ) -> LoggedModel:
        """The logged model with a copy of a model file or folder. It is not yet registered, and nothing of it is loaded."""
        texts = {key: rules.parameter_text(value) for key, value in (params or {}).items()}
        model = self.tracker.create_logged_model(
            self.experiment_id, name=name, source_run_id=self.run_id, params=texts, user=self._user
        )
        try:
            self.tracker.store_model(model, Path(path))
        except BaseException:
            self.tracker.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED, user=self._user)
            raise
        self.tracker.log_outputs(self.run_id, [ModelOutput(model_id=model.model_id, step=step)], user=self._user)
        return self.tracker.finalize_logged_model(model.model_id, LoggedModelStatus.READY, user=self._user)

    def nested(self, name: str = "") -> ActiveRun:
        """A new run that is a part of this one."""
        run = self.tracker.create_run(self.experiment_id, name=name, tags={PARENT_RUN: self.run_id}, user=self._user)
        return ActiveRun(self.tracker, run, user=self._user)

    def flush(self) -> None:
        """Store the metrics that wait."""
        self._buffer.flush()

    def end(self, status: RunStatus = RunStatus.FINISHED) -> Run:
        """The run, ended, with all of its metrics stored."""
        self.flush()
        return self.tracker.end_run(self.run_id, status=status, user=self._user)

    def __enter__(self) -> ActiveRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status = _status(error)
        if error is not None and status is not RunStatus.FINISHED:
            self.set_tags({ERROR_TYPE: type(error).__name__})
        self.end(status)

    def __repr__(self) -> str:
        return f"ActiveRun({self.run_id!r})"


def begun(tracker: ExperimentTracker, experiment: str, *, name: str, tags: Mapping[str, str], user: str) -> ActiveRun:
    """A new run of the experiment of a name, which is made if there is none."""
    known = tracker.experiment_named(experiment, user=user)
    run = tracker.create_run(known.experiment_id, name=name, tags=dict(tags), user=user)
    return ActiveRun(tracker, run, user=user)


def _status(error: BaseException | None) -> RunStatus:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return RunStatus.FINISHED
    return RunStatus.KILLED if isinstance(error, KeyboardInterrupt) else RunStatus.FAILED
