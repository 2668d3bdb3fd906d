"""ModelRegistry: every version of every model, its stage, who may use it, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelyard.core.canonical import plain
from modelyard.core.decisions import Verdict
from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound, nearest
from modelyard.core.events import Event, EventType
from modelyard.core.instants import micros
from modelyard.core.models import (
    PACKAGE_MANIFEST,
    Artifact,
    ModelStage,
    ModelVersion,
    PackageManifest,
    RegisteredModel,
    Signature,
)
from modelyard.core.operations import operation
from modelyard.core.packages import manifest_of, signature_of
from modelyard.core.ports import Connection
from modelyard.core.refs import ModelRef
from modelyard.core.work import Work, event_from_row
from modelyard.registry import checks, comparison, promotions, rules, store, store_models
from modelyard.registry import store_entries as entries
from modelyard.registry.labels import Labels
from modelyard.registry.lookup import found, found_model, holder, no_alias, resource, tell_created, tell_refusal
from modelyard.registry.models import RegisteredModels
from modelyard.registry.promotions import Promotions
from modelyard.registry.search import Search

TOLD = (  # what the event of a registration says of the version
    "number",
    "digest",
    "framework",
    "metrics",
    "size",
    "trained_by",
    "training_data",
    "code_version",
    "references",
    "run_id",
    "source",
    "parent",
)


class ModelRegistry(Promotions, RegisteredModels, Labels, Search):
    """Registers models and answers for them.

    >>> registry = ModelRegistry(folder)
    >>> model = registry.register_model(
    ...     "fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com", metrics={"accuracy": 0.96}
    ... )
    >>> model.stage.value, registry.get_model("fraud", "v1.0.0") == model
    ('development', True)
    """

    @operation("POST", "/models/{name}/versions/{version}", needs="registry.write")
    def register_model(
        self,
        name: str,
        version: str,
        model_path: str | Path,
        framework: str,
        created_by: str,
        *,
        metrics: dict[str, float] | None = None,
        tags: list[str] | None = None,
        description: str = "",
        parameters: dict[str, Any] | None = None,
        trained_by: str = "",
        training_data: str = "",
        code_version: str = "",
        parent: str = "",
        signature: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        run_id: str = "",
        source: str = "",
        changelog: str = "",
        references: dict[str, Any] | None = None,
        example: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
    ) -> ModelVersion:
        """The new version, in development, with its file or package folder admitted and stored by digest.

        `version` is a semantic version, or `next` for the model's next number as one: 3.0.0 for the third. `parent` is
        another version, as `name:version` or a version of the same model; `references` may have repository, commit,
        dirty, data_digest and lock_digest; `example` an input and its output. What a package folder says of its
        signature, metrics, parameters and environment holds unless it is given here. The model is made if it is
        missing. Conflict if the version exists; Invalid if the file is refused.

        >>> registry = ModelRegistry(folder)
        >>> registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com", tags=["risk"]).tags
        ('risk',)
        """
        draft = ModelVersion(
            name=name,
            version=version,
            framework=plain(framework),  # serving's enum means its value
            stage=ModelStage.DEVELOPMENT,
            digest="",
            created_by=created_by,
            created_at=self.store.clock.now(),
            updated_at=self.store.clock.now(),
            metrics=metrics or {},
            tags=checks.checked_tags(tags or ()),
            parameters=parameters or {},
            signature=None if signature is None else _signature(signature),
            metadata=metadata or {},
            description=description,
            trained_by=trained_by,
            training_data=training_data,
            code_version=code_version,
            parent=parent,
            run_id=run_id,
            source=source,
            changelog=changelog,
            references=checks.references_of(references or {}),
            example=example,
            environment=environment or {},
        )
        draft = checks.checked_draft(draft)
        with self.store.reading() as rows:  # before a large file is read for nothing
            _check_free(rows, draft)
        artifact = self.store.artifacts.admit(Path(model_path), by=created_by)
        return self._register(self._completed(draft, artifact))

    def register_version(self, draft: ModelVersion) -> ModelVersion:
        """The new version as drafted, numbered, in development, for bytes that are stored already.

        `draft.digest` is an artifact's, also of one in quarantine, or "" where the bytes lie elsewhere and `source` says
        where: such a version can be found and tagged, and never promoted. Its number, times and aliases are not read.
        """
        return self._register(checks.checked_draft(draft))

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
            model = store.by_alias(rows, name, alias)
            if model is None:
                raise NotFound(no_alias(rows, name, alias))
            return model

    @operation("GET", "/resolve", needs="registry.read")
    def resolve(self, reference: str) -> ModelVersion:
        """The version that `name:version`, `name@alias`, or a name alone (its champion) refers to.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.resolve("fraud:v1.0.0").version
        'v1.0.0'
        """
        name, at, alias = reference.rpartition("@")
        if at:
            return self.get_by_alias(name, alias)
        if ":" not in reference:
            return self.champion(reference)
        ref = ModelRef.parse(reference)
        return self.get_model(ref.name, ref.version)

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

        New metrics void an open promotion request, which was made for the old ones.

        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.update("fraud", "v1.0.0", "ana@example.com", metrics={"auc": 0.9}).metrics
        {'auc': 0.9}
        """
        with self.store.work(checks.checked_person(user, "user")) as work:
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
            store.update(work.rows, new)
            canonical = checks.canonical_version(old.version)
            entries.set_tags(work.rows, old.name, canonical, new.tags)
            entries.set_words(work.rows, old.name, canonical, (new.description, *new.tags))
            work.emit(EventType.MODEL_UPDATED, resource(old), {"changes": _changes(old, new)})
            if store.evidence(old) != store.evidence(new):
                promotions.void_open(work, new, "The metrics changed since the promotion was asked for.")
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
        stage = checks.stage_of(target_stage)
        with self.store.work(checks.checked_person(user, "user")) as work:
            model = found(work.rows, name, version)
            decision = rules.may_demote(model, stage)
            if decision.verdict is Verdict.ALLOW:
                promotions.void_open(work, model, f"The version moved to {stage.value}.")
                return promotions.moved(work, model, stage)
            tell_refusal(work, model, "demote", decision)
        raise Forbidden(decision.reasons[0])

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
        with self.store.work(checks.checked_person(user, "user")) as work:
            model = found(work.rows, name, version)
            decision = rules.may_delete(model)
            if decision.verdict is Verdict.REFUSE:
                raise Conflict(decision.reasons[0])
            promotions.remove_version(work, model)

    @operation("GET", "/models/{name}/compare", needs="registry.read")
    def compare_models(self, name: str, version1: str, version2: str) -> dict[str, Any]:
        """What differs from one version to another: each metric's difference, relative difference and winner.

        `metrics_comparison[metric]` has version1, version2, difference (second minus first), relative_difference
        (None where the first is 0), higher_is_better (by the metric's name) and winner (None if equal).

        >>> registry = ModelRegistry(folder)
        >>> for version, auc in (("v1.0.0", 0.75), ("v2.0.0", 0.8)):
        ...     _ = registry.register_model(
        ...         "fraud", version, model_file, "lightgbm", "ana@example.com", metrics={"auc": auc}
        ...     )
        >>> registry.compare_models("fraud", "v1.0.0", "v2.0.0")["winner"]
        'v2.0.0'
        """
        with self.store.reading() as rows:
            return comparison.compare(found(rows, name, version1), found(rows, name, version2))

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

    def _completed(self, model: ModelVersion, artifact: Artifact) -> ModelVersion:
        """The version with its artifact, and with what its package says of it."""
        model = replace(model, digest=artifact.digest, size=artifact.size)
        if artifact.format != "modelyard":
            return model
        package = self._manifest(artifact)
        return replace(
            model,
            signature=model.signature or package.signature,
            metrics=model.metrics or checks.checked_metrics(package.metrics),
            parameters=model.parameters or plain(checks.checked_entries(package.parameters, "parameters")),
            environment=model.environment or checks.checked_environment(package.environment),
        )

    def _manifest(self, artifact: Artifact) -> PackageManifest:
        return manifest_of((self.store.artifacts.fetch(artifact.digest) / PACKAGE_MANIFEST).read_bytes())

    def _register(self, model: ModelVersion) -> ModelVersion:
        with self.store.work(model.created_by) as work:
            model = replace(_numbered(work, model), parent=_parent(work, model))
            if not store.add_version(work.rows, model):
                _check_free(work.rows, model)
            if model.digest:
                holds = holder(model.name, checks.canonical_version(model.version))
                self.store.artifacts.hold(work.rows, model.digest, holds)
            told = {name: getattr(model, name) for name in TOLD}
            work.emit(EventType.MODEL_REGISTERED, resource(model), told)
        return model


