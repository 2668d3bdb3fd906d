"""Registration: a version comes to be, with its bytes admitted, its number taken and its model made if it is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from modelyard.core.area import Area
from modelyard.core.canonical import plain
from modelyard.core.errors import Conflict, Invalid
from modelyard.core.events import EventType
from modelyard.core.instants import micros
from modelyard.core.models import (
    PACKAGE_MANIFEST,
    Artifact,
    ModelStage,
    ModelVersion,
    PackageManifest,
    References,
    RegisteredModel,
    Signature,
)
from modelyard.core.operations import operation
from modelyard.core.packages import manifest_of, signature_of
from modelyard.core.ports import Connection
from modelyard.core.refs import ModelRef
from modelyard.core.work import Work
from modelyard.registry import checks, store, store_models
from modelyard.registry.lookup import found, holder, resource, tell_created, told_tags

TOLD = (  # what the event of a registration says of the version
    "number",
    "description",
    "digest",
    "framework",
    "metrics",
    "size",
    "trained_by",
    "training_data",
    "code_version",
    "run_id",
    "source",
    "parent",
)


class Registration(Area):
    """Takes new versions in."""

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

        >>> from modelyard.registry import ModelRegistry
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

    def register_numbered(self, draft: ModelVersion) -> ModelVersion:
        """`register_version` under the draft's own number, for the versions of another registry: gaps between them stay.

        Conflict unless the model is there and its numbers so far are smaller.
        """
        return self._register(checks.checked_draft(draft), number=draft.number)

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

    def _register(self, model: ModelVersion, *, number: int | None = None) -> ModelVersion:
        with self.store.work(model.created_by) as work:
            if number is not None and not store_models.skip_to(work.rows, model.name, number):
                raise Conflict(f"{model.name} has given the number {number} already, or there is no such model.")
            model = replace(_numbered(work, model), parent=_parent(work, model))
            if not store.add_version(work.rows, model):
                _check_free(work.rows, model)
            if model.digest:
                holds = holder(model.name, checks.canonical_version(model.version))
                self.store.artifacts.hold(work.rows, model.digest, holds)
            told = {name: getattr(model, name) for name in TOLD} | {"tags": told_tags(model.tags)}
            if number is not None:
                told["brought"] = True  # from another registry, whose own rules let it in
            named = {entry.name: getattr(model.references, entry.name) for entry in fields(References)}
            told["references"] = {name: value for name, value in named.items() if value}
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
