"""MLPipeline: one training run, from a table to a model package."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid, YardError
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import SYSTEM_CLOCK, Instant
from modelyard.core.refs import Resource
from modelyard.core.work import Store
from modelyard.pipeline import store as sql
from modelyard.pipeline.config import PipelineConfig
from modelyard.pipeline.results import PipelineResult, PipelineStage, PipelineStatus, RunRecord
from modelyard.pipeline.stages import STAGES, Run

REPORT = "report.json"


class MLPipeline:
    """One training run of a configuration, on a file or on a frame that is passed.

    Files go to `output_dir`, or to `runs/RUN_ID` in the store's folder (the working folder without a store). With a store
    the run is recorded, and told as TRAINING_STARTED and TRAINING_COMPLETED or TRAINING_FAILED.

    >>> import asyncio
    >>> table = {"x": list(range(80)), "late": [n > 40 for n in range(80)]}
    >>> config = PipelineConfig(name="late", target_column="late", model_class="DecisionTree", output_dir=str(folder))
    >>> result = asyncio.run(MLPipeline(config, frame=table).execute())
    >>> result.status.value, result.metrics["test_accuracy"] > 0.9
    ('completed', True)
    """

    def __init__(
        self,
        config: PipelineConfig,
        store: str | Path | Store | None = None,
        *,
        frame: Any = None,
        created_by: str = "system",
    ) -> None:
        self.config = config
        self.store = None if store is None else Store.at(store)
        self.run_id = new_id("run")
        self._frame = frame
        self._created_by = created_by
        self._clock = self.store.clock if self.store else SYSTEM_CLOCK

    async def execute(self) -> PipelineResult:
        """The finished run; the event loop stays free. Errors are raised, naming the stage that failed."""
        return await asyncio.to_thread(self.run)

    def run(self) -> PipelineResult:
        """`execute`, for callers without an event loop."""
        started = self._clock.now()
        self._record_start(started)
        folder = self._folder()
        run = Run(config=self.config, folder=folder / "model", frame=self._frame)
        timings: dict[PipelineStage, float] = {}
        stage = PipelineStage.DATA_LOADING
        try:
            if run.folder.exists():
                shutil.rmtree(run.folder)  # an earlier run's package in the same output folder
            for stage, work in STAGES.items():
                before = time.perf_counter()
                work(run)
                timings[stage] = time.perf_counter() - before
        except BaseException as error:
            self._record_failure(stage, error, folder, run, timings)
            if isinstance(error, YardError):
                raise type(error)(f"{self.config.name} failed in {stage.value}: {error}") from error
            raise
        return self._record_end(run, folder, started, timings)

    def _folder(self) -> Path:
        if self.config.output_dir:
            return Path(self.config.output_dir).absolute()
        base = self.store.folder if self.store else Path.cwd()
        return base / "runs" / self.run_id

    def _record_start(self, at: Instant) -> None:
        if self.store is None:
            return
        config = self.config
        record = RunRecord(
            run_id=self.run_id,
            name=config.name,
            status=PipelineStatus.RUNNING,
            created_by=self._created_by,
            started_at=at,
            completed_at=None,
            data_source=config.data_source,
            data_digest="",
            model_type=config.model_type,
            model_class=config.learner,
            config={entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)},
        )
        details = {
            "name": config.name,
            "data_source": config.data_source,
            "target_column": config.target_column,
            "model_type": config.model_type,
            "model_class": config.learner,
            "random_seed": config.random_seed,
        }
        with self.store.work(self._created_by) as work:
            sql.insert_run(work.rows, record)
            work.emit(EventType.TRAINING_STARTED, self._resource(), details)

    def _record_failure(
        self, stage: PipelineStage, error: BaseException, folder: Path, run: Run, timings: dict[PipelineStage, float]
    ) -> None:
        reason = f"{type(error).__name__}: {error}"
        report = {"status": PipelineStatus.FAILED, "failed_stage": stage, "error": reason, **_told(run, timings)}
        self._report(folder, report)
        if self.store is None:
            return
        with self.store.work(self._created_by) as work:
            sql.fail_run(work.rows, self.run_id, at=work.now, stage=stage.value, error=reason)
            seconds = {done.value: round(time, 6) for done, time in timings.items()}
            details = {"name": self.config.name, "stage": stage.value, "error": reason, "timings": seconds}
            work.emit(EventType.TRAINING_FAILED, self._resource(), details, severity=EventSeverity.ERROR)

    def _record_end(
        self, run: Run, folder: Path, started: Instant, timings: dict[PipelineStage, float]
    ) -> PipelineResult:
        ended = self._clock.now()
        artifacts = {**run.artifacts, "report": str(folder / REPORT)}
        result = PipelineResult(
            run_id=self.run_id,
            name=self.config.name,
            status=PipelineStatus.COMPLETED,
            metrics=run.metrics,
            stages_completed=tuple(timings),
            artifacts=artifacts,
            timings={stage.value: seconds for stage, seconds in timings.items()},
            best_params=run.tuned,
            trials=tuple(run.trials),
            findings=tuple(run.findings),
            parity=run.parity,
            signature=run.signature,
            started_at=started,
            completed_at=ended,
        )
        self._report(folder, {"status": PipelineStatus.COMPLETED, "artifacts": artifacts, **_told(run, timings)})
        if self.store is not None:
            self._record_completion(self.store, run, result)
        return result

    def _record_completion(self, store: Store, run: Run, result: PipelineResult) -> None:
        with store.work(self._created_by) as work:
            sql.complete_run(
                work.rows,
                self.run_id,
                at=result.completed_at,
                data_digest=run.data_digest,
                best_params=result.best_params,
                artifacts=result.artifacts,
            )
            sql.insert_metrics(work.rows, self.run_id, result.metrics)
            details = {
                "name": self.config.name,
                "metrics": result.metrics,
                "best_params": result.best_params,
                "model": result.artifacts["model"],
                "data_digest": run.data_digest,
                "findings": len(result.findings),
                "timings": {stage: round(seconds, 6) for stage, seconds in result.timings.items()},
            }
            work.emit(EventType.TRAINING_COMPLETED, self._resource(), details)

    def _resource(self) -> Resource:
        return Resource("pipeline_run", self.run_id)

    def _report(self, folder: Path, report: dict[str, Any]) -> None:
        config = {entry.name: getattr(self.config, entry.name) for entry in dataclasses.fields(self.config)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = dumps({"run_id": self.run_id, "name": self.config.name, "config": config, **report}, indent=2)
            (folder / REPORT).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise Invalid(f"The report cannot be written to {folder}: {error}. Choose another output_dir.") from error


def _told(run: Run, timings: dict[PipelineStage, float]) -> dict[str, Any]:
    """What the report says of a run, as far as it came."""
    return {
        "stages_completed": list(timings),
        "timings": {stage.value: seconds for stage, seconds in timings.items()},
        "data_digest": run.data_digest,
        "rows": {name: len(rows) for name, rows in run.parts.items()},
        "signature": run.signature,
        "preparation": [
            {"columns": [run.signature.names[i] for i in block.columns], "steps": block.steps} for block in run.blocks
        ],
        "metrics": run.metrics,
        "best_params": run.tuned,
        "trials": run.trials,
        "findings": run.findings,
        "parity": run.parity,
    }