def _numbered(work: Work, model: ModelVersion) -> ModelVersion:
    """The version with the model's next number; the model is made if this is its first."""
    number = store_models.next_number(work.rows, model.name, now=micros(work.now))
    if number is None:
        number = 1
        first = RegisteredModel(name=model.name, owner=model.created_by, created_at=work.now, updated_at=work.now)
        store_models.add(work.rows, first, last_number=number)
        tell_created(work, first)
    version = model.version
    if version == checks.NEXT:
        version, minor = f"{number}.0.0", 0
        while store.version(work.rows, model.name, version) is not None:
            minor += 1
            version = f"{number}.{minor}.0"
    return replace(
        model,
        version=version,
        number=number,
        stage=ModelStage.DEVELOPMENT,
        aliases=(),
        created_at=work.now,
        updated_at=work.now,
    )


def _check_free(rows: Connection, model: ModelVersion) -> None:
    if model.version == checks.NEXT:
        return
    known = store.version(rows, model.name, model.version)
    if known is not None:
        raise Conflict(
            f"{model.name} {known.version} exists already, registered by {known.created_by}. "
            "A version never changes: register the next one."
        )


def _parent(work: Work, model: ModelVersion) -> str:
    """The parent as `name:version`, if there is one."""
    if not model.parent:
        return ""
    ref = ModelRef.parse(model.parent if ":" in model.parent else f"{model.name}:{model.parent}")
    known = found(work.rows, ref.name, ref.version)
    return f"{known.name}:{known.version}"


def _signature(values: Mapping[str, Any]) -> Signature:
    try:
        return signature_of(plain(values))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Invalid(
            f"signature cannot be read ({type(error).__name__}: {error}). Pass {{'inputs': [{{'name': 'age', 'kind': "
            "'float'}], 'task': 'binary', 'classes': [0, 1]}."
        ) from error


def _changes(old: ModelVersion, new: ModelVersion) -> dict[str, Any]:
    names = ("description", "changelog", "tags", "metrics", "metadata")
    return {
        name: {"from": getattr(old, name), "to": getattr(new, name)}
        for name in names
        if getattr(old, name) != getattr(new, name)
    }
