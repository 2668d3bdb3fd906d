"""ModelRegistry: every version of every model, its stage, who may use it, and where it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from modelyard.core.canonical import plain
from modelyard.core.decisions import Verdict
from modelyard.core.errors import Conflict, NotFound, nearest
from modelyard.core.events import Event, EventType
from modelyard.core.models import (
    ModelStage,
    ModelVersion,
)
from modelyard.core.operations import operation
from modelyard.core.people import checked_person
from modelyard.core.refs import ModelRef
from modelyard.core.work import Work, event_from_row
from modelyard.registry import checks, moves, rules, store, store_models
from modelyard.registry import store_entries as entries
from modelyard.registry.break_glass import BreakGlassMoves
from modelyard.registry.comparisons import Comparisons
from modelyard.registry.labels import Labels
from modelyard.registry.lookup import by_alias, found, found_model, referred, resource
from modelyard.registry.models import RegisteredModels
from modelyard.registry.policies import Policies
from modelyard.registry.promotions import Promotions
from modelyard.registry.registration import Registration
from modelyard.registry.search import Search


class ModelRegistry(Registration, Promotions, Policies, BreakGlassMoves, RegisteredModels, Labels, Search, Comparisons):
    """Registers models and answers for them.

    >>> registry = ModelRegistry(folder)
    >>> model = registry.register_model(
    ...     "fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com", metrics={"accuracy": 0.96}
    ... )
    >>> model.stage.value, registry.get_model("fraud", "v1.0.0") == model
    ('development', True)
    """

    @operation("GET", "/models/{name}/versions/{version}", needs="registry.read")
    def get_model(self, name: str, version: str) -> ModelVersion:
        """The version; NotFound, naming the nearest known ones, if there is none. A leading v does not matter.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.get_model("fraud", "1.0.0").version
        'v1.0.0'
        """
        with self.store.reading() as rows:
            return found(rows, name, version)

    @operation("GET", "/models/{name}/numbers/{number}", needs="registry.read")
    def version_by_number(self, name: str, number: int) -> ModelVersion:
        """The version that was registered as the model's first, second, third ...; numbers are never used again.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.version_by_number("fraud", 1).version
        'v1.0.0'
        """
        with self.store.reading() as rows:
            model = store.by_number(rows, name, number)
            if model is None:
                found_model(rows, name)
                raise NotFound(f"{name} has no version with the number {number}. List them: search_versions")
            return model

    @operation("GET", "/models", needs="registry.read")
    def list_models(
        self,
        name: str | None = None,
        stage: ModelStage | None = None,
        tag: str | None = None,
        *,
        after: str = "",
        limit: int = 1_000,
    ) -> list[ModelVersion]:
        """Versions by model name, then in the order of semantic versions, from behind the `name:version` `after`.

        >>> ModelRegistry(folder).list_models(stage=ModelStage.PRODUCTION)
        []
        """
        last = ModelRef.parse(after) if after else None
        with self.store.reading() as rows:
            return store.versions(
                rows,
                name=name,
                stage=None if stage is None else checks.stage_of(stage),
                tag=tag,
                after=(last.name, last.version) if last else None,
                limit=checks.checked_limit(limit),
            )

    @operation("GET", "/models/{name}/latest", needs="registry.read")
    def latest(self, name: str) -> ModelVersion:
        """The highest release that is not archived; the highest pre-release where there is no release.

        >>> registry = ModelRegistry(folder)
        >>> for version in ("v1.9.0", "v1.10.0", "v2.0.0-rc.1"):
        ...     _ = registry.register_model("fraud", version, model_file, "lightgbm", "ana@example.com")
        >>> registry.latest("fraud").version
        'v1.10.0'
        """
        with self.store.reading() as rows:
            model = store.newest(rows, name)
            if model is None:
                known = store_models.names(rows)
                raise NotFound(f"There is no version of a model {name!r} in use. {nearest(name, known)}")
            return model

    @operation("GET", "/models/{name}/champion", needs="registry.read")
    def champion(self, name: str) -> ModelVersion:
        """The production version that the alias `champion` points at: the first promoted, until a rollout moves it.

        >>> ModelRegistry(folder).champion("fraud")
        Traceback (most recent call last):
        modelyard.core.errors.NotFound: There is no model 'fraud'. ...
        """
        return self.get_by_alias(name, rules.CHAMPION)

    @operation("GET", "/models/{name}/aliases/{alias}", needs="registry.read")
    def get_by_alias(self, name: str, alias: str) -> ModelVersion:
        """The version that an alias points at.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> _ = registry.set_alias("fraud", "challenger", "v1.0.0", user="ana@example.com")
        >>> registry.get_by_alias("fraud", "challenger").version
        'v1.0.0'
        """
        with self.store.reading() as rows:
            return by_alias(rows, name, alias)

    @operation("GET", "/resolve", needs="registry.read")
    def resolve(self, reference: str) -> ModelVersion:
        """The version that `name:version`, `name@alias`, or a name alone (its champion) refers to.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.resolve("fraud:v1.0.0").version
        'v1.0.0'
        """
        with self.store.reading() as rows:
            return referred(rows, reference)

    @operation("PATCH", "/models/{name}/versions/{version}", needs="registry.write")
    def update(
        self,
        name: str,
        version: str,
        user: str,
        *,
        description: str | None = None,
        tags: list[str] | None = None,
        metrics: dict[str, float] | None = None,
        metadata: dict[str, Any] | None = None,
        changelog: str | None = None,
    ) -> ModelVersion:
        """The version with its description, changelog and tags replaced, and metrics and metadata added to.

        New metrics void an open promotion request, which was made for the old ones. Conflict for metrics of a version
        that was approved for the stage it is in: its approval rests on them.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.update("fraud", "v1.0.0", "ana@example.com", metrics={"auc": 0.9}).metrics
        {'auc': 0.9}
        """
        with self.store.work(checked_person(user, "user")) as work:
            old = found(work.rows, name, version)
            new = replace(
                old,
                description=old.description if description is None else checks.checked_text(description, "description"),
                changelog=old.changelog if changelog is None else checks.checked_text(changelog, "changelog"),
                tags=old.tags if tags is None else checks.checked_tags(tags),
                metrics={**old.metrics, **checks.checked_metrics(metrics or {})},
                metadata={**old.metadata, **plain(checks.checked_entries(metadata or {}, "metadata"))},
                updated_at=work.now,
            )
            if new.metrics != old.metrics:
                _check_figures(work, old)
            store.update(work.rows, new)
            canonical = checks.canonical_version(old.version)
            entries.set_tags(work.rows, old.name, canonical, new.tags)
            entries.set_words(work.rows, old.name, canonical, (new.description, *new.tags))
            work.emit(EventType.MODEL_UPDATED, resource(old), {"number": old.number, "changes": _changes(old, new)})
            if store.evidence(old) != store.evidence(new):
                moves.void_open(work, new, "The metrics changed since the promotion was asked for.")
            return new

    @operation("POST", "/models/{name}/versions/{version}/demote", needs="registry.write")
    def demote(self, name: str, version: str, target_stage: ModelStage, user: str) -> ModelVersion:
        """The version in a lower stage, which needs no approval; moving up does: Forbidden, and an event.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.demote("fraud", "v1.0.0", ModelStage.PRODUCTION, "ana@example.com")
        Traceback (most recent call last):
        modelyard.core.errors.Forbidden: fraud v1.0.0 needs an approval to move from development to production. ...
        """
        return self.transition(name, version, target_stage, user)

    @operation("POST", "/models/{name}/versions/{version}/archive", needs="registry.write")
    def archive(self, name: str, version: str, user: str) -> ModelVersion:
        """The version, archived: kept with its bytes, and left out of `latest`.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.archive("fraud", "v1.0.0", "ana@example.com").stage.value
        'archived'
        """
        return self.demote(name, version, ModelStage.ARCHIVED, user)

    @operation("POST", "/models/{name}/versions/{version}/restore", needs="registry.write")
    def restore(self, name: str, version: str, user: str) -> ModelVersion:
        """The archived version, back in development.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> _ = registry.archive("fraud", "v1.0.0", "ana@example.com")
        >>> registry.restore("fraud", "v1.0.0", "ana@example.com").stage.value
        'development'
        """
        return self.demote(name, version, ModelStage.DEVELOPMENT, user)

    @operation("DELETE", "/models/{name}/versions/{version}", needs="registry.write")
    def delete(self, name: str, version: str, user: str) -> None:
        """Removes a version that is neither in production nor named by an alias: Conflict otherwise. Its history stays.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.delete("fraud", "v1.0.0", "ana@example.com")
        >>> [event.event_type.value for event in registry.history("fraud", "v1.0.0")]
        ['model_registered', 'model_deleted']
        """
        with self.store.work(checked_person(user, "user")) as work:
            model = found(work.rows, name, version)
            decision = rules.may_delete(model)
            if decision.verdict is Verdict.REFUSE:
                raise Conflict(decision.reasons[0])
            moves.remove_version(work, model)

    @operation("GET", "/models/{name}/versions/{version}/history", needs="registry.read")
    def history(self, name: str, version: str) -> list[Event]:
        """Everything that happened to a version, the oldest first; a deleted one still has its history.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> [event.event_type.value for event in registry.history("fraud", "v1.0.0")]
        ['model_registered']
        """
        with self.store.reading() as rows:
            model = store.version(rows, name, version)
            told = store.events_of(rows, name, model.version if model else version)
            if not told:
                found(rows, name, version)
            return [event_from_row(row) for row in told]

    def path(self, name: str, version: str) -> Path:
        """A read-only local copy of the version's file or folder, its bytes verified now."""
        return self.store.artifacts.fetch(self.get_model(name, version).digest)


def _check_figures(work: Work, model: ModelVersion) -> None:
    protected = moves.policy_for(work.rows, model.name, model.stage).protected
    decision = rules.may_change_figures(model, protected=protected)
    if decision.verdict is Verdict.REFUSE:
        raise Conflict(decision.reasons[0])


def _changes(old: ModelVersion, new: ModelVersion) -> dict[str, Any]:
    names = ("description", "changelog", "tags", "metrics", "metadata")
    return {
        name: {"from": getattr(old, name), "to": getattr(new, name)}
        for name in names
        if getattr(old, name) != getattr(new, name)
    }
