"""Runs: started, ended, named, deleted softly, searched; and the digest that binds the record of an ended one."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from modelyard.core.canonical import digest
from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.operations import operation
from modelyard.core.pages import Page
from modelyard.core.ports import Connection, Row
from modelyard.core.refs import Resource
from modelyard.core.work import Work
from modelyard.tracking import file_store, rules, search, store
from modelyard.tracking.experiments import Experiments, active_experiment, millis
from modelyard.tracking.values import PARENT_RUN, RUN_NAME, Experiment, Lifecycle, Run, RunStatus, View

OURS = "mlflow-artifacts:/"  # files that lie in this store


class Runs(Experiments):
    """Runs of experiments."""

    @operation("POST", "/runs", needs="tracking.write")
    def create_run(
        self,
        experiment_id: str,
        *,
        name: str = "",
        tags: dict[str, str] | None = None,
        start_time: int | None = None,
        user: str = "system",
    ) -> Run:
        """The new run, running since `start_time` (milliseconds since 1970) or now; without a name it is given one.

        The tag mlflow.parentRunId makes it a part of another run. Conflict if the experiment is deleted.

        >>> from modelyard.tracking import ExperimentTracker
        >>> run = ExperimentTracker(folder).create_run("0", name="first")
        >>> run.name, run.status.value, run.artifact_uri == f"mlflow-artifacts:/0/{run.run_id}/artifacts"
        ('first', 'RUNNING', True)
        """
        name, tags = rules.named_tags(name, tags or {})
        rules.checked_texts(tags, "tag", rules.LONGEST_TAG)
        rules.checked_time(start_time, "start_time")
        with self.store.work(user) as work:
            run = new_run(active_experiment(work.rows, experiment_id), uuid.uuid4().hex, name, tags, user)
            run = replace(run, start_time=millis(work.now) if start_time is None else start_time)
            store.add_run(work.rows, run)
            emit_started(work, run)
        return run

    @operation("GET", "/runs/{run_id}", needs="tracking.read")
    def get_run(self, run_id: str) -> Run:
        """One run with all that it logged, also a deleted one.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0", name="first")
        >>> tracker.get_run(run.run_id) == run
        True
        """
        with self.store.reading() as rows:
            return store.runs_from(rows, [run_row(rows, run_id)])[0]

    @operation("PATCH", "/runs/{run_id}", needs="tracking.write")
    def update_run(
        self,
        run_id: str,
        *,
        status: RunStatus | None = None,
        end_time: int | None = None,
        name: str = "",
        user: str = "system",
    ) -> Run:
        """The run with a new status, end time or name; what is not given stays. Conflict for a deleted run.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> tracker.update_run(run.run_id, status="KILLED", end_time=run.start_time + 5).status.value
        'KILLED'
        """
        rules.checked_time(end_time, "end_time")
        with self.store.work(user) as work:
            row = active_run(work.rows, run_id)
            return change(work, row, status=status, end_time=end_time, name=name)

    @operation("POST", "/runs/{run_id}/end", needs="tracking.write")
    def end_run(self, run_id: str, *, status: RunStatus = RunStatus.FINISHED, user: str = "system") -> Run:
        """The run, ended now: finished, failed or killed.

        A process that is killed outright leaves its run RUNNING; whoever finds it ends it as KILLED.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> tracker.end_run(tracker.create_run("0").run_id).status.value
        'FINISHED'
        """
        status = rules.chosen(RunStatus, status)
        if not status.ended:
            raise Invalid(f"A run does not end as {status.value}. Say FINISHED, FAILED or KILLED.")
        with self.store.work(user) as work:
            return change(work, active_run(work.rows, run_id), status=status, end_time=millis(work.now), name="")

    @operation("DELETE", "/runs/{run_id}", needs="tracking.write")
    def delete_run(self, run_id: str, *, user: str = "system") -> None:
        """Delete a run. It can be restored.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> tracker.delete_run(run.run_id)
        >>> tracker.get_run(run.run_id).lifecycle_stage.value
        'deleted'
        """
        with self.store.work(user) as work:
            _move(work, run_row(work.rows, run_id), Lifecycle.DELETED, EventType.RUN_DELETED)

    @operation("POST", "/runs/{run_id}/restore", needs="tracking.write")
    def restore_run(self, run_id: str, *, user: str = "system") -> None:
        """Take a deleted run into use again.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> tracker.delete_run(run.run_id)
        >>> tracker.restore_run(run.run_id)
        >>> tracker.get_run(run.run_id).lifecycle_stage.value
        'active'
        """
        with self.store.work(user) as work:
            _move(work, run_row(work.rows, run_id), Lifecycle.ACTIVE, EventType.RUN_RESTORED)

    @operation("POST", "/runs/search", needs="tracking.read")
    def search_runs(
        self,
        experiment_ids: list[str],
        *,
        filter: str = "",
        order_by: list[str] | None = None,
        view: View = View.ACTIVE,
        limit: int = 1000,
        page_token: str = "",
    ) -> Page[Run]:
        """A page of the experiments' runs that pass the filter, the newest first unless `order_by` says otherwise.

        Both know metrics.KEY (the latest value), params.KEY, tags.KEY and the attributes run_id, run_name, user_id, status,
        start_time, end_time and artifact_uri; the filter also datasets.name, .digest and .context. A number that is not
        one passes no comparison but !=, and stands behind all numbers in either order; runs without the key come last.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0", name="first")
        >>> tracker.log_metric(run.run_id, "auc", 0.9)
        >>> [run.name for run in tracker.search_runs(["0"], filter="metrics.auc > 0.8 and status = 'RUNNING'").items]
        ['first']
        """
        with self.store.reading() as rows:
            return search.runs(
                rows,
                lambda found: store.runs_from(rows, found),
                experiment_ids=experiment_ids,
                filter=filter,
                order_by=order_by or [],
                view=view,
                limit=limit,
                token=page_token,
            )

    @operation("GET", "/runs/{run_id}/digest", needs="tracking.read")
    def digest_run(self, run_id: str) -> str:
        """The SHA-256 over a run's record as it is now.

        It is the one in the log's last event of an ended run, unless the record was changed behind the log's back.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> len(tracker.digest_run(tracker.create_run("0").run_id))
        64
        """
        return rules.record_digest(self.get_run(run_id))


def run_row(rows: Connection, run_id: str) -> Row:
    """A run's own row; NotFound if there is none."""
    found = store.find_run_row(rows, run_id)
    if found is None:
        raise NotFound(f"There is no run {run_id!r:.100}. See them: modelyard tracking search-runs EXPERIMENT_ID")
    return found


