"""Logged models: what a run wrote down as a model, with parameters, tags and metrics of its own."""

from __future__ import annotations

import uuid

from modelyard.core.errors import Conflict, NotFound, nearest
from modelyard.core.events import EventType
from modelyard.core.operations import operation
from modelyard.core.pages import Page
from modelyard.core.ports import Connection, Row
from modelyard.core.refs import Resource
from modelyard.core.work import Work
from modelyard.tracking import model_store, rules, search
from modelyard.tracking.experiments import Experiments, active_experiment, millis
from modelyard.tracking.runs import below
from modelyard.tracking.values import (
    DatasetFilter,
    Lifecycle,
    LoggedModel,
    LoggedModelStatus,
    ModelOrder,
)


class LoggedModels(Experiments):
    """Logged models of experiments."""

    @operation("POST", "/logged-models", needs="tracking.write")
    def create_logged_model(
        self,
        experiment_id: str,
        *,
        name: str = "",
        source_run_id: str | None = None,
        model_type: str | None = None,
        tags: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        user: str = "system",
    ) -> LoggedModel:
        """The new logged model, pending until its files are there; without a name it is given one.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> model = tracker.create_logged_model("0", name="trees")
        >>> model.status.value, model.artifact_location == f"mlflow-artifacts:/0/models/{model.model_id}/artifacts"
        ('PENDING', True)
        """
        name = rules.checked_model_name(name or rules.run_name())
        tags = rules.checked_texts(tags or {}, "tag", rules.LONGEST_TAG)
        params = rules.checked_texts(params or {}, "parameter", rules.LONGEST_PARAMETER)
        with self.store.work(user) as work:
            experiment = active_experiment(work.rows, experiment_id)
            model_id, now = f"m-{uuid.uuid4().hex}", millis(work.now)
            made = LoggedModel(
                model_id=model_id,
                experiment_id=experiment.experiment_id,
                name=name,
                source_run_id=source_run_id,
                model_type=model_type,
                status=LoggedModelStatus.PENDING,
                lifecycle_stage=Lifecycle.ACTIVE,
                artifact_location=below(experiment.artifact_location, "models", model_id, "artifacts"),
                creation_time=now,
                last_update_time=now,
                tags=tags,
                params=params,
            )
            model_store.add_model(work.rows, made)
            details = {"experiment_id": experiment.experiment_id, "name": name, "source_run_id": source_run_id}
            work.emit(EventType.LOGGED_MODEL_CREATED, _resource(model_id), details)
        return made

    @operation("GET", "/logged-models/{model_id}", needs="tracking.read")
    def get_logged_model(self, model_id: str) -> LoggedModel:
        """One logged model with its parameters, tags and metrics; NotFound for a deleted one.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> model = tracker.create_logged_model("0", name="trees", params={"depth": "6"})
        >>> tracker.get_logged_model(model.model_id) == model
        True
        """
        with self.store.reading() as rows:
            return model_store.models_from(rows, [_kept(rows, model_id)])[0]

    @operation("POST", "/logged-models/{model_id}/finalize", needs="tracking.write")
    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus, *, user: str = "system") -> LoggedModel:
        """The logged model, ready or failed.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> model = tracker.create_logged_model("0", name="trees")
        >>> tracker.finalize_logged_model(model.model_id, "READY").status.value
        'READY'
        """
        status = rules.chosen(LoggedModelStatus, status)
        with self.store.work(user) as work:
            row = _kept(work.rows, model_id)
            _change(work, row, status=status.value, stage=row["lifecycle_stage"])
            model = model_store.models_from(work.rows, [_kept(work.rows, model_id)])[0]
            details = {
                "experiment_id": model.experiment_id,
                "name": model.name,
                "status": status,
                "params": model.params,
            }
            work.emit(EventType.LOGGED_MODEL_FINALIZED, _resource(model_id), details)
        return model

    @operation("DELETE", "/logged-models/{model_id}", needs="tracking.write")
    def delete_logged_model(self, model_id: str, *, user: str = "system") -> None:
        """Delete a logged model: it is neither found nor searched any more.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> tracker.delete_logged_model(tracker.create_logged_model("0").model_id)
        >>> tracker.search_logged_models(["0"]).items
        ()
        """
        with self.store.work(user) as work:
            row = _kept(work.rows, model_id)
            _change(work, row, status=row["status"], stage=Lifecycle.DELETED.value)
            work.emit(EventType.LOGGED_MODEL_DELETED, _resource(model_id), {"name": row["name"]})

    @operation("PATCH", "/logged-models/{model_id}/tags", needs="tracking.write")
    def set_logged_model_tags(self, model_id: str, tags: dict[str, str], *, user: str = "system") -> LoggedModel:
        """The logged model with these tags set.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> model = tracker.create_logged_model("0")
        >>> tracker.set_logged_model_tags(model.model_id, {"team": "risk"}).tags
        {'team': 'risk'}
        """
        tags = rules.checked_texts(tags, "tag", rules.LONGEST_TAG)
        with self.store.work(user) as work:
            row = _kept(work.rows, model_id)
            model_store.put_tags(work.rows, row["number"], tags)
            return model_store.models_from(work.rows, [row])[0]

    @operation("DELETE", "/logged-models/{model_id}/tags/{key}", needs="tracking.write")
    def delete_logged_model_tag(self, model_id: str, key: str, *, user: str = "system") -> None:
        """Remove a tag of a logged model; NotFound if it has none of that key.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> model = tracker.create_logged_model("0", tags={"team": "risk"})
        >>> tracker.delete_logged_model_tag(model.model_id, "team")
        >>> tracker.get_logged_model(model.model_id).tags
        {}
        """
        with self.store.work(user) as work:
            row = _kept(work.rows, model_id)
            if not model_store.drop_tag(work.rows, row["number"], key):
                known = list(model_store.models_from(work.rows, [row])[0].tags)
                raise NotFound(f"Logged model {model_id} has no tag {key!r}. {nearest(key, known)}")

    @operation("POST", "/logged-models/{model_id}/params", needs="tracking.write")
    def log_model_parameters(self, model_id: str, params: dict[str, str], *, user: str = "system") -> None:
        """Log parameters of a logged model. The same value again changes nothing; another one is refused (Conflict).

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> model = tracker.create_logged_model("0")
        >>> tracker.log_model_parameters(model.model_id, {"depth": "6"})
        >>> tracker.get_logged_model(model.model_id).params
        {'depth': '6'}
        """
        params = rules.checked_texts(params, "parameter", rules.LONGEST_PARAMETER)
        with self.store.work(user) as work:
            row = _kept(work.rows, model_id)
            known = model_store.find_params(work.rows, row["number"])
            for key, value in params.items():
                if known.get(key, value) != value:
                    raise Conflict(f"The parameter {key!r} of {model_id} is {known[key]!r:.100} and stays so.")
            model_store.add_params(work.rows, row["number"], params)

    @operation("POST", "/logged-models/search", needs="tracking.read")
    def search_logged_models(
        self,
        experiment_ids: list[str],
        *,
        filter: str = "",
        datasets: list[DatasetFilter] | None = None,
        order_by: list[ModelOrder] | None = None,
        limit: int = 100,
        page_token: str = "",
    ) -> Page[LoggedModel]:
        """A page of the experiments' logged models that pass the filter, the newest first unless told otherwise.

        The filter knows metrics.KEY (any value measured, on one of `datasets` if they are given), params.KEY, tags.KEY and
        the attributes name, model_id, model_type, status, source_run_id, experiment_id, artifact_location,
        creation_timestamp and last_updated_timestamp; the order attributes and metrics.KEY (the latest value).

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> _ = tracker.create_logged_model("0", name="trees", params={"depth": "6"})
        >>> [model.name for model in tracker.search_logged_models(["0"], filter="params.depth = '6'").items]
        ['trees']
        """
        with self.store.reading() as rows:
            return search.models(
                rows,
                lambda found: model_store.models_from(rows, found),
                experiment_ids=experiment_ids,
                filter=filter,
                datasets=datasets or [],
                order_by=order_by or [],
                limit=limit,
                token=page_token,
            )


def _kept(rows: Connection, model_id: str) -> Row:
    found = model_store.find_model_row(rows, model_id)
    if found is None or found["lifecycle_stage"] == Lifecycle.DELETED.value:
        raise NotFound(
            f"There is no logged model {model_id!r:.100}. See them: modelyard tracking search-logged-models EXPERIMENT_ID"
        )
    return found


def _change(work: Work, row: Row, *, status: str, stage: str) -> None:
    model_store.change_model(work.rows, row["number"], status=status, stage=stage, updated=millis(work.now))


def _resource(model_id: str) -> Resource:
    return Resource("logged_model", model_id)
