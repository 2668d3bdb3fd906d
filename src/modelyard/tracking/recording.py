"""What runs log: metrics, parameters, tags, datasets and models, each call in one transaction; and metric histories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.errors import Conflict, Invalid, NotFound, nearest
from modelyard.core.operations import operation
from modelyard.core.pages import Page, page_token, read_token
from modelyard.core.ports import Row
from modelyard.core.work import Work
from modelyard.tracking import model_store, rules, store
from modelyard.tracking.experiments import millis
from modelyard.tracking.runs import Runs, active_run, amended, change, run_row
from modelyard.tracking.search import MOST
from modelyard.tracking.values import RUN_NAME, DatasetInput, Metric, ModelMetric, ModelOutput, Point

STEPS = 2**63 - 1


class ParameterChanged(Conflict):
    """A parameter was logged with another value before; `key`, `old` and `new` say which."""

    def __init__(self, run_id: str, key: str, old: str, new: str) -> None:
        super().__init__(
            f"The parameter {key!r} of run {run_id} is {old!r:.100} and cannot become {new!r:.100}: a run's parameters stay. "
            "Start another run, or log it under another name."
        )
        self.run_id, self.key, self.old, self.new = run_id, key, old, new


class Recording(Runs):
    """Logging into runs. Single metrics, parameters and tags are no events: the event of a run's end carries a digest over
    them, and a change after that is an event of its own (run_amended) with a new digest."""

    @operation("POST", "/runs/{run_id}/metrics", needs="tracking.write")
    def log_metric(
        self,
        run_id: str,
        key: str,
        value: float,
        *,
        step: int = 0,
        timestamp: int | None = None,
        user: str = "system",
    ) -> None:
        """Log one value of a metric. It may be infinite or not a number.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> tracker.log_metric(run.run_id, "auc", 0.9, step=3)
        >>> tracker.get_run(run.run_id).metrics
        {'auc': 0.9}
        """
        moment = millis(self.store.clock.now()) if timestamp is None else timestamp
        points, latest = rules.metric_rows(0, [(key, value, moment, step)])
        with self.store.work(user) as work:
            row = active_run(work.rows, run_id)
            points[0]["run"] = row["number"]
            store.add_metrics(work.rows, points, latest)
            amended(work, row)

    @operation("POST", "/runs/{run_id}/params", needs="tracking.write")
    def log_parameter(self, run_id: str, key: str, value: str, *, user: str = "system") -> None:
        """Log a parameter. The same value again changes nothing; another one is refused (Conflict).

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> tracker.log_parameter(run.run_id, "depth", "6")
        >>> tracker.log_parameter(run.run_id, "depth", "7")
        Traceback (most recent call last):
        modelyard.tracking.recording.ParameterChanged: The parameter 'depth' of run ... is '6' and cannot become '7': ...
        """
        self.log_batch(run_id, params={key: value}, user=user)

    @operation("PUT", "/runs/{run_id}/tags/{key}", needs="tracking.write")
    def set_tag(self, run_id: str, key: str, value: str, *, user: str = "system") -> None:
        """Set a tag of a run; the tag mlflow.runName is its name.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> tracker.set_tag(run.run_id, "team", "risk")
        >>> tracker.get_run(run.run_id).tags["team"]
        'risk'
        """
        self.log_batch(run_id, tags={key: value}, user=user)

    @operation("DELETE", "/runs/{run_id}/tags/{key}", needs="tracking.write")
    def delete_tag(self, run_id: str, key: str, *, user: str = "system") -> None:
        """Remove a tag of a run; NotFound if it has none of that key.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0", tags={"team": "risk"})
        >>> tracker.delete_tag(run.run_id, "team")
        >>> "team" in tracker.get_run(run.run_id).tags
        False
        """
        with self.store.work(user) as work:
            row = active_run(work.rows, run_id)
            if not store.drop_tag(work.rows, row["number"], key):
                known = list(store.runs_from(work.rows, [row])[0].tags)
                raise NotFound(f"Run {run_id} has no tag {key!r}. {nearest(key, known)}")
            amended(work, row)

    @operation("POST", "/runs/{run_id}/batch", needs="tracking.write")
    def log_batch(
        self,
        run_id: str,
        *,
        metrics: list[Point] | None = None,
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
        model_metrics: list[ModelMetric] | None = None,
        user: str = "system",
    ) -> None:
        """Log metrics, parameters and tags in one transaction: all of them or, if one is refused, none.

        `metrics` are tuples (key, value, timestamp in milliseconds, step); a value that is there already is kept once.
        `model_metrics` are noted on the logged models that they name.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> tracker.log_batch(run.run_id, metrics=[("loss", 0.5, 1, 0), ("loss", 0.4, 2, 1)], params={"depth": "6"})
        >>> found = tracker.get_run(run.run_id)
        >>> found.metrics, found.params
        ({'loss': 0.4}, {'depth': '6'})
        """
        params = rules.checked_texts(params or {}, "parameter", rules.LONGEST_PARAMETER)
        tags = rules.checked_texts(tags or {}, "tag", rules.LONGEST_TAG)
        with self.store.work(user) as work:
            row = active_run(work.rows, run_id)
            if params:
                _log_params(work, row, params)
            if metrics:
                store.add_metrics(work.rows, *rules.metric_rows(row["number"], metrics))
            if model_metrics:
                _log_model_metrics(work, run_id, model_metrics)
            if tags:
                _set_tags(work, row, tags)
            if metrics or params or set(tags) - {RUN_NAME}:
                amended(work, run_row(work.rows, run_id) if RUN_NAME in tags else row)

    @operation("POST", "/runs/{run_id}/inputs", needs="tracking.write")
    def log_inputs(
        self,
        run_id: str,
        *,
        datasets: list[DatasetInput] | None = None,
        models: list[str] | None = None,
        user: str = "system",
    ) -> None:
        """Note which datasets and logged models (by id) a run used. A dataset is known by its name and digest.

        >>> from modelyard.tracking import Dataset, DatasetInput, ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> census = Dataset(name="census", digest="9f2c", source_type="local", source="census.parquet")
        >>> tracker.log_inputs(run.run_id, datasets=[DatasetInput(dataset=census, tags={"mlflow.data.context": "training"})])
        >>> tracker.get_run(run.run_id).datasets[0].dataset.name
        'census'
        """
        used = [rules.checked_dataset(one) for one in datasets or ()]
        with self.store.work(user) as work:
            row = active_run(work.rows, run_id)
            for one in used:
                store.add_input(work.rows, row["number"], row["experiment_id"], one)
            store.add_models(work.rows, row["number"], "input", [ModelOutput(model_id=name) for name in models or ()])
            amended(work, row)

    @operation("POST", "/runs/{run_id}/outputs", needs="tracking.write")
    def log_outputs(self, run_id: str, models: list[ModelOutput], *, user: str = "system") -> None:
        """Note which logged models a run made, and at which step.

        >>> from modelyard.tracking import ExperimentTracker, ModelOutput
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> model = tracker.create_logged_model("0", name="trees", source_run_id=run.run_id)
        >>> tracker.log_outputs(run.run_id, [ModelOutput(model_id=model.model_id, step=3)])
        >>> tracker.get_run(run.run_id).model_outputs[0].step
        3
        """
        with self.store.work(user) as work:
            row = active_run(work.rows, run_id)
            store.add_models(work.rows, row["number"], "output", models)
            amended(work, row)

    @operation("GET", "/runs/{run_id}/history", needs="tracking.read")
    def metric_history(self, run_id: str, key: str, *, limit: int = 1000, page_token: str = "") -> Page[Metric]:
        """A page of every value of a metric, in the order of (timestamp, step, value).

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> tracker.log_batch(run.run_id, metrics=[("loss", 0.5, 1, 0), ("loss", 0.4, 2, 1)])
        >>> [metric.value for metric in tracker.metric_history(run.run_id, "loss").items]
        [0.5, 0.4]
        """
        if type(limit) is not int or not 1 <= limit <= MOST:
            raise Invalid(f"limit is {limit!r}. Give a whole number from 1 to {MOST:,}.")
        told = dumps(["history", run_id, key])
        behind = _behind(page_token, told) if page_token else None
        with self.store.reading() as rows:
            found = store.history(rows, run_row(rows, run_id)["number"], key, behind, limit + 1)
        following = _token(found[limit - 1], told) if len(found) > limit else ""
        return Page(items=tuple(store.metric_from(row) for row in found[:limit]), next_page_token=following)

    @operation("POST", "/runs/sample-history", needs="tracking.read")
    def sample_history(
        self,
        run_ids: list[str],
        key: str,
        *,
        most: int = 320,
        first_step: int | None = None,
        last_step: int | None = None,
    ) -> dict[str, list[Metric]]:
        """At most `most` values of a metric of each run, spread evenly over (step, timestamp, value): for drawing curves.

        The first and the last value are among them; of the steps between two bounds only, if they are given.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> tracker.log_batch(run.run_id, metrics=[("loss", 1 / (step + 1), step, step) for step in range(1000)])
        >>> [metric.step for metric in tracker.sample_history([run.run_id], "loss", most=3)[run.run_id]]
        [0, 334, 999]
        """
        first = -STEPS - 1 if first_step is None else first_step
        last = STEPS if last_step is None else last_step
        with self.store.reading() as rows:
            return {
                run_id: store.sampled(
                    rows, run_row(rows, run_id)["number"], key, most=max(1, most), first=first, last=last
                )
                for run_id in run_ids
            }


def _log_params(work: Work, row: Row, params: Mapping[str, str]) -> None:
    known = store.find_params(work.rows, row["number"])
    for key, value in params.items():
        if known.get(key, value) != value:
            raise ParameterChanged(row["run_id"], key, known[key], value)
    store.add_params(work.rows, row["number"], params)


def _set_tags(work: Work, row: Row, tags: Mapping[str, str]) -> None:
    store.put_tags(work.rows, row["number"], tags)
    if tags.get(RUN_NAME):
        change(work, row, status=None, end_time=None, name=tags[RUN_NAME])


def _log_model_metrics(work: Work, run_id: str, metrics: list[ModelMetric]) -> None:
    numbers = model_store.numbers_of(work.rows, [metric.model_id for metric in metrics])
    points: list[dict[str, Any]] = []
    for metric in metrics:
        if metric.model_id not in numbers:
            raise NotFound(f"There is no logged model {metric.model_id!r:.100}. Create it before measuring it.")
        (point,), _ = rules.metric_rows(0, [(metric.key, metric.value, metric.timestamp, metric.step)])
        del point["run"]
        more = {"dataset_name": metric.dataset_name, "dataset_digest": metric.dataset_digest}
        points.append(point | {"model": numbers[metric.model_id], "run_id": run_id} | more)
    model_store.add_metrics(work.rows, points)


def _token(row: Row, told: str) -> str:
    return page_token([str(row[name]) for name in ("timestamp", "step", "value", "is_nan")], told)


def _behind(token: str, told: str) -> tuple[int, int, float, int]:
    try:
        timestamp, step, value, is_nan = (str(one) for one in read_token(token, told))
        return int(timestamp), int(step), float(value), int(is_nan)
    except ValueError as error:
        raise Invalid(
            "The page token is none of this history's. Pass the next_page_token of its last answer."
        ) from error
