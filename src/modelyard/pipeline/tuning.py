"""Search for parameters by cross-validation on the training part, alike at every run of the same seed and workers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import Invalid
from modelyard.core.learning import Block, Folding
from modelyard.core.ports import Runner
from modelyard.pipeline import rules
from modelyard.pipeline.config import PipelineConfig
from modelyard.pipeline.results import Trial

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """A model to be fitted: the estimator's name and parameters, and the blocks before it."""

    model_type: str
    model_class: str
    params: Mapping[str, Any]
    blocks: tuple[Block, ...]
    classes: int  # 0 for a regression
    threads: int

    def model(self, params: Mapping[str, Any], seed: int) -> Any:
        """The unfitted pipeline with these parameters on top."""
        estimator = plugins.load("trainer", self.model_type).estimator(
            self.model_class,
            {**self.params, **params},
            classification=self.classes > 0,
            seed=seed,
            threads=self.threads,
        )
        return plugins.load("trainer", "sklearn").assemble(self.blocks, estimator, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One trial as a worker gets it. The rows lie in a file that each worker reads once."""

    number: int
    params: Mapping[str, Any]
    seed: int
    learner: Learner
    folding: Folding
    metric: str
    rows: str


def cross_validate(model: Any, x: Array, y: Array, folding: Folding, classes: int) -> list[dict[str, float]]:
    """The scores on each fold that was held out."""
    bench = plugins.load("trainer", "sklearn")
    found = []
    for train, test in bench.folds(y, folding):
        fitted, _ = bench.fit(model, x[train], y[train])
        predicted, probabilities = bench.answers(fitted, x[test], classification=classes > 0)
        found.append(bench.scores(y[test], predicted, probabilities, classes=classes))
    return found


def run_trial(job: Job) -> Trial:
    """One trial; a learner that refuses its parameters or data makes it a failed one."""
    started = time.perf_counter()
    x, y = _rows(job.rows)
    value, reason = None, ""
    try:
        model = job.learner.model(job.params, job.seed)
        folds = cross_validate(model, x, y, job.folding, job.learner.classes)
        value = float(np.mean([scores[job.metric] for scores in folds]))
    except (Invalid, KeyError) as error:
        reason = f"{job.metric} is undefined on a fold" if isinstance(error, KeyError) else str(error)[:300]
    seconds = time.perf_counter() - started
    return Trial(number=job.number, params=job.params, seed=job.seed, value=value, seconds=seconds, reason=reason)


def tune(
    config: PipelineConfig,
    learner: Learner,
    space: Mapping[str, Mapping[str, Any]],
    *,
    metric: str,
    rows: tuple[Array, Array],
    folding: Folding,
) -> list[Trial]:
    """Every trial in its order. Trials are asked for and told in windows of `tuning_workers`, whichever ends first.

    `tuning_timeout` stops before the next window; one window always runs.
    """
    defaults = learner.model({}, config.random_seed)[-1].get_params()
    tuner = plugins.load("tuner", config.tuning_method)(
        space, seed=config.random_seed, first=rules.first_params(space, learner.params, defaults)
    )
    deadline = time.monotonic() + (config.tuning_timeout or float("inf"))
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="modelyard-") as folder:
        file = str(Path(folder) / "rows.npz")
        np.savez(file, x=rows[0], y=rows[1])
        shared = _Work(study_seed=config.random_seed, learner=learner, folding=folding, metric=metric, rows=file)
        with _Runs(config.tuning_workers) as run:
            while len(trials) < config.tuning_trials and (not trials or time.monotonic() < deadline):
                window = min(config.tuning_workers, config.tuning_trials - len(trials))
                jobs = [shared.job(*tuner.ask()) for _ in range(window)]
                for trial in run(jobs):
                    tuner.tell(trial.number, None if trial.value is None else rules.cost(metric, {metric: trial.value}))
                    trials.append(trial)
    return trials


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What every trial of a study shares."""

    study_seed: int
    learner: Learner
    folding: Folding
    metric: str
    rows: str

    def job(self, number: int, params: dict[str, Any]) -> Job:
        """The job of one trial."""
        return Job(
            number=number,
            params=params,
            seed=rules.trial_seed(self.study_seed, number),
            learner=self.learner,
            folding=self.folding,
            metric=self.metric,
            rows=self.rows,
        )


class _Runs:
    """Runs a window of jobs, here or in worker processes, and gives the trials in the jobs' order."""

    def __init__(self, workers: int) -> None:
        self._pool: Runner | None = plugins.load("runner", "processes")(workers) if workers > 1 else None

    def __enter__(self) -> Callable[[Sequence[Job]], Iterator[Trial]]:
        return self._run

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()
        _rows.cache_clear()

    def _run(self, jobs: Sequence[Job]) -> Iterator[Trial]:
        if self._pool is None:
            yield from map(run_trial, jobs)
            return
        done = dict(self._pool.map(run_trial, [(job,) for job in jobs]))
        yield from (done[index] for index in range(len(jobs)))


@lru_cache(maxsize=1)
def _rows(file: str) -> tuple[Array, Array]:
    with np.load(file, allow_pickle=True) as held:  # written by this run; text columns are objects
        return held["x"], held["y"]
