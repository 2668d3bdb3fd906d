"""Experiments: named, tagged, deleted softly, searched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelyard.core.area import Area
from modelyard.core.errors import Conflict, NotFound, nearest
from modelyard.core.events import EventType
from modelyard.core.instants import SYSTEM_CLOCK, Instant, micros
from modelyard.core.operations import operation
from modelyard.core.pages import Page
from modelyard.core.ports import Clock, Connection
from modelyard.core.refs import Resource
from modelyard.core.work import Store, Work
from modelyard.tracking import rules, search, store
from modelyard.tracking.values import Experiment, Lifecycle, View


class Experiments(Area):
    """Experiments on a folder, a database URL or a store. The files of their runs lie below `artifact_root`."""

    def __init__(
        self, storage_path: str | Path | Store, *, artifact_root: str = "mlflow-artifacts:", clock: Clock = SYSTEM_CLOCK
    ) -> None:
        super().__init__(storage_path, clock=clock)
        self.artifact_root = artifact_root.rstrip("/")

    @operation("POST", "/experiments", needs="tracking.write")
    def create_experiment(
        self, name: str, *, artifact_location: str = "", tags: dict[str, str] | None = None, user: str = "system"
    ) -> Experiment:
        """The new experiment. Its files lie at `artifact_location`, or below the tracker's artifact root.

        Names are unique, deleted experiments included: Conflict if it is taken.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> tracker.create_experiment("fraud", tags={"team": "risk"}).artifact_location
        'mlflow-artifacts:/1'
        """
        rules.checked_experiment_name(name)
        tags = rules.checked_texts(tags or {}, "tag of an experiment", rules.LONGEST_EXPERIMENT_TAG)
        rules.checked_location(artifact_location)
        with self.store.work(user) as work:
            now, number = millis(work.now), store.next_experiment(work.rows)
            made = Experiment(
                experiment_id=str(number),
                name=name,
                artifact_location=artifact_location or f"{self.artifact_root}/{number}",
                lifecycle_stage=Lifecycle.ACTIVE,
                creation_time=now,
                last_update_time=now,
                tags=tags,
            )
            if not store.add_experiment(work.rows, number, made):
                raise Conflict(_taken(work.rows, name))
            details = {"name": name, "artifact_location": made.artifact_location, "tags": tags}
            work.emit(EventType.EXPERIMENT_CREATED, _resource(made), details)
        return made

    @operation("GET", "/experiments/{experiment_id}", needs="tracking.read")
    def get_experiment(self, experiment_id: str) -> Experiment:
        """One experiment, also a deleted one.

        >>> from modelyard.tracking import ExperimentTracker
        >>> ExperimentTracker(folder).get_experiment("0").name
        'Default'
        """
        with self.store.reading() as rows:
            return found_experiment(rows, experiment_id)

    @operation("GET", "/experiments/by-name/{name}", needs="tracking.read")
    def get_experiment_by_name(self, name: str) -> Experiment:
        """The experiment of a name, also a deleted one.

        >>> from modelyard.tracking import ExperimentTracker
        >>> ExperimentTracker(folder).get_experiment_by_name("Default").experiment_id
        '0'
        """
        with self.store.reading() as rows:
            found = store.find_experiment_named(rows, name)
            if found is None:
                raise NotFound(f"There is no experiment {name!r}. {nearest(name, store.experiment_names(rows))}")
        return found

    def experiment_named(self, name: str, *, user: str = "system") -> Experiment:
        """The experiment of a name, which is made if there is none."""
        try:
            return self.get_experiment_by_name(name)
        except NotFound:
            try:
                return self.create_experiment(name, user=user)
            except Conflict:  # another process was first
                return self.get_experiment_by_name(name)

    @operation("POST", "/experiments/{experiment_id}/rename", needs="tracking.write")
    def rename_experiment(self, experiment_id: str, name: str, *, user: str = "system") -> Experiment:
        """The experiment under its new name. Conflict if the name is taken or the experiment is deleted.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> tracker.rename_experiment("0", "Playground").name
        'Playground'
        """
        rules.checked_experiment_name(name)
        with self.store.work(user) as work:
            known = active_experiment(work.rows, experiment_id)
            holder = store.find_experiment_named(work.rows, name)
            if holder is not None and holder.experiment_id != known.experiment_id:
                raise Conflict(_taken(work.rows, name))
            return _changed(work, replace(known, name=name), EventType.EXPERIMENT_UPDATED, name=name, before=known.name)

    @operation("DELETE", "/experiments/{experiment_id}", needs="tracking.write")
    def delete_experiment(self, experiment_id: str, *, user: str = "system") -> Experiment:
        """The deleted experiment, its runs deleted with it. All can be restored.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> tracker.delete_experiment(tracker.create_experiment("fraud").experiment_id).lifecycle_stage.value
        'deleted'
        """
        with self.store.work(user) as work:
            known = active_experiment(work.rows, experiment_id)
            runs = store.change_all_runs(work.rows, int(known.experiment_id), Lifecycle.DELETED.value, millis(work.now))
            gone = replace(known, lifecycle_stage=Lifecycle.DELETED)
            return _changed(work, gone, EventType.EXPERIMENT_DELETED, name=known.name, runs=runs)

    @operation("POST", "/experiments/{experiment_id}/restore", needs="tracking.write")
    def restore_experiment(self, experiment_id: str, *, user: str = "system") -> Experiment:
        """The experiment in use again, with all of its runs.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> gone = tracker.delete_experiment(tracker.create_experiment("fraud").experiment_id)
        >>> tracker.restore_experiment(gone.experiment_id).lifecycle_stage.value
        'active'
        """
        with self.store.work(user) as work:
            known = found_experiment(work.rows, experiment_id)
            if known.lifecycle_stage is Lifecycle.ACTIVE:
                raise Conflict(f"Experiment {experiment_id} is not deleted, so there is nothing to restore.")
            runs = store.change_all_runs(work.rows, int(known.experiment_id), Lifecycle.ACTIVE.value, None)
            back = replace(known, lifecycle_stage=Lifecycle.ACTIVE)
            return _changed(work, back, EventType.EXPERIMENT_RESTORED, name=known.name, runs=runs)

    @operation("PUT", "/experiments/{experiment_id}/tags/{key}", needs="tracking.write")
    def set_experiment_tag(self, experiment_id: str, key: str, value: str, *, user: str = "system") -> None:
        """Set a tag of an experiment.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> tracker.set_experiment_tag("0", "team", "risk")
        >>> tracker.get_experiment("0").tags
        {'team': 'risk'}
        """
        rules.checked_texts({key: value}, "tag of an experiment", rules.LONGEST_EXPERIMENT_TAG)
        with self.store.work(user) as work:
            known = active_experiment(work.rows, experiment_id)
            store.put_experiment_tag(work.rows, int(known.experiment_id), key, value)
            work.emit(EventType.EXPERIMENT_UPDATED, _resource(known), {"tag": key, "value": value})

    @operation("DELETE", "/experiments/{experiment_id}/tags/{key}", needs="tracking.write")
    def delete_experiment_tag(self, experiment_id: str, key: str, *, user: str = "system") -> None:
        """Remove a tag of an experiment; NotFound if it has none of that key.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> tracker.set_experiment_tag("0", "team", "risk")
        >>> tracker.delete_experiment_tag("0", "team")
        >>> tracker.get_experiment("0").tags
        {}
        """
        with self.store.work(user) as work:
            known = active_experiment(work.rows, experiment_id)
            if not store.drop_experiment_tag(work.rows, int(known.experiment_id), key):
                raise NotFound(f"Experiment {experiment_id} has no tag {key!r}. {nearest(key, list(known.tags))}")
            work.emit(EventType.EXPERIMENT_UPDATED, _resource(known), {"tag": key, "value": None})

    @operation("GET", "/experiments", needs="tracking.read")
    def search_experiments(
        self,
        *,
        filter: str = "",
        order_by: list[str] | None = None,
        view: View = View.ACTIVE,
        limit: int = 1000,
        page_token: str = "",
    ) -> Page[Experiment]:
        """A page of experiments whose name, experiment_id, creation_time, last_update_time and tags.KEY pass the filter.

        The newest first, unless `order_by` names attributes: ["name ASC"].

        >>> from modelyard.tracking import ExperimentTracker
        >>> [one.name for one in ExperimentTracker(folder).search_experiments(filter="name LIKE 'Def%'").items]
        ['Default']
        """
        with self.store.reading() as rows:
            return search.experiments(
                rows,
                lambda found: store.experiments_from(rows, found),
                filter=filter,
                order_by=order_by or [],
                view=view,
                limit=limit,
                token=page_token,
            )


def millis(moment: Instant) -> int:
    """Whole milliseconds from 1970 to the moment."""
    return micros(moment) // 1000


def found_experiment(rows: Connection, experiment_id: str) -> Experiment:
    """The experiment of an id; NotFound if there is none."""
    found = store.find_experiment(rows, rules.experiment_number(experiment_id))
    if found is None:
        raise NotFound(
            f"There is no experiment with the id {experiment_id}. See them: modelyard tracking search-experiments"
        )
    return found


def active_experiment(rows: Connection, experiment_id: str) -> Experiment:
    """The experiment of an id; Conflict if it is deleted."""
    found = found_experiment(rows, experiment_id)
    if found.lifecycle_stage is not Lifecycle.ACTIVE:
        raise Conflict(
            f"Experiment {experiment_id} ({found.name}) is deleted. "
            f"Restore it: modelyard tracking restore-experiment {experiment_id}"
        )
    return found


def _changed(work: Work, to: Experiment, event: EventType, **details: str | int) -> Experiment:
    to = replace(to, last_update_time=millis(work.now))
    store.change_experiment(work.rows, int(to.experiment_id), to.name, to.lifecycle_stage.value, to.last_update_time)
    work.emit(event, _resource(to), details)
    return to


def _taken(rows: Connection, name: str) -> str:
    holder = store.find_experiment_named(rows, name)
    if holder is not None and holder.lifecycle_stage is Lifecycle.DELETED:
        return (
            f"The deleted experiment {holder.experiment_id} is called {name!r}. "
            f"Restore it or choose another name: modelyard tracking restore-experiment {holder.experiment_id}"
        )
    return f"There is an experiment {name!r} already. Use it or choose another name."


def _resource(experiment: Experiment) -> Resource:
    return Resource("experiment", experiment.experiment_id)