def active_run(rows: Connection, run_id: str) -> Row:
    """A run's own row; Conflict if it is deleted."""
    found = run_row(rows, run_id)
    if found["lifecycle_stage"] != Lifecycle.ACTIVE.value:
        raise Conflict(f"Run {run_id} is deleted. Restore it: modelyard tracking restore-run {run_id}")
    return found


def below(location: str, *parts: str) -> str:
    """The place at a path below a location, whose query, if it has one, stays at the end.

    >>> below("s3://bucket/runs?region=eu", "ab", "artifacts")
    's3://bucket/runs/ab/artifacts?region=eu'
    """
    path, mark, query = location.partition("?")
    return "/".join((path.rstrip("/"), *parts)) + mark + query


def change(work: Work, row: Row, *, status: RunStatus | None, end_time: int | None, name: str) -> Run:
    """Write a run's new status, end time and name, and tell what it means."""
    before, to = RunStatus(row["status"]), rules.chosen(RunStatus, status or row["status"])
    if name:
        rules.checked_text(name, "The name of the run", rules.LONGEST_TAG)
        store.put_tags(work.rows, row["number"], {RUN_NAME: name})
    store.change_run(
        work.rows,
        row["number"],
        name=name or row["name"],
        status=to.value,
        end_time=row["end_time"] if end_time is None else end_time,
    )
    run = store.runs_from(work.rows, [run_row(work.rows, row["run_id"])])[0]
    if before.ended and not to.ended:
        emit_started(work, run, resumed=True)
    elif to.ended:
        emit_record(work, EventType.RUN_AMENDED if before.ended else EventType.RUN_ENDED, run)
    return run


def amended(work: Work, row: Row) -> None:
    """Tell of a change to the record of a run that has ended; that of a running one is told when it ends."""
    if RunStatus(row["status"]).ended:
        emit_record(work, EventType.RUN_AMENDED, store.runs_from(work.rows, [row])[0])


def emit_started(work: Work, run: Run, **more: Any) -> None:
    """Tell that a run runs."""
    details = {"experiment_id": run.experiment_id, "name": run.name, **more}
    if PARENT_RUN in run.tags:
        details["parent_run_id"] = run.tags[PARENT_RUN]
    work.emit(EventType.RUN_STARTED, Resource("run", run.run_id), details)


def root_of(row: Row) -> str:
    """The path that a run's files lie below; Conflict if they lie elsewhere than in this store."""
    return in_store(row["artifact_uri"], f"run {row['run_id']}")


def in_store(uri: str, whose: str) -> str:
    """The path in this store that a URI of files means; Conflict if they lie elsewhere."""
    if not uri.startswith(OURS):
        raise Conflict(f"The files of {whose} lie at {uri}, not here. Read and write them there.")
    return uri.removeprefix(OURS).strip("/")


def emit_record(work: Work, event: EventType, run: Run) -> None:
    """Tell how a run ended, with the digests that bind its record, and its files at that moment, to the log."""
    ours = run.artifact_uri.startswith(OURS)
    files = list(file_store.tree(work.rows, in_store(run.artifact_uri, ""))) if ours else []
    details = {
        "files": len(files),
        "files_digest": digest(sorted(files)),
        "experiment_id": run.experiment_id,
        "name": run.name,
        "status": run.status,
        "digest": rules.record_digest(run),
        "datasets": sorted({(used.dataset.name, used.dataset.digest) for used in run.datasets}),
        "params": len(run.params),
        "tags": len(run.tags),
        "metrics": len(run.latest_metrics),
    }
    work.emit(event, Resource("run", run.run_id), details)


def new_run(experiment: Experiment, run_id: str, name: str, tags: dict[str, str], user: str) -> Run:
    """A run that begins, with a place for its files; its start is yet to be told."""
    return Run(
        run_id=run_id,
        experiment_id=experiment.experiment_id,
        name=name,
        user_id=user,
        status=RunStatus.RUNNING,
        start_time=0,
        end_time=None,
        lifecycle_stage=Lifecycle.ACTIVE,
        artifact_uri=below(experiment.artifact_location, run_id, "artifacts"),
        tags=tags,
    )


def _move(work: Work, row: Row, to: Lifecycle, event: EventType) -> None:
    """Delete or restore a run; nothing happens to one that is there already."""
    if row["lifecycle_stage"] == to.value:
        return
    store.move_run(work.rows, row["number"], to.value, millis(work.now) if to is Lifecycle.DELETED else None)
    details = {"experiment_id": str(row["experiment_id"]), "name": row["name"]}
    work.emit(event, Resource("run", row["run_id"]), details)
